from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from kanscan.config.recipe import Recipe
from kanscan.drawing.charts import Series, histogram, inline_svg, line_chart, reliability_diagram, strip_plot
from kanscan.metrics import reliability_of
from kanscan.report import (
    Provenance,
    Report,
    add_printed,
    assemble,
    draw_again,
    draw_case,
    judge,
    worth_a_look,
    write_report,
)
from kanscan.report.numerals import heading, number, span, unit_of
from kanscan.report.pictures import SHEET_SIZE

NAMES = ("background", "<lesion>")


def label(width: int) -> np.ndarray:
    found = np.zeros((24, 40), np.uint8)
    found[6:16, 5 : 5 + width] = 1
    return found


@pytest.fixture
def report() -> Report:
    judged = [judge(f"p{i}/view 1", label(20 - i), label(20), NAMES, group=f"p{i // 2}") for i in range(12)]
    recipe = Recipe(name="ukan-busi", claims=("u_kan/table1/busi",))
    here = Provenance(
        title="ukan-busi on <BUSI>",
        source="run",
        reference="<BUSI>",
        recipe="ukan-busi",
        model="ukan, channels 128-160-256",
        num_parameters=6356689,
        part="test",
        split_kind="group",
        split_seed=2981,
        split_groups="12 cases in 6 groups of 2 to 2",
        part_sizes={"train": 40, "validation": 6, "test": 12},
        selection="epoch 3 of 4, the best Dice of the validation cases (0.700)",
        epoch=3,
        image_size=(256, 256),
        date="2026-11-21",
        caveats=["the test part also chose the epoch"],
    )
    curves = {
        "epoch": [1.0, 2.0, 3.0, 4.0],
        "train_loss": [1.0, 0.8, 0.6, 0.5],
        "val_loss": [1.1, None, 0.7, 0.8],
        "val_dice": [0.1, None, 0.7, 0.6],
        "val_iou": [None, None, None, None],
    }
    report = assemble(judged, NAMES, here, samples=200)
    report = report.model_copy(
        update={"curves": curves, "recipe_yaml": recipe.to_yaml(), "environment": {"x": {"y": 1}}}
    )
    return add_printed(report, recipe.model_dump(mode="json"))


@pytest.fixture
def written(report, tmp_path) -> Report:
    image = np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8)
    chosen = worth_a_look(report.cases, each=1)
    return write_report(report, tmp_path / "out", [(k, c, draw_case(image, label(9), label(20))) for k, c in chosen])


class Page(HTMLParser):
    """Notes tags left open, and everything the page would fetch."""

    SINGLE = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.fetched += [values[name] for name in ("src", "href", "data", "srcset") if name in values]
        if tag not in self.SINGLE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.SINGLE:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def test_the_page_needs_nothing_else(written):
    text = (written.folder / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert len(page.fetched) == 3 and all(item.startswith("data:image/webp;base64,") for item in page.fetched)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    # Names from users' files are shown, not obeyed.
    assert "<lesion>" in "".join(page.text) and "<lesion>" not in text


def test_the_page_says_what_must_be_said(written):
    words = " ".join("".join(Page((written.folder / "report.html").read_text()).text).split())
    for said in (
        "12 cases in 6 groups · the test part · <BUSI>",
        "6,356,689 parameters",
        "Before quoting a number",
        "The test part also chose the epoch.",
        "Best, median and worst by Dice",
        "epoch 3 kept",
        "63.38",
        "Ours, pooled as theirs",
        "What differs from the printed run",
        "Legacy figures",
        "whole groups resampled",
        "A class missing from both prediction and reference is not applicable",
        "Cases concerned here: none",
        "12 cases in 6 groups of 2 to 2",
        "Each dot a case, the stroke its group's mean",
        "40 train, 6 validation, 12 test",
        "NSD tolerance: 2 pixels",
        "p11/view 1",
    ):
        assert said in words, said
    assert "prefers-color-scheme: dark" in (written.folder / "report.html").read_text()


def test_markdown_holds_the_same(written):
    text = (written.folder / "report.md").read_text()
    assert "| U-KAN, busi (u_kan, table1) | IoU (%) | 63.38 ± 2.83 |" in text
    assert "- the test part also chose the epoch" in text
    for link in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (written.folder / link).is_file()
    assert len(re.findall(r"!\[", text)) == 3


def test_json_is_the_report(written):
    again = Report.load(written.folder)
    assert again == written and again.folder == written.folder
    assert again.printed[0].printed == 63.38
    pooled = next(f.value for f in again.legacy if (f.protocol, f.metric) == ("batch_pooled", "iou"))
    assert again.printed[0].ours_same_pooling == pytest.approx(100 * pooled)
    assert again.printed[0].ours == pytest.approx(100 * again.mean("iou"))


def test_the_other_forms_can_be_drawn_from_json(written):
    before = {name: (written.folder / name).read_bytes() for name in ("report.html", "report.md", "cases.csv")}
    for name in before:
        (written.folder / name).unlink()
    draw_again(written.folder)
    assert before == {name: (written.folder / name).read_bytes() for name in before}


def test_writing_again_replaces_pictures_and_keeps_what_is_not_ours(written, report):
    mine = written.folder / "pictures" / "mine.png"
    mine.write_bytes(b"mine")
    write_report(report, written.folder)
    assert [path.name for path in (written.folder / "pictures").iterdir()] == ["mine.png"]
    assert Report.load(written.folder).pictures == []


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (None, FileNotFoundError, "write one with: kanscan evaluate"),
        ("{", ValueError, "not valid JSON"),
        ("[]", ValueError, "report format None"),
        ('{"format_version": 99}', ValueError, "report format 99, this kanscan reads 1"),
        ('{"format_version": 1}', ValueError, "is not a report: provenance"),
    ],
)
def test_what_is_no_report_is_one_sentence(tmp_path, content, kind, said):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(kind, match=said) as caught:
        Report.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(24, 40), (400, 100), (90, 900)])
def test_panels_fit_and_gaps_are_transparent(size):
    image = np.full(size, 100, np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[5:20, 5:20] = 1
    sheet = draw_case(image, mask, mask)
    width = (sheet.shape[1] - 16) // 3
    # As wide as the page, unless the picture is very high.
    assert abs(sheet.shape[1] - SHEET_SIZE[0]) <= 3 or sheet.shape[0] == SHEET_SIZE[1]
    assert sheet.shape[1] <= SHEET_SIZE[0] + 2 and sheet.shape[0] <= SHEET_SIZE[1]
    assert width / sheet.shape[0] == pytest.approx(size[1] / size[0], rel=0.05)
    assert (sheet[:, width : width + 8, 3] == 0).all() and (sheet[:, :width, 3] == 255).all()
    assert (sheet[:, :width, :3] == 100).all() and not (sheet[:, width + 8 : 2 * width + 8, :3] == 100).all()
    assert draw_case(None, mask, mask).shape[1] <= SHEET_SIZE[0] + 2


def test_only_differences_are_called_so(report):
    assert not any("image size" in text for text in report.differences)
    assert any("epochs" in text or "split" in text for text in report.differences)


def test_numbers():
    assert number(0.81249, "dice") == "0.812" and number(-0.00001, "relative_size_error") == "0.000"
    assert number(1234.56, "hd95") == "1,234.6" and number(-20.4, "size_error") == "\N{MINUS SIGN}20"
    assert number(None, "dice") == number(float("nan"), "dice") == span(None, 1.0, "dice") == "\N{EN DASH}"
    assert unit_of("hd95", "pixels") == "px" and unit_of("size_error", "mm", 3) == "mm³" and unit_of("dice", "mm") == ""
    assert heading("hd95", "mm") == "HD95 (mm) ↓"


def drawn(figure) -> Page:
    return Page(str(inline_svg(figure, "t")))


def test_charts_take_what_comes():
    assert histogram([], label="t") is None and line_chart([Series("a", [None])], [1]) is None
    assert "mean 1.000" in drawn(histogram([1.0], label="t")).text
    single = line_chart([Series("a", [0.5])], [1], mark=(1, "here"))
    assert "here" in drawn(single).text
    gap = line_chart([Series("a", [1.0, None, 3.0])], [1, 2, 3])
    assert gap.axes[0].lines[0].get_xydata().tolist() == [[1, 1], [3, 3]]
    odd = line_chart([Series("a", [1.0, float("nan"), float("inf")])], [1, 2, 3])
    assert len(odd.axes[0].lines[0].get_xydata()) == 1
    rows = strip_plot({"<a> $x_$": [0.25, 0.75], "b": [1.0]}, label="t")
    assert [len(line.get_xdata()) for line in rows.axes[0].lines] == [2, 1, 1, 1]
    assert "<a> $x_$" in drawn(rows).text and "<a>" not in inline_svg(rows, "t")


def test_a_diagram_shows_where_the_network_is_sure_and_how_often_right():
    found = reliability_of([(np.array([[0.3, 0.1, 0.1], [0.7, 0.9, 0.9]]), np.array([1, 1, 0]))], bins=10)
    axes = reliability_diagram({"as trained": found}, "voxels").axes[0]
    assert axes.lines[1].get_xydata() == pytest.approx(np.array([[0.7, 1.0], [0.9, 0.5]]))
    assert "ECE" in axes.get_legend().get_texts()[0].get_text() and "voxels" in axes.get_ylabel()


def test_drawings_follow_the_page_and_are_the_same_each_time():
    text = str(inline_svg(histogram([0.2, 0.4], label="t"), 'a "b" <c>'))
    assert text == str(inline_svg(histogram([0.2, 0.4], label="t"), 'a "b" <c>'))
    assert "var(--c2)" in text and "#b4602b" not in text and "#ffffff" not in text
    assert "<c>" not in text and "http" not in text
    Page(text)


def test_pictures_on_disk_are_png(written):
    for picture in written.pictures:
        with Image.open(written.folder / picture.file) as image:
            assert image.format == "PNG" and image.mode == "RGBA"
    assert json.loads((written.folder / "report.json").read_text())["pictures"][0]["kind"] == "best"
