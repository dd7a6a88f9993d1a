"""A network and a data set of your own, through the two catalogues; nothing in kanscan is changed.

Run it: python examples/your_own_model_and_dataset.py [FOLDER]
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

import kanscan
from kanscan import MODELS, READERS
from kanscan.data import Case, DatasetReader, LabelMap, Survey
from kanscan.data.made.synthetic import ultrasound_cases
from kanscan.data.pictures.files import write_label
from kanscan.layers.kan import KANLinear
from kanscan.models.base import SegmentationModel


class PocketKAN(SegmentationModel):
    """Three strided convolutions, one KAN layer on every position, and an enlargement back to the image's size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, *, channels: int = 32, grid_size: int = 5) -> None:
        super().__init__()
        # What the promise asks for: channels, and which sizes are legal.
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (8, 8)
        widths = (in_channels, channels // 4, channels // 2, channels)
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            )
        )
        # KAN layers are found by type: their parameters take the learning rate optim.kan_lr.
        self.kan = KANLinear(channels, channels, grid_size=grid_size)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Conv2d(channels, out_channels, 1)

    @classmethod
    def tiny(cls, **options: Any) -> Self:
        """Build the smallest one."""
        return cls(**{"channels": 8, **options})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of the image's size."""
        self.check_input(x)
        tokens = self.norm(self.stem(x).movedim(1, -1))
        features = tokens + self.kan(tokens)
        return F.interpolate(self.head(features.movedim(-1, 1)), size=x.shape[2:], mode="bilinear")


class Clinic(DatasetReader):
    """PATIENT/VIEW.png beside PATIENT/VIEW.outline.png; a patient is a group."""

    key = "clinic"
    title = "Pictures of our clinic, a folder a patient"
    expected = "a folder for each patient with pairs NAME.png and NAME.outline.png"
    layout = "FOLDER/\n  patient001/  view1.png  view1.outline.png ..."
    channels = 1

    def __init__(self) -> None:
        self.label_map = LabelMap(("background", "lesion"))

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """See whether there are outlines one level below."""
        return any(root.glob("*/*.outline.png"))

    def survey(self, root: Path) -> Survey:
        """List what has an outline, and name what has none."""
        cases, problems = [], []
        for image in sorted(path for path in root.glob("*/*.png") if not path.name.endswith(".outline.png")):
            patient, outline = image.parent.name, image.with_suffix(".outline.png")
            if outline.is_file():
                cases.append(Case(f"{patient}_{image.stem}", (image,), (outline,), group=patient))
            else:
                problems.append(f"{image} has no outline")
        return Survey(tuple(cases), tuple(problems))


# Two lines, and every command knows them: create_model, train, evaluate, predict, check.
MODELS["pocket_kan"] = PocketKAN
READERS["clinic"] = Clinic


def draw_clinic(root: Path, num_cases: int = 48) -> Path:
    """Draw pictures in the clinic's layout, so that the example can run."""
    for case in ultrasound_cases(num_cases, image_size=(96, 96)):
        patient, view = case.id.split("_")
        write_label(root / patient / f"{view}.png", case.image)
        write_label(root / patient / f"{view}.outline.png", 255 * case.label)
    return root


def main(folder: Path, *, epochs: int = 40) -> float:
    """Train the network on the clinic's pictures; return the test Dice."""
    root = draw_clinic(folder / "clinic")
    settings = ["data.image_size=[96, 96]", "data.normalization=zscore"]
    settings += ["data.augmentation=flip_horizontal", "optim.lr=5e-3", "optim.kan_lr=5e-3"]
    run = kanscan.train(str(root), settings, model="pocket_kan", epochs=epochs, output=folder / "run")
    report = kanscan.evaluate(run.path)
    print(f"{report.provenance.num_parameters:,} parameters, test Dice {report.mean('dice'):.3f}")
    return report.mean("dice")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/own"))
