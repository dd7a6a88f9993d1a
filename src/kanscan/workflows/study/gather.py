"""All runs of a study become its table: reports, costs, curves, and a few cases as every network labels them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from kanscan.complexity import complexity
from kanscan.drawing.charts import Series
from kanscan.drawing.images import overlay
from kanscan.metrics.logits import legal_size
from kanscan.models import create_model
from kanscan.pipelines import evaluation_cases, labeling_pipeline
from kanscan.report.schema import Report
from kanscan.report.study.build import Measured, build_table
from kanscan.report.study.page import Shown
from kanscan.report.study.schema import StudyTable
from kanscan.report.study.write import write_table
from kanscan.run import Run
from kanscan.run.facts import GenerationFacts, VolumeFacts
from kanscan.workflows.progress import say
from kanscan.workflows.study.cells import Cell
from kanscan.workflows.study.spec import Study

#: Cases of a data set on the page.
_SHOWN_CASES = 3


def gather(study: Study, cells: Sequence[Cell], folder: Path) -> StudyTable:
    """Build the table of what is done, and write it in every form.

    Args:
        study: What was made.
        cells: All its cells.
        folder: Where the table goes.
    """
    costs: dict[tuple[str, str], int | None] = {}
    runs = [_measured(study, cell, costs) for cell in cells]
    table = build_table(runs, study.name, study.metrics, study.printed)
    return write_table(table, folder, _curves(cells), _shown(cells))


def _measured(study: Study, cell: Cell, costs: dict[tuple[str, str], int | None]) -> Measured:
    report, sentence = None, cell.sentence or cell.failure.sentence or "not made yet"
    if cell.recipe is not None and cell.is_done:
        try:
            report = Report.load(cell.folder)
        except (ValueError, OSError) as error:
            sentence = str(error)
    place = (cell.row, cell.dataset)
    if report is not None and place not in costs:
        costs[place] = _macs(cell.run)
    # Other options than the printed ones make another row than the printed one.
    printed_row = cell.model if cell.row == cell.model else ""
    return Measured(
        row=cell.row,
        dataset=cell.dataset,
        printed_row=printed_row,
        printed_dataset=study.datasets[cell.dataset].printed or cell.dataset,
        seed=cell.seed,
        split=cell.split,
        words=cell.words,
        report=report,
        sentence=sentence,
        can_be_made=bool(study.models[cell.model].model),
        macs=costs.get(place),
        ended=_ended(cell) if report is not None else "",
    )


def _macs(run: Run) -> int | None:
    """Count multiply-adds for what the network sees at once."""
    facts = run.facts
    with torch.device("meta"):
        model = create_model(facts.model.name, **facts.model.options)
    if isinstance(facts, VolumeFacts):
        size = tuple(facts.plan.patch_size)[-model.spatial_dims :]
    else:
        size = facts.preprocessing.image_size or ()
    if not size:
        return None  # every picture has its own
    return complexity(model, (model.in_channels, *legal_size(size, model.stride))).macs


def _ended(cell: Cell) -> str:
    """Say where a training ended before its last epoch."""
    assert cell.recipe is not None
    done, asked = len(cell.run.curves), cell.recipe.trainer.epochs
    return f"trained {done} of {asked} epochs (patience or time budget)" if done < asked else ""


def _curves(cells: Sequence[Cell]) -> dict[str, list[Series]]:
    """Average the validation Dice of each row's runs, epoch by epoch."""
    found: dict[str, list[Series]] = {}
    for row, dataset in dict.fromkeys((cell.row, cell.dataset) for cell in cells):
        runs = [c.run.curves for c in cells if (c.row, c.dataset) == (row, dataset) and c.recipe and c.is_done]
        if not runs:
            continue
        values: list[float | None] = []
        for epoch in range(max(map(len, runs))):
            there = [v for rows in runs if epoch < len(rows) and (v := rows[epoch].get("val_dice")) is not None]
            values.append(fmean(there) if there else None)
        found.setdefault(dataset, []).append(Series(row, values))
    return found


def _shown(cells: Sequence[Cell]) -> list[Shown]:
    """Draw some cases of the first seed and split of each data set, as every network labels them."""
    found: list[Shown] = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        done = [cell for cell in cells if cell.dataset == dataset and cell.recipe is not None and cell.is_done]
        alike = [cell for cell in done if (cell.seed, cell.split) == (done[0].seed, done[0].split)]
        try:
            found += _drawn(dataset, alike) if alike else []
        except (ValueError, OSError) as error:
            say(f"no cases of {dataset} are drawn: {error}")
    return found


def _drawn(dataset: str, cells: Sequence[Cell]) -> list[Shown]:
    first = cells[0].run
    if isinstance(first.facts, VolumeFacts | GenerationFacts):
        return []
    pipeline, selection = labeling_pipeline(first), evaluation_cases(first)
    reports = [Report.load(cell.folder) for cell in cells]
    scores = {case.id: case.value("dice") for case in reports[0].cases}
    ranked = sorted((i for i in scores if scores[i] == scores[i]), key=lambda i: (scores[i], i))
    if not ranked:
        return []
    # From the hardest to the easiest of the first network, at equal distances.
    places = {round(k * (len(ranked) - 1) / max(1, _SHOWN_CASES - 1)) for k in range(_SHOWN_CASES)}
    wanted = [ranked[place] for place in sorted(places)]
    predictors = [labeling_pipeline(cell.run).predictor(cell.run, device="auto") for cell in cells]
    shown = []
    for case in (case for i in wanted for case in selection.cases if case.id == i):
        image, label = pipeline.read_pair(case, selection.source.label_map)
        panels = [overlay(image, label * 0), overlay(image, label)]
        captions = ["image", "reference"]
        for cell, predictor in zip(cells, predictors, strict=True):
            panels.append(overlay(image, predictor(image).label, reference=label))
            captions.append(cell.row)
        shown.append(Shown(dataset, case.id, tuple(captions), tuple(panels)))
    return shown
