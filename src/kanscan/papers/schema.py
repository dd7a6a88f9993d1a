"""A paper: its tables as compact rows, its settings as values, its readings as sentences."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kanscan.papers.settings import Experiment


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(_Part):
    """The network here that is a printed row, or why there is none.

    Attributes:
        model: A name of `create_model`; empty where `why` says that the row cannot be made here.
        preset: Its preset.
        options: Its options.
        overrides: Keys of the recipe that the row changes ("data.image_size"), beside the network.
        why: Why the row cannot be made; or what must be known about how it is.
    """

    model: str = ""
    preset: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)
    why: str = ""

    @model_validator(mode="after")
    def _says_which_or_why(self) -> Self:
        assert self.model or self.why, "a printed row names its network or says why there is none"
        return self

    def same_as(self, other: Network) -> bool:
        """Whether both are built alike."""
        return (self.model, self.preset, _plain(self.options)) == (other.model, other.preset, _plain(other.options))

    def __str__(self) -> str:
        """Write the network in a few words: ukan, preset base, skip=concat."""
        preset = [f"preset {self.preset}"] if self.preset else []
        return ", ".join([self.model, *preset, *(f"{k}={_plain(v)}" for k, v in self.options.items())])


def _plain(value: object) -> object:
    """Return a value with lists in the place of tuples, as JSON and YAML have them."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


class Cell(_Part):
    """One printed number: "63.38 ± 2.83", 14.02, or ">24"."""

    value: float
    sd: float | None = None
    bound: Literal["", ">", "<"] = ""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, content: object) -> object:
        if isinstance(content, int | float):
            return {"value": content}
        if isinstance(content, str):
            value, _, sd = content.partition("±")
            bound = value.strip()[0] if value.strip()[:1] in (">", "<") else ""
            return {"value": value.strip().lstrip("><"), "sd": sd.strip() or None, "bound": bound}
        return content

    def __str__(self) -> str:
        """Write the number as it is printed."""
        return f"{self.bound}{self.value:g}" + ("" if self.sd is None else f" ± {self.sd:g}")


class Claim(_Part):
    """One printed number and where it stands.

    Attributes:
        paper: Key of the paper.
        table: Where it stands ("table1").
        dataset: Data set or setting of the row ("busi").
        method: Row of the table; the paper's own network or a baseline.
        metric: Column ("iou", "dice", "parameters_million", ...).
        cell: The number as printed.
        unit: "percent", "million", "gflops as printed", ...
        network: The network here that is this row.
        experiment: Key of the paper's `settings` that the table was made with.
        note: What the text or the code says against it.
        ours: The same number here, where it was computed or trained; None where it was not tried.
    """

    paper: str
    table: str
    dataset: str
    method: str
    metric: str
    cell: Cell
    unit: str = ""
    network: Network
    experiment: str = ""
    note: str = ""
    ours: float | None = None

    @property
    def value(self) -> float:
        """The number."""
        return self.cell.value

    @property
    def sd(self) -> float | None:
        """Its printed standard deviation, if any."""
        return self.cell.sd

    @property
    def state(self) -> Literal["met", "differs", "not tried"]:
        """How the number stands with us: met within half a percent, as few digits are printed."""
        if self.ours is None:
            return "not tried"
        return "met" if abs(self.ours - self.value) <= 0.005 * abs(self.value) else "differs"


class Row(_Part):
    """One row of a printed table; a plain list stands for its cells.

    Attributes:
        cells: One for each column, null where nothing is printed; none at all for a row that only the text names.
        network: Its network; None: that of the paper's `networks`.
        ours: Metric -> the same number here.
        note: What the text or the code says against the row.
    """

    cells: tuple[Cell | None, ...] = ()
    network: Network | None = None
    ours: dict[str, float] = Field(default_factory=dict)
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, content: object) -> object:
        return {"cells": content} if isinstance(content, list) else content


class PrintedTable(_Part):
    """One printed table.

    Attributes:
        caption: What it shows.
        columns: Data set or setting -> metrics, in the order of the rows' cells.
        rows: Name as printed -> row.
        experiment: Key of the paper's `settings` it was made with; empty: the first.
        printed_by: "paper", or "release" for what stands beside released code only.
        formerly: Name of the table that older recipes claim.
        note: What must be known about all of it.
    """

    caption: str
    columns: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    rows: dict[str, Row]
    experiment: str = ""
    printed_by: Literal["paper", "release"] = "paper"
    formerly: str = ""
    note: str = ""

    @property
    def places(self) -> list[tuple[str, str]]:
        """Data set and metric of every column."""
        return [(dataset, metric) for dataset, metrics in self.columns.items() for metric in metrics]

    @model_validator(mode="after")
    def _rows_fill_columns(self) -> Self:
        for method, row in self.rows.items():
            assert len(row.cells) in (0, len(self.places)), f"{method} has {len(row.cells)} cells for {self.places}"
        return self


class Reading(_Part):
    """A place where the text is silent, wrong, or at odds with the released code."""

    topic: str
    paper: str
    code: str
    ours: str
    option: str = ""


class Counted(_Part):
    """What a network costs here.

    Attributes:
        network: Which one.
        size: Side of the square picture.
        parameters: Its parameters; None: not looked at.
        gmacs: Its multiply-adds for one picture, in billions, KAN layers and scans included.
    """

    network: Network
    size: int = 256
    parameters: int | None = None
    gmacs: float


class Statement(_Part):
    """What a text claims beside what is measured here.

    Attributes:
        says: The claim.
        where: Where it stands.
        counted: Name -> what a network costs.
        found: What that shows; empty where it was not measured.
        command: What measures it.
    """

    says: str
    where: str
    counted: dict[str, Counted] = Field(default_factory=dict)
    found: str = ""
    command: str = ""

    @property
    def measured(self) -> str:
        """Write what was measured, or that nothing was."""
        parts = [
            f"{name}: " + (f"{c.parameters / 1e6:.2f} M parameters, " if c.parameters else "") + f"{c.gmacs:.2f} GMACs."
            for name, c in self.counted.items()
        ]
        return " ".join([*parts, self.found or "Not measured."])


class StudyCell(_Part):
    """One training that a printed table asks for: a row's network on a data set.

    Attributes:
        table: Of the paper.
        method: Row.
        dataset: Data set.
        recipe: Name of the recipe that trains the paper's own network there.
        network: What takes its place.
    """

    table: str
    method: str
    dataset: str
    recipe: str
    network: Network

    @property
    def overrides(self) -> dict[str, Any]:
        """Keys of the recipe and their values that make the row of it."""
        options = {f"model.options.{key}": value for key, value in self.network.options.items()}
        network = {"model.name": self.network.model, "model.preset": self.network.preset}
        return network | options | self.network.overrides


class Paper(_Part):
    """One paper.

    Attributes:
        pooling: How the released code behind it pools its scores; None where it does not, or is not known.
        networks: Name of a row, the same in every table -> its network here.
        units: Metric -> unit.
        equations: Equation or algorithm -> dotted name of what implements it.
    """

    key: str
    title: str
    authors: str
    year: int
    url: str
    citation: str
    own_method: str
    pooling: Literal["batch_pooled", "pixel_pooled"] | None = None
    settings: dict[str, Experiment] = Field(default_factory=dict)
    settings_as_coded: dict[str, Any] = Field(default_factory=dict)
    equations: dict[str, str] = Field(default_factory=dict)
    networks: dict[str, Network] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    tables: dict[str, PrintedTable] = Field(default_factory=dict)
    readings: tuple[Reading, ...] = ()
    contradictions: tuple[str, ...] = ()
    statements: tuple[Statement, ...] = ()

    def network(self, table: str, method: str) -> Network:
        """Return the network here that is a row of a table."""
        return self.tables[table].rows[method].network or self.networks[method]

    def experiment(self, table: str) -> str:
        """Return the key of the settings that a table was made with."""
        return self.tables[table].experiment or next(iter(self.settings))

    def claims(self) -> list[Claim]:
        """List every printed number."""
        return list(self._claims)

    @cached_property
    def _claims(self) -> tuple[Claim, ...]:
        return tuple(
            Claim(
                paper=self.key,
                table=name,
                dataset=dataset,
                method=method,
                metric=metric,
                cell=cell,
                unit=self.units.get(metric, ""),
                network=self.network(name, method),
                experiment=self.experiment(name),
                note=row.note or table.note,
                ours=row.ours.get(metric),
            )
            for name, table in self.tables.items()
            for method, row in table.rows.items()
            for (dataset, metric), cell in zip(table.places, row.cells, strict=False)
            if cell is not None
        )

    def study(self, table: str) -> list[StudyCell]:
        """List the trainings that make a printed table: every row that can be built, on every set that has a recipe."""
        printed, experiment = self.tables[table], self.settings[self.experiment(table)]
        return [
            StudyCell(
                table=table, method=method, dataset=dataset, recipe=known.recipe, network=self.network(table, method)
            )
            for dataset, known in experiment.datasets.items()
            if dataset in printed.columns and known.recipe and printed.printed_by == "paper"
            for method in printed.rows
            if self.network(table, method).model
        ]
