"""Labelled cases judged: predicted by a run or by whoever wrote a folder of masks, scored, drawn, reported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from kanscan.data.case import Case
from kanscan.data.grouping import group_cases
from kanscan.data.source import Selection
from kanscan.files import read_json
from kanscan.inference import Predictor
from kanscan.metrics import calibration_error, check_tolerances, reliability_sums
from kanscan.pipelines import labeling_pipeline
from kanscan.pipelines.base import LabelingPipeline
from kanscan.report.assemble import Judged, assemble, judge
from kanscan.report.pictures import worth_a_look
from kanscan.report.printed import add_printed
from kanscan.report.schema import Provenance, Reliability, Report
from kanscan.report.write import write_report
from kanscan.run import Run
from kanscan.run.facts import NetworkFacts
from kanscan.run.lock import locked
from kanscan.workflows.progress import Done, Failure, demand_output, work_through

#: What each part means for the figures, where it is not the test part.
_PART_CAVEATS = {
    "train": "these cases were trained on: the figures say how well they were learned, nothing about unseen ones",
    "validation": "these cases chose the epoch: the figures are optimistic",
}

_NAMELESS = ("folder", "paired", "prepared")


def judge_run(
    run: Run,
    found: Selection,
    *,
    device: str = "auto",
    flips: bool | None = None,
    folder: Path | None = None,
    caveats: Sequence[str] = (),
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Predict labelled cases with a run, score them, draw those worth a look, and write the report.

    A case that cannot be read is named in the report and in its `errors`; the others are judged.

    Args:
        run: The run.
        found: Whom it is judged on, as `kanscan.pipelines.evaluation_cases` gives it.
        device: auto, cpu, cuda, cuda:N or mps.
        flips: Average over mirrorings; None: as the recipe says.
        folder: Where the report goes; None: into the run.
        caveats: Further things a reader must know.
        tolerances: Of the NSD for single classes, in place of the recipe's.

    Returns:
        The report as written.

    Raises:
        ValueError: Run and data do not fit together, or no case could be judged.
        OSError: The folder cannot be written to.
        InUseError: Another process judges into the folder.

    Example:
        >>> from kanscan.pipelines import evaluation_cases  # doctest: +SKIP
        >>> report = judge_run(run, evaluation_cases(run))  # doctest: +SKIP
    """
    pipeline = labeling_pipeline(run)
    predictor = pipeline.predictor(run, device=device, flips=flips)
    part, label_map, names = run.recipe.evaluation, found.source.label_map, predictor.class_names
    is_spaced = all(map(pipeline.is_spaced, found.cases))
    tolerances = tolerances or part.nsd_tolerances
    check_tolerances(tolerances, names)
    groups = _groups(found.cases)
    sums: list[NDArray[np.float64]] = []
    seconds: list[float] = []

    def judge_case(case: Case) -> Judged:
        image, label = pipeline.read_pair(case, label_map)
        began = time.perf_counter()
        prediction = predictor(image)
        seconds.append(time.perf_counter() - began)
        # Volumes come without: all their classes at once would fill the memory.
        if prediction.probabilities is not None:
            sums.append(reliability_sums(prediction.probabilities, label))
        return judge(
            case.id,
            prediction.label,
            label,
            names,
            group=groups.get(case.id),
            spacing_mm=pipeline.spacing_mm(case, image) if is_spaced else None,
            tolerance=part.nsd_tolerance,
            tolerances=tolerances,
            on_network_grid=(prediction.network_label, predictor.scored_label(label)),
        )

    def drawn_again(case: Case) -> NDArray[np.uint8]:
        # Predicted once more: keeping every label map would fill the memory for a handful of pictures.
        image, label = pipeline.read_pair(case, label_map)
        return pipeline.draw(image, predictor(image).label, label)

    folder = folder or run.path
    with locked(folder, "evaluation"):
        done = work_through(found.cases, judge_case, "judging")
        here = run_provenance(
            run, predictor, found, sum(seconds) / max(1, len(seconds)), [*caveats, *_failure_caveats(done.failures)]
        )
        report = assemble(
            _demand_any(done),
            names,
            here,
            unit="mm" if is_spaced else "pixels",
            tolerance=part.nsd_tolerance,
            tolerances=tolerances,
            samples=part.bootstrap_samples,
        )
        report = report.model_copy(
            update={
                "curves": _columns(run.curves),
                "reliability": _reliability(sums),
                "recipe_yaml": run.recipe.to_yaml(),
                "environment": read_json(run.environment_path) if run.environment_path.is_file() else {},
                "errors": [one.sentence for one in done.failures],
            }
        )
        report = add_printed(report, run.recipe.model_dump(mode="json"))
        return _written(report, folder, {case.id: case for case in found.cases}, drawn_again)


def judge_masks(
    pipeline: LabelingPipeline,
    predictions: Path,
    references: Path,
    *,
    labels: object = "auto",
    folder: Path | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Judge label files against references of the same names; no run is needed.

    Args:
        pipeline: Kind of work.
        predictions: A folder or a file.
        references: The same.
        labels: What the stored values mean, as the reader option of that name; "auto": told from the files.
        folder: Where the report goes; None: nothing is written.
        tolerances: Of the NSD for single classes.

    Raises:
        ValueError: The files do not fit together, or no case could be judged.
        OSError: The folder cannot be written to.
    """
    if folder is not None:
        demand_output(folder, "the report")
    found = pipeline.pair_masks(predictions, references, labels)
    names, by_id = found.label_map.names, {pair[0].id: pair for pair in found.pairs}
    check_tolerances(tolerances or {}, names)
    spacings: list[tuple[float, ...] | None] = []

    def judge_case(case: Case) -> Judged:
        masks = pipeline.read_masks(found, by_id[case.id])
        spacings.append(masks.spacing_mm)
        spacing = masks.spacing_mm
        return judge(case.id, masks.prediction, masks.label, names, spacing_mm=spacing, tolerances=tolerances or {})

    def drawn_again(case: Case) -> NDArray[np.uint8]:
        masks = pipeline.read_masks(found, by_id[case.id])
        return pipeline.draw(masks.image, masks.prediction, masks.label)

    cases = [pair[0] for pair in found.pairs]
    with nullcontext() if folder is None else locked(folder, "evaluation"):
        done = work_through(cases, judge_case, "judging")
        provenance = _mask_provenance(predictions, references, [*found.notes, *_failure_caveats(done.failures)])
        judged = _demand_any(done)
        unit = "pixels" if None in spacings else "mm"
        report = assemble(judged, names, provenance, unit=unit, tolerances=tolerances or {})
        report = report.model_copy(update={"errors": [one.sentence for one in done.failures]})
        if folder is None:
            return report
        return _written(report, folder, {case.id: case for case in cases}, drawn_again)


def _written(
    report: Report, folder: Path, cases: Mapping[str, Case], draw: Callable[[Case], NDArray[np.uint8]]
) -> Report:
    """Draw the cases worth a look and write the report."""
    return write_report(
        report, folder, [(kind, case, draw(cases[case.id])) for kind, case in worth_a_look(report.cases)]
    )


def _failure_caveats(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    return [f"{len(failures)} cases could not be judged and are in no figure, first {failures[0].sentence}"]


def _demand_any(done: Done[Judged]) -> tuple[Judged, ...]:
    if not done.results:
        raise ValueError(f"none of {len(done.failures)} cases could be judged; {done.failures[0].sentence}")
    return done.results


def _groups(cases: Sequence[Case]) -> dict[str, str | None]:
    """Tell what belongs together, look-alike pictures included; nobody where every case stands alone."""
    found = group_cases(cases)
    if len(found) == len(cases):
        return {case.id: case.group for case in cases}
    return {i: name for name, ids in found.items() for i in ids}


def _mask_provenance(predictions: Path, references: Path, notes: Sequence[str]) -> Provenance:
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


def _reliability(sums: Sequence[NDArray[np.float64]]) -> Reliability | None:
    if not sums:
        return None
    total = np.sum(sums, axis=0)
    means = [[float(v / n) if n else None for v, n in zip(row, total[0], strict=True)] for row in total[1:]]
    return Reliability(
        count=[int(n) for n in total[0]], confidence=means[0], accuracy=means[1], error=calibration_error(total)
    )


def run_provenance(
    run: Run,
    predictor: Predictor,
    found: Selection,
    seconds_per_case: float | None = None,
    caveats: Sequence[str] = (),
) -> Provenance:
    """Say where a run's figures come from, and what must be known before one is quoted."""
    facts, recipe, split = run.facts, run.recipe, found.split
    epoch, selection = _selection(run, bool(split.validation))
    own_part = found.part != "all"
    reader, folder = found.source.reader, found.source.root.resolve().name
    # The readers for everybody's own folders have no data set's name to give.
    title = folder if reader.key in _NAMELESS else reader.title
    data = title if own_part or title == folder else f"{title} ({folder})"
    return Provenance(
        title=f"{recipe.name} on {data}",
        source=run.path.resolve().name,
        reference=data,
        recipe=recipe.name,
        model=_model_words(facts.model),
        num_parameters=facts.num_parameters,
        part=found.part,
        split_kind=split.kind,
        split_seed=split.seed,
        split_sha256=split.sha256,
        split_groups=split.groups,
        part_sizes={part: len(getattr(split, part)) for part in ("train", "validation", "test")},
        selection=selection,
        epoch=epoch,
        image_size=predictor.image_size,
        flips=predictor.flips,
        device=predictor.network.device,
        seconds_per_case=seconds_per_case,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={name: version(name) for name in ("kanscan", "torch", "monai")},
        caveats=list(dict.fromkeys([*caveats, *_part_caveats(found)])),
    )


def _part_caveats(found: Selection) -> list[str]:
    split, part = found.split, found.part
    said = [split.caveat] if split.caveat and part != "all" else []
    if part in _PART_CAVEATS:
        said.append(_PART_CAVEATS[part])
    if part == "test" and set(split.validation) == set(split.test) and "epoch" not in split.caveat:
        said.append("the reported cases also chose the epoch: the figures are optimistic")
    if part == "all":
        trained = len({case.id for case in found.cases} & set(split.train))
        said.append(
            f"{trained} of these {len(found.cases)} cases have the name of a case that was trained on"
            if trained
            else "cases of another data set than the run's, told apart by their names"
        )
    if all(case.group is None for case in found.cases):
        said.append(
            "no patients or sequences are known: cases count as independent (look-alikes, where found, are kept "
            "together), so the intervals may be too narrow"
        )
    return said


def _selection(run: Run, validated: bool) -> tuple[int | None, str]:
    """Say which epoch's weights are judged, and why."""
    with safe_open(run.weights_path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("kanscan", "{}"))
    epoch = about.get("epoch")
    if epoch is None:
        return None, ""
    part = run.recipe.trainer
    text = f"epoch {epoch} of {part.epochs}"
    column = f"val_{part.select_by}"
    if validated and about.get(column) is not None:
        name = {"dice": "Dice", "iou": "IoU"}.get(part.select_by, part.select_by)
        return epoch, f"{text}, the best {name} of the validation cases ({about[column]:.3f})"
    return epoch, f"{text}, the last one; no validation chose it"


def _model_words(network: NetworkFacts) -> str:
    channels = network.options.get("channels")
    if isinstance(channels, list | tuple):
        return f"{network.name}, channels {'-'.join(map(str, channels))}"
    return network.name


def _columns(rows: Sequence[dict[str, float | None]]) -> dict[str, list[float | None]]:
    return {name: [row.get(name) for row in rows] for name in rows[0]} if rows else {}
