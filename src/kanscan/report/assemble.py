"""From label maps to a report: judge each case, then summarize."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from kanscan.metrics import (
    METRICS,
    Confusion,
    batch_pooled_scores,
    case_scores,
    confusion_matrix,
    missing_from,
    pixel_pooled_scores,
    summarize,
    tolerance_of,
)
from kanscan.report.schema import ALL_CLASSES, CaseScores, LegacyFigure, Provenance, Report, SummaryRow

#: Batch size of the papers' evaluation.
LEGACY_BATCH_SIZE = 8
#: Fewer groups than this make any interval rough.
FEW_GROUPS = 10


@dataclass(frozen=True)
class Judged:
    """A scored case with its confusion matrices: at the case's own size, and on the grid the network worked on."""

    scores: CaseScores
    confusion: Confusion
    network_confusion: Confusion


def judge(
    case_id: str,
    prediction: ArrayLike,
    label: ArrayLike,
    class_names: Sequence[str],
    *,
    group: str | None = None,
    spacing_mm: Sequence[float] | None = None,
    tolerance: float = 2.0,
    tolerances: Mapping[str, float] | None = None,
    on_network_grid: tuple[ArrayLike, ArrayLike] | None = None,
) -> Judged:
    """Score one case.

    Args:
        case_id: Its name.
        prediction: Class indices `(H, W)` or `(D, H, W)`.
        label: Reference of the same shape.
        class_names: Background first.
        group: Patient or video sequence.
        spacing_mm: Size of a pixel along each axis, or None.
        tolerance: Of the NSD.
        tolerances: Of the NSD for single classes, by name.
        on_network_grid: Prediction and reference at the network's size, for the pooled scores; None: the same two.

    Raises:
        ValueError: Shapes or values do not fit; the sentence names the case.
    """
    num_classes = len(class_names)
    allowed = {k: tolerance_of(name, tolerances or {}, tolerance) for k, name in enumerate(class_names)}
    try:
        scores = case_scores(prediction, label, num_classes, spacing_mm=spacing_mm, tolerance=allowed)
    except ValueError as error:
        raise ValueError(f"case {case_id!r}: {error}") from None
    confusion = confusion_matrix(prediction, label, num_classes)
    network = confusion if on_network_grid is None else confusion_matrix(*on_network_grid, num_classes)
    foreground = list(enumerate(class_names))[1:]
    row = CaseScores(
        id=case_id,
        group=group,
        size=np.shape(label),
        reference_pixels={name: int(confusion[index].sum()) for index, name in foreground},
        missing={name: missing_from(confusion, index) for index, name in foreground},
        scores={
            name: {metric: None if math.isnan(value) else float(value) for metric, value in scores[index].items()}
            for index, name in foreground
        },
    )
    return Judged(row, confusion, network)


def assemble(
    judged: Sequence[Judged],
    class_names: Sequence[str],
    provenance: Provenance,
    *,
    unit: str = "pixels",
    tolerance: float = 2.0,
    tolerances: Mapping[str, float] | None = None,
    samples: int = 2000,
) -> Report:
    """Summarize judged cases, in the order of evaluation.

    Args:
        judged: At least one.
        class_names: Background first.
        provenance: Where they come from; what follows from the cases themselves is added to its caveats.
        unit: Of lengths, "mm" or "pixels".
        tolerance: Of the NSD, as given to `judge`.
        tolerances: Of the NSD for single classes, as given to `judge`.
        samples: Bootstrap samples; 0: no intervals.

    Raises:
        ValueError: There is no case.
    """
    if not judged:
        raise ValueError("there is no case to report")
    cases = [j.scores for j in judged]
    names = list(class_names[1:])
    groups = [case.group for case in cases]
    num_groups = len({g for g in groups if g is not None}) + groups.count(None) if any(groups) else None
    caveats = [*provenance.caveats, *_sample_caveats(len(cases), num_groups)]
    return Report(
        provenance=provenance.model_copy(update={"caveats": caveats}),
        unit=unit,
        nsd_tolerance=tolerance,
        nsd_tolerances={name: tolerance_of(name, tolerances, tolerance) for name in names} if tolerances else {},
        class_names=names,
        num_cases=len(cases),
        num_groups=num_groups,
        missing_counts={name: dict(Counter(m for c in cases if (m := c.missing[name]))) for name in names},
        summary=summary_rows(cases, names, samples),
        legacy=_legacy(judged, names),
        legacy_note=_legacy_note(provenance),
        cases=cases,
    )


def summary_rows(cases: Sequence[CaseScores], names: Sequence[str], samples: int = 2000) -> list[SummaryRow]:
    """Summarize every metric of every class, and of the mean of the classes where there are several."""
    groups = [case.group for case in cases]
    rows = []
    for class_name in [*names, *([ALL_CLASSES] if len(names) > 1 else [])]:
        for metric, facts in METRICS.items():
            # The mean of two organs' sizes means nothing.
            if class_name == ALL_CLASSES and facts.direction == "zero":
                continue
            found = summarize([case.value(metric, class_name) for case in cases], groups, samples=samples)
            if found is not None:
                rows.append(SummaryRow(class_name=class_name, metric=metric, **asdict(found)))
    return rows


def _sample_caveats(num_cases: int, num_groups: int | None) -> list[str]:
    independent = num_cases if num_groups is None else num_groups
    if independent >= FEW_GROUPS:
        return []
    what = f"{num_cases} case{'s' * (num_cases > 1)}"
    if num_groups is not None:
        what += f" of {num_groups} group{'s' * (num_groups > 1)}"
    if independent < 2:
        return [f"{what}: too few for an interval"]
    return [f"{what} only: the intervals are rough, and rather too narrow"]


def _legacy(judged: Sequence[Judged], names: Sequence[str]) -> list[LegacyFigure]:
    confusions = [j.network_confusion for j in judged]
    batches = batch_pooled_scores(confusions, batch_size=LEGACY_BATCH_SIZE)
    figures = [LegacyFigure(protocol="batch_pooled", metric=name, value=value) for name, value in batches.items()]
    for index, name in enumerate(names, start=1):
        for metric, value in pixel_pooled_scores(confusions, index).items():
            figures.append(LegacyFigure(protocol="pixel_pooled", class_name=name, metric=metric, value=value))
    return figures


def _legacy_note(provenance: Provenance) -> str:
    size = provenance.image_size
    grid = f"the {size[0]} x {size[1]} grid of the network" if size else "each picture's own grid"
    return (
        f"Pooled on {grid}. Batch-pooled: intersection and union over batches of {LEGACY_BATCH_SIZE} in file order, "
        "averaged over batches (U-KAN, KM-UNet, U-NeXt); it depends on batch size and file order. "
        "Pixel-pooled: one confusion matrix over all pixels of all cases (VM-UNet, VMKLA-UNet); large lesions dominate."
    )
