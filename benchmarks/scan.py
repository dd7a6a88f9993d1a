"""The selective scan against the sequential reference, the log-depth form and the usual indexed loop.

Memory is the growth of a fresh process that does one form's work alone, under the allocator as it is: what a process
that has worked before, or keeps what it has freed, still needs is no measure of a form.
`python benchmarks/scan.py [growth | memory]`
"""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial

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
    record,
)
from torch import Tensor

from kanscan.ops.scan_order import CROSS, inverse, order_index
from kanscan.ops.selective_scan import log_depth, selective_scan
from kanscan.ops.selective_scan.directions import directional_scan

#: (batch, channels, length, states)
WORK = [(1, 192, 4096, 16), (1, 192, 4096, 1), (1, 64, 16384, 16), (8, 96, 16384, 1)]
SHORT = (1, 192, 1024, 16)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
#: Side, channels and states of four directions over a map.
DIRECTIONS = (64, 96, 16)
IN_PLACE, COPIES, WITH_INPUTS = "kanscan cpu", "permuted copies, log-depth", "kanscan cpu, with its inputs"
Scan = Callable[[dict[str, Tensor]], Tensor]


def draw(batch: int, channels: int, length: int, states: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "u": normal(batch, channels, length),
        "delta": torch.nn.functional.softplus(normal(batch, channels, length) / 2 - 3),
        "A": -torch.arange(1.0, states + 1).repeat(channels, 1),
        "B": normal(batch, states, length),
        "C": normal(batch, states, length),
    }


def indexed_loop(given: dict[str, Tensor]) -> Tensor:
    """What most reference code does: all decays first, then one index a step, whose backward fills all of them."""
    u, delta, A, B, C = given.values()
    decay = torch.exp(torch.einsum("bel,en->beln", delta, A))
    inputs = torch.einsum("bel,bnl,bel->beln", delta, B, u)
    state = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for step in range(u.shape[2]):
        state = decay[:, :, step] * state + inputs[:, :, step]
        outputs.append(torch.einsum("ben,bn->be", state, C[:, :, step]))
    return torch.stack(outputs, dim=2)


def logarithmic(given: dict[str, Tensor]) -> Tensor:
    u, delta, A, B, C = given.values()
    start = u.new_zeros(u.shape[0], A.shape[1], A.shape[0])
    rates = A.t().expand(u.shape[0], -1, -1)
    return log_depth.recurrence(u, delta, rates, B.unsqueeze(2), C.unsqueeze(2), start, False)[0]


CANDIDATES: dict[str, Scan] = {
    "kanscan cpu": lambda given: selective_scan(**given, backend="cpu"),
    "kanscan torch": lambda given: selective_scan(**given, backend="torch"),
    "log-depth torch": logarithmic,
}
SLOW: dict[str, Scan] = {
    "kanscan reference": lambda given: selective_scan(**given, backend="reference"),
    "indexed loop": indexed_loop,
}


def both_ways(scan: Scan, given: dict[str, Tensor]) -> None:
    leaves = {name: t.detach().requires_grad_() for name, t in given.items()}
    scan(leaves).sum().backward()


def demand_equal(given: dict[str, Tensor], candidates: dict[str, Scan]) -> None:
    expected = selective_scan(**{name: t.double() for name, t in given.items()}, backend="torch").float()
    for scan in candidates.values():
        torch.testing.assert_close(scan(given), expected, rtol=1e-3, atol=1e-3)


def time_all(shape: tuple[int, ...], candidates: dict[str, Scan], rounds: int) -> None:
    given = draw(*shape)
    work = "selective scan B{} E{} L{} N{}".format(*shape)
    with torch.no_grad():
        demand_equal(given, candidates)
        forward = {name: (lambda scan=scan: scan(given)) for name, scan in candidates.items()}
        times = interleave(forward, rounds)
        print(f"{math.prod(shape) / times['kanscan cpu'][0] / 1e9:.2f} G state updates a second")
        record("selective_scan", f"{work}, forward", times, "kanscan cpu")
    backward = {name: (lambda scan=scan: both_ways(scan, given)) for name, scan in candidates.items()}
    record("selective_scan", f"{work}, forward + backward", interleave(backward, rounds), "kanscan cpu")


def saved_mib(scan: Scan, length: int) -> float:
    """Return what autograd keeps for backward, arguments not counted."""
    leaves = {name: t.requires_grad_() for name, t in draw(1, 192, length, 16).items()}
    own = {t.untyped_storage().data_ptr() for t in leaves.values()}
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        # Kept alive: a freed block could come back under the same address and hide another.
        result = scan(leaves)
    total = sum(kept.values()) / 2**20
    del result
    return total


def slope(values: list[float]) -> float:
    """Return the exponent with which `values` grow over LENGTHS."""
    return math.log(values[-1] / values[0]) / math.log(LENGTHS[-1] / LENGTHS[0])


def growth() -> None:
    """Record time and memory over the length: the slope of a linear form is 1."""
    forms = {name: CANDIDATES[name] for name in ("kanscan cpu", "kanscan torch")}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for length in LENGTHS:
        given = draw(1, 192, length, 16)
        for name, form in forms.items():
            # Each by itself: a short sequence would pay for the caches that the other form has emptied.
            seconds[name].append(interleave({name: partial(both_ways, form, given)}, 9)[name][0])
    memory = {name: [saved_mib(s, n) for n in LENGTHS] for name, s in CANDIDATES.items()}
    with (RESULTS / "selective_scan_growth.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["quantity", *(f"L{n}" for n in LENGTHS), "slope", *facts()])
        for name, values in seconds.items():
            row = [f"{name} ms", *(f"{s * 1e3:.1f}" for s in values), f"{slope(values):.2f}"]
            table.writerow([*row, *facts().values()])
        for name, values in memory.items():
            row = [f"{name} saved MiB", *(f"{v:.2f}" for v in values), f"{slope(values):.2f}"]
            table.writerow([*row, *facts().values()])
    print((RESULTS / "selective_scan_growth.csv").read_text())


def four_directions(side: int, channels: int, states: int) -> dict[str, Callable[[], None]]:
    """Training steps of SS2D's scans: reading pixels in place, and permuted copies of the map in the log-depth form."""
    generator = torch.Generator().manual_seed(0)
    length = side * side
    order = torch.stack([order_index(name, (side, side)) for name in CROSS])
    back = torch.stack([inverse(index) for index in order])
    shapes = {"u": (1, 1, length, channels), "delta": (1, 4, length, channels)}
    shapes |= {"B": (1, 4, length, states), "C": (1, 4, length, states)}
    given = {name: torch.randn(*shape, generator=generator).transpose(2, 3) for name, shape in shapes.items()}
    given["delta"] = torch.nn.functional.softplus(given["delta"] / 2 - 3)
    A = -torch.arange(1.0, states + 1).repeat(4 * channels, 1)

    def in_place(u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return directional_scan(u, delta, A, B, C, order, backend="cpu").sum(1)

    def copies(u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        def read(t: Tensor) -> Tensor:
            return torch.stack([t[0, k % t.shape[1]].index_select(1, i) for k, i in enumerate(order)])

        rates = A.view(4, channels, states).transpose(1, 2)
        start = u.new_zeros(4, states, channels)
        y, _ = log_depth.recurrence(
            read(u), read(delta), rates, read(B).unsqueeze(2), read(C).unsqueeze(2), start, False
        )
        return torch.stack([y[k].index_select(1, i) for k, i in enumerate(back)]).sum(0, keepdim=True)

    torch.testing.assert_close(in_place(**given), copies(**given), rtol=1e-3, atol=1e-3)

    def train(scan: Callable[..., Tensor]) -> None:
        leaves = {name: t.detach().requires_grad_() for name, t in given.items()}
        scan(**leaves).square().sum().backward()

    return {IN_PLACE: partial(train, in_place), COPIES: partial(train, copies)}


def growth_mib(name: str) -> float:
    """Return by how much a fresh process grows at most in one step of a form."""
    run = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{name} failed:\n{run.stderr[-2000:]}")
    return float(run.stdout.splitlines()[-1])


def one(name: str) -> None:
    """Print the growth of this process."""
    # A small step first: what torch and its libraries load is not the form's.
    if name == WITH_INPUTS:
        both_ways(CANDIDATES["kanscan cpu"], draw(1, 4, 8, 16))
        step = partial(both_ways, CANDIDATES["kanscan cpu"], draw(*WORK[0]))
    else:
        four_directions(4, 4, 16)[name]()
        step = four_directions(*DIRECTIONS)[name]
    print(own_peak_mib(step))


def memory() -> None:
    """Record the peaks of training steps; that of one scan against its inputs, outputs and gradients."""
    given = draw(*WORK[0])
    inputs = sum(t.numel() for t in given.values())
    outside = 2 * inputs + 2 * given["u"].numel()
    directions = "four directions {0}x{0} E{1} N{2}, forward + backward".format(*DIRECTIONS)
    scan = "selective scan B{} E{} L{} N{}, forward + backward".format(*WORK[0])
    rows = [(directions, IN_PLACE, growth_mib(IN_PLACE), ""), (directions, COPIES, growth_mib(COPIES), "")]
    rows.append((scan, WITH_INPUTS, growth_mib(WITH_INPUTS) + inputs * 4 / 2**20, f"{outside * 4 / 2**20:.1f}"))
    with (RESULTS / "selective_scan_memory.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["work", "candidate", "peak_mib", "inputs_and_outputs_mib", *facts()])
        for work, name, mib, against in rows:
            table.writerow([work, name, f"{mib:.1f}", against, *facts().values()])
    print((RESULTS / "selective_scan_memory.csv").read_text())


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2])
        sys.exit()
    if not allocator():
        demand_green(*SCAN_TESTS)
    parts = {"growth": growth, "memory": memory}
    if sys.argv[1:]:
        parts[sys.argv[1]]()
        sys.exit()
    begin("selective_scan")
    for shape in WORK:
        time_all(shape, CANDIDATES, rounds=5)
    time_all(SHORT, {**CANDIDATES, **SLOW}, rounds=3)
    work = "four directions {0}x{0} E{1} N{2}, forward + backward".format(*DIRECTIONS)
    record("selective_scan", work, interleave(four_directions(*DIRECTIONS), 5), "kanscan cpu")
    if not allocator():
        memory()
        growth()
        again_with_tuned_allocator()
