"""What splines cost a whole network: training steps of U-KAN and ALL U-KAN against their linear twin, 256 x 256.

The twin has the same layers with plain convolutions and linear layers. Steps take turns in one process; memory is the
growth of a fresh process that trains one network alone. `python benchmarks/twins.py [batch ...]`
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from protocol import (
    RESULTS,
    again_with_tuned_allocator,
    allocator,
    begin,
    demand_green,
    facts,
    interleave,
    own_peak_mib,
    record,
)

from kanscan.models.all_ukan import AllUKAN
from kanscan.models.ukan import UKAN

NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "linear twin": lambda: AllUKAN(token_layers="linear", convolutions="plain"),
    "U-KAN": UKAN,
    "ALL U-KAN": AllUKAN,
}
#: Behind the name of a network: on images whose channels lie last, an order that its maps then keep.
LAST = ", channels last"
COLUMNS = ("work", "network", "ratio_to_twin", "median_ms", "min_ms", "max_ms", "step_growth_mib", "memory_ratio")


def step_of(name: str, batch: int) -> Callable[[], None]:
    """Return a training step of a fresh network."""
    torch.manual_seed(0)
    model = NETWORKS[name.removesuffix(LAST)]()
    # One pass over each parameter, as trainings on the processor take it.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(batch, 3, 256, 256)
    if name.endswith(LAST):
        images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.sigmoid(model(images)).mean().backward()
        optimizer.step()

    return step


def growth_mib(name: str, batch: int) -> float:
    """Return by how much a fresh process grows at most in two steps."""
    run = subprocess.run([sys.executable, __file__, "--one", name, str(batch)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{name} failed:\n{run.stderr[-2000:]}")
    return float(run.stdout.splitlines()[-1])


def one(name: str, batch: int) -> None:
    """Print the growth of this process."""
    # A small network first: what torch and its libraries load is not the step's.
    tiny = AllUKAN.tiny()
    tiny(torch.randn(2, 3, 32, 32)).sum().backward()
    step = step_of(name, batch)
    print(own_peak_mib(lambda: (step(), step())))


def inference() -> None:
    """Record a prediction of one image, eager and by `torch.compile`, against the eager twin."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 256, 256)
    candidates = {}
    for name, build in NETWORKS.items():
        model = build().eval()
        compiled = torch.compile(model)
        candidates |= {name: partial(model, image), f"{name}, compiled": partial(compiled, image)}
    with torch.no_grad():
        torch.testing.assert_close(candidates["U-KAN, compiled"](), candidates["U-KAN"](), rtol=1e-3, atol=1e-4)
        times = interleave(candidates, 9)
    record("inference", "prediction, 256 x 256, batch 1", times, "linear twin")


def compare(batch: int) -> None:
    """Measure all networks and append to the table."""
    names = [*NETWORKS, *(f"{name}{LAST}" for name in NETWORKS)]
    times = interleave({name: step_of(name, batch) for name in names}, rounds=7 if batch < 4 else 3)
    memory = {name: growth_mib(name, batch) for name in names}
    work = ", ".join(filter(None, (f"training step, 256 x 256, batch {batch}", allocator())))
    path = RESULTS / "twins.csv"
    fresh = not path.exists()
    base, least = times["linear twin"][0], memory["linear twin"]
    with path.open("a", newline="") as file:
        table = csv.writer(file)
        if fresh:
            table.writerow([*COLUMNS, *facts()])
        for name, (median, low, high) in times.items():
            milliseconds = [f"{value * 1e3:.1f}" for value in (median, low, high)]
            row = [work, name, f"{median / base:.3f}", *milliseconds, f"{memory[name]:.0f}"]
            table.writerow([*row, f"{memory[name] / least:.2f}", *facts().values()])
            print(*row, f"{memory[name] / least:.2f}", sep="\t", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]))
    else:
        if not allocator():
            demand_green(
                "tests/ops/test_native_ka_conv.py",
                "tests/ops/test_native_kan_linear.py",
                "tests/ops/test_accuracy_of_splines.py",
            )
        begin("twins")
        if not allocator():
            begin("inference")
            inference()
        for size in [int(word) for word in sys.argv[1:]] or [1, 8]:
            compare(size)
        if not allocator():
            again_with_tuned_allocator()
