"""A run and its data without training: pictures of bright ellipses, and a network that calls bright foreground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from commands.fake_network import Brightness
from kanscan.config.recipe import Recipe, check_recipe
from kanscan.data import make_reader
from kanscan.data.splits import Split
from kanscan.files import write_text
from kanscan.models import MODELS
from kanscan.report import pictures
from kanscan.run import Run
from kanscan.run.facts import DatasetFacts, NetworkFacts, PictureFacts, PreprocessingFacts


def picture(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark ground, one bright ellipse: image `(H, W, 3)`, label `(H, W)`."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    place = random.uniform(0.35, 0.65, size=2)
    inside = ((rows / height - place[0]) / 0.25) ** 2 + ((columns / width - place[1]) / 0.2) ** 2 < 1
    image = np.where(inside, 200, 20)[..., None] + random.integers(0, 30, size=(height, width, 3))
    return image.astype(np.uint8), inside.astype(np.uint8)


def make_data(root: Path, *, patients: int = 8, views: int = 2, shift: int = 4) -> Path:
    """Write images/ and masks/ (0 and 255); the masks are moved, so that scores are good and not perfect."""
    for patient in range(patients):
        for view in range(views):
            image, label = picture(45 + 6 * view, 70, 10 * patient + view)
            name = f"p{patient:02d}_v{view}.png"
            for folder in ("images", "masks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / "images" / name)
            Image.fromarray(np.roll(label, shift + patient % 4, axis=1) * np.uint8(255)).save(root / "masks" / name)
    return root


def make_run(
    path: Path, data: Path, monkeypatch, *, shift: float = 0.0, seed: int = 1, size: Any = None, flips: bool = False
) -> Run:
    """Write a finished run of the ready-made network: the last four patients are its test part."""
    monkeypatch.setitem(MODELS, "brightness", Brightness)
    # Large pictures take most of an evaluation's time.
    monkeypatch.setattr(pictures, "SHEET_SIZE", (220, 50))
    options = {"group_pattern": "^(p[0-9]+)_"}
    recipe: Recipe = check_recipe(
        {
            "name": "bright",
            "seed": seed,
            "model": {"name": "brightness"},
            "data": {
                "root": str(data),
                "reader": "folder",
                "options": options,
                "image_size": size,
                "normalization": "unit",
            },
            "trainer": {"epochs": 3},
            "evaluation": {"flips": flips},
        }
    )
    reader = make_reader("folder", data, **options)
    cases = reader.cases(data)
    ids = [case.id for case in cases]
    model = Brightness(shift=shift)
    facts = PictureFacts(
        model=NetworkFacts(name="brightness", options={"in_channels": 3, "out_channels": 1, "stride": 8}),
        num_parameters=1,
        stride=(8, 8),
        data=DatasetFacts(reader="folder", title=reader.title, num_cases=len(ids)),
        preprocessing=PreprocessingFacts(channels=3, image_size=size, normalization=recipe.data.normalization),
        class_names=("background", "foreground"),
        label_map=reader.label_map,
    )
    half = len(ids) // 2
    split = Split(tuple(ids[: half - 2]), tuple(ids[half - 2 : half]), tuple(ids[half:]), "group", seed, "by patient")
    groups = {case.id: case.group for case in cases}
    run = Run.create(path, recipe, facts, split={**split.to_json(), "case_groups": groups}, device="cpu")
    rows = ["epoch,train_loss,val_loss,val_dice,val_iou,lr,kan_lr,seconds"]
    rows += [f"{e},{1 / e},{1.2 / e},{1 - 0.5 / e},{1 - 0.7 / e},0.0001,0.01,1.5" for e in (1, 2, 3)]
    write_text(run.curves_path, "\n".join(rows) + "\n")
    about = {"epoch": 3, "val_dice": 0.83}
    save_file(dict(model.state_dict()), run.weights_path, metadata={"kanscan": json.dumps(about)})
    return run
