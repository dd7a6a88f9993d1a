"""What was printed: settings, equations, numbers, and how ours stand. One YAML file a paper."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from kanscan.registry import unknown


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Claim(_Part):
    """One printed number.

    Attributes:
        paper: Key of the paper.
        table: Where it stands ("table1").
        dataset: Data set or setting of the row ("busi").
        method: Row of the table; the paper's own network or a baseline.
        metric: Column ("iou", "dice", "parameters_million", ...).
        value: The number as printed.
        sd: Its printed standard deviation, if any.
        unit: "percent", "million", "gflops as printed", ...
        note: What the text or the code says against it.
        ours: The same number here, where it was computed or trained; None where it was not tried.
    """

    paper: str
    table: str
    dataset: str
    method: str
    metric: str
    value: float
    sd: float | None = None
    unit: str = ""
    note: str = ""
    ours: float | None = None

    @property
    def state(self) -> Literal["met", "differs", "not tried"]:
        """How the number stands with us: met within half a percent, as few digits are printed."""
        if self.ours is None:
            return "not tried"
        return "met" if abs(self.ours - self.value) <= 0.005 * abs(self.value) else "differs"


class Row(_Part):
    """One row of a printed table: metric -> value, or metric -> [value, standard deviation].

    Attributes:
        method: Name as printed.
        dataset: Data set or setting.
        values: What is printed.
        model: The network here that is this row, a name of `create_model`; empty where there is none.
        options: Its options.
        ours: metric -> the same number here.
        note: What the text or the code says against the row.
    """

    method: str
    dataset: str = ""
    values: dict[str, float | tuple[float, float]]
    model: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    ours: dict[str, float] = Field(default_factory=dict)
    note: str = ""


class PrintedTable(_Part):
    """One printed table."""

    caption: str
    units: dict[str, str] = Field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    note: str = ""


class Reading(_Part):
    """A place where the text is silent, wrong, or at odds with the released code."""

    topic: str
    paper: str
    code: str
    ours: str
    option: str = ""


class Paper(_Part):
    """One paper."""

    key: str
    title: str
    authors: str
    year: int
    url: str
    citation: str
    own_method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    settings_as_coded: dict[str, Any] = Field(default_factory=dict)
    #: Equation or algorithm -> dotted name of what implements it.
    equations: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, PrintedTable] = Field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    contradictions: tuple[str, ...] = ()

    def claims(self) -> list[Claim]:
        """List every printed number."""
        return [
            Claim(
                paper=self.key,
                table=name,
                dataset=row.dataset,
                method=row.method,
                metric=metric,
                value=value[0] if isinstance(value, tuple) else value,
                sd=value[1] if isinstance(value, tuple) else None,
                unit=table.units.get(metric, ""),
                note=row.note or table.note,
                ours=row.ours.get(metric),
            )
            for name, table in self.tables.items()
            for row in table.rows
            for metric, value in row.values.items()
        ]


def paper_names() -> list[str]:
    """List the papers that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in files(__name__).iterdir() if p.name.endswith(".yaml"))


@cache
def load_paper(name: str) -> Paper:
    """Read one paper.

    Raises:
        ValueError: There is no such paper.
    """
    if name not in paper_names():
        raise ValueError(unknown("paper", name, paper_names()))
    return Paper.model_validate(yaml.safe_load((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")))


def find_claims(keys: Iterable[str]) -> list[Claim]:
    """List the printed numbers behind keys of a recipe.

    Args:
        keys: "paper/table/dataset" for the paper's own network, or "paper/table/dataset/method" for a row of it.

    Raises:
        ValueError: A key leads nowhere.
    """
    found: list[Claim] = []
    for key in keys:
        parts = key.split("/")
        if len(parts) not in (3, 4):
            raise ValueError(f"claim {key!r} must read paper/table/dataset or paper/table/dataset/method")
        paper = load_paper(parts[0])
        method = parts[3] if len(parts) == 4 else paper.own_method
        matching = [
            claim for claim in paper.claims() if [claim.table, claim.dataset, claim.method] == [*parts[1:3], method]
        ]
        if not matching:
            known = {f"{paper.key}/{c.table}/{c.dataset}" for c in paper.claims()}
            raise ValueError(unknown("claim", key, known))
        found += matching
    return found
