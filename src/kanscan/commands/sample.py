"""`sample`: a run that learned to remove noise makes pictures, and how they compare with real ones is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from kanscan.pipelines.generation import Generator, RealPictures
    from kanscan.report.generation import GenerationScores
    from kanscan.run import Run

#: Samples on the sheet of the page.
SHOWN = 64
#: Rows and columns of the strip from noise to picture.
STRIP_ROWS, STRIP_COLUMNS = 4, 9
#: Samplers as in `kanscan.training.process.SAMPLERS`.
SAMPLER = "ddpm"


@dataclass(frozen=True)
class Samples:
    """What was written.

    Attributes:
        output: The folder.
        files: Pictures, in the order of their numbers.
        labels: Label maps of the same names; empty where the run learned none.
        num_new: How many were made now; the others were there.
        page: The page with the samples, the way out of noise, and the comparison if one was asked for.
        scores: The comparison with real pictures, or None.
        notes: What the user should know.
    """

    output: Path
    files: tuple[Path, ...]
    labels: tuple[Path, ...]
    num_new: int
    page: Path
    scores: GenerationScores | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": str(self.output),
            "files": [str(path) for path in self.files],
            "labels": [str(path) for path in self.labels],
            "num_new": self.num_new,
            "page": str(self.page),
            "scores": None if self.scores is None else self.scores.to_dict(),
            "notes": list(self.notes),
        }

    def __rich__(self) -> str:
        """Say what lies where, and how it compares."""
        from rich.markup import escape

        pairs = " with label maps" if self.labels else ""
        samples = "1 sample" if len(self.files) == 1 else f"{len(self.files)} samples"
        lines = [f"{samples}{pairs} in {self.output / 'images'}, {self.num_new} of them new"]
        if self.scores is not None:
            unit = " (relative)" if self.scores.relative else ""
            lines += [
                f"FID{unit} {d.value:.4g}: {d.num_one} {d.one} against {d.num_other} {d.other}"
                for d in self.scores.distances
            ]
            if self.scores.inception is not None:
                lines.append("inception score {:.3f} ± {:.3f}".format(*self.scores.inception))
            lines.append(f"{self.scores.num_copies} of {len(self.files)} samples may be copies")
        lines += [f"note: {text}" for text in self.notes]
        return escape("\n".join([*lines, f"Page: {self.page}"]))


def sample(
    run: Path,
    *,
    num_samples: int = 64,
    output: Path | None = None,
    steps: int | None = None,
    sampler: str = SAMPLER,
    clip: bool = True,
    seed: int = 0,
    batch_size: int = 32,
    judge: Path | None = None,
    features: Path | None = None,
    device: str = "auto",
    json: bool = False,
) -> Samples:
    """Make pictures with a run that learned to; go on where it stopped if some are there.

    A run trained with diffusion.with_label=true makes pairs: images/ and masks/ of the same names, which train and
    check take like any other data set.

    Args:
        run: Folder that train wrote, with a network that generates.
        num_samples: How many samples the folder shall hold; those that are there are kept.
        output: Folder of the samples; default: samples/ inside the run.
        steps: Steps from noise to picture; default: all of the training. 50 with ddim are quick.
        sampler: ddpm (noise is drawn at each step, as released) or ddim (only at the start).
        clip: Keep what is guessed at each step within the range of pictures, which a short training needs; the released
            code clips the result only: --no-clip.
        seed: Seed; each sample depends on it and on its own number alone.
        batch_size: Samples at a time; changes the time, not the samples.
        judge: Folder of the run's data: tell how far the samples are from real pictures, and whether they are copies.
        features: TorchScript file of the feature network for FID and inception score; default: built-in filters, whose
            distances compare sets of pictures with one another only.
        device: auto, cpu, cuda, cuda:N or mps.
        json: Print the result as JSON.

    Returns:
        What was written.

    Raises:
        ValueError: The run does not generate, an option is wrong, or the folder holds other samples.
        FileNotFoundError: There are no weights, data or features.
        FileExistsError: The folder holds something else.

    Example:
        >>> sample("runs/ukan_diffusion-quick_s2981", num_samples=16, steps=50, sampler="ddim")  # doctest: +SKIP
    """
    from kanscan.metrics.features import built_in, load_features
    from kanscan.pipelines.generation import generator, real_pictures
    from kanscan.run import Run

    opened = Run.open(run)
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if features is not None and judge is None:
        raise ValueError("--features is what samples are judged by; name the real pictures too: --judge DATA")
    make = generator(opened, device=device)
    chain = make.process.chain(sampler, steps)
    network = built_in(make.device) if features is None else load_features(features, make.device)
    if judge is not None and not Path(judge).exists():
        raise FileNotFoundError(f"no data folder at {judge}")
    # What cannot be compared shall be known before hours of sampling.
    real = None if judge is None else real_pictures(opened, judge)
    if real is not None and features is not None:
        network(real.train[:2])
    folder = output or opened.path / "samples"
    made = {
        "seed": seed,
        "sampler": sampler,
        "steps": len(chain.times),
        "clip": clip,
        "weights": _digest(opened.weights_path),
    }
    _claim(folder, opened, made)
    missing = [i for i in range(num_samples) if not _image(folder, i).is_file()]
    batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
    with _progress(len(batches) * len(chain.times)) as advance:
        for batch in batches:
            _make(make, folder, batch, made, advance)
    files = tuple(_image(folder, i) for i in range(num_samples))
    labels = tuple(_label(folder, i) for i in range(num_samples)) if make.class_names else ()
    page, scores, notes = _page(opened, folder, files, labels, made, real, network)
    return Samples(folder, files, labels, len(missing), page, scores, notes)


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _image(folder: Path, index: int) -> Path:
    return folder / "images" / f"sample_{index:05d}.png"


def _label(folder: Path, index: int) -> Path:
    return folder / "masks" / f"sample_{index:05d}.png"


def _claim(folder: Path, run: Run, made: dict[str, Any]) -> None:
    """Take a folder for samples of one kind.

    Raises:
        ValueError: It holds samples that were made otherwise.
        FileExistsError: It holds pictures of unknown origin.
        NotADirectoryError: It is a file.
    """
    from kanscan.files import read_json, write_json

    note = folder / "samples.json"
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the samples")
    if note.is_file():
        before = read_json(note)
        for key, value in made.items():
            if before.get(key) != value:
                raise ValueError(
                    f"{folder} holds samples made with {key}={before.get(key)}, now {key}={value} is asked for; "
                    "choose another --output"
                )
    elif (folder / "images").exists() and any((folder / "images").iterdir()):
        raise FileExistsError(f"{folder / 'images'} holds files that are no samples; choose another --output")
    else:
        try:
            write_json(note, {**made, "run": run.path.resolve().name, "recipe": run.recipe.name})
        except OSError as error:
            raise PermissionError(f"cannot write to {folder} ({error.strerror}); choose another --output") from None


def _make(
    make: Generator, folder: Path, indices: Sequence[int], made: dict[str, Any], advance: Callable[[], None]
) -> None:
    """Make and write a batch; the label comes before its picture, so that a picture that is there is complete."""
    from kanscan.drawing.images import save_png

    length = made["steps"]
    shown = {round(column * length / (STRIP_COLUMNS - 1)) for column in range(STRIP_COLUMNS)}
    frames: list[Tensor] = []
    options = {"seed": made["seed"], "sampler": made["sampler"], "num_steps": length, "clip": made["clip"]}
    for place, images in enumerate(make.steps(indices, **options)):
        if place:
            advance()
        if place in shown:
            frames.append(make.pictures(images[:STRIP_ROWS]))
    if indices[0] == 0:
        _write_strip(folder, frames)
    pictures, labels = make.pictures(images).numpy(), make.labels(images)
    for position, index in enumerate(indices):
        if labels is not None:
            save_png(_label(folder, index), labels[position].numpy() * _scale(make.class_names))
        save_png(_image(folder, index), _shown(pictures[position]))


def _scale(class_names: Sequence[str]) -> int:
    """Return what a class index is multiplied by in a label file: two classes are stored as 0 and 255."""
    return 255 if len(class_names) == 2 else 1


def _shown(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn `(C, H, W)` into `(H, W)` or `(H, W, 3)`."""
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


def _write_strip(folder: Path, frames: Sequence[Tensor]) -> None:
    from kanscan.drawing.images import contact_sheet, save_png

    tiles = [_shown(frame[row].numpy()) for row in range(len(frames[0])) for frame in frames]
    save_png(folder / "strip.png", contact_sheet(tiles, columns=len(frames), tile_size=96))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Give what moves a bar over all steps of all batches; without a terminal there is none."""
    import sys

    from rich.console import Console
    from rich.progress import Progress

    if not total or not sys.stderr.isatty():
        yield lambda: None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sampling", total=total)
        yield lambda: bar.update(task, advance=1)


def _page(
    run: Run,
    folder: Path,
    files: Sequence[Path],
    labels: Sequence[Path],
    made: dict[str, Any],
    real: RealPictures | None,
    network: Any,
) -> tuple[Path, GenerationScores | None, tuple[str, ...]]:
    from kanscan.files import write_json, write_text
    from kanscan.report.generation import generation_page

    facts = run.facts
    sheet, strip = _sheet(folder, files, labels, _scale(facts["class_names"])), folder / "strip.png"
    scores, neighbors = None, None
    notes: tuple[str, ...] = ()
    if real is not None:
        scores, neighbors, notes = _judge(run, files, real, network)
        write_json(folder / "scores.json", scores.to_dict())
    lead = f"{facts['model']['name']}, {facts['num_parameters']:,} parameters, run {run.path.resolve().name}"
    told = {
        "recipe": run.recipe.name,
        "learned from": facts["data"]["title"],
        **{name: str(value) for name, value in made.items()},
        "notes": "; ".join(notes) or "none",
    }
    text = generation_page(
        f"{len(files)} generated pictures",
        lead,
        sheet.read_bytes(),
        strip.read_bytes() if strip.is_file() else None,
        told,
        scores,
        neighbors,
    )
    return write_text(folder / "index.html", text), scores, notes


def _read(path: Path) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture)


def _sheet(folder: Path, files: Sequence[Path], labels: Sequence[Path], scale: int) -> Path:
    """Draw the first samples in a grid; those with labels as pairs."""
    from kanscan.drawing.images import contact_sheet, overlay, save_png

    tiles = [_read(path) for path in files[:SHOWN]]
    if labels:
        maps = [_read(path) // scale for path in labels[:SHOWN]]
        tiles = [part for tile, m in zip(tiles, maps, strict=True) for part in (tile, overlay(tile, m))]
    return save_png(folder / "grid.png", contact_sheet(tiles, columns=8, tile_size=96))


def _judge(
    run: Run, files: Sequence[Path], real: RealPictures, network: Any
) -> tuple[GenerationScores, bytes, tuple[str, ...]]:
    import numpy as np

    from kanscan.report.generation import neighbor_sheet, score_generation

    tiles = [_read(path) for path in files]
    samples = np.stack([t[None] if t.ndim == 2 else t.transpose(2, 0, 1) for t in tiles])
    mirrored = run.recipe.data.augmentation != "none"
    scores = score_generation(samples, real.train, real.test, network, mirrored=mirrored)
    notes = (real.note, *scores.notes) if real.note else scores.notes
    return scores, neighbor_sheet(samples, real.train, real.train_ids, scores), notes
