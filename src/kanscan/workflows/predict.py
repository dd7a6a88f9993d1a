"""Images that files and folders name become label maps on disk: pictures and volumes in one loop."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanscan.data.case import Case, LabelMap
from kanscan.files import write_text
from kanscan.inference.files import ImageFiles, Output
from kanscan.run.facts import VolumeFacts
from kanscan.run.lock import locked
from kanscan.workflows.predictable import Predictable
from kanscan.workflows.progress import Failure, demand_output, peak_memory_mib, work_through


@dataclass(frozen=True)
class Predictions:
    """What was written.

    Attributes:
        output: The folder.
        files: Label maps, in the order of the images.
        values: Class name -> value it has in the label maps.
        errors: A sentence for each image that could not be predicted.
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


@dataclass(frozen=True)
class Wishes:
    """What a user asks of a prediction; fields as the options of `kanscan.predict`."""

    output: Path
    overlays: bool = False
    probabilities: bool = False
    temperature: bool = True
    indices: bool = False
    flips: bool | None = None
    device: str = "auto"
    series: str | None = None
    shard: str | None = None
    skip_finished: bool = False
    overwrite: bool = False


def predict_images(source: Predictable, inputs: Sequence[str | Path], wishes: Wishes) -> Predictions:
    """Write a label map for every image; one that fails is told, in `failures.csv` too, and the others go on.

    Args:
        source: A run, or an exported folder.
        inputs: Files and folders.
        wishes: What is asked for.

    Raises:
        ValueError: Run, images or wishes do not fit together.
        FileNotFoundError: There is nothing at a path.
        FileExistsError: A file to write is there already.
        InUseError: Another process writes the same into the folder.
    """
    demand_output(wishes.output, "the label maps")
    shard = "" if wishes.shard is None else f"-{wishes.shard.replace('/', 'of')}"
    with locked(wishes.output, f"prediction{shard}"):
        return _predict_images(source, inputs, wishes)


def _predict_images(source: Predictable, inputs: Sequence[str | Path], wishes: Wishes) -> Predictions:
    files, facts = source.files, source.facts
    label_map = facts.label_map
    stored = stored_values(label_map, len(facts.class_names), indices=wishes.indices)
    output = Output(
        wishes.output,
        tuple(stored),
        overlays=wishes.overlays,
        probabilities=wishes.probabilities,
        codes={} if label_map is None else label_map.codes,
        shard=wishes.shard,
    )
    cases, notes = source.find(inputs, wishes.series)
    cases = take_shard(cases, wishes.shard)
    cases = _left_to_do(files, facts.kind, cases, output, wishes, notes)
    scale, told = source.temperature() if wishes.probabilities and wishes.temperature else (1.0, "")
    notes += [told] if told else []
    predictor = source.predictor(device=wishes.device, flips=wishes.flips).scaled(scale)

    def predict(case: Case) -> Path:
        image = files.read(case)
        notes.extend(note for note in files.notes(image) if note not in notes)
        found = predictor(image, probabilities=output.probabilities)
        return files.write(case, image, found, predictor.class_names, output)[0]

    done = work_through(cases, predict, "predicting")
    _write_failures(output.failures_path, done.failures)
    if isinstance(facts, VolumeFacts):
        # Memory decides whether a machine can take volumes at all.
        notes.append(f"peak memory {peak_memory_mib():,.0f} MiB")
    return Predictions(
        output.folder,
        done.results,
        dict(zip(predictor.class_names, stored, strict=True)),
        tuple(one.sentence for one in done.failures),
        tuple(notes),
        facts.kind,
    )


def _left_to_do(
    image_files: ImageFiles, kind: str, cases: Sequence[Case], output: Output, wishes: Wishes, notes: list[str]
) -> list[Case]:
    """Leave out what is done; refuse what would be lost or could not be written."""
    files = {case.id: image_files.outputs(case, output) for case in cases}
    owners: dict[Path, Case] = {}
    for case in cases:
        for path in files[case.id]:
            other = owners.setdefault(path, case)
            if other is not case:
                raise ValueError(
                    f"{other.images[0]} and {case.images[0]} would both become {path}; predict them separately"
                )
    sources = {path.resolve() for case in cases for path in case.images}
    own = next((path for path in owners if path.resolve() in sources), None)
    if own is not None:
        raise ValueError(f"the output would replace the image {own}; choose another --output")
    if wishes.skip_finished:
        finished = {case.id for case in cases if files[case.id][0].is_file()}
        notes += [f"{len(finished)} {kind} were predicted before and left out"] if finished else []
        cases = [case for case in cases if case.id not in finished]
    there = [path for case in cases for path in files[case.id] if path.exists()]
    if there and not wishes.overwrite:
        raise FileExistsError(
            f"{output.folder} already holds {len(there)} of the files to write, first {there[0].name}; add "
            "--skip-finished or --overwrite, or choose another --output"
        )
    return list(cases)


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """List what failed this time; a list of an earlier time is removed where nothing did."""
    path.unlink(missing_ok=True)
    if failures:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["case", "error"])
        writer.writerows((one.case, one.sentence) for one in failures)
        write_text(path, text.getvalue())


def take_shard(cases: Sequence[Case], shard: str | None) -> list[Case]:
    """Take the i-th of n parts of a list, written "i/n" from 1; all of it without.

    Raises:
        ValueError: It is not written so.
    """
    if shard is None:
        return list(cases)
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard is written i/n with 1 <= i <= n, for example 2/8; got {shard!r}")
    return list(cases)[int(match[1]) - 1 :: int(match[2])]


def stored_values(label_map: LabelMap | None, num_classes: int, *, indices: bool = False) -> list[int]:
    """Give each class the value its pixels get in a written label map.

    Args:
        label_map: Of the training, or None where it is not known.
        num_classes: Background included.
        indices: Store 0, 1, 2, ... whatever the training's files held.

    Example:
        >>> stored_values(LabelMap(("a", "b", "c"), "values", {0: 0, 128: 1, 255: 2}), 3)
        [0, 128, 255]
    """
    if indices:
        return list(range(num_classes))
    if label_map is not None and label_map.rule == "values":
        # Several stored values may stand for one class: the first listed serves.
        first: dict[int, int] = {}
        for value, index in label_map.values.items():
            if index < num_classes:  # others mark pixels that nobody labelled
                first.setdefault(index, value)
        if sorted(first) == list(range(num_classes)):
            return [first[index] for index in range(num_classes)]
    return [0, 255] if num_classes == 2 else list(range(num_classes))
