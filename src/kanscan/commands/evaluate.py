"""`evaluate`: how good a run, or a folder of masks, is on cases whose labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanscan.data.case import Case, LabelMap
    from kanscan.report import Judged, Report
    from kanscan.run import Run


def evaluate(
    run: Path,
    data: Path | None = None,
    *,
    subset: str = "test",
    flips: bool | None = None,
    device: str = "auto",
    tolerances: str | None = None,
    output: Path | None = None,
    json: bool = False,
) -> Any:
    """Judge a run on labelled cases and write a report; or judge any folder of masks against another one.

    Volumes are judged in their own grid, distances in millimeters. Of two folders of masks (pictures, or volumes), the
    first holds predictions and the second references of the same names; no run is needed.

    Args:
        run: Folder that train wrote, or a folder (or file) of predicted masks.
        data: Folder of the data, if it has moved or is another one; for masks: the folder (or file) of references.
        subset: test, validation or train of the run's own split; all: every labelled case of the data.
        flips: Average the prediction over flips; default: as the recipe says.
        device: auto, cpu, cuda, cuda:N or mps.
        tolerances: Of volumes: tolerance of the NSD for each class, "abdomen" (the papers' table) or a JSON file of
            class names and millimeters; in place of the recipe's.
        output: Folder of the report; default: the run itself for its test cases, a folder inside it otherwise. For
            masks nothing is written without it.
        json: Print the report as JSON.

    Returns:
        The report (`kanscan.report.Report`).

    Raises:
        ValueError: Run, data or masks do not fit together; the sentence names what does not.
        FileNotFoundError: There is no such run, folder or file.
        NotADirectoryError: The output is a file.

    Example:
        >>> report = evaluate("runs/demo")  # doctest: +SKIP
        >>> report.mean("dice")  # doctest: +SKIP
    """
    from kanscan.run import Run

    path = Path(run)
    if not path.exists():
        raise FileNotFoundError(f"nothing at {path}; expected a run, or a folder of predicted masks")
    table = {} if tolerances is None else _tolerances(tolerances)
    if Run(path).recipe_path.is_file():
        return _evaluate_run(Run.open(path), data, subset, flips, device, output, table)
    if data is None:
        raise ValueError(
            f"{path} is not a run (no recipe.yaml inside); to judge masks, name the folder of references too: "
            f"kanscan evaluate {path} REFERENCES"
        )
    if _holds_volumes(path) and _holds_volumes(Path(data)):
        return _evaluate_volumes(path, Path(data), output, table)
    if table:
        raise ValueError("--tolerances is in millimeters, and pictures have none; leave it out")
    return _evaluate_masks(path, Path(data), output)


def _tolerances(source: str) -> dict[str, float]:
    from kanscan.metrics import read_tolerances

    return read_tolerances(source)


def _evaluate_run(
    run: Run,
    data: Path | None,
    subset: str,
    flips: bool | None,
    device: str,
    output: Path | None,
    tolerances: dict[str, float],
) -> Report:
    from kanscan.data.pictures.labels import read_pair
    from kanscan.data.source import CaseNotHereError
    from kanscan.pipelines.pictures import evaluation_cases, predictor
    from kanscan.workflows.judge import report_run

    serve = predictor(run, device=device, flips=flips)
    try:
        found = evaluation_cases(run, part=subset, root=data)
    except CaseNotHereError as error:
        if data is None:
            raise
        raise ValueError(f"{error}; to judge the run on all cases of another data set add --subset all") from None
    except FileNotFoundError as error:
        if data is not None:
            raise
        raise FileNotFoundError(f"{error}; if the data have moved: kanscan evaluate {run.path} DATA") from None
    folder = output or _default_folder(run, data, subset)
    _demand_folder(folder)
    groups = _groups(found.cases)
    if found.source.reader.spatial_dims == 3:
        from kanscan.data.volumes.formats import read_volume_pair

        return report_run(
            run,
            serve,
            found,
            read_volume_pair,
            folder=folder,
            groups=groups,
            watch=_watched,
            draw=_draw_volume,
            tolerances=tolerances,
        )
    if tolerances:
        raise ValueError("--tolerances is in millimeters, and pictures have none; leave it out")
    return report_run(run, serve, found, read_pair, folder=folder, groups=groups, watch=_watched)


def _draw_volume(volume: Any, prediction: Any, label: Any) -> Any:
    """Draw the axial, the coronal and the sagittal slice with most foreground below one another."""
    import numpy as np

    from kanscan.data.volumes.slices import PLANES, shown_slice
    from kanscan.report import draw_case

    rows = []
    for plane in PLANES:
        image, (reference, ours), _ = shown_slice(volume, label, prediction, plane=plane)
        if min(image.shape) > 1:
            rows.append(draw_case(image if volume.array.any() else None, ours, reference))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.concatenate(padded)[:-8]


def _groups(cases: Sequence[Case]) -> dict[str, str] | None:
    """Tell what belongs together, look-alike pictures included; None where every case stands alone."""
    from kanscan.data.grouping import group_cases

    found = group_cases(cases)
    return {i: name for name, ids in found.items() for i in ids} if len(found) < len(cases) else None


def _default_folder(run: Run, data: Path | None, subset: str) -> Path:
    if subset == "test":
        return run.path
    return run.path / f"evaluation-{subset if data is None else f'{subset}-{Path(data).resolve().name}'}"


def _demand_folder(folder: Path) -> None:
    """Refuse an output that cannot be written to, before anything is computed."""
    import os

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for the report")
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"cannot write to {existing}; choose another --output")


def _watched(cases: Sequence[Any]) -> Iterable[Any]:
    import sys

    from rich.console import Console
    from rich.progress import track

    if not sys.stderr.isatty():
        return cases
    return track(cases, "judging", console=Console(stderr=True), transient=True)


def _evaluate_masks(predictions: Path, references: Path, output: Path | None) -> Report:
    from kanscan.data.pictures.labels import read_label
    from kanscan.report import assemble, draw_case, worth_a_look, write_report

    if output is not None:
        _demand_folder(output)
    pairs, notes = _pair(predictions, references)
    label_map, prediction_map, note = _label_maps(pairs)
    notes += [note] if note else []
    judged = [_judge_masks(pair, prediction_map, label_map) for pair in _watched(pairs)]
    report = assemble(judged, label_map.names, _mask_provenance(predictions, references, notes))
    if output is None:
        return report
    by_id = {ours.id: (ours, theirs) for ours, theirs in pairs}
    drawn = []
    for kind, case in worth_a_look(report.cases):
        ours, theirs = by_id[case.id]
        drawn.append((kind, case, draw_case(None, read_label(ours, prediction_map), read_label(theirs, label_map))))
    return write_report(report, output, drawn)


def _holds_volumes(path: Path) -> bool:
    from kanscan.data.volumes.formats import is_volume_file

    return any(map(is_volume_file, path.iterdir())) if path.is_dir() else is_volume_file(path)


def _evaluate_volumes(predictions: Path, references: Path, output: Path | None, tolerances: dict[str, float]) -> Report:
    from kanscan.data.volume import check_grid
    from kanscan.data.volumes.formats import read_label_volume
    from kanscan.metrics import check_tolerances
    from kanscan.report import assemble, judge, worth_a_look, write_report

    if output is not None:
        _demand_folder(output)
    pairs, notes = _volume_pairs(predictions, references)
    label_map = _volume_labels(pairs, references)
    check_tolerances(tolerances, label_map.names)

    def read(pair: tuple[Case, Case]) -> tuple[Any, Any]:
        ours, theirs = (read_label_volume(case, label_map) for case in pair)
        check_grid(theirs, ours)
        return ours, theirs

    judged = []
    for pair in _watched(pairs):
        ours, theirs = read(pair)
        judged.append(
            judge(
                pair[0].id,
                ours.array,
                theirs.array,
                label_map.names,
                spacing_mm=theirs.spacing_mm,
                tolerances=tolerances,
            )
        )
    provenance = _mask_provenance(predictions, references, notes)
    report = assemble(judged, label_map.names, provenance, unit="mm", tolerances=tolerances)
    if output is None:
        return report
    by_id = {pair[0].id: pair for pair in pairs}
    drawn = []
    for kind, case in worth_a_look(report.cases):
        ours, theirs = read(by_id[case.id])
        blank = type(theirs)(theirs.array * 0, theirs.affine)
        drawn.append((kind, case, _draw_volume(blank, ours.array, theirs.array)))
    return write_report(report, output, drawn)


def _volume_pairs(predictions: Path, references: Path) -> tuple[list[tuple[Case, Case]], list[str]]:
    """Pair label maps by name; a reference without a prediction is refused, since leaving it out would flatter."""
    from kanscan.data.case import Case
    from kanscan.data.volumes.formats import is_volume_file, volume_name

    def named(path: Path) -> dict[str, Path]:
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if is_volume_file(p))
        return {volume_name(p): p for p in files}

    ours, theirs = named(predictions), named(references)
    if predictions.is_file() and references.is_file():
        theirs = dict(zip(ours, theirs.values(), strict=True))
    unmatched = [name for name in theirs if name not in ours]
    if unmatched:
        raise ValueError(
            f"{len(unmatched)} of {len(theirs)} references have no prediction of their name in {predictions}, first "
            f"{theirs[unmatched[0]].name}; leaving them out would flatter the figures"
        )
    unjudged = len(ours) - len(theirs)
    notes = [f"{unjudged} predictions have no reference and were left out"] if unjudged else []
    return [(Case(name, (), (ours[name],)), Case(name, (), (theirs[name],))) for name in theirs], notes


def _volume_labels(pairs: Sequence[tuple[Case, Case]], references: Path) -> LabelMap:
    """Take the classes from a dataset.json in or above the references, else the values found in both folders."""
    from kanscan.data.readers.described import label_map_from_json
    from kanscan.data.readers.volumes import infer_volume_labels
    from kanscan.files import read_json

    folder = references.parent if references.is_file() else references
    for place in (folder / "dataset.json", folder.resolve().parent / "dataset.json"):
        if place.is_file():
            return label_map_from_json(read_json(place).get("labels", {}), str(place))
    return infer_volume_labels(path for pair in pairs for case in pair for path in case.labels)


def _pair(predictions: Path, references: Path) -> tuple[list[tuple[Case, Case]], list[str]]:
    """Pair predictions with references by name.

    Returns:
        (prediction, reference) of each case, and what was left out.

    Raises:
        ValueError: A reference has no prediction, or nothing fits: leaving it out would flatter the figures.
    """
    from kanscan.data.case import Case
    from kanscan.data.readers.pairing import Mismatch, pair_folders

    for path in (predictions, references):
        if not path.exists():
            raise FileNotFoundError(f"nothing at {path}; expected a folder of masks")
    if predictions.is_file() and references.is_file():
        name = predictions.stem
        return [(Case(name, (), (predictions,)), Case(name, (), (references,)))], []
    for path in (predictions, references):
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is a file, the other is a folder; give two folders or two files")
    # `predict --overlays` writes pictures beside the label maps.
    found, problems = pair_folders(predictions, references, skip=lambda name: name.endswith("_overlay"))
    missing = [problem.path for problem in problems if problem.kind is Mismatch.NO_IMAGE]
    if missing:
        raise ValueError(
            f"{len(missing)} references have no prediction of their name in {predictions}, first {missing[0]}; leaving "
            "them out would flatter the figures"
        )
    unjudged = sum(not pair.labels for pair in found)
    notes = [f"{unjudged} predictions have no reference and were left out"] if unjudged else []
    notes += [str(problem) for problem in problems if problem.kind is Mismatch.NAME_TAKEN]
    pairs = [
        (Case(p.name, (), (p.image,)), Case(p.name, (), _masks_only(p.labels, p.image))) for p in found if p.labels
    ]
    return pairs, notes


def _masks_only(references: Sequence[Path], prediction: Path) -> tuple[Path, ...]:
    """Drop the picture itself where a folder holds pictures and masks together (`a.png a_mask.png`)."""
    masks = tuple(path for path in references if path.stem != prediction.stem)
    return masks or tuple(references)


def _label_maps(pairs: Sequence[tuple[Case, Case]]) -> tuple[LabelMap, LabelMap, str]:
    """Find out what the stored values mean: map of the references, map of the predictions, and a note.

    Raises:
        ValueError: The predictions hold values that the references do not explain.
    """
    from kanscan.data.pictures.label_values import infer_label_map, named_values, read_label_values, values_text

    label_map = infer_label_map(read_label_values([theirs for _, theirs in pairs]), "the references")
    found = read_label_values([ours for ours, _ in pairs])
    if label_map.rule != "values":
        prediction_map = infer_label_map(found, "the predictions")
        if prediction_map.num_classes == label_map.num_classes:
            return label_map, prediction_map, ""
    elif set(found.pixels) <= set(label_map.values):
        return label_map, label_map, ""
    elif max(found.pixels) < label_map.num_classes:
        indices = named_values(range(label_map.num_classes), exact=True, names=label_map.names)
        note = f"predictions were read as class indices, references as {values_text(label_map)}"
        return label_map, indices, note
    stored = sorted(found.pixels)
    shown = ", ".join(map(str, stored[:6])) + (", ..." if len(stored) > 6 else "")
    raise ValueError(
        f"the predictions hold the values {shown}, the references {values_text(label_map)}; "
        "store the same values in both"
    )


def _judge_masks(pair: tuple[Case, Case], prediction_map: LabelMap, label_map: LabelMap) -> Judged:
    from kanscan.data.pictures.labels import check_pair, read_label
    from kanscan.report import judge

    ours, theirs = pair
    prediction, label = read_label(ours, prediction_map), read_label(theirs, label_map)
    check_pair(ours.labels[0], prediction.shape, theirs.labels[0], label.shape)
    return judge(ours.id, prediction, label, label_map.names)


def _mask_provenance(predictions: Path, references: Path, notes: Sequence[str]) -> Any:
    from datetime import UTC, datetime
    from importlib.metadata import version

    from kanscan.report import Provenance

    unknown = "no groups (patients, sequences) are known: cases count as independent, the intervals may be too narrow"
    return Provenance(
        title=f"{predictions.resolve().name} against {references.resolve().name}",
        source=predictions.resolve().name,
        reference=references.resolve().name,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        has_images=False,
        versions={"kanscan": version("kanscan")},
        caveats=[*notes, unknown],
    )
