"""What a report holds; JSON is the report, everything else is drawn from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr, ValidationError

from kanscan.drawing.tables import rich_notes, rich_table
from kanscan.files import read_json
from kanscan.metrics import METRICS, empty_rule_text
from kanscan.report.numerals import heading, number, span

if TYPE_CHECKING:
    from rich.console import Group

#: Row of a summary that averages the foreground classes of each case.
ALL_CLASSES = "mean of classes"
#: Heads of `Report.summary_cells`.
SUMMARY_COLUMNS = ("Class", "Score", "Mean", "95 % CI", "SD", "Median", "Cases")
#: Raised when the layout changes so that older readers would misread it.
FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CaseScores(_Part):
    """One case."""

    id: str
    group: str | None = None
    #: Pixels along each axis.
    size: tuple[int, ...]
    #: Class -> pixels of the reference.
    reference_pixels: dict[str, int]
    #: Class -> "" (has pixels in both), or where it has none: "prediction", "reference", "both".
    missing: dict[str, str]
    #: Class -> metric -> value; null where not applicable.
    scores: dict[str, dict[str, float | None]]

    def value(self, metric: str, class_name: str = ALL_CLASSES) -> float:
        """Return one score, or its mean over the classes it applies to; NaN if there are none."""
        if class_name != ALL_CLASSES:
            found = self.scores[class_name].get(metric)
            return math.nan if found is None else found
        values = [v for scores in self.scores.values() if (v := scores.get(metric)) is not None]
        return float(np.mean(values)) if values else math.nan


class SummaryRow(_Part):
    """Mean, spread and 95 % interval of one metric over the cases; see `kanscan.metrics.Summary`."""

    class_name: str
    metric: str
    mean: float
    sd: float | None
    median: float
    low: float | None
    high: float | None
    num_cases: int
    num_groups: int
    method: str


class LegacyFigure(_Part):
    """A score pooled as the papers' released code pools it."""

    protocol: Literal["batch_pooled", "pixel_pooled"]
    class_name: str = ""
    metric: str
    value: float


class PrintedFigure(_Part):
    """A number printed in a paper, and ours beside it in the same unit."""

    paper: str
    table: str
    dataset: str
    method: str
    metric: str
    unit: str
    printed: float
    printed_sd: float | None = None
    #: Ours, pooled as that paper's code pools; null where its pooling is not known.
    ours_same_pooling: float | None = None
    #: Ours, mean over cases.
    ours: float | None = None
    note: str = ""


class Picture(_Part):
    """One case worth a look; the file lies beside the report."""

    kind: Literal["best", "median", "worst"]
    case: str
    score: float
    #: Never outside of the report's folder, whoever sent it.
    file: str = Field(pattern=r"^pictures/[A-Za-z0-9._-]+$")


class Reliability(_Part):
    """How sure and how right the pixels of all cases are, in equal bins of the chosen class's probability."""

    #: Pixels in each bin.
    count: list[int]
    #: Their mean probability; null where there are none.
    confidence: list[float | None]
    #: Share of them that is right.
    accuracy: list[float | None]
    #: Expected calibration error, 0..1.
    error: float


class Provenance(_Part):
    """Where the numbers come from."""

    title: str
    #: Run folder, or folder of predictions.
    source: str
    #: Data set, or folder of references.
    reference: str = ""
    recipe: str = ""
    model: str = ""
    num_parameters: int | None = None
    part: str = ""
    split_kind: str = ""
    split_seed: int | None = None
    split_sha256: str = ""
    split_groups: str = ""
    #: Sizes of the parts the model was made with.
    part_sizes: dict[str, int] = Field(default_factory=dict)
    #: Which epoch the weights are of, and why.
    selection: str = ""
    #: Epoch the weights are of, where it is known.
    epoch: int | None = None
    #: Whether the pictures show the image beside the label maps.
    has_images: bool = True
    #: Grid the network worked on, height x width; null: each picture's own.
    image_size: tuple[int, int] | None = None
    flips: bool = False
    device: str = ""
    seconds_per_case: float | None = None
    date: str
    versions: dict[str, str] = Field(default_factory=dict)
    #: What a reader must know before quoting a number.
    caveats: list[str] = Field(default_factory=list)


class Report(_Part):
    """A row a case, means with intervals, and where they come from.

    Example:
        >>> from kanscan.report import Provenance, assemble, judge
        >>> case = judge("a", [[0, 1], [0, 1]], [[0, 1], [1, 1]], ("background", "lesion"))
        >>> report = assemble([case], ("background", "lesion"), Provenance(title="t", source="s", date="today"))
        >>> round(report.mean("dice"), 3)
        0.8
    """

    format_version: int = FORMAT_VERSION
    provenance: Provenance
    #: Of lengths: "mm" or "pixels".
    unit: Literal["mm", "pixels"]
    #: Tolerance of the NSD in `unit`.
    nsd_tolerance: float
    #: Class -> its own tolerance, where classes have different ones.
    nsd_tolerances: dict[str, float] = Field(default_factory=dict)
    empty_rule: str = Field(default_factory=empty_rule_text)
    #: Foreground classes.
    class_names: list[str]
    num_cases: int
    #: Cases that could not be judged, one sentence each; they are in no figure.
    errors: list[str] = Field(default_factory=list)
    #: None where no groups are known.
    num_groups: int | None
    #: Class -> where it has no pixel -> number of cases.
    missing_counts: dict[str, dict[str, int]]
    summary: list[SummaryRow]
    legacy: list[LegacyFigure] = Field(default_factory=list)
    legacy_note: str = ""
    #: Of pictures; null where a report is about masks or volumes.
    reliability: Reliability | None = None
    printed: list[PrintedFigure] = Field(default_factory=list)
    #: What differs from the run behind the printed numbers.
    differences: list[str] = Field(default_factory=list)
    pictures: list[Picture] = Field(default_factory=list)
    #: Column of the training curves -> value an epoch.
    curves: dict[str, list[float | None]] = Field(default_factory=dict)
    recipe_yaml: str = ""
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    cases: list[CaseScores]

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Where the report was written or read, None before."""
        return self._folder

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read `report.json`, or the folder that holds it.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not a report, or one of another format.
        """
        path = Path(path)
        path = path / "report.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no report at {path}; write one with: kanscan evaluate {path.parent}")
        content = read_json(path)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has report format {version}, this kanscan reads {FORMAT_VERSION}")
        try:
            report = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path} is not a report: {place}: {first['msg']}") from None
        report._folder = path.parent
        return report

    def to_dict(self) -> dict[str, object]:
        """Return plain values, as in report.json."""
        return self.model_dump(mode="json")

    @property
    def headline(self) -> str:
        """The row of the summary that stands for the whole: the only class, or the mean of the classes."""
        return self.class_names[0] if len(self.class_names) == 1 else ALL_CLASSES

    def row(self, metric: str, class_name: str | None = None) -> SummaryRow | None:
        """Return a row of the summary; None where the metric applied to no case."""
        wanted = (self.headline if class_name is None else class_name, metric)
        return next((row for row in self.summary if (row.class_name, row.metric) == wanted), None)

    def mean(self, metric: str, class_name: str | None = None) -> float:
        """Return a mean; NaN where the metric applied to no case."""
        row = self.row(metric, class_name)
        return math.nan if row is None else row.mean

    def heading(self, metric: str) -> str:
        """Return a metric's title with its unit and which way is better."""
        return heading(metric, self.unit, len(self.cases[0].size))

    @property
    def about(self) -> str:
        """Which cases of which data the numbers are about, in one line."""
        text = f"{self.num_cases:,} case{'s' * (self.num_cases != 1)}"
        if self.num_groups is not None:
            text += f" in {self.num_groups:,} group{'s' * (self.num_groups != 1)}"
        here = self.provenance
        part = f"the {here.part} part" if here.part not in ("", "all") else ""
        return " · ".join(filter(None, [text, part, here.reference]))

    @property
    def classes_shown(self) -> list[str]:
        """Rows of the summary by class: the mean of the classes first, where there are several."""
        return [*([ALL_CLASSES] if len(self.class_names) > 1 else []), *self.class_names]

    def summary_cells(self, metrics: Iterable[str] | None = None) -> list[tuple[str, ...]]:
        """Write the summary as text, under `SUMMARY_COLUMNS`; None: of all metrics."""
        wanted = tuple(METRICS if metrics is None else metrics)
        return [
            (
                name,
                self.heading(metric),
                number(row.mean, metric),
                span(row.low, row.high, metric),
                number(row.sd, metric),
                number(row.median, metric),
                f"{row.num_cases:,}",
            )
            for name in self.classes_shown
            for metric in wanted
            if (row := self.row(metric, name)) is not None
        ]

    def __rich__(self) -> Group:
        """Draw the headline scores, what to know before quoting them, and where the report lies."""
        from rich.console import Group

        rows = self.summary_cells(name for name, metric in METRICS.items() if metric.headline)
        notes = [f"note: {text}" for text in self.provenance.caveats]
        if self.folder is not None:
            notes.append(f"report: {self.folder / 'report.html'}")
        table = rich_table(self.provenance.title, SUMMARY_COLUMNS, rows, range(2, 7), about=self.about)
        return Group(table, *rich_notes(notes))
