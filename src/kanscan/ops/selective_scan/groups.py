"""Scans of all channels and scans of groups of channels along orders of their own, each made of the other."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm
from typing import Any

import torch
from torch import Tensor

from kanscan.ops.scan_order import inverse

Scan = Callable[..., tuple[Tensor, Tensor]]


def of_all(scan_groups: Scan) -> Scan:
    """Return a scan of all channels, `kanscan.ops.selective_scan` without its checks, by a scan of groups."""

    def scan(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor | None,
        **setting: Any,
    ) -> tuple[Tensor, Tensor]:
        B, C = _grouped(B, C)
        split = (B.shape[1], u.shape[1] // B.shape[1])
        gate = None if z is None else z.unflatten(1, split)
        u, delta = u.unflatten(1, split), delta.unflatten(1, split)
        y, last = scan_groups(u, delta, A, B, C, D, gate, delta_bias, initial_state, None, **setting)
        return y.flatten(1, 2), last

    return scan


def _grouped(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Give both matrices an axis of groups, the same number of them."""
    B, C = (t.unsqueeze(1) if t.ndim == 3 else t for t in (B, C))
    groups = lcm(B.shape[1], C.shape[1])
    B, C = (t if t.shape[1] == groups else t.repeat_interleave(groups // t.shape[1], dim=1) for t in (B, C))
    return B, C


def in_copies(scan: Scan) -> Scan:
    """Return a scan of groups, as `cpu.scan_groups`, by a scan of all channels of permuted copies."""

    def scan_groups(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor | None,
        order: Tensor | None,
        *,
        add_groups: bool = False,
        **setting: Any,
    ) -> tuple[Tensor, Tensor]:
        u = u.expand(delta.shape)
        gate = None if z is None else _read(z, order).flatten(1, 2)
        u_, delta_, B, C = (_read(t, order) for t in (u, delta, B, C))
        tensors = (u_.flatten(1, 2), delta_.flatten(1, 2), A, B, C, D, gate, delta_bias, initial_state)
        y, last = scan(*tensors, **setting)
        y = _read(y.view(u.shape), None if order is None else torch.stack([inverse(i) for i in order]))
        return y.sum(1, keepdim=True) if add_groups else y, last

    return scan_groups


def _read(t: Tensor, order: Tensor | None) -> Tensor:
    """Return each group of `t` in its order of time."""
    return t if order is None else torch.stack([t[:, k].index_select(2, i) for k, i in enumerate(order)], 1)
