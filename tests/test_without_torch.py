"""Where torch is not installed: everything that prediction of an exported folder needs is there all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What an environment that only predicts does without.
ABSENT = ("torch", "monai", "lightning", "matplotlib", "einops", "jaxtyping", "jinja2", "safetensors", "torchmetrics")

_BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ImportError(f"{{name}} is not installed")
sys.meta_path.insert(0, Absent())
"""


def run_without_torch(code: str) -> subprocess.CompletedProcess:
    """Run Python code in a process where importing torch and what only trainings need raises."""
    command = [sys.executable, "-c", _BLOCK + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_block_blocks():
    done = run_without_torch("import torch")
    assert done.returncode != 0 and "torch is not installed" in done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "kanscan.inference",
        "kanscan.inference.onnx_network",
        "kanscan.run.exported",
        "kanscan.data",
        "kanscan.workflows.predict",
        "kanscan.commands.predict",
    ],
)
def test_the_road_of_prediction_needs_no_torch(module):
    done = run_without_torch(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_a_picture_goes_from_file_to_label_map_through_a_network_that_is_a_function(tmp_path):
    code = f"""
import numpy as np
from pathlib import Path
from PIL import Image
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.inference import FILES, PicturePredictor
from kanscan.inference.files import Output

class Bright:
    in_channels, out_channels, spatial_dims, stride, device = 1, 1, 2, (8, 8), "cpu"
    def __call__(self, x):
        return 40 * (x - 0.5)

folder = Path({str(tmp_path)!r})
pixels = np.zeros((40, 50), np.uint8)
pixels[10:20, 5:30] = 255
Image.fromarray(pixels).save(folder / "a.png")
files, predictor = FILES["pictures"], PicturePredictor(Bright(), Preprocessing(1, (64, 64), "unit"), ("no", "yes"))
(case,), _ = files.find([folder / "a.png"], 1)
image = files.read(case)
output = Output(folder / "out", (0, 255), overlays=True)
files.write(case, image, predictor(image), predictor.class_names, output)
label = np.asarray(Image.open(folder / "out" / "a.png"))
assert ((label > 0) == (pixels > 0)).mean() > 0.97 and label.max() == 255
assert "torch" not in sys.modules
"""
    done = run_without_torch(code)
    assert done.returncode == 0, done.stderr
