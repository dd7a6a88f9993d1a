"""What every network of the catalogue costs: parameters, multiply-adds, a training step, a prediction, memory.

Two images of 256 x 256 in a step, one thread, processor time; each network in a process of its own, so that the peak of
one is not the peak of the next. Run with names to measure those alone: `python benchmarks/models.py unet ukan`.
"""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from protocol import RESULTS, commit, processor

from kanscan.complexity import complexity, num_parameters
from kanscan.models import MODELS, create_model

SIDE, BATCH = 256, 2
#: Longer than this and one step has to do.
PATIENCE_S = 3.0
COLUMNS = (
    *("model", "parameters", "gmacs", "scan_gmacs", "profiler_gmacs"),
    *("step_s", "step_ratio", "inference_s", "step_growth_mib"),
    *("image", "batch", "device", "threads", "torch", "commit"),
)


def peak_mib() -> float:
    """Return the largest resident size of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10


def processor_seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the smallest time of `rounds` calls after one that warms up; of the first alone if it is long."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
        if times[0] > PATIENCE_S:
            break
    return min(times)


def measure(name: str) -> dict[str, object]:
    """Measure one network in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = (SIDE, SIDE)
    model = create_model(name, in_channels=3)
    counted = complexity(model, (3, *size))
    macs = [counted.macs, counted.scan_macs, counted.profiler_macs]
    # One pass over each parameter, as trainings on the processor take it.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images = [
        tuple(torch.randn_like(t) if t.is_floating_point() else t for t in inputs)
        for inputs in (model.example_inputs(size, BATCH), model.example_inputs(size, 1))
    ]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.sigmoid(model(*images[0])).mean().backward()
        optimizer.step()

    before = peak_mib()
    step_s = processor_seconds(step, 2)
    # Activations, gradients and the optimizer's moments; the weights were there before.
    growth = peak_mib() - before
    model.eval()
    with torch.no_grad():
        inference_s = processor_seconds(lambda: model(*images[1]), 3)
    gmacs = [f"{value / 1e9:.3f}" if value else "" for value in macs]
    return {
        **dict(zip(COLUMNS[:5], (name, num_parameters(model), *gmacs), strict=True)),
        "step_s": round(step_s, 3),
        "inference_s": round(inference_s, 3),
        "step_growth_mib": round(growth),
    }


def in_own_process(name: str) -> dict[str, object]:
    """Measure one network in a fresh process."""
    run = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{name} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def main(names: list[str]) -> None:
    """Write a row as soon as it is measured; rows of networks not named stay, in the order of the catalogue."""
    path = RESULTS / "models.csv"
    RESULTS.mkdir(exist_ok=True)
    rows: dict[str, dict[str, object]] = {}
    if path.is_file():
        with path.open(newline="") as file:
            rows = {row["model"]: dict(row) for row in csv.DictReader(file)}
    facts = {"image": SIDE, "batch": BATCH, "device": processor(), "threads": 1}
    facts |= {"torch": torch.__version__, "commit": commit()}
    for name in names:
        rows[name] = in_own_process(name) | facts
        print(*rows[name].values(), sep="\t", flush=True)
        write(path, [rows[key] for key in MODELS if key in rows])


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the table; steps are given as ratios to the plain U-Net too, once that is measured."""
    unet = [float(str(row["step_s"])) for row in rows if row["model"] == "unet"]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in rows:
            ratio = {"step_ratio": round(float(str(row["step_s"])) / unet[0], 3)} if unet else {}
            table.writerow(row | ratio)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:] or list(MODELS))
