"""A report as one HTML file that needs nothing else: pictures, charts and style are inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

from PIL import Image

from kanscan.drawing import charts
from kanscan.drawing.images import class_color
from kanscan.drawing.pages import document, table
from kanscan.metrics import METRICS
from kanscan.report.numerals import number, span, title, unit_of
from kanscan.report.schema import HEADLINE_METRICS, Picture, Report
from kanscan.report.wording import (
    CASE_METRICS,
    LEGACY_COLUMNS,
    PRINTED_COLUMNS,
    environment_facts,
    legacy_row,
    method_sentences,
    printed_row,
    provenance_facts,
    reliability_sentence,
)

#: Rows of the plot by group.
_MOST_GROUPS = 30


def html(report: Report, folder: Path) -> str:
    """Draw the page.

    Args:
        report: What to draw.
        folder: Where the files of `report.pictures` lie.
    """
    sections = [
        _head(report),
        _caveats(report),
        _summary(report),
        _pictures(report, folder),
        _distribution(report),
        _reliability(report),
        _curves(report),
        _printed(report),
        _method(report),
        _provenance(report),
        _cases(report),
    ]
    footer = f"<footer>Drawn by kanscan from report.json, {escape(report.provenance.date)}.</footer>"
    return document(report.provenance.title, "\n".join([*filter(None, sections), footer]))


def _head(report: Report) -> str:
    figures = []
    for metric in HEADLINE_METRICS:
        row = report.row(metric)
        if row is None:
            continue
        unit = unit_of(metric, report.unit)
        spread = f"95 % CI {span(row.low, row.high, metric)}" if row.low is not None else "no interval"
        figures.append(
            f'<div class="figure"><span class="name">{escape(title(metric))}</span>'
            f"<b>{number(row.mean, metric)}{f' <small>{unit}</small>' if unit else ''}</b>"
            f'<span class="range">{spread}</span></div>'
        )
    here = report.provenance
    size = "" if here.num_parameters is None else f", {here.num_parameters:,} parameters"
    which = f"Mean of {len(report.class_names)} classes: " if len(report.class_names) > 1 else ""
    which += f"{', '.join(report.class_names)}. " if report.class_names else ""
    return (
        f"<header><h1>{escape(here.title)}</h1>"
        f'<p class="lead">{escape(report.about)}'
        + (f"<br>{escape(here.model + size)}" if here.model else "")
        + f'</p></header>\n<div class="figures">{"".join(figures)}</div>'
        f'\n<p class="small">{escape(which)}Means over cases.</p>'
    )


def _caveats(report: Report) -> str:
    if not report.provenance.caveats:
        return ""
    items = "".join(f"<li>{escape(_sentence(text))}</li>" for text in report.provenance.caveats)
    return f'<aside class="notes"><b>Before quoting a number</b><ul>{items}</ul></aside>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _summary(report: Report) -> str:
    rows: list[str] = []
    for name in report.classes_shown:
        for position, metric in enumerate(metric for metric in METRICS if report.row(metric, name)):
            row = report.row(metric, name)
            assert row is not None
            bar = charts.interval_bar(row.mean, row.low, row.high) if _is_share(metric) else ""
            cells = (
                f"<td>{escape(name) if position == 0 else ''}</td><td>{escape(report.heading(metric))}</td>"
                f'<td class="n"><b>{number(row.mean, metric)}</b></td>'
                f'<td class="n">{span(row.low, row.high, metric)}</td><td>{bar}</td>'
                f'<td class="n">{number(row.sd, metric)}</td><td class="n">{number(row.median, metric)}</td>'
                f'<td class="n">{row.num_cases:,}</td>'
            )
            rows.append(f"<tr{' class=first' if position == 0 and rows else ''}>{cells}</tr>")
    head = (
        '<tr><th>Class</th><th>Score</th><th class="n">Mean</th><th class="n">95 % CI</th><th>0 … 1</th>'
        '<th class="n">SD</th><th class="n">Median</th><th class="n">Cases</th></tr>'
    )
    return (
        f'<h2>Scores</h2>\n<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _is_share(metric: str) -> bool:
    return METRICS[metric].unit == "" and METRICS[metric].better == "higher"


def _pictures(report: Report, folder: Path) -> str:
    if not report.pictures:
        return ""
    keys = "".join(
        f'<span class="key" style="background: rgb{class_color(index)}"></span>{escape(name)}'
        for index, name in enumerate(report.class_names, start=1)
    )
    panels = "the image, the prediction with the outline of the reference in yellow, the reference"
    named = panels if report.provenance.has_images else panels.removeprefix("the image, ")
    parts = [
        f'<h2>Cases worth a look</h2>\n<p class="small">Best, median and worst by Dice. Left to right: {named}.</p>'
        f'<p class="small keys">{keys}</p>'
    ]
    for kind in ("best", "median", "worst"):
        shown = [picture for picture in report.pictures if picture.kind == kind]
        if shown:
            figures = "".join(_picture(picture, report, folder) for picture in shown)
            parts.append(f'<h3>{kind.capitalize()}</h3>\n<div class="cases">{figures}</div>')
    return "\n".join(parts)


def _picture(picture: Picture, report: Report, folder: Path) -> str:
    data = base64.b64encode(_compact(folder / picture.file)).decode("ascii")
    case = next(case for case in report.cases if case.id == picture.case)
    group = f" · group {escape(case.group)}" if case.group and case.group != case.id else ""
    scores = " · ".join(f"{title(m)} {number(case.value(m), m)}" for m in ("dice", "iou", "hd95"))
    alt = f"{picture.kind} case {picture.case}, Dice {number(picture.score, 'dice')}"
    return (
        f"<figure><figcaption><span><b>{escape(picture.case)}</b>{group}</span><span>{scores}</span></figcaption>"
        f'<img src="data:image/webp;base64,{data}" alt="{escape(alt)}"></figure>'
    )


def _compact(path: Path) -> bytes:
    """Encode a picture anew for the page: a quarter of the bytes, no visible difference."""
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.save(buffer, format="WEBP", quality=88, method=2)
    return buffer.getvalue()


def _distribution(report: Report) -> str:
    drawn = []
    for name in report.class_names:
        values = [v for case in report.cases if (v := case.value("dice", name)) == v]
        chart = charts.histogram(values, title=f"Dice of {name}")
        if chart:
            worst = min(values)
            below = sum(value < 0.5 for value in values)
            caption = f"{len(values):,} cases; lowest {number(worst, 'dice')}; {below:,} below 0.5"
            drawn.append(f"<figure>{chart}<figcaption>{caption}</figcaption></figure>")
    grouped = _by_group(report)
    if drawn and grouped:
        drawn.append(f"<figure>{grouped}<figcaption>Each dot a case, the stroke its group's mean</figcaption></figure>")
    return f'<h2>Case by case</h2>\n<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _reliability(report: Report) -> str:
    found = report.reliability
    if found is None:
        return ""
    known = [
        (sure, right, n)
        for sure, right, n in zip(found.confidence, found.accuracy, found.count, strict=True)
        if sure is not None
    ]
    # From 0 to 1, so that the ideal is the diagonal.
    sure = [0.0, *(one for one, _, _ in known), 1.0]
    right = [None, *(one for _, one, _ in known), None]
    lines = [charts.Series("share that is right", right), charts.Series("ideal", sure, 3)]
    label = "probability of the chosen class"
    chart = charts.line_chart(lines, sure, title="Reliability", x_label=label, y_range=(0.0, 1.0))
    most = 100 * known[-1][2] / max(1, sum(found.count))
    return (
        f'<h2>Reliability</h2>\n<div class="charts"><figure>{chart}<figcaption>{escape(reliability_sentence(report))} '
        f"{most:.0f}% of the pixels are in the last of {len(found.count)} bins.</figcaption></figure></div>"
    )


def _by_group(report: Report) -> str:
    """Show which groups are hard: a row each, the best on top; the hardest ones where there are too many."""
    groups: dict[str, list[float]] = {}
    for case in report.cases:
        value = case.value("dice")
        if case.group is not None and value == value:
            groups.setdefault(case.group, []).append(value)
    # Where most groups are single cases, the rows would only repeat the histogram.
    if len(groups) < 2 or len(groups) > len(report.cases) / 2:
        return ""
    ranked = sorted(groups.items(), key=lambda item: (-sum(item[1]) / len(item[1]), item[0]))
    hardest = f" ({_MOST_GROUPS} hardest of {len(ranked)} groups)" if len(ranked) > _MOST_GROUPS else ""
    return charts.strip_plot(ranked[-_MOST_GROUPS:], title=f"Dice by group{hardest}")


def _curves(report: Report) -> str:
    columns = report.curves
    epochs = [e for e in columns.get("epoch", []) if e is not None]
    if not epochs:
        return ""

    def lines(*names: tuple[str, str]) -> list[charts.Series]:
        return [
            charts.Series(text, columns[column], color)
            for color, (column, text) in enumerate(names, start=1)
            if any(value is not None for value in columns.get(column, []))
        ]

    mark, label = report.provenance.epoch, f"epoch {report.provenance.epoch} kept"
    loss = charts.line_chart(
        lines(("train_loss", "training"), ("val_loss", "validation")),
        epochs,
        title="Loss over epochs",
        mark=mark,
        mark_label=label,
    )
    scores = charts.line_chart(
        lines(("val_dice", "Dice"), ("val_iou", "IoU")),
        epochs,
        title="Validation scores over epochs",
        y_range=(0.0, 1.0),
        mark=mark,
        mark_label=label,
    )
    drawn = [
        f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"
        for chart, caption in ((loss, "Loss"), (scores, "Scores of the validation cases, at the size the network sees"))
        if chart
    ]
    return f'<h2>Training</h2>\n<div class="charts">{"".join(drawn)}</div>'


def _printed(report: Report) -> str:
    parts = []
    if report.printed:
        rows = [printed_row(figure, report) for figure in report.printed]
        parts.append("<h2>Beside the paper</h2>\n" + table(PRINTED_COLUMNS, rows, numeric=(2, 3, 4)))
        notes = dict.fromkeys(filter(None, (figure.note for figure in report.printed)))
        parts += [f'<p class="small">{escape(_sentence(note))}</p>' for note in notes]
        if report.differences:
            items = "".join(f"<li>{escape(text)}</li>" for text in report.differences)
            parts.append(f'<p class="small">What differs from the printed run:</p><ul class="small">{items}</ul>')
    if report.legacy:
        parts.append("<h2>Legacy figures, pooled as the papers&rsquo; code pools</h2>")
        parts.append(f'<p class="small">For comparison with printed numbers only. {escape(report.legacy_note)}</p>')
        shown = [f for f in report.legacy if f.metric in ("iou", "f1", "dice")]
        parts.append(table(LEGACY_COLUMNS, [legacy_row(f) for f in shown], numeric=(3,)))
    return "\n".join(parts)


def _method(report: Report) -> str:
    sentences = "".join(f"<p>{escape(text)}</p>" for text in method_sentences(report))
    definitions = [
        (facts.title, facts.definition)
        for metric, facts in METRICS.items()
        if any(r.metric == metric for r in report.summary)
    ]
    return (
        f"<h2>How the numbers were taken</h2>\n{sentences}"
        f"<details><summary>Definitions</summary>{_facts(definitions)}</details>"
    )


def _provenance(report: Report) -> str:
    parts = [f"<h2>Where the numbers come from</h2>\n{_facts(provenance_facts(report))}"]
    environment = environment_facts(report)
    if environment:
        parts.append(f"<details><summary>Environment of the training</summary>{_facts(environment)}</details>")
    if report.recipe_yaml:
        parts.append(f"<details><summary>Recipe</summary><pre>{escape(report.recipe_yaml)}</pre></details>")
    return "\n".join(parts)


def _cases(report: Report) -> str:
    groups = any(case.group and case.group != case.id for case in report.cases)
    several = len(report.class_names) > 1
    heads = ["<th>Case</th>", *(["<th>Group</th>"] if groups else []), *(["<th>Class</th>"] if several else [])]
    heads += [f'<th class="n">{escape(report.heading(metric))}</th>' for metric in CASE_METRICS]
    heads.append("<th>No pixel in</th>")
    rows = []
    for case in report.cases:
        for name in report.class_names:
            cells = [f"<td>{escape(case.id)}</td>"]
            cells += [f"<td>{escape(case.group or '')}</td>"] if groups else []
            cells += [f"<td>{escape(name)}</td>"] if several else []
            for metric in CASE_METRICS:
                value = case.scores[name].get(metric)
                raw = "" if value is None else f"{value:.6g}"
                cells.append(f'<td class="n" data-value="{raw}">{number(value, metric)}</td>')
            cells.append(f"<td>{escape(case.missing[name])}</td>")
            rows.append(f"<tr>{''.join(cells)}</tr>")
    listing = f'<table class="sortable"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    opened = " open" if len(rows) <= 30 else ""
    return (
        f"<h2>All cases</h2>\n<details{opened}><summary>{len(report.cases):,} cases; click a heading to sort; the same "
        f'table is in cases.csv</summary><div class="scroll">{listing}</div></details>'
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'
