"""What the scan is worth to whole networks, and what LKM-UNet costs as images grow at fixed windows.

Training steps on the compiled scan and on the torch scan, one image of 256 x 256, one thread. Both take turns in one
process, the torch scan in fewer rounds, since one of its steps takes seconds; memory is the growth of a fresh process
over two steps. `python benchmarks/networks.py [network ...]`
"""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import torch
from protocol import (
    RESULTS,
    SCAN_TESTS,
    again_with_tuned_allocator,
    allocator,
    begin,
    demand_green,
    facts,
    interleave,
    own_peak_mib,
)

from kanscan.models import create_model
from kanscan.models.lkm_unet import LKMUNet
from kanscan.ops import selective_scan

NETWORKS = ("km_unet", "vm_unet", "vmkla_unet")
#: What the scan is computed by, and how many rounds are measured.
SCANS = {"cpu": 5, "torch": 3}
SIDES = (64, 128, 256, 512)
CHANNELS = (8, 16, 32, 64, 128, 256)
COLUMNS = ("work", "network", "scan", "rounds", "ratio_to_cpu", "median_s", "min_s", "max_s")
COLUMNS += ("step_growth_mib", "memory_ratio")


@contextmanager
def scans_by(backend: str) -> Iterator[None]:
    """Let networks find this implementation of the scan alone."""
    tables = selective_scan.BACKENDS.values()
    kept = [dict(table) for table in tables]
    for table in tables:
        chosen = table[backend]
        table.clear()
        table[backend] = chosen
    try:
        yield
    finally:
        for table, rows in zip(tables, kept, strict=True):
            table.clear()
            table.update(rows)


def step_of(name: str, backend: str, side: int = 256) -> Callable[[], None]:
    """Return a training step of a fresh network on one image."""
    torch.manual_seed(0)
    model = create_model(name, in_channels=3)
    # One pass over each parameter, as trainings on the processor take it.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images = model.example_inputs((side, side), 1)

    def step() -> None:
        with scans_by(backend):
            optimizer.zero_grad(set_to_none=True)
            torch.sigmoid(model(*images)).mean().backward()
            optimizer.step()

    return step


def growth_mib(name: str, backend: str) -> float:
    """Return by how much a fresh process grows at most in two steps."""
    run = subprocess.run([sys.executable, __file__, "--one", name, backend], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{name} failed:\n{run.stderr[-2000:]}")
    return float(run.stdout.splitlines()[-1])


def compare(name: str) -> None:
    """Measure one network on both scans and append to the table."""
    times = interleave({backend: step_of(name, backend) for backend in SCANS}, SCANS)
    memory = {backend: growth_mib(name, backend) for backend in SCANS}
    work = ", ".join(filter(None, ("training step, 256 x 256, batch 1", allocator())))
    path = RESULTS / "networks.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        table = csv.writer(file)
        if fresh:
            table.writerow([*COLUMNS, *facts()])
        for backend, values in times.items():
            ratios = values[0] / times["cpu"][0], memory[backend] / memory["cpu"]
            row = [work, name, backend, SCANS[backend], f"{ratios[0]:.2f}", *(f"{v:.3f}" for v in values)]
            row.append(f"{memory[backend]:.0f}")
            table.writerow([*row, f"{ratios[1]:.2f}", *facts().values()])
            print(*row, f"{ratios[1]:.2f}", sep="\t", flush=True)


def backward(model: torch.nn.Module, images: torch.Tensor) -> None:
    torch.sigmoid(model(images)).mean().backward()


def sides() -> None:
    """Record a training step of a narrow LKM-UNet over the side of the image.

    Beside a cost that every step has, what each larger image adds grows with its pixels if the slope of these additions
    is 1.
    """
    torch.manual_seed(0)
    model = LKMUNet(3, 1, channels=CHANNELS)
    seconds = []
    for side in SIDES:
        step = partial(backward, model, torch.randn(1, 3, side, side))
        seconds.append(interleave({"step": step}, 5)["step"][0])
    added = [b - a for a, b in pairwise(seconds)]
    slopes = [math.log(b / a) / math.log(4) for a, b in pairwise(added)]
    with (RESULTS / "lkm_unet_growth.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["work", *(f"side_{side}_ms" for side in SIDES), "slopes_of_additions", *facts()])
        row = [f"LKM-UNet {CHANNELS}, training step", *(f"{s * 1e3:.1f}" for s in seconds)]
        table.writerow([*row, " ".join(f"{s:.2f}" for s in slopes), *facts().values()])
    print((RESULTS / "lkm_unet_growth.csv").read_text())


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        # A small image first: what torch and its libraries load is not the step's.
        step_of(*sys.argv[2:4], side=64)()
        step = step_of(*sys.argv[2:4])
        print(own_peak_mib(lambda: (step(), step())))
    else:
        if not allocator():
            demand_green(*SCAN_TESTS)
            sides()
        begin("networks")
        for network in sys.argv[1:] or NETWORKS:
            compare(network)
        if not allocator():
            again_with_tuned_allocator()
