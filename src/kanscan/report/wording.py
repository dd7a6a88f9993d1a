"""How facts are put into words, the same for Markdown and HTML."""

from __future__ import annotations

from kanscan.metrics import METRICS, Summary
from kanscan.report.numerals import NONE, number, title
from kanscan.report.schema import CaseScores, LegacyFigure, PrintedFigure, Report

#: Titles of the legacy protocols.
PROTOCOLS = {"batch_pooled": "pooled over batches of 8", "pixel_pooled": "pooled over all pixels"}


def sentence(text: str) -> str:
    """Begin with a capital and end with a stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def method_sentences(report: Report) -> list[str]:
    """Say how the numbers were taken: intervals, NSD, empty masks."""
    resampled = "groups" if report.num_groups is not None else "cases"
    length = "mm" if report.unit == "mm" else "pixels"
    sentences = [
        "Each case is scored at its own size; a mean is the plain mean over cases.",
        f"Intervals: 95 % bootstrap intervals of the mean, whole {resampled} resampled (BCa, percentile where BCa is "
        "undefined). They cover the choice of the cases, not that of training seed or split.",
        f"NSD tolerance: {_tolerances(report)} {length}. Distances are in {length}"
        + ("." if report.unit == "mm" else ", since the files state no spacing."),
        f"Empty masks. {report.empty_rule}",
    ]
    counted = [
        f"{name}: {count} missing from {'both' if where == 'both' else f'the {where} only'}"
        for name, counts in report.missing_counts.items()
        for where, count in counts.items()
    ]
    sentences.append(f"Cases concerned here: {'; '.join(counted) if counted else 'none'}.")
    return sentences


def provenance_facts(report: Report) -> list[tuple[str, str]]:
    """List where the numbers come from, as (name, value); what is not known is left out."""
    here = report.provenance
    sizes = ", ".join(f"{count:,} {part}" for part, count in here.part_sizes.items())
    split = here.split_kind + (f", seed {here.split_seed}" if here.split_seed is not None else "")
    per_case = "" if here.seconds_per_case is None else f"{here.seconds_per_case:.2g} s a case"
    facts = [
        ("Source", here.source),
        ("Data", here.reference),
        ("Recipe", here.recipe),
        ("Network", here.model),
        ("Parameters", "" if here.num_parameters is None else f"{here.num_parameters:,}"),
        ("Weights", here.selection),
        ("Reported part", here.part),
        ("Split", split),
        ("Cases of the parts", sizes),
        ("Groups", here.split_groups),
        ("Digest of the split", here.split_sha256[:16]),
        ("Size the network sees", _size(here.image_size) if here.model else ""),
        ("Flips averaged", ("yes" if here.flips else "no") if here.model else ""),
        ("Device", " · ".join(part for part in (here.device, per_case) if part)),
        ("Date", here.date),
        ("Versions", ", ".join(f"{name} {version}" for name, version in here.versions.items())),
    ]
    return [(name, value) for name, value in facts if value]


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]} (height x width)" if size else "each picture's own"


def environment_facts(report: Report) -> list[tuple[str, str]]:
    """List the environment of the training, as (name, value)."""
    facts = []
    for name, value in report.environment.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None)
        if value not in (None, "", [], {}):
            facts.append((name.replace("_", " ").capitalize(), str(value)))
    return facts


def printed_row(figure: PrintedFigure, report: Report) -> tuple[str, ...]:
    """Write a printed figure and ours as cells: where, what, printed, ours pooled alike, ours per case."""

    def figure_text(value: float | None, sd: float | None = None) -> str:
        if value is None:
            return NONE
        decimals = 2 if figure.unit == "percent" else 3
        return f"{value:.{decimals}f}" + (f" ± {sd:.{decimals}f}" if sd is not None else "")

    unit = " (%)" if figure.unit == "percent" else f" ({figure.unit})" if figure.unit else ""
    return (
        f"{figure.method}, {figure.dataset} ({figure.paper}, {figure.table})",
        title(figure.metric) + unit,
        figure_text(figure.printed, figure.printed_sd),
        figure_text(figure.ours_same_pooling),
        figure_text(figure.ours),
    )


PRINTED_COLUMNS = ("Printed", "Score", "Paper", "Ours, pooled as theirs", "Ours, mean over cases")


def legacy_row(figure: LegacyFigure) -> tuple[str, ...]:
    """Write a pooled score as cells: protocol, class, score, value."""
    return (
        PROTOCOLS[figure.protocol],
        figure.class_name or "all foreground",
        title(figure.metric),
        number(figure.value, "dice"),
    )


LEGACY_COLUMNS = ("Legacy: pooling", "Class", "Score", "Value")


def _tolerances(report: Report) -> str:
    if not report.nsd_tolerances:
        return f"{report.nsd_tolerance:g}"
    return ", ".join(f"{name} {value:g}" for name, value in report.nsd_tolerances.items())


def reliability_sentence(report: Report) -> str:
    """Say how far probabilities are from what turned out to be true."""
    assert report.reliability is not None
    return (
        f"Expected calibration error {report.reliability.error:.3f}, over all pixels of {report.num_cases:,} cases "
        "together: the mean distance between how sure and how right the pixels of a bin are, as the network was "
        "trained, without a temperature."
    )


def agreeing(first: Report, other: Report) -> tuple[str, list[tuple[CaseScores, CaseScores]]]:
    """Pair the cases that have the same name, size and reference; say what does not agree."""
    if first.class_names != other.class_names:
        return f"other classes ({', '.join(other.class_names)}; {', '.join(first.class_names)})", []
    if first.unit != other.unit:
        return f"other units ({other.unit}; {first.unit})", []
    theirs = {case.id: case for case in other.cases}
    common = [(case, theirs[case.id]) for case in first.cases if case.id in theirs]
    same = [(a, b) for a, b in common if a.reference_pixels == b.reference_pixels and a.size == b.size]
    if not common:
        return "they were judged on other cases, so their means cannot be compared directly", []
    parts = []
    if len(common) < max(len(first.cases), len(other.cases)):
        parts.append(f"{len(common)} cases in common of {len(other.cases)} and {len(first.cases)}")
    if len(same) < len(common):
        parts.append(f"{len(common) - len(same)} cases of one name have different references and are left out")
    return "; ".join(parts), same


def verdict(difference: Summary, p_value: float | None, metric: str) -> str:
    """Say what a paired difference is evidence of."""
    if difference.low is None or difference.high is None:
        return "too few groups to tell"
    if difference.low <= 0 <= difference.high:
        return "no evidence of a difference"
    direction = METRICS[metric].direction
    if direction == "zero":
        word = "larger" if difference.mean > 0 else "smaller"
    else:
        word = "better" if (difference.mean > 0) == (direction == "higher") else "worse"
    if p_value is None:
        return f"{word} by the interval, too few groups for a test"
    return word if p_value < 0.05 else f"perhaps {word}: the interval says so, the test does not"
