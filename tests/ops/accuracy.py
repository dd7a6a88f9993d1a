"""How results are compared with the definition in float64: values and gradients, within what a dtype can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: How far a result may be from the exact one, as a share of its norm: float32 inside, and one rounding of operands and
#: results where these are narrower.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LAYOUTS = ("contiguous", "turned", "strided")
Tensors = Sequence[Tensor | None]


def laid_out(t: Tensor, layout: str) -> Tensor:
    """Return the same numbers, in memory in another order or with gaps."""
    if layout == "turned":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    return t.repeat_interleave(2, -1)[..., ::2] if layout == "strided" else t


def leaves(tensors: Tensors, dtypes: Sequence[torch.dtype], layout: str = "contiguous") -> list[Tensor | None]:
    """Return tensors that take gradients, each in its dtype."""
    given = zip(tensors, dtypes, strict=True)
    return [t if t is None else laid_out(t.detach().to(dtype), layout).requires_grad_() for t, dtype in given]


def both_ways(op: Callable[..., Tensor | tuple[Tensor, ...]], tensors: Tensors) -> list[Tensor]:
    """Return the results of `op` and the gradients of a weighted sum of them by every tensor."""
    results = op(*tensors)
    results = (results,) if isinstance(results, Tensor) else results
    # Different from place to place, exact in every dtype, of one sign: sums that cancel would tell of rounding alone.
    weights = [(1.5 + torch.cos(torch.arange(y.numel()).double())).to(torch.bfloat16).view(y.shape) for y in results]
    loss = sum((y * w.to(y.dtype)).sum(dtype=torch.float64) for y, w in zip(results, weights, strict=True))
    wanted = [t for t in tensors if t is not None]
    grads = torch.autograd.grad(loss, wanted, materialize_grads=True)
    return [*(y.detach() for y in results), *grads]


def demand_close(ours: Sequence[Tensor], exact: Sequence[Tensor], least: torch.dtype = torch.float32) -> None:
    """Compare results; `least` is the narrowest dtype that operands have been rounded to on the way."""
    for place, (one, other) in enumerate(zip(ours, exact, strict=True)):
        assert one.shape == other.shape
        error = float((one.double() - other).norm())
        tolerance = max(TOLERANCE[least], TOLERANCE[one.dtype])
        assert error <= tolerance * max(float(other.norm()), 1e-2), f"result {place}: {error} of {float(other.norm())}"
