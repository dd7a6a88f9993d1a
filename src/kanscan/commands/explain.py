"""`explain`: what a trained network learned, where it looks, and how sure it should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanscan.registry import unknown

if TYPE_CHECKING:
    from torch import nn

    from kanscan.explanation.chapters import Chapter, Sample
    from kanscan.explanation.splines import SplineLayer
    from kanscan.predictor import Predictor
    from kanscan.run import Run

#: Chapters in the order of the page.
CHAPTERS = ("splines", "pruning", "maps", "receptive_field", "scans", "uncertainty", "calibration")


@dataclass(frozen=True)
class Explanation:
    """What was written.

    Attributes:
        page: The HTML page; figures (SVG, PNG) and arrays (npz) lie beside it.
        chapters: Keys of the chapters that were written.
        left_out: Chapter -> why it was left out.
        temperature: The fitted temperature, or None.
        pruned: Folder of the pruned run, or None.
    """

    page: Path
    chapters: tuple[str, ...]
    left_out: dict[str, str]
    temperature: float | None = None
    pruned: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "page": str(self.page),
            "chapters": list(self.chapters),
            "left_out": self.left_out,
            "temperature": self.temperature,
            "pruned": None if self.pruned is None else str(self.pruned),
        }

    def __rich__(self) -> str:
        """Write what is where."""
        from rich.markup import escape

        lines = [f"{'written':<10} {', '.join(self.chapters)}"]
        lines += [f"{'left out':<10} {name}: {why}" for name, why in self.left_out.items()]
        if self.temperature is not None:
            lines.append(f"{'fitted':<10} temperature {self.temperature:.3f}, kept in the run")
        if self.pruned is not None:
            lines.append(f"{'pruned run':<10} {self.pruned}")
        return escape("\n".join([*lines, f"Page: {self.page}"]))


def explain(
    run: Path,
    images: list[Path] | None = None,
    *,
    output: Path | None = None,
    only: list[str] | None = None,
    layer: str | None = None,
    at: str = "0.5,0.5",
    prune: float | None = None,
    ensemble: list[Path] | None = None,
    cases: int = 24,
    shown: int = 4,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> Explanation:
    """Explain a run: its splines, what can be pruned, where it looks, what a pixel receives, how sure it is.

    Args:
        run: The run's folder.
        images: Images to look at; default: test cases of the run's data, with their labels.
        output: Folder for the page; default: explanation/ inside the run.
        only: Chapters to write (splines, pruning, maps, receptive_field, scans, uncertainty, calibration); default: all
            that the network and the data allow.
        layer: Layer whose maps are shown; default: the last tokenized KAN block.
        at: Row and column, as shares of the image, of the pixel whose scans are shown.
        prune: Share of the KAN edges to remove; the pruned network is saved as a run of its own.
        ensemble: Further runs on the same task whose predictions are compared.
        cases: Cases that statistics are averaged over.
        shown: Images that maps are drawn for.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: Replace an explanation that is there.
        json: Print the result as JSON.

    Returns:
        Where the page is and what is on it.

    Raises:
        ValueError: The run, a chapter, a layer or an image is wrong.
        FileNotFoundError: Images or data are not there.
        FileExistsError: There is an explanation already.

    Example:
        >>> explain("runs/demo").page  # doctest: +SKIP
    """
    from kanscan.build import load_predictor, predictor
    from kanscan.run import Run

    opened = Run.open(run)
    if "plan" in opened.facts:
        raise ValueError(f"explain draws pictures and {opened.path} learned from volumes; see kanscan evaluate")
    asked = _chapters(only)
    position = _position(at)
    folder = output or opened.path / "explanation"
    if (folder / "index.html").exists() and not overwrite:
        raise FileExistsError(f"{folder} already holds an explanation; add --overwrite or choose another --output")
    serve = predictor(opened, device=device, flips=False)
    others = [load_predictor(path, device=device, flips=False) for path in ensemble or ()]
    for path, other in zip(ensemble or (), others, strict=True):
        if (other.class_names, other.preprocessing) != (serve.class_names, serve.preprocessing):
            raise ValueError(f"{path} has other classes or another preprocessing than {run}; they cannot be compared")
    samples = _images(serve, images) if images else _cases(opened, serve, "test", cases)
    study = _Study(opened, serve, others, samples, samples[:shown], layer, position, device)
    written, left_out = study.write(asked, explicitly=only is not None)
    pruned = None if prune is None else study.save_pruned(prune, folder / "pruned", overwrite)
    page = _write(folder, opened, samples, written)
    return Explanation(page.resolve(), tuple(c.key for c in written), left_out, study.temperature, pruned)


def _chapters(only: Sequence[str] | None) -> tuple[str, ...]:
    for name in only or ():
        if name not in CHAPTERS:
            raise ValueError(unknown("chapter", name, CHAPTERS))
    return tuple(name for name in CHAPTERS if only is None or name in only)


def _position(text: str) -> tuple[float, float]:
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        row = column = -1.0
    if not (0 <= row <= 1 and 0 <= column <= 1):
        raise ValueError(f"at must be row,column as shares of the image, such as 0.4,0.6; got {text!r}")
    return row, column


def _sample(serve: Predictor, name: str, image: Any, label: Any = None) -> Sample:
    import numpy as np
    import torch

    from kanscan.explanation.chapters import Sample

    x = serve.prepare(image)
    picture = serve.preprocessing.prepare(image).transpose(1, 2, 0)
    # Without a fixed size the predictor pads at the bottom and the right.
    bottom, right = (int(p) - int(s) for p, s in zip(x.shape[1:], picture.shape[:2], strict=True))
    beside = ((0, bottom), (0, right))
    picture = np.pad(picture, (*beside, (0, 0)), mode="edge").astype(np.uint8)
    if label is None:
        return Sample(name, picture, x)
    return Sample(name, picture, x, torch.from_numpy(np.pad(serve.preprocessing.prepare_label(label), beside)).long())


def _images(serve: Predictor, paths: Sequence[Path]) -> list[Sample]:
    from kanscan.data.io import read_image

    return [_sample(serve, path.stem, read_image(path)) for path in paths]


def _cases(run: Run, serve: Predictor, part: str, count: int) -> list[Sample]:
    from kanscan.build import evaluation_cases
    from kanscan.data.io import read_pair

    found = evaluation_cases(run, part=part)
    # Spread over the part, so that neighbors in a sequence do not stand for all.
    step = max(1, len(found.cases) / max(1, count))
    chosen = [found.cases[int(i * step)] for i in range(min(count, len(found.cases)))]
    return [_sample(serve, case.id, *read_pair(case, found.source.label_map)) for case in chosen]


class _Study:
    """Writes the chapters that a run allows; later ones use what earlier ones found."""

    def __init__(
        self,
        run: Run,
        serve: Predictor,
        others: Sequence[Predictor],
        samples: Sequence[Sample],
        shown: Sequence[Sample],
        layer: str | None,
        position: tuple[float, float],
        device: str,
    ) -> None:
        self.run, self.serve, self.others, self.samples, self.shown = run, serve, others, samples, shown
        self.layer, self.position, self.device = layer, position, device
        self.temperature: float | None = None
        self._layers: list[SplineLayer] | None = None

    def write(self, asked: Sequence[str], *, explicitly: bool) -> tuple[list[Chapter], dict[str, str]]:
        """Write the chapters; one that cannot be written is left out with the reason, unless it was asked for."""
        written, left_out = [], {}
        for name in asked:
            try:
                written.append(getattr(self, name)())
            except ValueError as error:
                if explicitly:
                    raise
                left_out[name] = str(error)
        return written, left_out

    @property
    def model(self) -> nn.Module:
        """The trained network."""
        return self.serve.model

    def control(self) -> nn.Module:
        """Build the same network with random weights."""
        from kanscan.explanation.activation import randomized
        from kanscan.models import create_model

        facts = self.run.facts["model"]
        return randomized(self.model, lambda: create_model(facts["name"], **facts["options"]))

    def splines(self) -> Chapter:
        """Observe the splines."""
        from kanscan.explanation.chapters import splines

        chapter, self._layers = splines(self.model, self.samples, self.serve.device)
        return chapter

    def layers(self) -> list[SplineLayer]:
        """Return the observed KAN layers."""
        if self._layers is None:
            self.splines()
        assert self._layers is not None
        return self._layers

    def pruning(self) -> Chapter:
        """Judge the network without its weakest edges."""
        from kanscan.explanation.chapters import pruning

        labelled = [s for s in self.samples if s.label is not None]
        if not labelled:
            raise ValueError("a prune curve needs labels; leave out the images to use the run's test cases")
        return pruning(self.model, self.layers(), self._judge(labelled), "mean Dice", len(labelled))

    def _judge(self, labelled: Sequence[Sample]) -> Callable[[nn.Module], float]:
        import torch

        from kanscan.metrics import case_scores
        from kanscan.predictor import class_probabilities

        num_classes = len(self.serve.class_names)

        @torch.inference_mode()
        def judge(model: nn.Module) -> float:
            scores = []
            for sample in labelled:
                assert sample.label is not None
                label = class_probabilities(model(sample.x[None].to(self.serve.device)))[0].argmax(0).cpu()
                rows = case_scores(label.numpy(), sample.label.numpy(), num_classes)
                scores += [rows[index]["dice"] for index in range(1, num_classes)]
            known = [s for s in scores if s == s]
            return sum(known) / max(1, len(known))

        return judge

    def maps(self) -> Chapter:
        """Show where the network looks."""
        from kanscan.explanation.chapters import maps

        return maps(self.model, self.control(), self.shown, self.serve.class_names, self.serve.device, self.layer)

    def receptive_field(self) -> Chapter:
        """Show what moves the central output."""
        from kanscan.explanation.chapters import field_of_view

        return field_of_view(self.model, self.control(), self.samples, self.serve.device)

    def scans(self) -> Chapter:
        """Show what a pixel receives along the scans."""
        from kanscan.explanation.chapters import scans

        return scans(self.model, self.shown, self.position, self.serve.device, None)

    def uncertainty(self) -> Chapter:
        """Show where predictions disagree."""
        import torch

        from kanscan.explanation.chapters import uncertainty
        from kanscan.predictor import class_probabilities

        @torch.inference_mode()
        def probabilities(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return class_probabilities(model(x))

        models = [self.model, *(other.model for other in self.others)]
        return uncertainty(models, probabilities, self.shown, self.serve.device)

    def calibration(self) -> Chapter:
        """Fit a temperature on the validation cases, judge it on the test cases, keep it in the run."""
        import torch

        from kanscan.explanation.chapters import calibrating
        from kanscan.files import write_json

        labelled = [s for s in self.samples if s.label is not None]
        if not labelled:
            raise ValueError("calibration needs labels; leave out the images to use the run's test cases")
        fitted_on = _cases(self.run, self.serve, "validation", len(labelled))

        @torch.inference_mode()
        def logits(sample: Sample) -> torch.Tensor:
            return self.model(sample.x[None].to(self.serve.device))[0]

        chapter, found = calibrating(logits, fitted_on, labelled)
        self.temperature = found.temperature
        content = {
            "temperature": found.temperature,
            "num_validation_cases": len(fitted_on),
            "num_test_cases": len(labelled),
            "expected_calibration_error": found.before.error,
            "expected_calibration_error_with_temperature": found.after.error,
        }
        write_json(self.run.path / "calibration.json", content)
        return chapter

    def save_pruned(self, share: float, folder: Path, overwrite: bool) -> Path:
        """Save the network without a share of its edges as a run that predicts and is evaluated like any other."""
        import shutil

        from safetensors.torch import save_file

        from kanscan.explanation.pruning import prune
        from kanscan.files import atomic
        from kanscan.run import Run

        if Run(folder).recipe_path.exists() and not overwrite:
            Run(folder).demand_new()
        pruned = prune(self.model, self.layers(), share)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder)
        for source, target in (
            (self.run.facts_path, run.facts_path),
            (self.run.split_path, run.split_path),
            (self.run.environment_path, run.environment_path),
        ):
            if source.exists():
                shutil.copyfile(source, target)
        with atomic(run.weights_path) as path:
            save_file({k: v.detach().cpu().contiguous() for k, v in pruned.state_dict().items()}, path)
        # Last, because a folder with a recipe is a run.
        shutil.copyfile(self.run.recipe_path, run.recipe_path)
        return folder


def _write(folder: Path, run: Run, samples: Sequence[Sample], chapters: Sequence[Chapter]) -> Path:
    import io

    import matplotlib
    import numpy as np

    from kanscan.files import atomic, write_text
    from kanscan.report.page import Section, figure, page, paragraph, table

    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for chapter in chapters:
        parts = [paragraph(text) for text in chapter.sentences]
        parts += [table(columns, rows, numeric) for columns, rows, numeric in chapter.tables]
        for name, drawing, caption in chapter.figures:
            stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
            buffer = io.StringIO()
            with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kanscan"}):
                drawing.savefig(buffer, format="svg", metadata={"Date": None}, transparent=False)
            write_text(folder / f"{stem}.svg", buffer.getvalue())
            with atomic(folder / f"{stem}.png") as path:
                drawing.savefig(path, format="png", dpi=150)
            parts.append(figure(buffer.getvalue(), caption))
        if chapter.arrays:
            with atomic(folder / f"{chapter.key}.npz") as path, path.open("wb") as file:
                np.savez_compressed(file, **dict(chapter.arrays))  # type: ignore[arg-type]
        for name, text in chapter.texts.items():
            write_text(folder / name, text)
        sections.append(Section(chapter.title, parts))
    facts = run.facts
    lead = (
        f"{facts['model']['name']}, {facts['num_parameters']:,} parameters, run {run.path.name}; looked at on "
        f"{len(samples)} images. Arrays lie beside this page as npz, figures as SVG and PNG."
    )
    return write_text(folder / "index.html", page("What the network learned", lead, sections))
