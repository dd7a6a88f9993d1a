"""A run that learned to remove noise makes pictures, and how they compare with real ones is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kanscan.data.case import Case
from kanscan.data.pictures.labels import read_case_image
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.data.splits import Split
from kanscan.data.unlabelled import open_pictures
from kanscan.drawing.images import contact_sheet, overlay, save_png
from kanscan.files import read_json, write_json, write_text
from kanscan.metrics.features import built_in, load_features
from kanscan.pipelines.generation import Generator, generator, open_unlabelled_pictures
from kanscan.report.generation import GenerationScores, generation_page, neighbor_sheet, score_generation
from kanscan.run import Run
from kanscan.run.facts import GenerationFacts
from kanscan.run.lock import locked

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


def make_samples(
    opened: Run,
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
) -> Samples:
    """Make pictures with a run that learned to, and go on where it stopped; arguments as of `kanscan.sample`."""
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
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the samples")
    with locked(folder, "sampling"):
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
    """
    note = folder / "samples.json"
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
    facts = run.facts
    assert isinstance(facts, GenerationFacts)
    sheet, strip = _sheet(folder, files, labels, _scale(facts.class_names)), folder / "strip.png"
    scores, neighbors = None, None
    notes: tuple[str, ...] = ()
    if real is not None:
        scores, neighbors, notes = _judge(run, files, real, network)
        write_json(folder / "scores.json", scores.to_dict())
    lead = f"{facts.model.name}, {facts.num_parameters:,} parameters, run {run.path.resolve().name}"
    told = {
        "recipe": run.recipe.name,
        "learned from": facts.data.title,
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
    with Image.open(path) as picture:
        return np.asarray(picture)


def _sheet(folder: Path, files: Sequence[Path], labels: Sequence[Path], scale: int) -> Path:
    """Draw the first samples in a grid; those with labels as pairs."""
    tiles = [_read(path) for path in files[:SHOWN]]
    if labels:
        maps = [_read(path) // scale for path in labels[:SHOWN]]
        tiles = [part for tile, m in zip(tiles, maps, strict=True) for part in (tile, overlay(tile, m))]
    return save_png(folder / "grid.png", contact_sheet(tiles, columns=8, tile_size=96))


def _judge(
    run: Run, files: Sequence[Path], real: RealPictures, network: Any
) -> tuple[GenerationScores, bytes, tuple[str, ...]]:
    tiles = [_read(path) for path in files]
    samples = np.stack([t[None] if t.ndim == 2 else t.transpose(2, 0, 1) for t in tiles])
    mirrored = run.recipe.data.augmentation != "none"
    scores = score_generation(samples, real.train, real.test, network, mirrored=mirrored)
    notes = (real.note, *scores.notes) if real.note else scores.notes
    return scores, neighbor_sheet(samples, real.train, real.train_ids, scores), notes


@dataclass(frozen=True)
class RealPictures:
    """What generated pictures are compared with, cut and sized as in training.

    Attributes:
        train: `(N, C, H, W)` uint8: the pictures learned from.
        train_ids: Their names.
        test: `(M, C, H, W)` uint8: pictures of the same data set that were kept apart; M may be 0.
        note: What the user should know, or "".
    """

    train: NDArray[np.uint8]
    train_ids: tuple[str, ...]
    test: NDArray[np.uint8]
    note: str


def real_pictures(run: Run, root: str | Path) -> RealPictures:
    """Read the pictures that a run's samples are compared with.

    Args:
        run: A run that generates.
        root: Where the data of the run lie; or another data set, which is then taken whole.

    Raises:
        ValueError: There are no pictures, or one cannot be read.
        FileNotFoundError: There is no such folder.
    """
    recipe, split = run.recipe, Split.load(run.split_path)
    try:
        source = open_unlabelled_pictures(recipe, root)
    except ValueError:
        # Another data set may have another layout than the one that was learned from.
        source = open_pictures(root)
    known = {case.id: case for case in source.cases}
    train, test, note = [known[i] for i in split.train if i in known], [i for i in split.test if i in known], ""
    if len(train) < len(split.train):
        train, test = list(source.cases), []
        note = f"the pictures of {Path(root).resolve().name} are not those the run learned from: all are compared with"
    facts = run.facts
    assert isinstance(facts, GenerationFacts) and facts.preprocessing.image_size is not None
    prepare = Preprocessing(**facts.preprocessing.model_dump()).prepare
    empty = np.zeros((0, facts.preprocessing.channels, *facts.preprocessing.image_size), np.uint8)

    def read(case: Case) -> NDArray[np.uint8]:
        return np.clip(np.rint(prepare(read_case_image(case))), 0, 255).astype(np.uint8)

    return RealPictures(
        np.stack([read(case) for case in train]),
        tuple(case.id for case in train),
        np.stack([read(known[i]) for i in test]) if test else empty,
        note,
    )
