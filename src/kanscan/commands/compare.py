"""`compare`: several runs, and the papers' numbers, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanscan.papers import Claim
    from kanscan.report import Comparison, Report

FORMATS = (".md", ".csv", ".json")


def compare(
    runs: list[str],
    *,
    metric: str = "dice",
    output: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> Comparison:
    """Put evaluated runs and printed numbers into one table, and compare each run with the first, case by case.

    Where two runs were judged on the same cases, the mean difference gets a 95 % interval (groups resampled) and a
    Wilcoxon test, adjusted for the number of comparisons. Runs that differ in seed or split alone are also averaged.

    Args:
        runs: Runs, reports (report.json or its folder), or printed numbers such as u_kan/table1/busi.
        metric: Score that is compared case by case.
        output: File for the table: .md, .csv or .json.
        overwrite: Replace the file if it is there.
        json: Print JSON.

    Returns:
        The comparison (`kanscan.report.Comparison`).

    Raises:
        ValueError: A name, the metric or the file's ending is wrong.
        FileNotFoundError: A run has no report yet.
        FileExistsError: The output is there already.

    Example:
        >>> compare(["runs/ukan", "runs/unet", "u_kan/table1/busi"])  # doctest: +SKIP
    """
    from kanscan.files import write_json, write_text
    from kanscan.metrics import METRICS
    from kanscan.registry import unknown
    from kanscan.report import compare_reports

    if metric not in METRICS:
        raise ValueError(unknown("metric", metric, METRICS))
    if output is not None:
        _demand_output(Path(output), overwrite)
    reports, claims = _gather([runs] if isinstance(runs, str | Path) else list(runs))
    result = compare_reports(reports, claims, metric)
    if output is not None:
        kind = Path(output).suffix.lower()
        if kind == ".json":
            write_json(output, result.to_dict())
        else:
            write_text(output, result.markdown() if kind == ".md" else result.csv())
    return result


def _demand_output(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot write a table to {path}; the name must end in {', '.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; add --overwrite, or choose another --output")


def _gather(items: list[Any]) -> tuple[dict[str, Report], list[Claim]]:
    """Read the reports, and look up what is printed; equal folder names get their parents' name in front."""
    from kanscan.papers import find_claims, paper_names
    from kanscan.report import Report

    paths: list[str] = []
    keys: list[str] = []
    for item in map(str, items):
        is_claim = not Path(item).exists() and item.split("/")[0] in paper_names()
        (keys if is_claim else paths).append(item)
    if not paths:
        raise ValueError("nothing to compare: give at least one run that was evaluated")
    reports: dict[str, Report] = {}
    for item in dict.fromkeys(paths):
        if not Path(item).exists():
            raise FileNotFoundError(f"nothing at {item}; expected a run, a report, or a key such as u_kan/table1/busi")
        name = _short_name(Path(item))
        reports[item if name in reports else name] = Report.load(item)
    return reports, find_claims(keys)


def _short_name(path: Path) -> str:
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    inner = folder.name.startswith("evaluation-")
    return f"{folder.parent.name}/{folder.name}" if inner else folder.name
