"""A run judged on labelled cases: predict each, score it, draw those worth a look, write the report.

A report stands below runs, predictors and data and knows none of them; whoever asks hands them in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kanscan.config.recipe import Recipe
from kanscan.files import read_json
from kanscan.metrics import calibration_error, check_tolerances, reliability_sums
from kanscan.report.assemble import Judged, assemble, judge
from kanscan.report.pictures import draw_case, worth_a_look
from kanscan.report.printed import add_printed
from kanscan.report.schema import Provenance, Reliability, Report
from kanscan.report.write import write_report

#: What each part means for the figures, where it is not the test part.
_PART_CAVEATS = {
    "train": "these cases were trained on: the figures say how well they were learned, nothing about unseen ones",
    "validation": "these cases chose the epoch: the figures are optimistic",
}

_NAMELESS = ("folder", "paired", "prepared")


class JudgedRun(Protocol):
    """What is asked of a run; `kanscan.run.Run` is one."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def recipe(self) -> Recipe: ...  # noqa: D102
    @property
    def facts(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def curves(self) -> list[dict[str, float | None]]: ...  # noqa: D102
    @property
    def weights_path(self) -> Path: ...  # noqa: D102
    @property
    def environment_path(self) -> Path: ...  # noqa: D102


def report_run(
    run: JudgedRun,
    serve: Any,
    found: Any,
    read: Callable[[Any, Any], tuple[Any, NDArray]],
    *,
    folder: str | Path | None = None,
    groups: Mapping[str, str] | None = None,
    caveats: Sequence[str] = (),
    each: int = 3,
    watch: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    draw: Callable[[Any, NDArray, NDArray], NDArray[np.uint8]] = draw_case,
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Judge a run on cases and write its report.

    Args:
        run: The run.
        serve: Its `Predictor`.
        found: `kanscan.data.source.Selection`: the cases, their source, their part, the split.
        read: `kanscan.data.pictures.labels.read_pair`: a case and a label map give image and label.
        folder: Where the report goes; None: into the run.
        groups: Case -> what it must be resampled with, where more is known than the cases declare.
        caveats: Further things a reader must know.
        each: Pictures of the best, the median and the worst cases each.
        watch: Wraps the cases to show progress.
        draw: Draws image, prediction and reference of a case.
        tolerances: Of the NSD for single classes, in place of the recipe's.

    Returns:
        The report as written.

    Raises:
        ValueError: A case cannot be read, or its label does not fit; the sentence names it.
        OSError: The folder cannot be written to.

    Example:
        >>> from kanscan.pipelines import evaluation_cases, predictor  # doctest: +SKIP
        >>> from kanscan.data.pictures.labels import read_pair  # doctest: +SKIP
        >>> report = report_run(run, predictor(run), evaluation_cases(run), read_pair)  # doctest: +SKIP
    """
    recipe, label_map, names = run.recipe, found.source.label_map, tuple(serve.class_names)
    spaced = all(case.spacing_mm is not None or (case.is_volume and not case.unspaced) for case in found.cases)
    tolerance, tolerances = recipe.evaluation.nsd_tolerance, tolerances or recipe.evaluation.nsd_tolerances
    check_tolerances(tolerances, names)
    judged: list[Judged] = []
    sums: list[NDArray[np.float64]] = []
    seconds = 0.0
    for case in watch(found.cases):
        image, label = read(case, label_map)
        began = time.perf_counter()
        prediction = serve(image)
        seconds += time.perf_counter() - began
        judged.append(
            judge(
                case.id,
                prediction.label,
                label,
                names,
                group=case.group if groups is None else groups.get(case.id),
                # A volume brings its spacing along.
                spacing_mm=getattr(image, "spacing_mm", case.spacing_mm) if spaced else None,
                tolerance=tolerance,
                tolerances=tolerances,
                on_network_grid=(prediction.network_label, serve.preprocessing.prepare_label(label)),
            )
        )
        # Volumes come without: all their classes at once would fill the memory.
        if prediction.probabilities is not None:
            sums.append(reliability_sums(prediction.probabilities, label))
    here = run_provenance(run, serve, found, seconds / max(1, len(judged)), caveats)
    report = assemble(
        judged,
        names,
        here,
        unit="mm" if spaced else "pixels",
        tolerance=tolerance,
        tolerances=tolerances,
        samples=recipe.evaluation.bootstrap_samples,
    )
    report = report.model_copy(
        update={
            "curves": _columns(run.curves),
            "reliability": _reliability(sums),
            "recipe_yaml": recipe.to_yaml(),
            "environment": read_json(run.environment_path) if run.environment_path.is_file() else {},
        }
    )
    report = add_printed(report, recipe.model_dump(mode="json"))
    by_id = {case.id: case for case in found.cases}

    def drawn_again(name: str) -> NDArray[np.uint8]:
        # Predicted once more: keeping every label map would fill the memory for a handful of pictures.
        image, label = read(by_id[name], label_map)
        return draw(image, serve(image).label, label)

    drawn = [(kind, case, drawn_again(case.id)) for kind, case in worth_a_look(report.cases, each=each)]
    return write_report(report, run.path if folder is None else folder, drawn)


def _reliability(sums: Sequence[NDArray[np.float64]]) -> Reliability | None:
    if not sums:
        return None
    total = np.sum(sums, axis=0)
    means = [[float(v / n) if n else None for v, n in zip(row, total[0], strict=True)] for row in total[1:]]
    return Reliability(
        count=[int(n) for n in total[0]], confidence=means[0], accuracy=means[1], error=calibration_error(total)
    )


def run_provenance(
    run: JudgedRun, serve: Any, found: Any, seconds_per_case: float | None = None, caveats: Sequence[str] = ()
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
        model=_model_words(facts),
        num_parameters=facts.get("num_parameters"),
        part=found.part,
        split_kind=split.kind,
        split_seed=split.seed,
        split_sha256=split.sha256,
        split_groups=split.groups,
        part_sizes={part: len(getattr(split, part)) for part in ("train", "validation", "test")},
        selection=selection,
        epoch=epoch,
        image_size=serve.preprocessing.image_size,
        flips=serve.flips,
        device=str(serve.device),
        seconds_per_case=seconds_per_case,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={name: version(name) for name in ("kanscan", "torch", "monai")},
        caveats=list(dict.fromkeys([*caveats, *_part_caveats(found)])),
    )


def _part_caveats(found: Any) -> list[str]:
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


def _selection(run: JudgedRun, validated: bool) -> tuple[int | None, str]:
    """Say which epoch's weights are judged, and why."""
    import json

    from safetensors import safe_open

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


def _model_words(facts: dict[str, Any]) -> str:
    name = facts["model"]["name"]
    channels = facts["model"].get("options", {}).get("channels")
    return f"{name}, channels {'-'.join(map(str, channels))}" if isinstance(channels, list | tuple) else str(name)


def _columns(rows: Sequence[dict[str, float | None]]) -> dict[str, list[float | None]]:
    return {name: [row.get(name) for row in rows] for name in rows[0]} if rows else {}
