from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from kanscan.commands.check import check
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.workflows.check import Checked


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten sound pairs of 24 x 32."""
    rng = np.random.default_rng(0)
    for number in range(10):
        save(tmp_path / "set" / "images" / f"c{number}.png", rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        mask = np.zeros((24, 32), np.uint8)
        mask[4:12, 5 : 10 + number] = 255
        save(tmp_path / "set" / "masks" / f"c{number}.png", mask)
    return tmp_path / "set"


def shown(result: Checked) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(result)
    return console.export_text()


def test_a_sound_folder(folder: Path, tmp_path: Path):
    found = check(folder, output=tmp_path / "sheet.png")
    assert (found.reader, found.num_cases, found.num_labelled, found.errors) == ("folder", 10, 10, ())
    assert found.sizes == {"32 x 24": 10} and found.image_modes == {"8-bit RGB": 10}
    assert found.label_modes == {"8-bit gray": 10} and set(found.label_values) == {0, 255}
    pixels = sum(8 * (5 + number) for number in range(10)) / (10 * 24 * 32)
    assert found.classes[1].fraction == pytest.approx(pixels) and found.classes[1].num_cases == 10
    assert found.num_groups is None and not found.duplicates and not found.near_duplicates
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.ndim == 3 and sheet.shape[1] > 1000 and sheet.std() > 10
    assert "ready to train" in shown(found)
    json.dumps(found.to_dict())


def test_every_problem_is_listed_and_none_stops_the_others(folder: Path, tmp_path: Path):
    (folder / "images" / "c0.png").write_bytes(b"no picture")
    (folder / "masks" / "c1.png").write_bytes(b"")
    save(folder / "masks" / "c2.png", np.zeros((20, 30), np.uint8))
    (folder / "images" / "c3.png").unlink()
    tifffile.imwrite(folder / "images" / "c3.tif", np.full((24, 32), np.nan, np.float32))
    (folder / "masks" / "c4.png").unlink()
    save(folder / "masks" / "orphan.png", np.zeros((24, 32), np.uint8))
    found = check(folder, output=tmp_path / "sheets")
    for words in (
        "c0.png: it is not an image",
        "c1.png: the file is empty",
        "c2.png is 30 x 20",
        "NaN",
        "c4.png has no mask",
        "orphan.png has no image",
    ):
        assert sum(words in sentence for sentence in found.errors) == 1, words
    assert len(found.errors) == 6 and found.num_cases == 10 and found.num_labelled == 9
    assert (tmp_path / "sheets" / "contact_sheet.png").is_file()
    assert "6 things to mend" in shown(found)


def test_label_values_outside_a_named_map(folder: Path):
    found = check(folder, ["labels={0: background, 1: cell}"], sheet=False)
    assert len(found.errors) == 10 and "value 255, outside the map {0 = background, 1 = cell}" in found.errors[0]


def test_duplicates_and_leaks_across_subsets(folder: Path, tmp_path: Path):
    root = tmp_path / "parts"
    for subset, numbers in (("train", range(6)), ("test", range(6, 10))):
        for kind in ("images", "masks"):
            (root / subset / kind).mkdir(parents=True)
            for number in numbers:
                data = (folder / kind / f"c{number}.png").read_bytes()
                (root / subset / kind / f"c{number}.png").write_bytes(data)
    (root / "test" / "images" / "c9.png").write_bytes((root / "train" / "images" / "c0.png").read_bytes())
    (root / "train" / "images" / "c2.png").write_bytes((root / "train" / "images" / "c1.png").read_bytes())
    found = check(root, sheet=False)
    assert found.subsets == {"train": 6, "test": 4} and not found.errors
    assert sorted(map(sorted, found.duplicates)) == [["c0", "c9"], ["c1", "c2"]]
    assert any("c0, c9" in w and "different subsets (test and train)" in w for w in found.warnings)
    assert any("c1, c2" in w and "keeps them together" in w for w in found.warnings)


def test_look_alikes_are_reported_unless_a_group_holds_them(tmp_path: Path):
    smooth = np.random.default_rng(5).normal(size=(6, 6)).cumsum(0).repeat(8, 0).repeat(8, 1)
    for number in range(2):
        noisy = 128 + 20 * smooth + number * np.random.default_rng(number).normal(size=smooth.shape)
        save(tmp_path / "images" / f"p1_{number}.png", noisy.clip(0, 255).astype(np.uint8))
        save(tmp_path / "masks" / f"p1_{number}.png", (smooth > 0).astype(np.uint8) * 255)
    assert check(tmp_path, sheet=False).near_duplicates == [("p1_0", "p1_1")]
    assert check(tmp_path, ["group_pattern=^(p[0-9]+)"], sheet=False).near_duplicates == []


def test_multi_class_frequencies_and_a_class_that_never_occurs(tmp_path: Path):
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", np.random.default_rng(number).integers(0, 255, (9, 9), np.uint8))
        mask = np.zeros((9, 9), np.uint8)
        mask[:3], mask[3:6] = 128, 255
        save(tmp_path / "masks" / f"{number}.png", mask)
    found = check(tmp_path, sheet=False)
    assert [c.fraction for c in found.classes] == pytest.approx([1 / 3] * 3) and found.num_grey == 3
    assert "128 = class 1" in found.label_rule
    named = check(tmp_path, ["labels={0: a, 64: b, 128: c, 255: d}"], sheet=False)
    assert any("'b' occurs in no case" in w for w in named.warnings)


def test_masks_that_number_objects_and_masks_that_are_empty(folder: Path, tmp_path: Path):
    for number in range(10):
        save(
            folder / "masks" / f"c{number}.png",
            np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8) // 32,
        )
    assert any("labels=nonzero" in w for w in check(folder, sheet=False).warnings)
    for number in range(10):
        save(folder / "masks" / f"c{number}.png", np.zeros((24, 32), np.uint8))
    found = check(folder, sheet=False)
    assert found.num_empty == 10 and any("every mask is empty" in w for w in found.warnings)


def test_the_default_sheet_never_lands_in_the_data(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert check(folder).sheet == str(tmp_path / "check-set.png")
    monkeypatch.chdir(folder)
    found = check(Path())
    assert found.sheet is None and any("name a place with --output" in note for note in found.notes)
    with pytest.raises(ValueError, match="into the data folder"):
        check(folder, output=folder / "sheet.png")
    assert sorted(folder.rglob("*")) == before


def test_groups_of_generated_data(tmp_path: Path):
    root = write_ultrasound(tmp_path / "us", 6, image_size=(32, 32), normal_every=3)
    found = check(root, sheet=False)
    assert found.num_groups == 3 and found.num_empty == 2 and found.channels == 1
    assert found.classes[1].name == "lesion" and found.classes[1].num_cases == 4


def test_no_data_set_and_wrong_options(folder: Path, tmp_path: Path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="is empty"):
        check(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no data folder at"):
        check(tmp_path / "gone")
    with pytest.raises(ValueError, match="unknown option of reader 'folder' 'lables': did you mean 'labels'"):
        check(folder, ["lables=auto"])
    with pytest.raises(ValueError, match="written key=value"):
        check(folder, ["labels"])
    with pytest.raises(ValueError, match="expected folders benign/"):
        check(folder, reader="busi")
