"""`evaluate`: how good a run, or a folder of masks, is on cases whose labels are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanscan.data.base import Case, LabelMap
    from kanscan.report import Judged, Report
    from kanscan.run import Run


def evaluate(
    run: Path,
    data: Path | None = None,
    *,
    subset: str = "test",
    flips: bool | None = None,
    device: str = "auto",
    output: Path | None = None,
    json: bool = False,
) -> Any:
    """Judge a run on labelled cases and write a report; or judge any folder of masks against another one.

    Of two folders of masks, the first holds predictions and the second references of the same names; no run is needed.

    Args:
        run: Folder that train wrote, or a folder (or file) of predicted masks.
        data: Folder of the data, if it has moved or is another one; for masks: the folder (or file) of references.
        subset: test, validation or train of the run's own split; all: every labelled case of the data.
        flips: Average the prediction over flips; default: as the recipe says.
        device: auto, cpu, cuda, cuda:N or mps.
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
    if Run(path).recipe_path.is_file():
        return _evaluate_run(Run.open(path), data, subset, flips, device, output)
    if data is None:
        raise ValueError(
            f"{path} is not a run (no recipe.yaml inside); to judge masks, name the folder of references too: "
            f"kanscan evaluate {path} REFERENCES"
        )
    return _evaluate_masks(path, Path(data), output)


def _evaluate_run(
    run: Run, data: Path | None, subset: str, flips: bool | None, device: str, output: Path | None
) -> Report:
    from kanscan.build import evaluation_cases, predictor
    from kanscan.data.io import read_pair
    from kanscan.report import report_run

    serve = predictor(run, device=device, flips=flips)
    try:
        found = evaluation_cases(run, part=subset, root=data)
    except ValueError as error:
        if data is None or "does not hold" not in str(error):
            raise
        raise ValueError(f"{error}; to judge the run on all cases of another data set add --subset all") from None
    except FileNotFoundError as error:
        if data is not None:
            raise
        raise FileNotFoundError(f"{error}; if the data have moved: kanscan evaluate {run.path} DATA") from None
    folder = output or _default_folder(run, data, subset)
    _demand_folder(folder)
    return report_run(run, serve, found, read_pair, folder=folder, groups=_groups(found.cases), watch=_watched)


def _groups(cases: Sequence[Case]) -> dict[str, str] | None:
    """Tell what belongs together, look-alike pictures included; None where every case stands alone."""
    from kanscan.data.splits import group_cases

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
    from kanscan.data.io import read_label
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


def _pair(predictions: Path, references: Path) -> tuple[list[tuple[Case, Case]], list[str]]:
    """Pair predictions with references by name.

    Returns:
        (prediction, reference) of each case, and what was left out.

    Raises:
        ValueError: A reference has no prediction, or nothing fits: leaving it out would flatter the figures.
    """
    from kanscan.data.base import Case
    from kanscan.data.readers.pairing import pair_folders

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
    lonely = [text for text in problems if text.startswith("mask ")]
    if lonely:
        first = lonely[0].split(" has no ")[0].removeprefix("mask ")
        raise ValueError(
            f"{len(lonely)} references have no prediction of their name in {predictions}, first {first}; leaving them "
            "out would flatter the figures"
        )
    unjudged = sum(not pair.labels for pair in found)
    notes = [f"{unjudged} predictions have no reference and were left out"] if unjudged else []
    notes += [text for text in problems if "has the name of" in text]
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
    from kanscan.data.label_values import infer_label_map, named_values, read_label_values, values_text

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
    from kanscan.data.io import check_pair, read_label
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
