from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from commands.made import make_data, make_run, picture
from kanscan.commands.evaluate import evaluate
from kanscan.commands.predict import predict
from kanscan.data.pictures.search import find_pictures
from kanscan.files import read_json, write_json
from kanscan.run.lock import locked
from kanscan.workflows.predict import stored_values


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that has moved to another place, its data deleted."""
    made = make_run(tmp_path / "made" / "run", make_data(tmp_path / "data"), monkeypatch)
    shutil.copytree(tmp_path / "data" / "images", tmp_path / "images")
    shutil.copytree(tmp_path / "data" / "masks", tmp_path / "masks")
    shutil.rmtree(tmp_path / "data")
    return shutil.move(made.path, tmp_path / "moved")


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_moved_run_without_its_data_predicts_a_folder(run, tmp_path):
    done = predict(run, [tmp_path / "images"], output=tmp_path / "out")
    assert len(done.files) == 16 and not done.errors
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in (tmp_path / "images").iterdir()
    )
    for path in done.files:
        image = pixels(tmp_path / "images" / path.name)
        # 45 x 70 and 51 x 70 are no multiples of the stride 8.
        assert pixels(path).shape == image.shape[:2] and pixels(path).dtype == np.uint8
        np.testing.assert_array_equal(pixels(path) == 255, image.mean(-1) > 127.5)
        assert set(np.unique(pixels(path))) == {0, 255}
    assert done.values == {"background": 0, "foreground": 255}


def test_what_predict_writes_evaluate_reads(run, tmp_path):
    predict(run, [tmp_path / "images"], output=tmp_path / "out", overlays=True)
    assert evaluate(tmp_path / "out", tmp_path / "masks").num_cases == 16


def test_a_file_many_files_a_pattern(run, tmp_path):
    one, two = tmp_path / "images" / "p00_v0.png", tmp_path / "images" / "p01_v0.png"
    assert predict(run, one, output=tmp_path / "a").files == (tmp_path / "a" / "p00_v0.png",)
    assert len(predict(run, [str(one), two], output=tmp_path / "b").files) == 2
    assert len(predict(run, [tmp_path / "images" / "*_v1.png"], output=tmp_path / "c").files) == 8
    found, notes = find_pictures([one, one])
    assert [case.images for case in found] == [(one,)] and notes == []


def test_grey_rgba_and_16_bit_pictures(run, tmp_path):
    image, label = picture(33, 50, 5)
    grey = image.mean(-1).astype(np.uint8)
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([image, np.full(grey.shape, 255, np.uint8)])).save(folder / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(image).save(folder / "color.bmp")
    Image.fromarray(image).save(folder / "color2.tif")
    done = predict(run, [folder], output=tmp_path / "out")
    assert len(done.files) == 5 and not done.errors
    for path in done.files:
        np.testing.assert_array_equal(pixels(path) > 0, label > 0)


def test_masks_beside_their_pictures_are_left_out(run, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("a.png", "a_mask.png", "a_mask_1.png", "b.png", "lone_mask.png"):
        shutil.copy(tmp_path / "images" / "p00_v0.png", folder / name)
    done = predict(run, folder, output=tmp_path / "out")
    assert [path.name for path in done.files] == ["a.png", "b.png", "lone_mask.png"]
    assert "2 files" in done.notes[0] and "a_mask.png" in done.__rich__()
    # What is named as a file is taken at its word.
    assert len(predict(run, folder / "a_mask.png", output=tmp_path / "out").files) == 1


def test_overlays_and_probabilities(run, tmp_path):
    source = tmp_path / "images" / "p02_v1.png"
    predict(run, source, output=tmp_path / "out", overlays=True, probabilities=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "p02_v1.png",
        "p02_v1_overlay.png",
        "p02_v1_probabilities.npz",
    ]
    assert pixels(tmp_path / "out" / "p02_v1_overlay.png").shape == (51, 70, 3)
    with np.load(tmp_path / "out" / "p02_v1_probabilities.npz") as content:
        assert list(content["names"]) == ["background", "foreground"]
        assert content["probabilities"].shape == (2, 51, 70)
        np.testing.assert_array_equal(content["probabilities"][1] > 0.5, pixels(tmp_path / "out" / "p02_v1.png") > 0)


def test_values_of_the_label_map_or_indices(run, tmp_path):
    source = tmp_path / "images" / "p00_v0.png"
    done = predict(run, source, output=tmp_path / "indices", values="indices")
    assert done.values == {"background": 0, "foreground": 1}
    assert set(np.unique(pixels(done.files[0]))) == {0, 1}
    facts = read_json(run / "run.json")
    facts["label_map"] = {"names": ["a", "b"], "rule": "values", "values": {"3": 0, "128": 1}, "snap": False}
    write_json(run / "run.json", facts)
    assert set(np.unique(pixels(predict(run, source, output=tmp_path / "listed").files[0]))) == {3, 128}
    assert stored_values(None, 3) == [0, 1, 2] and stored_values(None, 2) == [0, 255]


def test_what_cannot_be_read_is_told_at_the_end_and_the_others_go_on(run, tmp_path):
    folder = tmp_path / "images"
    (folder / "a_broken.png").write_bytes(b"no picture")
    (folder / "b_empty.png").write_bytes(b"")
    np.save(folder / "c_nan.npy", np.full((20, 20), np.nan, np.float32))
    np.save(folder / "d_channels.npy", np.zeros((20, 20, 7), np.uint8))
    done = predict(run, [folder], output=tmp_path / "out")
    assert len(done.files) == 16 and len(done.errors) == 4
    for text, name, said in zip(
        done.errors,
        ("a_broken.png", "b_empty.png", "c_nan.npy", "d_channels.npy"),
        ("damaged", "0 bytes", "NaN", "7 channels"),
        strict=True,
    ):
        assert name in text and said in text and "\n" not in text
    failed = (tmp_path / "out" / "failures.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in failed] == ["case", "a_broken", "b_empty", "c_nan", "d_channels"]
    assert len(list((tmp_path / "out").iterdir())) == 16 + 1
    assert "4 of 20 pictures" in done.__rich__()


def test_a_wrong_channel_count_is_told_with_the_file(run, tmp_path, monkeypatch):
    from kanscan.inference import picture_files

    monkeypatch.setattr(picture_files, "read_case_image", lambda case: np.zeros((20, 20, 5), np.uint8))
    done = predict(run, [tmp_path / "images" / "p00_v0.png"], output=tmp_path / "out")
    assert "p00_v0.png: the image has 5 channels, the network takes 3" in done.errors[0]


def test_nothing_is_overwritten_unless_asked(run, tmp_path):
    source = tmp_path / "images"
    first = predict(run, source / "p00_v0.png", output=tmp_path / "out").files[0]
    first.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"already holds 1 of the files to write, first p00_v0\.png"):
        predict(run, source, output=tmp_path / "out")
    assert first.read_bytes() == b"mine" and len(list((tmp_path / "out").iterdir())) == 1
    predict(run, source, output=tmp_path / "out", overwrite=True)
    assert first.read_bytes() != b"mine"
    with pytest.raises(ValueError, match="would replace the image"):
        predict(run, source, output=source, overwrite=True)


def test_bad_calls_are_one_sentence(run, tmp_path):
    empty = tmp_path / "empty"
    (empty / "inner").mkdir(parents=True)
    twin = tmp_path / "twin"
    twin.mkdir()
    shutil.copy(tmp_path / "images" / "p00_v0.png", twin / "p00_v0.bmp")
    file = tmp_path / "file"
    file.write_text("")
    image = tmp_path / "images" / "p00_v0.png"
    for arguments, kind, said in [
        ({"run": tmp_path / "none", "images": [image]}, ValueError, "is not a run"),
        ({"run": run, "images": [tmp_path / "none.png"]}, FileNotFoundError, "no image or folder at"),
        ({"run": run, "images": [empty]}, ValueError, "or the folders inside it"),
        ({"run": run, "images": []}, ValueError, "no picture was named"),
        ({"run": run, "images": [image, twin]}, ValueError, "would both become"),
        ({"run": run, "images": [image], "output": file}, NotADirectoryError, "is a file"),
        ({"run": run, "images": [image], "output": file / "deeper"}, NotADirectoryError, "is a file"),
        ({"run": run, "images": [image], "values": "index"}, ValueError, "did you mean 'indices'"),
        ({"run": run, "images": [image], "device": "gpu"}, ValueError, "unknown device"),
    ]:
        with pytest.raises(kind, match=said) as caught:
            predict(**{"output": tmp_path / "out"} | arguments)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_without_weights_says_so(run, tmp_path):
    (run / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights yet"):
        predict(run, [tmp_path / "images"], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_another_process_writes_is_refused(run, tmp_path):
    with locked(tmp_path / "out", "prediction"), pytest.raises(ValueError, match=r"prediction is under way in .*out"):
        predict(run, [tmp_path / "images"], output=tmp_path / "out")
    with locked(tmp_path / "out", "prediction-1of2"):
        with pytest.raises(ValueError, match="prediction-1of2 is under way"):
            predict(run, [tmp_path / "images"], output=tmp_path / "out", shard="1/2")
        assert predict(run, [tmp_path / "images"], output=tmp_path / "out", shard="2/2").files
