"""KAN linear and KAonv against their floors: the matrix products alone, and the plain convolution.

python benchmarks/ops.py [kan_linear] [ka_conv] [peaks]
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from protocol import (
    RESULTS,
    again_with_tuned_allocator,
    allocator,
    begin,
    demand_green,
    facts,
    interleave,
    peak_mib,
    record,
)

from kanscan.ops.bspline import kan_linear
from kanscan.ops.bspline import torch as plain
from kanscan.ops.kaconv import ka_conv

#: (tokens, inputs, outputs)
WORK = [(4096, 256, 256), (2048, 320, 320)]


def kan(tokens: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(tokens, inputs, requires_grad=True)
    weights = [torch.randn(outputs, inputs, *tail, requires_grad=True) for tail in ((), (8,), ())]
    grid = (5, 3, (-1.0, 1.0))
    given = plain.columns(x.detach(), *grid)
    joint = plain.joint_weight(*(w.detach() for w in weights))
    grad = torch.randn(tokens, outputs)

    def both_ways(backend: str) -> None:
        kan_linear(x, *weights, backend=backend).backward(grad)

    def three_products() -> None:
        F.linear(given, joint)
        grad.t() @ given
        grad @ joint

    with torch.no_grad():
        forward = {
            "product of given columns": lambda: F.linear(given, joint),
            "kanscan cpu": lambda: kan_linear(x, *weights, backend="cpu"),
            "kanscan torch": lambda: kan_linear(x, *weights, backend="torch"),
            "dense Cox-de Boor": lambda: kan_linear(x, *weights, backend="reference"),
            "linear layer": lambda: F.linear(x, weights[0]),
        }
        work = f"KAN linear {tokens}x{inputs}->{outputs}"
        record("kan_linear", f"{work}, forward", interleave(forward), "product of given columns")
    backward = {
        "three products of given columns": three_products,
        "kanscan cpu": lambda: both_ways("cpu"),
        "kanscan torch": lambda: both_ways("torch"),
        "dense Cox-de Boor": lambda: both_ways("reference"),
    }
    record("kan_linear", f"{work}, forward + backward", interleave(backward), "three products of given columns")


#: (batch, channels, height, width, outputs, groups)
MAPS = [(2, 64, 128, 128, 64, 1), (8, 64, 128, 128, 64, 1), (2, 64, 128, 128, 64, 64)]


def kaonv(batch: int, channels: int, height: int, width: int, outputs: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, channels, height, width, requires_grad=True)
    u = torch.randn(outputs, channels // groups, 3, 3, requires_grad=True)
    v = torch.randn(outputs, 8, requires_grad=True)
    grad = torch.randn(batch, outputs, height, width)
    window = {"padding": 1, "groups": groups}
    candidates = {
        "plain convolution": lambda: F.conv2d(x, u, **window),
        "SiLU and convolution": lambda: F.conv2d(F.silu(x), u, **window),
        "kanscan cpu": lambda: ka_conv(x, u, v, backend="cpu", **window),
        "kanscan torch": lambda: ka_conv(x, u, v, backend="torch", **window),
    }
    # Gigabytes of temporaries: one round of the smallest work.
    small = groups == 1 and batch == 2 and not allocator()
    naive = {"unfold and naive bases": lambda: ka_conv(x, u, v, backend="reference", **window)} if small else {}
    work = f"KAonv 3x3 {batch}x{channels}x{height}x{width}->{outputs}" + (", depth-wise" if groups > 1 else "")

    def both_ways(runs: dict[str, Callable[[], torch.Tensor]]) -> dict[str, Callable[[], object]]:
        return {name: lambda run=run: run().backward(grad) for name, run in runs.items()}

    with torch.no_grad():
        times = interleave(candidates) | interleave(naive, rounds=len(naive))
    record("ka_conv", f"{work}, forward", times, "plain convolution")
    times = interleave(both_ways(candidates)) | interleave(both_ways(naive), rounds=len(naive))
    record("ka_conv", f"{work}, forward + backward", times, "plain convolution")


def peaks() -> None:
    """Record the growth of a process over forward and backward; layers of each kind have run once before."""
    path = RESULTS / "ka_conv_memory.csv"
    torch.manual_seed(0)
    u, v = torch.randn(64, 64, 3, 3, requires_grad=True), torch.randn(64, 8, requires_grad=True)
    candidates: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "plain convolution": lambda x: F.conv2d(x, u, padding=1),
        "SiLU and convolution": lambda x: F.conv2d(F.silu(x), u, padding=1),
        "kanscan cpu": lambda x: ka_conv(x, u, v, padding=1, backend="cpu"),
    }
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["work", "candidate", "peak_mib", *facts()])
        for batch in (2, 8):
            x, grad = torch.randn(batch, 64, 128, 128, requires_grad=True), torch.randn(batch, 64, 128, 128)
            for name, run in candidates.items():
                run(x[:1, :, :8, :8]).sum().backward()
                x.grad = None
                peak = peak_mib(lambda run=run, x=x, grad=grad: run(x).backward(grad))  # type: ignore[misc]
                work = f"KAonv 3x3 {batch}x64x128x128->64, forward + backward"
                table.writerow([work, name, f"{peak:.1f}", *facts().values()])
                print(f"{work}: {name}: peak {peak:.1f} MiB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or ["kan_linear", "ka_conv"]
    if "kan_linear" in chosen:
        if not allocator():
            demand_green(
                "tests/ops/test_bspline.py",
                "tests/ops/test_native_kan_linear.py",
                "tests/ops/test_accuracy_of_splines.py",
            )
        begin("kan_linear")
        for work in WORK:
            kan(*work)
    if "ka_conv" in chosen:
        if not allocator():
            demand_green(
                "tests/ops/test_kaconv.py", "tests/ops/test_native_ka_conv.py", "tests/ops/test_accuracy_of_splines.py"
            )
        begin("ka_conv")
        for job in MAPS:
            kaonv(*job)
    if not allocator() and {"ka_conv", "peaks"} & set(chosen):
        # With freed blocks kept, what a form takes is there already.
        peaks()
    if not allocator() and chosen != ["peaks"]:
        again_with_tuned_allocator()
