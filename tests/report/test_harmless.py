"""Names are other people's: on a page, in Markdown, in a spreadsheet and on a terminal they stay text."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from kanscan.drawing.pages import Figure, Section, Table, page
from kanscan.drawing.tables import csv_table, markdown_table, rich_table
from kanscan.drawing.words import csv_text, markdown_text, visible
from kanscan.report import Provenance, Report, assemble, compare_reports, draw_case, judge, write_report

NASTY = (
    "<img src=x onerror=alert(1)>",
    "data[/x]",
    "esc\x1b[31m\x1b]0;owned\x07",
    "bytes\udcff",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1",
    "-1",
    "{{ 7 * 7 }}{% raw %}",
    "$x_{$",
    "a|b\nc",
    "\u202egnp.exe",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Report:
    label = np.zeros((12, 16), np.uint8)
    label[3:8, 4:10] = 1
    names = ("background", NASTY[0])
    judged = [judge(name, label, label, names, group=NASTY[i // 3]) for i, name in enumerate(NASTY)]
    here = Provenance(title=NASTY[2], source=NASTY[3], date="today", reference=NASTY[0], caveats=[NASTY[0], NASTY[3]])
    report = assemble(judged, names, here, samples=0).model_copy(update={"recipe_yaml": f"name: {NASTY[0]}\nseed: 1\n"})
    picture = draw_case(label * 200, label, label)
    return write_report(report, tmp_path_factory.mktemp("out"), [("worst", one.scores, picture) for one in judged])


def test_a_page_shows_names_and_obeys_none(written):
    text = (written.folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "\x1b" not in text and "esc\\x1b[31m" in text and "bytes\\xff" in text
    assert "{{ 7 * 7 }}{% raw %}" in text and "\\u202egnp.exe" in text
    assert "seed: 1" in text.split("<pre>")[1].splitlines()[1]


def test_markdown_shows_names_and_obeys_none(written):
    text = (written.folder / "report.md").read_text(encoding="utf-8")
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "\x1b" not in text and r"a\|b c" in text
    widths = {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("| ---")}
    assert widths == {8, 5, 3}


def test_no_cell_is_a_formula_and_names_stay_apart(written):
    rows = list(csv.reader(io.StringIO((written.folder / "cases.csv").read_text(encoding="utf-8"))))
    assert len({row[0] for row in rows[1:]}) == len(NASTY)
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for row in rows[1:] for cell in row[:3])
    assert {"'=cmd|' /C calc'!A0", "'@SUM(1)", "'+1", "'-1"} <= {row[0] for row in rows[1:]}


def test_numbers_below_zero_stay_numbers():
    assert csv_table(["a", "b"], [[-0.5, None], ["-x", 3]]) == "a,b\n-0.5,\n'-x,3\n"


def test_json_keeps_every_name_as_it_was(written):
    assert [case["id"] for case in json.loads((written.folder / "report.json").read_text())["cases"]] == list(NASTY)
    assert Report.load(written.folder) == written


def test_a_terminal_is_not_steered(written):
    for thing in (written, compare_reports({NASTY[1]: written, NASTY[2]: written})):
        console = Console(file=io.StringIO(), width=400, force_terminal=False)
        console.print(thing)
        said = console.file.getvalue()
        assert "\x1b" not in said and "\x07" not in said and said.encode("utf-8")
    assert "data[/x] " in said and "esc\\x1b[31m" in said


def test_text_of_a_terminal_table_is_no_markup():
    console = Console(file=io.StringIO(), width=100)
    console.print(rich_table("[bold]t[/]", ["[a]"], [["[/x]" + " wide" * 5]], about="[b]"))
    assert all(part in console.file.getvalue() for part in ("[bold]t[/]", "[a]", "[/x]", "[b]"))


def test_words():
    assert visible("plain é 漢字\n\tx") == "plain é 漢字\n\tx"
    assert visible("\x00\x9b\u2028") == "\\x00\\x9b\\u2028"
    assert markdown_text("case_01 _a_ *b* # 1") == r"case_01 \_a\_ \*b\* # 1" and markdown_text("# h") == r"\# h"
    assert csv_text("a=b") == "a=b" and csv_text("\uff1dcmd") == "'\uff1dcmd"
    assert markdown_table(["a|b"], [["1"]], {0}) == "| a\\|b |\n| ---: |\n| 1 |"


def test_the_generic_page_knows_each_part():
    text = page("<t>", "<l>", [Section("<s>", ["<p>", Table(("<c>",), [["<d>"]], {0}), Figure("data:x", "<f>")])])
    assert all(f"&lt;{name}&gt;" in text for name in "tlspcdf")
    assert not any(f"<{name}>" in text for name in "tlscdf") and text.count("<p>") == 1
    assert '<td class="n">' in text and 'src="data:x"' in text


def test_a_picture_outside_of_the_folder_is_refused(written, tmp_path):
    content = json.loads((written.folder / "report.json").read_text())
    content["pictures"][0]["file"] = "../../secret.png"
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is not a report: pictures\.0\.file"):
        Report.load(tmp_path)
