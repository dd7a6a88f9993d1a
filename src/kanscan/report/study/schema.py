"""What the table of a study holds; JSON is the table, everything else is drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from kanscan.drawing.tables import rich_notes, rich_table
from kanscan.report.numerals import NONE, number, title

if TYPE_CHECKING:
    from rich.console import Group

#: Column that averages the data sets.
ALL_SETS = "mean of data sets"
#: Raised when the layout changes so that older readers would misread it.
FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Entry(_Part):
    """One row on one data set, by one metric."""

    row: str
    #: Or `ALL_SETS`.
    dataset: str
    class_name: str
    metric: str
    #: Over the runs, of each run's mean over its cases.
    mean: float
    #: Over the runs; null for one.
    sd: float | None = None
    #: 95 % interval of the mean over the cases (those of all runs, whole groups drawn).
    low: float | None = None
    high: float | None = None
    num_runs: int
    num_cases: int | None = None
    num_groups: int | None = None
    #: The same runs, pooled as the paper's code pools; null where that is not known.
    pooled: float | None = None
    pooled_sd: float | None = None


class PrintedCell(_Part):
    """One cell of the paper's table."""

    row: str
    dataset: str
    metric: str
    value: float
    sd: float | None = None
    #: As printed, such as "63.38 ± 2.83".
    text: str


class Pair(_Part):
    """Two rows on the cases of one data set, case by case: second minus first."""

    dataset: str
    metric: str
    first: str
    second: str
    num_cases: int
    num_groups: int
    difference: float
    low: float | None
    high: float | None
    #: Wilcoxon's, before and after Holm's correction for all pairs of the data set.
    p_value: float | None
    p_adjusted: float | None
    verdict: str


class Ranks(_Part):
    """Mean ranks over the data sets (Friedman), and the distance that tells two apart (Nemenyi)."""

    metric: str
    mean_ranks: dict[str, float]
    #: Null where even full agreement of so few data sets is no evidence.
    p_value: float | None
    critical_difference: float
    num_sets: int


class Spread(_Part):
    """Where the deviation over the runs of a row comes from."""

    row: str
    dataset: str
    metric: str
    #: Between splits, of equal seeds; null where the runs do not tell.
    split_sd: float | None = None
    #: Between seeds, of equal splits.
    seed_sd: float | None = None
    words: str


class Cost(_Part):
    """What a network costs on a data set."""

    row: str
    dataset: str
    num_parameters: int
    #: Multiply-adds for one image or patch; null where they could not be counted.
    macs: int | None = None


class StudyTable(_Part):
    """The table of a study."""

    format_version: int = FORMAT_VERSION
    title: str
    #: Printed table beside it, such as "u_kan/table1"; empty for none.
    printed_key: str = ""
    #: Whether that one prints shares as percent.
    percent: bool = False
    rows: list[str]
    datasets: list[str]
    metrics: list[str]
    entries: list[Entry]
    printed: list[PrintedCell] = Field(default_factory=list)
    costs: list[Cost] = Field(default_factory=list)
    pairs: list[Pair] = Field(default_factory=list)
    ranks: list[Ranks] = Field(default_factory=list)
    spreads: list[Spread] = Field(default_factory=list)
    #: What was found, in sentences.
    findings: list[str] = Field(default_factory=list)
    #: How the protocol differs from the printed one.
    differences: list[str] = Field(default_factory=list)
    #: Cells that are missing though they can be made, with the reason.
    missing: list[str] = Field(default_factory=list)
    #: Rows that are printed and not made here, with the reason.
    not_made: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    _folder: Path | None = PrivateAttr(None)

    @property
    def errors(self) -> list[str]:
        """What went wrong; the shell's exit code follows it."""
        return self.missing

    @property
    def class_names(self) -> list[str]:
        """Classes that have entries, the overall one first."""
        return list(dict.fromkeys(entry.class_name for entry in self.entries))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return self.model_dump(mode="json")

    def entry(self, row: str, dataset: str, metric: str, class_name: str | None = None) -> Entry | None:
        """Find one entry; None: of the class that stands for all."""
        for one in self.entries:
            if (one.row, one.dataset, one.metric) == (row, dataset, metric) and class_name in (None, one.class_name):
                return one
        return None

    def printed_cell(self, row: str, dataset: str, metric: str) -> PrintedCell | None:
        """Find a cell of the paper's table."""
        wanted = (row, dataset, metric)
        return next((one for one in self.printed if (one.row, one.dataset, one.metric) == wanted), None)

    def figure(self, value: float | None, metric: str) -> str:
        """Write a score in the table's unit."""
        if value is not None and self.percent and metric in ("dice", "iou", "nsd"):
            return f"{100 * value:.2f}"
        return number(value, metric)

    def with_spread(self, mean: float | None, sd: float | None, metric: str) -> str:
        """Write a mean with its deviation."""
        if mean is None:
            return NONE
        return self.figure(mean, metric) + ("" if sd is None else f" ± {self.figure(sd, metric)}")

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Data set and metric of each group of columns."""
        sets = [*self.datasets, *([ALL_SETS] if len(self.datasets) > 1 else [])]
        return [(dataset, metric) for dataset in sets for metric in self.metrics]

    def columns(self) -> list[str]:
        """Heads of `cells`."""
        heads = ["Network"]
        for dataset, metric in self.groups:
            heads += [f"{dataset} {title(metric)}"]
            heads += [f"{dataset} {title(metric)}, pooled as printed"] * self._has_pooled
            heads += [f"{dataset} {title(metric)}, printed"] * bool(self.printed)
        return [*heads, "Parameters", "GMACs"]

    @property
    def _has_pooled(self) -> bool:
        return any(entry.pooled is not None for entry in self.entries)

    def cells(self) -> list[list[str]]:
        """Write the main table, a line a row."""
        return [[row, *self._scores(row), *self._cost(row)] for row in self.rows]

    def _scores(self, row: str) -> list[str]:
        cells = []
        for dataset, metric in self.groups:
            found, printed = self.entry(row, dataset, metric), self.printed_cell(row, dataset, metric)
            text = NONE if found is None else self.with_spread(found.mean, found.sd, metric)
            if found is not None and found.low is not None:
                text += f" ({self.figure(found.low, metric)} to {self.figure(found.high, metric)})"
            pooled = NONE if found is None else self.with_spread(found.pooled, found.pooled_sd, metric)
            cells += [text, *[pooled] * self._has_pooled]
            cells += [NONE if printed is None else printed.text] * bool(self.printed)
        return cells

    def _cost(self, row: str) -> list[str]:
        mine = [cost for cost in self.costs if cost.row == row]
        parameters = " / ".join(dict.fromkeys(f"{cost.num_parameters:,}" for cost in mine))
        macs = " / ".join(dict.fromkeys(f"{cost.macs / 1e9:.3g}" for cost in mine if cost.macs is not None))
        return [parameters or NONE, macs or NONE]

    def __rich__(self) -> Group:
        """Draw the main table, what was found and what is missing."""
        from rich.console import Group

        narrow = [[cell.replace(" (", "\n(") for cell in line] for line in self.cells()]
        table = rich_table(self.title, self.columns(), narrow, range(1, len(self.columns())))
        lines = [*self.findings, *(f"missing: {text}" for text in self.missing)]
        lines += [f"not made here: {text}" for text in self.not_made]
        lines += [f"note: {text}" for text in self.notes]
        if self._folder is not None:
            lines.append(f"table: {self._folder / 'table.html'}")
        return Group(table, *rich_notes(lines))
