"""KAN linear against its floor (the matrix products alone) and the usual dense recursion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from protocol import demand_green, interleave, record

from kanscan.ops.bspline import kan_linear, vectorized

#: (tokens, inputs, outputs)
WORK = [(4096, 256, 256), (2048, 320, 320)]


def kan(tokens: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(tokens, inputs, requires_grad=True)
    weights = [torch.randn(outputs, inputs, *tail, requires_grad=True) for tail in ((), (8,), ())]
    grid = (5, 3, (-1.0, 1.0))
    given = vectorized.columns(x.detach(), *grid)
    joint = vectorized.joint_weight(*(w.detach() for w in weights))
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
            "kanscan torch": lambda: kan_linear(x, *weights),
            "dense Cox-de Boor": lambda: kan_linear(x, *weights, backend="reference"),
            "linear layer": lambda: F.linear(x, weights[0]),
        }
        work = f"KAN linear {tokens}x{inputs}->{outputs}"
        record("kan_linear", f"{work}, forward", interleave(forward), "product of given columns")
    backward = {
        "three products of given columns": three_products,
        "kanscan torch": lambda: both_ways("torch"),
        "dense Cox-de Boor": lambda: both_ways("reference"),
    }
    record("kan_linear", f"{work}, forward + backward", interleave(backward), "three products of given columns")


if __name__ == "__main__":
    torch.set_num_threads(1)
    demand_green("tests/ops/test_bspline.py")
    for work in WORK:
        kan(*work)
