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
    from kanscan.predictor import Predictor, VolumePredictor
    from kanscan.run import Run

#: Chapters in the order of the page.
CHAPTERS = ("splines", "pruning", "maps", "receptive_field", "scans", "attention", "uncertainty", "calibration")


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
    beside: list[Path] | None = None,
    cases: int = 24,
    shown: int = 4,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> Explanation:
    """Explain a run: its splines, what can be pruned, where it looks, what a pixel receives, how sure it is.

    Of a volume the patch around the middle of its foreground is looked at, and shown in three planes.

    Args:
        run: The run's folder.
        images: Images or volumes to look at; default: test cases of the run's data, with their labels.
        output: Folder for the page; default: explanation/ inside the run.
        only: Chapters to write (splines, pruning, maps, receptive_field, scans, attention, uncertainty, calibration);
            default: all that the network and the data allow.
        layer: Layer whose maps are shown, or whose scans; default: the last tokenized KAN block, in other networks the
            last block at about an eighth of the image's side.
        at: Row and column, as shares of the image, of the place whose scans are shown; of a volume depth in front.
        prune: Share of the KAN edges to remove; the pruned network is saved as a run of its own.
        ensemble: Further runs on the same task whose predictions are compared.
        beside: Runs of networks with 2D scans (VM-UNet) to set beside the KAN attention of VMKLA-UNet.
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
    from kanscan.build import predictor
    from kanscan.build.explanation_page import write_page
    from kanscan.build.samples import case_samples, named_samples
    from kanscan.run import Run

    opened = Run.open(run)
    asked = _chapters(only)
    position = _position(at)
    folder = output or opened.path / "explanation"
    if (folder / "index.html").exists() and not overwrite:
        raise FileExistsError(f"{folder} already holds an explanation; add --overwrite or choose another --output")
    serve = predictor(opened, device=device, flips=False)
    others = _others(serve, opened, ensemble or (), device, alike=True)
    scanning = _others(serve, opened, beside or (), device, alike=False)
    samples = named_samples(serve, images) if images else case_samples(opened, serve, "test", cases)
    study = _Study(opened, serve, others, scanning, samples, samples[:shown], layer, position)
    written, left_out = study.write(asked, explicitly=only is not None)
    pruned = None if prune is None else study.save_pruned(prune, folder / "pruned", overwrite)
    page = write_page(folder, study.lead(), written, left_out)
    return Explanation(page.resolve(), tuple(c.key for c in written), left_out, study.temperature, pruned)


def _others(
    serve: Predictor | VolumePredictor, run: Run, paths: Sequence[Path], device: str, *, alike: bool
) -> dict[str, nn.Module]:
    """Load further networks by the names of their runs; they must take the same images, and tell the same classes."""
    from kanscan.build import load_predictor

    found: dict[str, nn.Module] = {}
    for path in paths:
        other = load_predictor(path, device=device, flips=False)
        if _taken(other) != _taken(serve) or (alike and other.class_names != serve.class_names):
            raise ValueError(
                f"{path} has other classes or another preprocessing than {run.path}; they cannot be compared"
            )
        name = Path(path).name
        found[name if name not in found else str(path)] = other.model
    return found


def _taken(serve: Any) -> Any:
    """Return what decides how images reach a network."""
    plan = getattr(serve, "plan", None)
    if plan is None:
        return serve.preprocessing
    return plan.channels, plan.spacing_mm, plan.patch_size, plan.normalization, plan.slice_axis


def _chapters(only: Sequence[str] | None) -> tuple[str, ...]:
    for name in only or ():
        if name not in CHAPTERS:
            raise ValueError(unknown("chapter", name, CHAPTERS))
    return tuple(name for name in CHAPTERS if only is None or name in only)


def _position(text: str) -> tuple[float, ...]:
    try:
        place = tuple(float(part) for part in text.split(","))
    except ValueError:
        place = ()
    if len(place) not in (2, 3) or not all(0 <= p <= 1 for p in place):
        raise ValueError(
            "at must be row,column (of a volume also depth,row,column) as shares of the image, such as 0.4,0.6; got "
            f"{text!r}"
        )
    return place


class _Study:
    """Writes the chapters that a run allows; later ones use what earlier ones found."""

    def __init__(
        self,
        run: Run,
        serve: Predictor | VolumePredictor,
        others: dict[str, nn.Module],
        scanning: dict[str, nn.Module],
        samples: Sequence[Sample],
        shown: Sequence[Sample],
        layer: str | None,
        position: tuple[float, ...],
    ) -> None:
        self.run, self.serve, self.others, self.scanning = run, serve, others, scanning
        self.samples, self.shown, self.layer, self.position = samples, shown, layer, position
        self.temperature: float | None = None
        self._layers: list[SplineLayer] | None = None
        dims = samples[0].x.ndim - 1
        if len(position) > dims:
            raise ValueError(f"at names {len(position)} shares, the network's images have {dims} axes")

    def lead(self) -> str:
        """Say what was looked at."""
        facts, images = self.run.facts, f"{len(self.samples)} images"
        if "plan" in facts:
            what = "slice" if self.samples[0].x.ndim == 3 else "patch"
            size = " x ".join(map(str, self.samples[0].x.shape[1:]))
            images += f" (of each volume the {what} of {size} voxels around the middle of its foreground)"
        return (
            f"{facts['model']['name']}, {facts['num_parameters']:,} parameters, run {self.run.path.name}; looked at on "
            f"{images}. Arrays lie beside this page as npz, figures as SVG and PNG."
        )

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

        names, shown = self.serve.class_names, len(self.shown)
        return maps(self.model, self.control(), self.samples, names, self.serve.device, self.layer, shown)

    def receptive_field(self) -> Chapter:
        """Show what moves the central output."""
        from kanscan.explanation.chapters import field_of_view

        return field_of_view(self.model, self.control(), self.samples, self.serve.device)

    def scans(self) -> Chapter:
        """Show what a place receives along the scans."""
        from kanscan.explanation.chapters import scans
        from kanscan.explanation.scan_attention import scan_layers

        known = scan_layers(self.model)
        around = {name.rpartition(".")[0] for name in known}
        layer = self.layer if self.layer in {*known, *around} else None
        return scans(self.model, self.shown, self.position, self.serve.device, layer)

    def attention(self) -> Chapter:
        """Set KAN attention beside scans."""
        from kanscan.explanation.chapters import attention

        row, column = self.position[-2:]
        return attention(self.model, self.control(), self.shown, (row, column), self.serve.device, self.scanning)

    def uncertainty(self) -> Chapter:
        """Show where predictions disagree."""
        import torch

        from kanscan.explanation.chapters import uncertainty
        from kanscan.predictor import class_probabilities

        @torch.inference_mode()
        def probabilities(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return class_probabilities(model(x))

        return uncertainty([self.model, *self.others.values()], probabilities, self.shown, self.serve.device)

    def calibration(self) -> Chapter:
        """Fit a temperature on the validation cases, judge it on the test cases, keep it in the run."""
        from kanscan.build.samples import logits_and_labels
        from kanscan.explanation.chapters import calibrating
        from kanscan.files import write_json

        if all(s.label is None for s in self.samples):
            raise ValueError("calibration needs labels; leave out the images to use the run's test cases")
        fitted_on, judged_on = (
            logits_and_labels(self.run, self.serve, part, len(self.samples)) for part in ("validation", "test")
        )
        chapter, found = calibrating(fitted_on, judged_on, "voxels" if "plan" in self.run.facts else "pixels")
        self.temperature = found.temperature
        content = {
            "temperature": found.temperature,
            "num_validation_cases": len(fitted_on),
            "num_test_cases": len(judged_on),
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
