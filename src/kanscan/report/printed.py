"""The paper's printed figures beside ours, and what differs between the two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanscan.papers import Claim, find_claims, load_paper
from kanscan.report.schema import PrintedFigure, Report

#: How the released code behind a paper pools its scores, where that is known.
POOLING = {
    "u_kan": "batch_pooled",
    "all_u_kan": "batch_pooled",
    "km_unet": "batch_pooled",
    "vm_unet": "pixel_pooled",
    "vmkla_unet": "pixel_pooled",
}
#: Names that tables use -> ours.
_SAME = {"f1": "dice", "dsc": "dice", "miou": "iou", "jaccard": "iou", "recall": "sensitivity"}


def add_printed(report: Report, recipe: Mapping[str, Any]) -> Report:
    """Return the report with the figures that the recipe's claims name, and with what differs from their run.

    Args:
        report: Without printed figures.
        recipe: The recipe as plain values.

    Raises:
        ValueError: A claim leads nowhere.
    """
    printed = printed_figures(report, find_claims(recipe.get("claims", ())))
    differs = differences(report, [figure.paper for figure in printed], recipe)
    return report.model_copy(update={"printed": printed, "differences": differs})


def printed_figures(report: Report, claims: Sequence[Claim]) -> list[PrintedFigure]:
    """Put ours beside every printed score; printed costs (parameters, operations) are not scores and left out."""
    figures = []
    for claim in claims:
        metric = printed_metric(claim)
        if metric not in {row.metric for row in report.summary}:
            continue
        factor = 100.0 if "percent" in claim.unit else 1.0
        row, pooled = report.row(metric), _pooled(report, claim.paper, metric)
        figures.append(
            PrintedFigure(
                paper=claim.paper,
                table=claim.table,
                dataset=claim.dataset,
                method=claim.method,
                metric=metric,
                unit=claim.unit,
                printed=claim.value,
                printed_sd=claim.sd,
                ours=None if row is None else row.mean * factor,
                ours_same_pooling=None if pooled is None else pooled * factor,
                note=claim.note,
            )
        )
    return figures


def printed_metric(claim: Claim) -> str:
    """Return our name of a claim's metric."""
    name = claim.metric.lower()
    return _SAME.get(name, name)


def _pooled(report: Report, paper: str, metric: str) -> float | None:
    protocol = POOLING.get(paper)
    wanted = "f1" if (protocol, metric) == ("batch_pooled", "dice") else metric
    values = [f.value for f in report.legacy if f.protocol == protocol and f.metric == wanted]
    return sum(values) / len(values) if values else None


def differences(report: Report, papers: Sequence[str], recipe: Mapping[str, Any]) -> list[str]:
    """Say in sentences how this run differs from the one behind the printed numbers.

    Args:
        report: With its provenance.
        papers: Keys of the papers that are quoted.
        recipe: The recipe as plain values.
    """
    here = report.provenance
    trainer, data = recipe.get("trainer", {}), recipe.get("data", {})
    size = data.get("image_size")
    split = f"{here.split_kind} split, {report.num_cases} cases of {here.part or 'the reported part'}"
    ours = {
        "epochs": str(trainer.get("epochs", "?")),
        "batch_size": str(trainer.get("batch_size", "?")),
        "image_size": f"{size[0]} x {size[1]}" if size else "each picture's own",
        "split": split,
        "data": here.reference,
    }
    sentences = []
    for paper in dict.fromkeys(papers):
        settings = load_paper(paper).settings
        for key, value in ours.items():
            if key not in settings:
                continue
            theirs = str(settings[key])
            # A paper may list several: "256 x 256 (BUSI), 512 x 512 (GlaS)".
            if value not in theirs:
                sentences.append(f"{paper}, {key.replace('_', ' ')}: printed run {theirs}; this run {value}")
    return sentences
