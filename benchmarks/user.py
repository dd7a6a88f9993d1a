"""What a user waits for, in parts of commands, each against a named peer: `python benchmarks/user.py [part of a name]`.

One thread, processor time, candidates in turn, medians; see `protocol`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from protocol import begin, interleave, record
from torch.nn import functional as F

from kanscan import create_model
from kanscan.data.pictures.search import find_pictures
from kanscan.layers.lone_volume import quicken_lone_volumes


def lone_volumes() -> None:
    """Predict one window of a volume: plain torch against the convolutions that the predictor asks for."""
    widths = {"channels": (8, 16, 32, 64), "spatial_dims": 3}
    for name in ("lkm_unet", "u_mamba", "dynunet"):
        model = create_model(name, in_channels=1, out_channels=3, **widths).eval()
        quick, x = quicken_lone_volumes(deepcopy(model)), torch.randn(1, 1, 32, 64, 64)
        candidates: dict[str, Callable[[], object]] = {
            "plain torch": lambda model=model, x=x: model(x),
            "kanscan predictor": lambda quick=quick, x=x: quick(x),
        }
        with torch.inference_mode():
            record("user", f"{name} 3D, one window 32x64x64", interleave(candidates, 3), "plain torch")


def names() -> None:
    """List files of a folder: against reading its names alone; the ratio must not grow with their number."""
    for count in (1000, 4000):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                Path(folder, f"picture_{number:05d}.png").touch()
            candidates: dict[str, Callable[[], object]] = {
                "sorted(iterdir)": lambda folder=folder: sorted(Path(folder).iterdir()),
                "find_pictures": lambda folder=folder: find_pictures([folder]),
            }
            record("user", f"find {count} pictures", interleave(candidates), "sorted(iterdir)")


def starts() -> None:
    """Start and answer a wrong name, list recipes, import what prediction needs: against importing torch."""

    def python(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=False)

    shell = ("-m", "kanscan.cli")
    candidates = {
        "import torch": python("-c", "import torch"),
        "kanscan --help": python(*shell, "--help"),
        "kanscan predict NO-SUCH-RUN": python(*shell, "predict", "no-such-run", "x.png"),
        "kanscan show recipes": python(*shell, "show", "recipes"),
        "import kanscan.pipelines": python("-c", "import kanscan.pipelines"),
    }
    # Children's processor time is not this process's: wall time, interleaved, is what is left.
    import time

    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(5):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    rows = {name: (sorted(taken)[2], min(taken), max(taken)) for name, taken in seconds.items()}
    record("user", "starting (wall time)", rows, "import torch")


def boundaries() -> None:
    """Score a prediction: against distance transforms of whole masks, one a class and side."""
    from scipy.ndimage import binary_erosion, distance_transform_edt

    from kanscan.metrics import case_scores

    def discs(size: tuple[int, ...], shift: int, num_classes: int) -> np.ndarray:
        grid = np.indices(size)
        label = np.zeros(size, np.uint8)
        for index in range(1, num_classes):
            center = [n * (0.3 + 0.4 * index / num_classes) + shift for n in size]
            far = sum(((g - c) / (n / 8)) ** 2 for g, c, n in zip(grid, center, size, strict=True))
            label[far < 1] = index
        return label

    def plain(ours: np.ndarray, theirs: np.ndarray, num_classes: int) -> list[np.ndarray]:
        distances = []
        for index in range(1, num_classes):
            edges = [mask & ~binary_erosion(mask) for mask in (ours == index, theirs == index)]
            distances += [distance_transform_edt(~one)[other] for one, other in (edges, edges[::-1])]
        return distances

    for size, num_classes, rounds in (((288, 384), 2, 9), ((64, 160, 160), 3, 5), ((48, 96, 96), 64, 3)):
        ours, theirs = discs(size, 0, num_classes), discs(size, 2, num_classes)
        candidates: dict[str, Callable[[], object]] = {
            "transforms of whole masks": lambda a=ours, b=theirs, k=num_classes: plain(a, b, k),
            "kanscan, all scores": lambda a=ours, b=theirs, k=num_classes: case_scores(a, b, k),
        }
        text = f"scores of {' x '.join(map(str, size))}, {num_classes} classes"
        record("user", text, interleave(candidates, rounds), "transforms of whole masks")


def way_back() -> None:
    """Bring logits back to a volume's grid: against torch's interpolation of the slices."""
    from kanscan.data.volumes.grid import resample_image

    logits = np.random.default_rng(0).normal(size=(5, 8, 300, 300)).astype(np.float32)
    tensor = torch.from_numpy(logits).transpose(0, 1)

    def ours() -> object:
        return [resample_image(logits[:, k : k + 1], (1, 512, 512), coarse=None, order=1) for k in range(8)]

    candidates: dict[str, Callable[[], object]] = {
        "F.interpolate": lambda: F.interpolate(tensor, (512, 512), mode="bilinear", align_corners=False),
        "kanscan": ours,
    }
    record("user", "logits 5 x 8 x 300^2 to 512^2", interleave(candidates, 5), "F.interpolate")


PARTS = {part.__name__: part for part in (lone_volumes, names, starts, boundaries, way_back)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if not wanted:
        begin("user")
    for name, part in PARTS.items():
        if wanted in name:
            part()
