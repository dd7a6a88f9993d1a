"""Selective state-space layers: S6, the Mamba block and its bidirectional form, SS2D and the VSS block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kanscan.layers.drop_path import DropPath
from kanscan.ops.dispatch import without_autocast
from kanscan.ops.scan_order import CROSS, order_index
from kanscan.ops.selective_scan import DISCRETIZATIONS, directional_scan, selective_scan

MERGES = ("sum", "reweight")
PROJECTIONS = ("shared", "separate")

#: Patterns for `SegmentationModel.released_names`: how the released code names the parameters of `MambaBlock` and
#: `BidirectionalMamba`, wherever in a network they are.
MAMBA_RELEASED_NAMES = (
    (r"(^|\.)core\.", r"\1"),
    (r"(^|\.)forward_core\.", r"\1mamba_forw."),
    (r"(^|\.)backward_core\.", r"\1mamba_backw."),
    (r"(^|\.)ssm\.(x_proj|dt_proj)_(weight|bias)$", r"\1\2.\3"),
    (r"(^|\.)ssm\.(A_log|D)$", r"\1\2"),
)
#: The same for `SS2D`.
SS2D_RELEASED_NAMES = (
    (r"(^|\.)ssm\.x_proj_weight$", r"\1x_proj_weight"),
    (r"(^|\.)ssm\.dt_proj_(weight|bias)$", r"\1dt_projs_\2"),
    (r"(^|\.)ssm\.A_log$", r"\1A_logs"),
    (r"(^|\.)ssm\.D$", r"\1Ds"),
)


def rank_of(dt_rank: int | str, d_model: int) -> int:
    """Return the rank of the step-size projection: `dt_rank`, or ceil(d_model / 16) for "auto".

    Raises:
        ValueError: The rank is neither a positive number nor "auto".
    """
    if dt_rank == "auto":
        return math.ceil(d_model / 16)
    if not isinstance(dt_rank, int) or dt_rank < 1:
        raise ValueError(f'dt_rank must be "auto" or a positive number, got {dt_rank!r}')
    return dt_rank


class SelectiveSSM(nn.Module):
    """Selective state-space layer S6: step sizes, B and C are read off the input (Mamba, algorithm 2).

    Args:
        d_inner: Channels E of the sequences.
        d_state: States N for each channel.
        dt_rank: Rank R of the step-size projection, or "auto" for ceil(d_model / 16).
        d_model: Width of the surrounding block, for the automatic rank; half of `d_inner` if None.
        num_directions: Number K of sequences with parameters of their own. None for one sequence without an axis K.
        discretization: "euler" (all released networks) or "zoh" (as printed in the papers).

    The parameters are `x_proj_weight` (K, R + 2N, E), giving step sizes, B and C in this order, `dt_proj_weight`
    (K, E, R), `dt_proj_bias` (K, E), `A_log` (K E, N) and `D` (K E); without the axis K where `num_directions` is None.
    """

    def __init__(
        self,
        d_inner: int,
        *,
        d_state: int = 16,
        dt_rank: int | str = "auto",
        d_model: int | None = None,
        num_directions: int | None = None,
        discretization: str = "euler",
    ) -> None:
        super().__init__()
        if discretization not in DISCRETIZATIONS:
            raise ValueError(f"discretization must be {' or '.join(DISCRETIZATIONS)}, got {discretization!r}")
        self.d_inner, self.d_state, self.discretization = d_inner, d_state, discretization
        self.dt_rank = rank_of(dt_rank, d_model if d_model is not None else d_inner // 2)
        self.num_directions = num_directions
        lead = () if num_directions is None else (num_directions,)
        rows = d_inner * (num_directions or 1)
        self.x_proj_weight = nn.Parameter(torch.empty(*lead, self.dt_rank + 2 * d_state, d_inner))
        self.dt_proj_weight = nn.Parameter(torch.empty(*lead, d_inner, self.dt_rank))
        self.dt_proj_bias = nn.Parameter(torch.empty(*lead, d_inner))
        self.A_log = nn.Parameter(torch.empty(rows, d_state))
        self.D = nn.Parameter(torch.empty(rows))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the projections, step sizes between 0.001 and 0.1, decay rates 1..N, direct path 1."""
        bound = self.d_inner**-0.5
        self.x_proj_weight.uniform_(-bound, bound)
        bound = self.dt_rank**-0.5
        self.dt_proj_weight.uniform_(-bound, bound)
        low, high = math.log(1e-3), math.log(1e-1)
        step = torch.empty_like(self.dt_proj_bias).uniform_(low, high).exp_().clamp_(min=1e-4)
        # The inverse of the softplus that is applied in the scan.
        self.dt_proj_bias.copy_(step + torch.log(-torch.expm1(-step)))
        self.A_log.copy_(torch.arange(1, self.d_state + 1, dtype=self.A_log.dtype).log().expand_as(self.A_log))
        self.D.fill_(1.0)

    def forward(
        self,
        x: Float[Tensor, "b *k e l"],
        z: Float[Tensor, "b *k e l"] | None = None,
        order: Int64[Tensor, "directions l"] | None = None,
        add_directions: bool = False,
    ) -> Float[Tensor, "b *merged e l"]:
        """Scan each sequence; `z` gates the result by SiLU(z).

        Args:
            x: (B, K, E, L), or (B, E, L) where the layer has no axis K. With an order one map (B, 1, E, L), which all
                directions read.
            z: Gate, shaped like `x`; not with an order.
            order: Which position each step of each direction reads and writes (K, L), or None for one after the other.
            add_directions: With an order, return the sum over the directions (B, 1, E, L).

        Returns:
            Sequences (B, K, E, L) or (B, E, L); computed in float32 at least, also under autocast.
        """
        with without_autocast(x):
            wide = x.to(self.A_log.dtype)
            y = self._scan(wide, z) if order is None else self._scan_map(wide.squeeze(1), order, add_directions)
            return y.to(x.dtype)

    def _scan_map(self, x: Tensor, order: Tensor, add_directions: bool) -> Tensor:
        directions = order.shape[0]
        # Projections act on each position alone, so one product serves all directions, whatever order they read in.
        rows = self.x_proj_weight.flatten(0, 1)
        projected = (x.transpose(1, 2) @ rows.t()).unflatten(2, (directions, -1)).permute(0, 2, 3, 1)
        low_rank, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=2)
        delta = low_rank.transpose(2, 3) @ self.dt_proj_weight.transpose(1, 2)
        return directional_scan(
            x.unsqueeze(1),
            delta.transpose(2, 3),
            -torch.exp(self.A_log),
            B,
            C,
            order,
            self.D,
            self.dt_proj_bias.flatten(),
            delta_softplus=True,
            discretization=self.discretization,
            add_directions=add_directions,
        )

    def step(
        self, x: Float[Tensor, "b *k e l"], z: Float[Tensor, "b *k e l"] | None, state: Float[Tensor, "b ke n"] | None
    ) -> tuple[Float[Tensor, "b *k e l"], Float[Tensor, "b ke n"]]:
        """Scan the next part of each sequence from the state before it; return its result and the state after it.

        Args:
            x: As in `forward`, without an order.
            z: As in `forward`.
            state: State (B, K E, N) after the part before, or None at the start.
        """
        with without_autocast(x):
            y, state = self._scan_from(x.to(self.A_log.dtype), z, state)
            return y.to(x.dtype), state

    def _scan(self, x: Tensor, z: Tensor | None) -> Tensor:
        return self._scan_from(x, z, None)[0]

    def _scan_from(self, x: Tensor, z: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
        delta, B, C = self.selection(x)
        y, last = selective_scan(
            self._channels(x),
            self._channels(delta),
            -torch.exp(self.A_log),
            B,
            C,
            self.D,
            None if z is None else self._channels(z.to(x.dtype)),
            self.dt_proj_bias.flatten(),
            initial_state=state,
            delta_softplus=True,
            discretization=self.discretization,
            return_last_state=True,
        )
        return y.view_as(x), last

    def selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read step sizes (before bias and softplus), B and C off sequences shaped as in `forward`.

        Returns:
            (..., E, L), (..., N, L) and (..., N, L).
        """
        low_rank, B, C = (self.x_proj_weight @ x).split([self.dt_rank, self.d_state, self.d_state], dim=-2)
        return self.dt_proj_weight @ low_rank, B, C

    def _channels(self, x: Tensor) -> Tensor:
        return x if self.num_directions is None else x.flatten(1, 2)

    def scan_macs(self, x: Tensor, *others: object) -> int:
        """Return the multiply-adds of the recurrence for the inputs of `forward`; products of matrices are not in it.

        For each token, channel and state four: delta times A, delta u times B, decay times state plus input, C times
        state. For each token and channel two: delta times u, D times u. Exponentials are no multiply-adds.
        """
        scans = 1 if self.num_directions is None else self.num_directions / x.shape[1]
        return int(x.numel() * scans) * (4 * self.d_state + 2)


class MambaState(NamedTuple):
    """What a Mamba block knows of the tokens before.

    Attributes:
        inputs: The last inputs of the causal convolution (B, E, d_conv - 1).
        scan: The state of the scan (B, E, N).
    """

    inputs: Tensor
    scan: Tensor


class MambaCore(nn.Module):
    """Mamba block up to its gate: projection, causal depthwise convolution, SiLU, S6, gate (Mamba, figure 3).

    Args:
        d_model: Width C of the tokens.
        d_state: States for each channel.
        d_conv: Taps of the causal convolution.
        expand: Inner width E over C.
        dt_rank: As in `SelectiveSSM`.
        discretization: As in `SelectiveSSM`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        discretization: str = "euler",
    ) -> None:
        super().__init__()
        self.d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner)
        self.ssm = SelectiveSSM(
            self.d_inner, d_state=d_state, dt_rank=dt_rank, d_model=d_model, discretization=discretization
        )

    def forward(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b l e"]:
        """Return the gated inner features, E wide."""
        x, z = self.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)
        # Padded in front only: a token sees itself and what came before it.
        x = F.silu(self.conv1d(F.pad(x, (self.conv1d.kernel_size[0] - 1, 0))))
        return self.ssm(x, z.to(x.dtype)).transpose(1, 2)

    def step(self, tokens: Float[Tensor, "b l c"], state: MambaState | None) -> tuple[Tensor, MambaState]:
        """Return the gated inner features of the next tokens, and the state after them; see `MambaBlock.step`."""
        x, z = self.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)
        taps = self.conv1d.kernel_size[0] - 1
        before = x.new_zeros(*x.shape[:2], taps) if state is None else state.inputs.to(x.dtype)
        seen = torch.cat([before, x], dim=2)
        x = F.silu(self.conv1d(seen))
        y, last = self.ssm.step(x, z.to(x.dtype), None if state is None else state.scan)
        return y.transpose(1, 2), MambaState(seen[..., seen.shape[2] - taps :], last)


class MambaBlock(nn.Module):
    """Mamba block (Mamba, figure 3): tokens in, tokens out, no norm and no residual.

    Args:
        d_model: Width C of the tokens.
        **options: `d_state`, `d_conv`, `expand`, `dt_rank` and `discretization` as in `MambaCore`.

    Example:
        >>> MambaBlock(8)(torch.zeros(2, 17, 8)).shape
        torch.Size([2, 17, 8])
    """

    def __init__(self, d_model: int, **options: int | str) -> None:
        super().__init__()
        self.core = MambaCore(d_model, **options)  # type: ignore[arg-type]
        self.out_proj = nn.Linear(self.core.d_inner, d_model, bias=False)

    def forward(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        """Mix the tokens; each sees those before it."""
        return self.out_proj(self.core(tokens))

    def step(
        self, tokens: Float[Tensor, "b l c"], state: MambaState | None = None
    ) -> tuple[Float[Tensor, "b l c"], MambaState]:
        """Mix the next tokens of a sequence that comes in parts of one token or more, such as slices of a volume.

        The parts together give what `forward` gives of the whole; memory does not grow with what has passed.

        Args:
            tokens: The next tokens.
            state: What the call before returned, or None at the start.

        Returns:
            The mixed tokens, and the state for the next call.

        Example:
            >>> block, tokens = MambaBlock(8), torch.randn(2, 17, 8)
            >>> first, state = block.step(tokens[:, :5])
            >>> rest, _ = block.step(tokens[:, 5:], state)
            >>> torch.allclose(torch.cat([first, rest], 1), block(tokens), atol=1e-5)
            True
        """
        inner, state = self.core.step(tokens, state)
        return self.out_proj(inner), state


class BidirectionalMamba(nn.Module):
    """Bidirectional Mamba (LKM-UNet section 2.3): two cores, one of them on the reversed tokens, superimposed.

    Args:
        d_model: Width C of the tokens.
        projection: "shared": the two inner results are added and projected once (as released); "separate": each
            direction has a projection of its own.
        norm: Put a LayerNorm in front.
        **options: As in `MambaCore`.

    Raises:
        ValueError: `projection` is neither of the two.
    """

    def __init__(self, d_model: int, *, projection: str = "shared", norm: bool = True, **options: int | str) -> None:
        super().__init__()
        if projection not in PROJECTIONS:
            raise ValueError(f"projection must be {' or '.join(PROJECTIONS)}, got {projection!r}")
        self.norm = nn.LayerNorm(d_model) if norm else nn.Identity()
        self.forward_core = MambaCore(d_model, **options)  # type: ignore[arg-type]
        self.backward_core = MambaCore(d_model, **options)  # type: ignore[arg-type]
        self.out_proj = nn.Linear(self.forward_core.d_inner, d_model, bias=False)
        self.backward_proj = (
            nn.Linear(self.forward_core.d_inner, d_model, bias=False) if projection == "separate" else None
        )

    def forward(self, tokens: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        """Mix the tokens; each sees all of them."""
        tokens = self.norm(tokens)
        ahead = self.forward_core(tokens)
        back = self.backward_core(tokens.flip(1)).flip(1)
        if self.backward_proj is None:
            return self.out_proj(ahead + back)
        return self.out_proj(ahead) + self.backward_proj(back)


class SS2D(nn.Module):
    """2D selective scan (VMamba section 4.3; VM-UNet figure 2; KM-UNet section 2.2), channels last.

    The map is projected, convolved, read along several orders by an S6 layer with parameters for each of them, put back
    and merged, normalized, gated and projected.

    Args:
        d_model: Channels C of the map.
        d_state: States for each channel.
        d_conv: Side of the depthwise convolution, odd.
        expand: Inner width E over C.
        dt_rank: As in `SelectiveSSM`.
        orders: Names of the scan orders (`kanscan.ops.scan_order`).
        merge: "sum" (all released networks), or "reweight": the K results are weighted before they are added. KM-UNet
            asks for a re-weighting without a formula; here the weights are K * softmax(linear(mean of the inner map)),
            one for each sample and direction. The linear starts at zero, where the merge equals the plain sum.
        discretization: As in `SelectiveSSM`.

    Raises:
        ValueError: An option is not legal or an order unknown.

    Example:
        >>> SS2D(8)(torch.zeros(2, 6, 10, 8)).shape
        torch.Size([2, 6, 10, 8])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 3,
        expand: int = 2,
        dt_rank: int | str = "auto",
        orders: Sequence[str] = CROSS,
        merge: str = "sum",
        discretization: str = "euler",
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ValueError(f"merge must be {' or '.join(MERGES)}, got {merge!r}")
        if d_conv % 2 == 0:
            raise ValueError(f"d_conv must be odd, got {d_conv}; the next odd number is {d_conv + 1}")
        if not orders:
            raise ValueError("orders must name at least one scan order, got none")
        for name in orders:
            order_index(name, (2, 2))
        self.orders = tuple(orders)
        inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, d_conv, padding=d_conv // 2, groups=inner)
        self.ssm = SelectiveSSM(
            inner,
            d_state=d_state,
            dt_rank=dt_rank,
            d_model=d_model,
            num_directions=len(self.orders),
            discretization=discretization,
        )
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self.direction_weights = nn.Linear(inner, len(self.orders)) if merge == "reweight" else None
        if self.direction_weights is not None:
            nn.init.zeros_(self.direction_weights.weight)
            nn.init.zeros_(self.direction_weights.bias)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return a map of the same size."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2)))
        y = self.scan(x).transpose(1, 2).unflatten(1, tuple(x.shape[2:]))
        return self.out_proj(self.out_norm(y) * F.silu(z))

    def scan(self, x: Float[Tensor, "b e h w"]) -> Float[Tensor, "b e l"]:
        """Return the merged result of all directions, row by row."""
        size = tuple(x.shape[2:])
        # Channels last: a step reads all channels of a pixel, and pixels in any order cost the same.
        tokens = x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2)
        order = torch.stack([order_index(name, size) for name in self.orders]).to(x.device)
        y = self.ssm(tokens.unsqueeze(1), None, order, self.direction_weights is None)
        if self.direction_weights is None:
            return y.squeeze(1)
        weights = torch.softmax(self.direction_weights(x.mean((2, 3))), dim=1) * len(self.orders)
        return torch.einsum("bk,bkel->bel", weights.to(y.dtype), y)


class VSSBlock(nn.Module):
    """Visual state-space block (VM-UNet figure 1 (b)): x + DropPath(SS2D(LayerNorm(x))), channels last.

    Args:
        d_model: Channels of the map.
        d_state: As in `SS2D`.
        drop_path: Rate of stochastic depth.
        orders: As in `SS2D`.
        merge: As in `SS2D`.
        discretization: As in `SS2D`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        drop_path: float = 0.0,
        orders: Sequence[str] = CROSS,
        merge: str = "sum",
        discretization: str = "euler",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.ss2d = SS2D(d_model, d_state=d_state, orders=orders, merge=merge, discretization=discretization)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Return a map of the same size."""
        return x + self.drop_path(self.ss2d(self.norm(x)))
