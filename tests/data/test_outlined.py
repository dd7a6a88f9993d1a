"""Labels that annotation tools write as outlines, and layouts with many files or arrays a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kanscan.data import open_folder
from kanscan.data.examination import examine
from kanscan.data.outlines import Outlines, Polygon, Runs
from kanscan.data.pictures.drawing_outlines import coco_counts, draw_outlines, expand_runs, label_studio_mask
from kanscan.data.pictures.labels import read_pair
from kanscan.data.splits import make_split
from kanscan.metrics import IGNORED

HEIGHT, WIDTH = 24, 32
#: A rectangle from (4, 6) to (20, 18): 16 x 12 pixels.
CORNERS = [(4, 6), (20, 6), (20, 18), (4, 18)]


def rectangle() -> np.ndarray:
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[6:18, 4:20] = 1
    return label


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(path)
    return path


def check(root: Path, key: str, classes: tuple[str, ...], **options: object) -> dict[str, np.ndarray]:
    """Open a folder, see that all can be trained on, and give its labels."""
    opened = open_folder(root, options=options)
    assert opened.reader.key == key and opened.label_map.names == ("background", *classes)
    facts = [examine(case, opened.label_map) for case in opened.cases]
    assert not [error for one in facts for error in one.errors] and not opened.survey.problems
    return {case.id: read_pair(case, opened.label_map)[1] for case in opened.cases}


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """The middles of the pixels decide; rounded shares may move one line of them."""
    return bool((found != expected).sum() <= 16)


def coco(root: Path, annotations: list[dict], **more: object) -> Path:
    images = [{"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]
    categories = [{"id": 5, "name": "organ"}, {"id": 3, "name": "tumor"}]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories} | more
    (root / "annotations" / "instances_default.json").write_text(json.dumps(content))
    picture(root / "images" / "a.jpg")
    return root


def test_coco_polygons_and_runs(tmp_path: Path):
    flat = [float(number) for corner in CORNERS for number in corner]
    counts = []
    for column in rectangle().T.ravel():
        counts += [[int(column), 0]] if not counts or counts[-1][0] != column else []
        counts[-1][1] += 1
    lengths = [length for _, length in counts]
    for name, segmentation in (("p", [flat]), ("r", {"counts": lengths, "size": [HEIGHT, WIDTH]})):
        root = coco(tmp_path / name, [{"image_id": 7, "category_id": 5, "segmentation": segmentation}])
        assert close(check(root, "coco", ("organ",))["a"], rectangle())
    # Two classes are numbered as the categories are, and later shapes lie over earlier ones.
    inner = [[8.0, 8.0, 14.0, 8.0, 14.0, 14.0, 8.0, 14.0]]
    both = [{"image_id": 7, "category_id": c, "segmentation": s} for c, s in ((5, [flat]), (3, inner))]
    label = check(coco(tmp_path / "two", both), "coco", ("tumor", "organ"))["a"]
    assert label[11, 11] == 1 and label[7, 6] == 2
    only = check(coco(tmp_path / "one", both), "coco", ("organ",), names=["organ"])["a"]
    assert only[11, 11] == 1


def test_the_compressed_runs_of_coco():
    # 5 x 4, worked by hand: lengths 6, 2, 3, 2, 7, from the third on as difference to the one before the last.
    assert coco_counts("623O4") == (6, 2, 3, 1, 7)
    with pytest.raises(ValueError, match="cut off"):
        coco_counts("P")
    mask = expand_runs(Runs(1, (6, 2, 12), (4, 5)))
    assert np.argwhere(mask).tolist() == [[2, 1], [3, 1]]
    with pytest.raises(ValueError, match="holds 3 pixels, expected 5 x 4"):
        expand_runs(Runs(1, (1, 2), (4, 5)))


def test_coco_files_that_lie(tmp_path: Path):
    outside = [{"id": 7, "file_name": "../../secret.png", "width": WIDTH, "height": HEIGHT}]
    good = [{"id": 8, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]
    annotations = [{"image_id": 8, "category_id": 5, "segmentation": [[1, 1, 9, 1, 9, 9]]}]
    opened = open_folder(coco(tmp_path / "x", annotations, images=outside + good))
    assert len(opened.cases) == 1 and "lies outside the data set" in opened.survey.problems[0]
    short = [{"image_id": 7, "category_id": 5, "segmentation": {"counts": [3], "size": [HEIGHT, WIDTH]}}]
    opened = open_folder(coco(tmp_path / "y", short))
    assert "a mask of runs holds 3 pixels" in examine(opened.cases[0], opened.label_map).errors[0]
    deep = tmp_path / "z" / "annotations"
    deep.mkdir(parents=True)
    (deep / "instances.json").write_text("[" * 100_000)
    picture(tmp_path / "z" / "images" / "a.jpg")
    with pytest.raises(ValueError, match=r"no layout that is known|no pictures"):
        open_folder(tmp_path / "z")


def test_yolo_polygons_with_published_parts(tmp_path: Path):
    line = "0 " + " ".join(f"{x / WIDTH:.5f} {y / HEIGHT:.5f}" for x, y in CORNERS)
    for part, names in (("train", "abc"), ("valid", "de")):
        for name in names:
            picture(tmp_path / part / "images" / f"{name}.jpg", ord(name))
            (tmp_path / part / "labels").mkdir(exist_ok=True)
            (tmp_path / part / "labels" / f"{name}.txt").write_text(line)
    (tmp_path / "data.yaml").write_text("names: [lesion]\n")
    labels = check(tmp_path, "yolo", ("lesion",))
    assert len(labels) == 5 and all(close(label, rectangle()) for label in labels.values())
    split = make_split(open_folder(tmp_path).cases)
    assert split.kind == "folders" and set(split.test) == {"d", "e"}
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert "it holds boxes, not outlines" in open_folder(tmp_path).survey.problems[0]


def test_labelme_shapes(tmp_path: Path):
    def write(name: str, shapes: list[dict]) -> None:
        picture(tmp_path / f"{name}.jpg", ord(name))
        content = {"imagePath": f"{name}.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
        (tmp_path / f"{name}.json").write_text(json.dumps({"version": "5.4.1", **content}))

    box = {"label": "lesion", "points": [CORNERS[0], CORNERS[2]], "shape_type": "rectangle"}
    write("a", [{"label": "lesion", "points": CORNERS, "shape_type": "polygon"}])
    write("b", [box])
    write("c", [{"label": "lesion", "points": [(16, 12), (16, 17)], "shape_type": "circle"}])
    write("d", [])
    labels = check(tmp_path, "labelme", ("lesion",))
    assert close(labels["a"], rectangle()) and close(labels["b"], rectangle()) and not labels["d"].any()
    assert abs(int(labels["c"].sum()) - np.pi * 25) < 4
    write("e", [box, {"label": "__ignore__", "points": [(0, 0), (5, 5)], "shape_type": "rectangle"}])
    label = check(tmp_path, "labelme", ("lesion",))["e"]
    assert label[1, 1] == IGNORED and label[12, 12] == 1


def pack_brush(mask: np.ndarray) -> list[int]:
    """Write a mask as the tool does: literal runs of at most eight RGBA values."""
    values = np.repeat((mask.ravel() * 255)[:, None], 4, axis=1).ravel()
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{n:04b}" for n in (2, 7, 11, 15))
    for k in range(0, len(values), 8):
        part = values[k : k + 8]
        if (part == part[0]).all():
            bits += "1" + "00" + f"{len(part) - 1:03b}" + f"{part[0]:08b}"
        else:
            bits += "0" + "00" + f"{len(part) - 1:03b}" + "".join(f"{v:08b}" for v in part)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def test_label_studio_brush_strokes_and_polygons(tmp_path: Path):
    rle = pack_brush(rectangle())
    assert np.array_equal(label_studio_mask(rle, (HEIGHT, WIDTH)), rectangle() > 0)
    with pytest.raises(ValueError, match="expected 9 x 9"):
        label_studio_mask(rle, (9, 9))
    with pytest.raises(ValueError, match="cut off"):
        label_studio_mask(rle[:40], (HEIGHT, WIDTH))
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    percent = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in CORNERS]
    results = {
        "a": {"type": "brushlabels", "value": {"format": "rle", "rle": rle, "brushlabels": ["lesion"]}, **size},
        "b": {"type": "polygonlabels", "value": {"points": percent, "polygonlabels": ["lesion"]}, **size},
    }
    tasks = [
        {"data": {"image": f"/data/upload/1/0a1b2c3d-{name}.png"}, "annotations": [{"result": [result]}]}
        for name, result in results.items()
    ]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    for name in results:
        picture(tmp_path / "images" / f"{name}.png")
    labels = check(tmp_path, "label_studio", ("lesion",))
    assert np.array_equal(labels["a"], rectangle()) and close(labels["b"], rectangle())


def test_nuclei_with_a_file_each(tmp_path: Path):
    for k in range(3):
        folder = tmp_path / "stage1_train" / f"{k}id"
        picture(folder / "images" / f"{k}id.png")
        (folder / "masks").mkdir()
        for j, corner in enumerate(((0, 0), (10, 20))):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = 255
            Image.fromarray(mask).save(folder / "masks" / f"{j}f{k}.png")
    labels = check(tmp_path, "dsb2018", ("nucleus",))
    assert len(labels) == 3 and all(label.sum() == 32 for label in labels.values())


def test_stacks_of_pannuke(tmp_path: Path):
    masks = np.zeros((4, 16, 16, 6))
    masks[..., 5] = 1
    masks[1, 2:6, 2:6, 0] = 7  # numbers of nuclei
    masks[1, 8:12, 8:12, 4] = 9
    for part, array in (("images", np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3))), ("masks", masks)):
        (tmp_path / part / "fold1").mkdir(parents=True)
        np.save(tmp_path / part / "fold1" / f"{part}.npy", array)
    labels = check(tmp_path, "pannuke", ("neoplastic", "inflammatory", "connective", "dead", "epithelial"))
    assert labels["fold1_0001"][3, 3] == 1 and labels["fold1_0001"][9, 9] == 5
    assert (labels["fold1_0001"] > 0).sum() == 32 and not labels["fold1_0000"].any()


def test_shapes_in_shares_of_the_picture():
    square = Polygon(3, ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))
    label = draw_outlines(Outlines((square,)), (40, 80))
    assert label[20, 40] == 3 and label[5, 40] == 0 and int((label == 3).sum()) == 800
