"""`predict`: pictures become label maps of their own size, volumes label maps in their own grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kanscan.data.case import Case
    from kanscan.inference import Prediction, Predictor, VolumePredictor

#: What the pixels of a written label map may hold.
VALUES = ("labels", "indices")


@dataclass(frozen=True)
class Predictions:
    """What was written.

    Attributes:
        output: The folder.
        files: Label maps, in the order of the pictures.
        values: Class name -> value it has in the label maps.
        errors: A sentence for each picture that could not be predicted.
        notes: What was left out.
        what: What was predicted, "pictures" or "volumes".
    """

    output: Path
    files: tuple[Path, ...]
    values: dict[str, int]
    errors: tuple[str, ...]
    notes: tuple[str, ...] = ()
    what: str = "pictures"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": str(self.output),
            "files": [str(path) for path in self.files],
            "values": self.values,
            "errors": list(self.errors),
            "notes": list(self.notes),
        }

    def __rich__(self) -> str:
        """Say how many label maps lie where and what their values mean; then what went wrong."""
        from rich.markup import escape

        meaning = ", ".join(f"{value} = {name}" for name, value in self.values.items())
        plural = "s" * (len(self.files) != 1)
        lines = [f"{len(self.files)} label map{plural} in {self.output} ({meaning})"]
        lines += [f"note: {text}" for text in self.notes]
        if self.errors:
            lines.append(
                f"{len(self.errors)} of {len(self.files) + len(self.errors)} {self.what} could not be predicted:"
            )
            lines += [f"error: {text}" for text in self.errors]
        return escape("\n".join(lines))


def predict(
    run: Path,
    images: list[Path],
    *,
    output: Path = Path("predictions"),
    overlays: bool = False,
    probabilities: bool = False,
    temperature: bool = True,
    values: str = "labels",
    flips: bool | None = None,
    device: str = "auto",
    series: str | None = None,
    shard: str | None = None,
    skip_finished: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> Predictions:
    """Write a label map for every picture, at the picture's own size, as PNG of the same name.

    A run on volumes takes NIfTI, MHA and NRRD files, folders of them and folders of DICOM slices, and writes NIfTI in
    the grid of the input; beside that of DICOM a DICOM segmentation that refers to the source images. Failures are
    listed in failures.csv, those of a shard in a file of its own.

    The values are those of the label files the network learned from: 0 and 255 for a background and a foreground,
    the listed values for several classes. A picture that cannot be read is told at the end; the others go on.

    Args:
        run: Folder that train wrote; nothing else of the training is needed.
        images: Pictures or volumes, or folders of them.
        output: Folder of the label maps.
        overlays: Also write NAME_overlay.png, the label map drawn over the picture.
        probabilities: Also write NAME_probabilities.npz: "probabilities" (class, height, width), background first, and
            the class "names".
        temperature: Scale these probabilities by the temperature that explain fitted, where the run holds one.
        values: What the pixels hold. labels: as in the label files of the training; indices: 0, 1, 2, ...
        flips: Average the prediction over flips; default: as the recipe says.
        device: auto, cpu, cuda, cuda:N or mps.
        series: Of DICOM folders that hold several: number, description or UID of the one to take; default: all.
        shard: Predict only the i-th of n parts of the volumes, written i/n, so that several machines share the work.
        skip_finished: Leave out volumes whose label map is there.
        overwrite: Replace label maps that are there.
        json: Print the result as JSON.

    Returns:
        What was written, and what went wrong (then the exit code is 2).

    Raises:
        ValueError: The run, a name or an option does not fit.
        FileNotFoundError: There is no such run or picture.
        FileExistsError: A label map is there already.

    Example:
        >>> done = predict("runs/demo", ["scan.png"], output="out")  # doctest: +SKIP
        >>> done.files  # doctest: +SKIP
    """
    from kanscan.data.pictures.search import find_pictures
    from kanscan.pipelines.pictures import predictor
    from kanscan.registry import unknown
    from kanscan.run import Run
    from kanscan.workflows.temperature import stored_temperature

    if values not in VALUES:
        raise ValueError(unknown("kind of values", values, VALUES))
    opened, folder = Run.open(run), Path(output)
    inputs = [images] if isinstance(images, str | Path) else images
    scale, told = stored_temperature(opened) if probabilities and temperature else (1.0, "")
    if "plan" in opened.facts:
        serve = predictor(opened, device=device, flips=flips)
        serve.temperature = scale
        stored = stored_values(opened.facts.get("label_map"), len(serve.class_names), values)
        codes = (opened.facts.get("label_map") or {}).get("codes", {})
        wanted = {"overlays": overlays, "probabilities": probabilities, "codes": codes}
        done = _predict_volumes(serve, inputs, folder, stored, wanted, series, shard, skip_finished, overwrite)
        return replace(done, notes=(*done.notes, told)) if told else done
    if series is not None or shard is not None or skip_finished:
        raise ValueError(
            f"--series, --shard and --skip-finished are for volumes; {opened.path} was trained on pictures"
        )
    cases, notes = find_pictures(inputs)
    pictures = [case.images[0] for case in cases]
    notes += [told] if told else []
    targets = _targets(cases, folder, overwrite, overlays, probabilities)
    serve = predictor(opened, device=device, flips=flips)
    serve.temperature = scale
    stored = stored_values(opened.facts.get("label_map"), len(serve.class_names), values)
    files, errors = [], []
    for picture, target in _watched(list(zip(pictures, targets, strict=True))):
        try:
            _predict_one(serve, picture, target, stored, overlays, probabilities)
        except (ValueError, FileNotFoundError, PermissionError) as error:
            # The sentences of the reader name the file, those of the network do not.
            text = str(error)
            errors.append(text if str(picture) in text else f"{picture}: {text}")
        else:
            files.append(target)
    meaning = dict(zip(serve.class_names, stored, strict=True))
    return Predictions(folder, tuple(files), meaning, tuple(errors), tuple(notes))


def _predict_volumes(
    serve: VolumePredictor,
    inputs: Iterable[str | Path],
    folder: Path,
    stored: Sequence[int],
    wanted: Mapping[str, Any],
    series: str | None,
    shard: str | None,
    skip_finished: bool,
    overwrite: bool,
) -> Predictions:
    from kanscan.data.volumes.search import find_volumes
    from kanscan.workflows.volume_files import Output, finished, predict_cases, take_shard

    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the label maps")
    output = Output(folder, tuple(stored), shard=shard, **wanted)
    cases = take_shard(find_volumes(inputs, serve.plan.channels, series), shard)
    sources = {path.resolve() for case in cases for path in case.images}
    own = [path for case in cases for path in output.paths(case) if path.resolve() in sources]
    if own:
        raise ValueError(f"the output would replace the volume {own[0]}; choose another --output")
    notes = []
    if skip_finished:
        done, cases = finished(cases, output)
        notes += [f"{len(done)} volumes were predicted before and left out"] if done else []
    there = [path for case in cases for path in output.paths(case) if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {len(there)} of the files to write, first {there[0].name}; add --skip-finished or "
            "--overwrite, or choose another --output"
        )
    _demand_writable(folder)
    files, failures = predict_cases(serve, cases, output, _watched)
    notes.append(f"peak memory {_peak_memory_mib():,.0f} MiB")
    meaning = dict(zip(serve.class_names, stored, strict=True))
    return Predictions(folder, tuple(files), meaning, tuple(failures.values()), tuple(notes), "volumes")


def _peak_memory_mib() -> float:
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def _targets(cases: Sequence[Case], folder: Path, overwrite: bool, overlays: bool, probabilities: bool) -> list[Path]:
    """Name the label maps, and refuse what would be lost or could not be written."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the label maps")
    by_target: dict[Path, Path] = {}
    for case in cases:
        picture, target = case.images[0], folder / f"{case.id}.png"
        if target in by_target:
            raise ValueError(f"{by_target[target]} and {picture} would both become {target}; predict them separately")
        by_target[target] = picture
    kinds = [".png", *(["_overlay.png"] if overlays else []), *(["_probabilities.npz"] if probabilities else [])]
    written = [target.with_name(target.stem + kind) for target in by_target for kind in kinds]
    uses = Counter(written)
    twice = next((path for path in by_target if uses[path] > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} would be both a label map and an overlay; predict {by_target[twice]} separately")
    sources = {picture.resolve() for picture in by_target.values()}
    own = [path for path in written if path.resolve() in sources]
    if own:
        raise ValueError(f"the output would replace the picture {own[0]}; choose another --output")
    there = [path for path in written if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {len(there)} of the {len(written)} files to write, first {there[0].name}; "
            "add --overwrite, or choose another --output"
        )
    _demand_writable(folder)
    return list(by_target)


def _demand_writable(folder: Path) -> None:
    import os

    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; {folder} cannot be made below it")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"cannot write to {existing}; choose another --output")


def stored_values(label_map: dict[str, Any] | None, num_classes: int, values: str = "labels") -> list[int]:
    """Give each class the value its pixels get in a written label map.

    Args:
        label_map: Fields of the `LabelMap` of the training, or None where it is not known.
        num_classes: Background included.
        values: An entry of `VALUES`.

    Example:
        >>> stored_values({"rule": "values", "values": {"0": 0, "128": 1, "255": 2}}, 3)
        [0, 128, 255]
    """
    if values == "indices":
        return list(range(num_classes))
    if label_map is not None and label_map["rule"] == "values":
        # Several stored values may stand for one class: the first listed serves.
        first: dict[int, int] = {}
        for value, index in label_map["values"].items():
            if int(index) < num_classes:  # others mark pixels that nobody labelled
                first.setdefault(int(index), int(value))
        if sorted(first) == list(range(num_classes)):
            return [first[index] for index in range(num_classes)]
    return [0, 255] if num_classes == 2 else list(range(num_classes))


def _predict_one(
    serve: Predictor, picture: Path, target: Path, stored: Sequence[int], overlays: bool, probabilities: bool
) -> None:
    import numpy as np

    from kanscan.data.pictures.files import read_image, write_label
    from kanscan.drawing.images import overlay, save_png

    image = read_image(picture)
    found = serve(image)
    if overlays:
        save_png(target.with_name(f"{target.stem}_overlay.png"), overlay(image, found.label))
    if probabilities:
        _write_probabilities(target.with_name(f"{target.stem}_probabilities.npz"), found, serve.class_names)
    # The label map comes last: where it is, the rest is there too.
    values: NDArray[np.uint16] = np.array(stored, dtype=np.uint16)[found.label]
    write_label(target, values)


def _write_probabilities(path: Path, found: Prediction, names: Sequence[str]) -> None:
    import numpy as np

    from kanscan.files import atomic

    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=found.probabilities, names=np.array(names))


def _watched(work: Sequence[Any]) -> Iterable[Any]:
    import sys

    from rich.console import Console
    from rich.progress import track

    if len(work) < 2 or not sys.stderr.isatty():
        return work
    return track(work, "predicting", console=Console(stderr=True), transient=True)
