"""A data folder looked at before anything is trained: what is in it, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanscan.data import open_folder
from kanscan.data.case import Case, DatasetReader
from kanscan.data.examination import CaseFacts, doubtful, find_duplicates, find_look_alikes
from kanscan.data.pictures.label_meaning import values_text
from kanscan.drawing.images import contact_sheet, save_png
from kanscan.pipelines import PICTURES, VOLUMES, LabelingPipeline
from kanscan.workflows.progress import watched

if TYPE_CHECKING:
    from rich.console import Group

#: Pictures on the contact sheet.
_NUM_TILES = 24
#: Sentences of one kind that the terminal shows; JSON holds all.
_MOST_SHOWN = 12
#: More classes than this, told from the values alone, may be object numbers.
_MOST_CLASSES = 5


@dataclass(frozen=True)
class ClassFacts:
    """A class over the whole data set.

    Attributes:
        name: The class.
        fraction: Share of all labelled pixels, 0..1.
        num_cases: Cases in which it occurs.
    """

    name: str
    fraction: float
    num_cases: int


@dataclass(frozen=True)
class Checked:
    """What was found in a data folder.

    Attributes:
        data: The folder.
        reader: Key of the layout.
        title: The layout in words.
        num_cases: Cases found.
        num_labelled: Those with label files.
        channels: Channels a network is best given.
        sizes: "width x height", of volumes their file's three axes -> cases, the most frequent first.
        image_modes: How image files store pixels -> files.
        num_grey: Images without color, however they are stored.
        label_modes: How label files store pixels -> files.
        label_rule: How stored label values become classes.
        label_values: Stored label value -> share of all pixels.
        classes: Frequency of each class.
        num_empty: Labelled cases that are all background.
        num_groups: Declared groups (patients, video sequences); None if there are none.
        subsets: Subset that the layout assigns -> cases.
        duplicates: Ids of cases that share one picture, a list each.
        near_duplicates: Pairs of ids that look the same and are in no declared group together.
        errors: What must be mended, one sentence each.
        warnings: What should be known before results are believed.
        notes: What the reader decided.
        sheet: The contact sheet, None if none was drawn.
        spacings: Of volumes: spacing in millimeters -> cases.
        orientations: Of volumes: whither the axes run ("RAS" is right, front, head) -> cases.
    """

    data: str
    reader: str
    title: str
    num_cases: int
    num_labelled: int
    channels: int
    sizes: dict[str, int]
    image_modes: dict[str, int]
    num_grey: int
    label_modes: dict[str, int]
    label_rule: str
    label_values: dict[int, float]
    classes: tuple[ClassFacts, ...]
    num_empty: int
    num_groups: int | None
    subsets: dict[str, int]
    duplicates: list[list[str]]
    near_duplicates: list[tuple[str, str]]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    sheet: str | None = None
    spacings: dict[str, int] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def __rich__(self) -> Group:
        """Draw what was found for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        facts = Table(title=escape(self.data), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        facts.add_column("fact")
        facts.add_column("value", overflow="fold")
        for name, value in self._lines():
            facts.add_row(name, escape(value))
        classes = Table(box=box.SIMPLE_HEAD)
        classes.add_column("class")
        classes.add_column("pixels", justify="right")
        classes.add_column("cases", justify="right")
        for one in self.classes:
            classes.add_row(escape(one.name), f"{100 * one.fraction:.2f} %", str(one.num_cases))
        parts: list[Any] = [facts, *([classes] if self.classes else [])]
        for kind, style, sentences in (
            ("error", "red", self.errors),
            ("warning", "yellow", self.warnings),
            ("note", "dim", self.notes),
        ):
            parts += [f"[{style}]{kind}[/{style}]: {escape(sentence)}" for sentence in sentences[:_MOST_SHOWN]]
            if len(sentences) > _MOST_SHOWN:
                parts.append(f"... and {len(sentences) - _MOST_SHOWN} more {kind}s (--json lists all)")
        verdict = (
            f"{len(self.errors)} thing{'s' * (len(self.errors) > 1)} to mend"
            if self.errors
            else "ready to train"
            if self.num_labelled
            else "ready to predict"
        )
        sheet = f", contact sheet: {escape(self.sheet)}" if self.sheet else ""
        return Group(*parts, f"[bold]{verdict}[/bold]{sheet}")

    def _lines(self) -> list[tuple[str, str]]:
        groups = f"{self.num_groups}" if self.num_groups else "none known"
        lines = [
            ("layout", f"{self.title} (reader {self.reader})"),
            ("cases", f"{self.num_cases}, {self.num_labelled} with labels"),
            ("sizes", _sizes_text(self.sizes)),
            (
                "image files",
                _most_frequent(self.image_modes) + ("" if self.spacings else f"; {self.num_grey} without color"),
            ),
            ("label files", _most_frequent(self.label_modes)),
            ("label values", _values_text(self.label_values)),
            ("classes", self.label_rule),
            ("empty labels", str(self.num_empty)),
            ("groups", groups),
        ]
        if self.spacings:
            lines[3:3] = [
                ("spacing", f"{_most_frequent(self.spacings)} (mm)"),
                ("orientation", _most_frequent(self.orientations)),
            ]
        return lines + ([("subsets", _most_frequent(self.subsets))] if self.subsets else [])


def check_folder(
    data: Path,
    reader: str = "auto",
    options: Mapping[str, Any] | None = None,
    *,
    sheet: bool = True,
    output: Path | None = None,
) -> Checked:
    """Read every file of a data folder once and say what is in it; nothing is written into it.

    Args:
        data: The folder.
        reader: Key of its layout, or "auto".
        options: Of the reader.
        sheet: Draw a contact sheet.
        output: Where it goes, a PNG file or a folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The layout is not known, an option is wrong, or the contact sheet would lie in the data folder.
    """
    target, target_note = _sheet_target(data, output) if sheet else (None, "")
    found = open_folder(data, reader, options)
    opened, survey = found.reader, found.survey
    pipeline = VOLUMES if opened.spatial_dims == 3 else PICTURES
    facts = _examine(survey.cases, opened, pipeline)
    errors = [*survey.problems, *(sentence for one in facts for sentence in one.errors)]
    unlabelled = [case.id for case in survey.cases if not case.labels]
    # Scanners deliver no labels: such a folder is there to be predicted.
    if len(unlabelled) == len(survey.cases) and opened.key != "dicom":
        errors.append(f"none of the {len(survey.cases)} images has a mask; expected {opened.expected}")
    drawn = _draw_sheet(survey.cases, facts, opened, pipeline, target) if target else None
    return Checked(
        data=str(data),
        reader=opened.key,
        title=opened.title,
        num_cases=len(survey.cases),
        num_labelled=len(survey.cases) - len(unlabelled),
        channels=opened.channels,
        errors=tuple(dict.fromkeys(errors)),
        warnings=tuple(_warnings(survey.cases, facts, opened)),
        notes=tuple(
            # What lies beside DICOM is told by the search and by the reading.
            dict.fromkeys(
                (*survey.notes, *_notes(survey.cases, facts, opened), *([target_note] if target_note else []))
            )
        ),
        sheet=str(drawn) if drawn else None,
        **_tables(survey.cases, facts, opened),
    )


def _examine(cases: Sequence[Case], reader: DatasetReader, pipeline: LabelingPipeline) -> list[CaseFacts]:
    # Decoding leaves Python's lock, so threads help.
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda case: pipeline.examine(case, reader.label_map), cases)
        return list(watched(found, "reading", len(cases)))


def _tables(cases: Sequence[Case], facts: Sequence[CaseFacts], reader: DatasetReader) -> dict[str, Any]:
    groups = [case.group for case in cases]
    declared = {group for group in groups if group is not None}
    values: Counter[int] = Counter()
    for one in facts:
        values.update(one.stored)
    total = max(sum(values.values()), 1)
    judged = [one for one in facts if one.class_pixels]
    return {
        "sizes": _counted(" x ".join(map(str, reversed(one.size))) for one in facts if one.size),
        "image_modes": _counted(one.image_mode for one in facts if one.image_mode),
        "num_grey": sum(one.is_grey for one in facts),
        "label_modes": _counted(mode for one in facts for mode in one.label_modes),
        "label_rule": values_text(reader.label_map),
        "label_values": {value: values[value] / total for value in sorted(values)},
        "classes": _class_facts(judged, reader.label_map.names),
        "spacings": _counted(" x ".join(f"{s:.3g}" for s in one.spacing_mm) for one in facts if one.spacing_mm),
        "orientations": _counted(one.orientation for one in facts if one.orientation),
        "num_empty": sum(not any(one.class_pixels[1:]) for one in judged),
        "num_groups": len(declared) or None,
        "subsets": _counted(case.subset for case in cases if case.subset),
        "duplicates": find_duplicates(facts),
        "near_duplicates": list(find_look_alikes(facts, groups, [case.subset for case in cases]).pairs),
    }


def _class_facts(facts: Sequence[CaseFacts], names: Sequence[str]) -> tuple[ClassFacts, ...]:
    total = max(sum(sum(one.class_pixels) for one in facts), 1)
    return tuple(
        ClassFacts(
            name,
            sum(one.class_pixels[index] for one in facts) / total,
            sum(one.class_pixels[index] > 0 for one in facts),
        )
        for index, name in enumerate(names)
    )


def _warnings(cases: Sequence[Case], facts: Sequence[CaseFacts], reader: DatasetReader) -> list[str]:
    subsets = {case.id: case.subset or "" for case in cases}
    found: list[str] = []
    for ids in find_duplicates(facts):
        where = sorted({subsets[i] for i in ids})
        leak = f", in different subsets ({' and '.join(where)}): the test set is not independent"
        found.append(
            f"{', '.join(ids)} are the same picture"
            + (leak if len(where) > 1 else "; the default split keeps them together")
        )
    near = find_look_alikes(facts, [case.group for case in cases], [case.subset for case in cases])
    if near.count:
        one, other = near.pairs[0]
        found.append(
            f"{near.count} pairs of pictures look the same though their pixels differ, first {one} and {other}; the "
            "default split keeps them together, a random one does not"
            + (f", and the folders set {near.crossing} of them apart" if near.crossing else "")
        )
    found += doubtful(facts)
    return found + _label_warnings([one for one in facts if one.class_pixels], reader)


def _label_warnings(judged: Sequence[CaseFacts], reader: DatasetReader) -> list[str]:
    if not judged:
        return []
    names, label_map = reader.label_map.names, reader.label_map
    if not any(any(one.class_pixels[1:]) for one in judged):
        return ["every mask is empty; look at the label values, and name them with the reader option labels"]
    found = [
        f"the class {one.name!r} occurs in no case" for one in _class_facts(judged, names)[1:] if not one.num_cases
    ]
    if label_map.rule == "values" and label_map.num_classes > _MOST_CLASSES and names[1] == "class 1":
        found.append(
            f"{label_map.num_classes} classes were told from the label values; if these number objects, set the reader "
            "option labels=nonzero"
        )
    return found


def _notes(cases: Sequence[Case], facts: Sequence[CaseFacts], reader: DatasetReader) -> list[str]:
    notes = list(dict.fromkeys(note for one in facts for note in one.notes))
    judged = [one for one in facts if one.class_pixels]
    blurred = sum(bool(set(one.stored) - {0, 255}) and max(one.stored) > 1 for one in judged)
    if reader.label_map.rule == "threshold" and blurred:
        notes.append(
            f"{blurred} of {len(judged)} cases have masks with values besides 0 and 255 (blurred or re-encoded); they "
            "are cut at the middle"
        )
    if not any(case.group is not None for case in cases):
        notes.append("no groups are known: pictures of one patient or video may lie in different parts of a split")
    return notes


def _sheet_target(data: Path, output: Path | None) -> tuple[Path | None, str]:
    """Choose where the contact sheet goes, never into the data folder."""
    root = data.resolve()
    if output is None:
        target = Path.cwd() / f"check-{root.name or 'data'}.png"
        if target.is_relative_to(root):
            return (
                None,
                "no contact sheet: the current folder lies in the data folder; name a place with --output",
            )
        return target, ""
    output = Path(output)
    target = output if output.suffix.lower() == ".png" else output / "contact_sheet.png"
    if target.resolve().is_relative_to(root):
        raise ValueError(f"the contact sheet would be written to {target}, into the data folder; choose another place")
    if target.is_dir():
        raise ValueError(f"cannot write the contact sheet to {target}: it is a folder")
    return target, ""


def _draw_sheet(
    cases: Sequence[Case],
    facts: Sequence[CaseFacts],
    reader: DatasetReader,
    pipeline: LabelingPipeline,
    target: Path,
) -> Path | None:
    """Draw cases spread over the set, each with its label; where no image has one, the images alone."""
    good = [case for case, one in zip(cases, facts, strict=True) if one.size and not one.errors]
    good = [case for case in good if case.labels] or good
    if not good:
        return None
    drawn = [pipeline.thumbnail(good[k], reader.label_map) for k in _evenly(len(good), _NUM_TILES)]
    tiles, captions = zip(*drawn, strict=True)
    return save_png(target, contact_sheet(tiles, captions, columns=6))


def _evenly(count: int, wanted: int) -> list[int]:
    wanted = min(count, wanted)
    return [round(k * (count - 1) / max(wanted - 1, 1)) for k in range(wanted)]


def _counted(items: Iterable[str]) -> dict[str, int]:
    return dict(Counter(items).most_common())


def _most_frequent(counts: dict[str, int], most: int = 5) -> str:
    parts = [f"{name}: {count}" if len(counts) > 1 else name for name, count in list(counts.items())[:most]]
    return ", ".join(parts + ([f"{len(counts) - most} more"] if len(counts) > most else [])) or "none"


def _sizes_text(sizes: dict[str, int]) -> str:
    if not sizes:
        return "none"
    axes = list(zip(*(map(int, size.split(" x ")) for size in sizes), strict=True))
    order = "width x height" if len(axes) == 2 else "voxels along the file's axes"
    if len(sizes) <= 3:
        return f"{_most_frequent(sizes)} ({order})"
    often, count = next(iter(sizes.items()))
    ranges = " x ".join(f"{min(axis)}..{max(axis)}" for axis in axes)
    return f"{len(sizes)} different, {ranges} ({order}), most often {often} ({count})"


def _values_text(values: dict[int, float], most: int = 8) -> str:
    shown = sorted(sorted(values, key=lambda v: -values[v])[:most])
    parts = [f"{value} ({100 * values[value]:.2g} %)" for value in shown]
    return ", ".join(parts + ([f"{len(values) - most} more"] if len(values) > most else [])) or "none"
