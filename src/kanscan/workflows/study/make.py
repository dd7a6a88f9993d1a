"""A study made: what is left of its cells is run somewhere, then all of it becomes one table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanscan.drawing.tables import csv_table, rich_notes, rich_table
from kanscan.files import write_text
from kanscan.report.study.schema import StudyTable
from kanscan.run.lock import locked
from kanscan.workflows.engines.catalogue import ENGINES
from kanscan.workflows.engines.engine import Place, run_all
from kanscan.workflows.engines.work import Ended, Work
from kanscan.workflows.rehearse import Rehearsal, duration, rehearse
from kanscan.workflows.study.cells import Cell, distinct, plan_cells
from kanscan.workflows.study.gather import gather
from kanscan.workflows.study.spec import STUDY_FILE, Study

#: A run keeps its weights twice, and in its state with two moments of the optimizer.
_COPIES_ON_DISK = 5


@dataclass(frozen=True)
class CellState:
    """How far a cell is.

    Attributes:
        cell: Row, data set, seed and split in words.
        state: "done", "waiting", or what happens or happened.
        folder: Of its run.
    """

    cell: str
    state: str
    folder: str


@dataclass(frozen=True)
class Status:
    """How far a study is."""

    folder: Path
    cells: tuple[CellState, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"folder": str(self.folder), "cells": [vars(cell) for cell in self.cells]}

    def __rich__(self) -> Any:
        """Draw a row a cell, and how many are done."""
        from rich.console import Group

        done = sum(cell.state == "done" for cell in self.cells)
        rows = [(cell.cell, cell.state) for cell in self.cells]
        return Group(rich_table(str(self.folder), ("Cell", "State"), rows), f"{done} of {len(rows)} cells are done")


@dataclass(frozen=True)
class Forecast:
    """What a study would cost.

    Attributes:
        folder: Of the study.
        num_cells: All its cells.
        num_left: Those that are not done.
        rows: Row, data set, cells left, minutes and memory of one, or why it cannot be tried.
        minutes: Of all that is left, one after another, on this machine.
        memory_mib: Of the largest cell.
        disk_mib: Of the runs that are left.
    """

    folder: Path
    num_cells: int
    num_left: int
    rows: tuple[tuple[str, str, int, float | None, float | None, str], ...]
    minutes: float
    memory_mib: float
    disk_mib: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("row", "dataset", "num_left", "minutes_each", "memory_mib", "note")
        return {**vars(self), "folder": str(self.folder), "rows": [dict(zip(names, r, strict=True)) for r in self.rows]}

    def __rich__(self) -> Any:
        """Draw a row for each network and data set, and the sums."""
        from rich.console import Group

        columns = ("Row", "Data", "Cells left", "Minutes each", "Memory (MiB)", "")
        rows = [
            (row, dataset, str(left), _figure(minutes, ".1f"), _figure(memory, ",.0f"), note)
            for row, dataset, left, minutes, memory, note in self.rows
        ]
        text = (
            f"{self.num_left} of {self.num_cells} cells are left: about {duration(60 * self.minutes)} one after "
            f"another here, {self.memory_mib:,.0f} MiB of memory for the largest, {self.disk_mib:,.0f} MiB of disk. "
            "Nothing was written."
        )
        return Group(rich_table("", columns, rows, (2, 3, 4)), *rich_notes([text]))


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def study_status(study: Study, folder: Path) -> Status:
    """Say how far every cell is; nothing is started."""
    cells = plan_cells(study, folder)
    return Status(folder, tuple(CellState(cell.words, cell.state(), cell.folder.name) for cell in cells))


def forecast(study: Study, folder: Path) -> Forecast:
    """Take a step of every network on every data set, and add up what all of it would take; nothing is written."""
    cells = plan_cells(study, folder)
    runs = distinct(cells)
    left = [cell for cell in runs if not cell.is_done]
    rows: list[tuple[str, str, int, float | None, float | None, str]] = []
    minutes, memory, disk = 0.0, 0.0, 0.0
    for row, dataset in dict.fromkeys((cell.row, cell.dataset) for cell in cells):
        mine = [cell for cell in left if (cell.row, cell.dataset) == (row, dataset)]
        tried = _rehearsed(mine[0]) if mine else _why_none(cells, row, dataset)
        if isinstance(tried, str):
            rows.append((row, dataset, len(mine), None, None, tried))
            continue
        rows.append((row, dataset, len(mine), tried.total_seconds / 60, tried.memory_mib, ""))
        minutes += len(mine) * tried.total_seconds / 60
        memory = max(memory, tried.memory_mib)
        disk += len(mine) * _COPIES_ON_DISK * 4 * tried.num_parameters / 2**20
    return Forecast(folder, len(runs), len(left), tuple(rows), minutes, memory, disk)


def _rehearsed(cell: Cell) -> Rehearsal | str:
    assert cell.recipe is not None
    try:
        return rehearse(cell.recipe, cell.folder)
    except (ValueError, OSError) as error:
        return str(error)


def _why_none(cells: list[Cell], row: str, dataset: str) -> str:
    mine = [cell for cell in cells if (cell.row, cell.dataset) == (row, dataset)]
    sentences = [cell.sentence for cell in mine if cell.sentence]
    return (
        sentences[0] if sentences else "done" if all(cell.is_done for cell in mine) else "the same run as another row"
    )


def make_study(
    study: Study, folder: Path, place: Place, *, retry: int = 0, say: Callable[[str], None] = lambda text: None
) -> StudyTable:
    """Run what is left of a study, and write its table in every form.

    What went wrong with a cell is a sentence in the table. A call that comes later, after whatever kill, does what is
    left and nothing twice.

    Args:
        study: What is made.
        folder: Where.
        place: Where its cells run.
        retry: How often a cell that failed is tried again.
        say: Takes progress.

    Raises:
        ValueError: The place is not there.
        InUseError: Another process makes this study.
    """
    with locked(folder, "study"):
        write_text(folder / STUDY_FILE, study.to_yaml())
        cells = plan_cells(study, folder)
        _list_cells(cells, folder)
        left = [cell for cell in distinct(cells) if not cell.is_done]
        _run(left, ENGINES[place.on](place, folder / "work"), retry, say) if left else None
        return gather(study, cells, folder)


def _run(left: list[Cell], engine: Any, retry: int, say: Callable[[str], None]) -> None:
    by_name = {cell.folder.name: cell for cell in left}
    works = []
    for name, cell in by_name.items():
        assert cell.recipe is not None
        works.append(Work(name, "cell", {"recipe": cell.recipe.model_dump(mode="json"), "folder": str(cell.folder)}))
    began = time.monotonic()

    def told(ended: Ended, num_left: int) -> None:
        cell = by_name[ended.work.name]
        done = len(works) - num_left
        remaining = duration((time.monotonic() - began) / done * num_left) if num_left else ""
        cell.failure.note("" if cell.is_done else ended.sentence or "it ended without a report")
        outcome = cell.failure.sentence or "done"
        say(f"{done} of {len(works)}: {cell.words}: {outcome}" + (f" (about {remaining} left)" if remaining else ""))

    try:
        run_all(engine, works, retry=retry, told=told)
    finally:
        engine.close()


def _list_cells(cells: list[Cell], folder: Path) -> None:
    """Say which folder is which cell."""
    columns = ("folder", "row", "dataset", "seed", "split")
    rows = [
        [f"cells/{cell.folder.name}" if cell.recipe else None, cell.row, cell.dataset, cell.seed, cell.split]
        for cell in cells
    ]
    write_text(folder / "cells.csv", csv_table(columns, rows))
