"""The selective scan as Triton kernels; imported only where Triton is.

A program owns a few channels of one group of one sample and walks through time in chunks. Within a chunk all steps are
worked on at once, as a tile (steps of a run, states, channels, runs) of float32 numbers in registers: time is cut into
runs of a few consecutive steps. The compiler hands out the last axes of a tile to threads first, so the steps of a run
lie in one thread; the recurrence h -> decay h + add is composed along them without any exchange, and only the ends of
the runs are composed between threads. The state is carried from chunk to chunk. Forward keeps the state at the start of
each chunk, and backward recomputes the rest of them.

Inputs may be in any layout: the kernels are given strides. With an order, step t reads and writes position order[t].
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
@no_type_check
def _compose(decay_first, add_first, decay_then, add_then):
    return decay_first * decay_then, add_then + decay_then * add_first


@triton.jit
@no_type_check
def _follow(decay, add, start, reverse: tl.constexpr):
    """Run h -> decay h + add over a chunk from `start` (states, channels): all its states, and the last of them."""
    num_steps: tl.constexpr = decay.shape[0]
    num_runs: tl.constexpr = decay.shape[3]
    through, gathered = tl.associative_scan((decay, add), 0, _compose, reverse=reverse)
    step, run = tl.arange(0, num_steps)[:, None, None, None], tl.arange(0, num_runs)[None, None, :]
    last_step: tl.constexpr = 0 if reverse else num_steps - 1
    last_run: tl.constexpr = 0 if reverse else num_runs - 1
    first_run: tl.constexpr = num_runs - 1 if reverse else 0
    through_run = tl.sum(tl.where(step == last_step, through, 0.0), axis=0)
    gathered_run = tl.sum(tl.where(step == last_step, gathered, 0.0), axis=0)
    through_run, gathered_run = tl.associative_scan((through_run, gathered_run), 2, _compose, reverse=reverse)
    ends = gathered_run + through_run * start[:, :, None]
    neighbor = tl.minimum(run + 1, num_runs - 1) if reverse else tl.maximum(run - 1, 0)
    before = tl.gather(ends, tl.broadcast_to(neighbor, ends.shape), 2)
    before = tl.where(run == first_run, start[:, :, None], before)
    return gathered + through * before[None, :, :, :], tl.sum(tl.where(run == last_run, ends, 0.0), axis=2)


@triton.jit
@no_type_check
def _softplus(x):
    # log(1 + w) for w = exp(-|x|) in (0, 1], as 2 artanh(w / (2 + w)): no digits are lost where the result is small,
    # which is where step sizes are.
    w = tl.exp2(-tl.abs(x) * LOG2_E)
    s = w / (2.0 + w)
    q = s * s
    series = 1.0 / 15.0
    series = series * q + 1.0 / 13.0
    series = series * q + 1.0 / 11.0
    series = series * q + 1.0 / 9.0
    series = series * q + 1.0 / 7.0
    series = series * q + 1.0 / 5.0
    series = series * q + 1.0 / 3.0
    series = series * q + 1.0
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
@no_type_check
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2_E))


@triton.jit
@no_type_check
def _hold_gain(delta, rate, x, decay):
    # (exp(x) - 1) / rate with x = delta rate; near zero the difference cancels, and the series of delta
    # (exp(x) - 1) / x serves.
    series = 1.0 / 40320.0
    series = series * x + 1.0 / 5040.0
    series = series * x + 1.0 / 720.0
    series = series * x + 1.0 / 120.0
    series = series * x + 1.0 / 24.0
    series = series * x + 1.0 / 6.0
    series = series * x + 1.0 / 2.0
    series = series * x + 1.0
    small = tl.abs(x) < 0.5
    return tl.where(small, delta * series, (decay - 1.0) / tl.where(rate == 0.0, 1.0, rate))


@triton.jit
@no_type_check
def _hold_gain_slope(delta, rate, x, decay):
    # d gain / d rate = (x exp(x) - exp(x) + 1) / rate^2; near zero delta^2 sum_k x^k / (k! (k + 2)).
    series = 1.0 / 45360.0
    series = series * x + 1.0 / 5760.0
    series = series * x + 1.0 / 840.0
    series = series * x + 1.0 / 144.0
    series = series * x + 1.0 / 30.0
    series = series * x + 1.0 / 8.0
    series = series * x + 1.0 / 3.0
    series = series * x + 1.0 / 2.0
    small = tl.abs(x) < 0.5
    safe = tl.where(rate == 0.0, 1.0, rate)
    return tl.where(small, delta * delta * series, (x * decay - decay + 1.0) / (safe * safe))


@triton.jit
@no_type_check
def _at(base, strides, batch, group, row, place):
    """Addresses of the elements (row, place) of one group of one sample, as (steps, rows, runs)."""
    start = base + batch * strides[0] + group.to(tl.int64) * strides[1]
    return start + row[None, :, None] * strides[2] + place[:, None, :] * strides[3]


@triton.jit
@no_type_check
def _load(base, strides, batch, group, row, place, mask):
    return tl.load(_at(base, strides, batch, group, row, place), mask=mask, other=0.0).to(tl.float32)


@triton.jit
@no_type_check
def _times(steps: tl.constexpr, runs: tl.constexpr):
    """Time of each place in a tile (steps, runs): a run after the other."""
    return tl.arange(0, steps)[:, None] + tl.arange(0, runs)[None, :] * steps


@triton.jit
@no_type_check
def _place(order, group, length, t):
    # No early return: the compiler would go on to what follows it.
    return t if order is None else tl.load(order + group * length + t, mask=t < length, other=0)


@triton.jit
@no_type_check
def _step_sizes(raw, bias, mask, softplus: tl.constexpr):
    # Beyond the end steps have length zero there: they change nothing.
    if bias is not None:
        raw = raw + bias[None, :, None]
    step = _softplus(raw) if softplus else raw
    return raw, tl.where(mask, step, 0.0)


@triton.jit
@no_type_check
def _per_channel(base, row, mask):
    return None if base is None else tl.load(base + row, mask=mask, other=0.0)


@triton.jit
@no_type_check
def scan_forward(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    initial_state,
    order,
    y,
    last,
    kept,
    u_strides,
    delta_strides,
    B_strides,
    C_strides,
    z_strides,
    y_strides,
    groups,
    width,
    length,
    states,
    softplus: tl.constexpr,
    hold: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
    RUNS: tl.constexpr,
):
    """Compute `y`, the last state and, where asked for, the states at the starts of chunks."""
    program, blocks, chunks = tl.program_id(0), tl.cdiv(width, BLOCK_E), tl.cdiv(length, STEPS * RUNS)
    group = program // blocks % groups
    batch = (program // blocks // groups).to(tl.int64)
    e = program % blocks * BLOCK_E + tl.arange(0, BLOCK_E)
    n, steps = tl.arange(0, BLOCK_N), _times(STEPS, RUNS)
    e_in, n_in = e < width, n < states
    row = group * width + e
    pair, pair_in = row[None, :] * states + n[:, None], n_in[:, None] & e_in[None, :]
    sample = batch * groups * width * states
    rate = tl.load(A + pair, mask=pair_in, other=0.0)
    bias, weight = _per_channel(delta_bias, row, e_in), _per_channel(D, row, e_in)
    state = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    if initial_state is not None:
        state = tl.load(initial_state + sample + pair, mask=pair_in, other=0.0)
    for chunk in range(chunks):
        if kept is not None:
            tl.store(kept + sample * chunks + chunk * groups * width * states + pair, state, mask=pair_in)
        t = chunk * STEPS * RUNS + steps
        place = _place(order, group, length, t)
        inside = e_in[None, :, None] & (t < length)[:, None, :]
        matrix_in = n_in[None, :, None] & (t < length)[:, None, :]
        v = _load(u, u_strides, batch, group, e, place, inside)
        _, d = _step_sizes(_load(delta, delta_strides, batch, group, e, place, inside), bias, inside, softplus)
        b = _load(B, B_strides, batch, group, n, place, matrix_in)[:, :, None, :]
        c = _load(C, C_strides, batch, group, n, place, matrix_in)[:, :, None, :]
        x = d[:, None, :, :] * rate[None, :, :, None]
        decay = tl.exp2(x * LOG2_E)
        if hold:
            add = _hold_gain(d[:, None, :, :], rate[None, :, :, None], x, decay) * v[:, None, :, :] * b
        else:
            add = (d * v)[:, None, :, :] * b
        path, state = _follow(decay, add, state, False)
        # States that are only padding may hold NaN (0 x inf): they are left out, not multiplied by zero.
        out = tl.sum(tl.where(n_in[None, :, None, None], path * c, 0.0), axis=1)
        if D is not None:
            out += weight[None, :, None] * v
        if z is not None:
            gate = _load(z, z_strides, batch, group, e, place, inside)
            out *= gate * _sigmoid(gate)
        tl.store(_at(y, y_strides, batch, group, e, place), out, mask=inside)
    tl.store(last + sample + pair, state, mask=pair_in)


@triton.jit
@no_type_check
def scan_backward(
    grad_y,
    grad_last,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    order,
    kept,
    grad_u,
    grad_delta,
    grad_A,
    grad_B,
    grad_C,
    grad_D,
    grad_z,
    grad_bias,
    grad_start,
    grad_y_strides,
    u_strides,
    delta_strides,
    B_strides,
    C_strides,
    z_strides,
    grad_u_strides,
    grad_delta_strides,
    grad_z_strides,
    samples,
    groups,
    width,
    length,
    states,
    span,
    softplus: tl.constexpr,
    hold: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEPS: tl.constexpr,
    RUNS: tl.constexpr,
):
    """Compute all gradients; those of A, D, the bias for each sample, those of B, C for each share of the channels.

    A program goes through `span` blocks of channels one after the other and sums the gradients of B and C over them, so
    that nothing is added by several programs in an order of chance.
    """
    program, chunks = tl.program_id(0), tl.cdiv(length, STEPS * RUNS)
    shares = tl.cdiv(tl.cdiv(width, BLOCK_E), span)
    share, group = program % shares, program // shares % groups
    batch = (program // shares // groups).to(tl.int64)
    n, steps = tl.arange(0, BLOCK_N), _times(STEPS, RUNS)
    n_in = n < states
    channels = groups * width
    sample = batch * channels * states
    sums = ((share * samples + batch) * groups + group) * states * length
    for turn in range(span):
        e = (share * span + turn) * BLOCK_E + tl.arange(0, BLOCK_E)
        e_in = e < width
        row = group * width + e
        pair, pair_in = row[None, :] * states + n[:, None], n_in[:, None] & e_in[None, :]
        rate = tl.load(A + pair, mask=pair_in, other=0.0)
        bias, weight = _per_channel(delta_bias, row, e_in), _per_channel(D, row, e_in)
        # d loss / d state at the step to the right of what is being worked on.
        carry = tl.load(grad_last + sample + pair, mask=pair_in, other=0.0)
        sum_A = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
        sum_D, sum_bias = tl.zeros((BLOCK_E,), tl.float32), tl.zeros((BLOCK_E,), tl.float32)
        for back in range(chunks):
            chunk = chunks - 1 - back
            start = tl.load(kept + sample * chunks + chunk * channels * states + pair, mask=pair_in, other=0.0)
            t = chunk * STEPS * RUNS + steps
            place, place_after = _place(order, group, length, t), _place(order, group, length, t + 1)
            inside = e_in[None, :, None] & (t < length)[:, None, :]
            inside_after = e_in[None, :, None] & (t + 1 < length)[:, None, :]
            matrix_in = n_in[None, :, None] & (t < length)[:, None, :]
            v = _load(u, u_strides, batch, group, e, place, inside)
            raw = _load(delta, delta_strides, batch, group, e, place, inside)
            raw, d = _step_sizes(raw, bias, inside, softplus)
            raw_after = _load(delta, delta_strides, batch, group, e, place_after, inside_after)
            _, d_after = _step_sizes(raw_after, bias, inside_after, softplus)
            b = _load(B, B_strides, batch, group, n, place, matrix_in)[:, :, None, :]
            c = _load(C, C_strides, batch, group, n, place, matrix_in)[:, :, None, :]
            above = _load(grad_y, grad_y_strides, batch, group, e, place, inside)

            # The states of the chunk once more.
            x = d[:, None, :, :] * rate[None, :, :, None]
            decay = tl.exp2(x * LOG2_E)
            if hold:
                gain = _hold_gain(d[:, None, :, :], rate[None, :, :, None], x, decay)
                add = gain * v[:, None, :, :] * b
            else:
                add = (d * v)[:, None, :, :] * b
            path, _ = _follow(decay, add, start, False)

            if z is not None:
                gate = _load(z, z_strides, batch, group, e, place, inside)
                open_ = _sigmoid(gate)
                out = tl.sum(path * c, axis=1)
                if D is not None:
                    out += weight[None, :, None] * v
                slope_z = above * out * open_ * (1.0 + gate * (1.0 - open_))
                tl.store(_at(grad_z, grad_z_strides, batch, group, e, place), slope_z, mask=inside)
                above *= gate * open_
            part_C = tl.sum(path * above[:, None, :, :], axis=2)

            # g_t = C_t d loss / d y_t + decay_(t+1) g_(t+1); to the right of the last step the decay is one.
            decay_after = tl.exp2(d_after[:, None, :, :] * rate[None, :, :, None] * LOG2_E)
            g, carry = _follow(decay_after, c * above[:, None, :, :], carry, True)

            # d loss / d (delta A): what a step takes over from the state before it is what it did not add.
            moved = g * (path - add)
            slope = tl.sum(moved * rate[None, :, :, None], axis=1)
            by_rate = moved * d[:, None, :, :]
            if hold:
                slope_u = tl.sum(g * b * gain, axis=1)
                slope += v * tl.sum(g * b * decay, axis=1)
                by_rate += (
                    g * b * v[:, None, :, :] * _hold_gain_slope(d[:, None, :, :], rate[None, :, :, None], x, decay)
                )
                part_B = tl.sum(g * gain * v[:, None, :, :], axis=2)
            else:
                received = tl.sum(g * b, axis=1)
                slope_u = received * d
                slope += received * v
                part_B = tl.sum(g * (d * v)[:, None, :, :], axis=2)
            sum_A += tl.sum(tl.sum(by_rate, axis=0), axis=2)
            if D is not None:
                slope_u += weight[None, :, None] * above
                sum_D += tl.sum(tl.sum(above * v, axis=0), axis=1)
            if softplus:
                slope *= _sigmoid(raw)
            sum_bias += tl.sum(tl.sum(tl.where(inside, slope, 0.0), axis=0), axis=1)
            tl.store(_at(grad_u, grad_u_strides, batch, group, e, place), slope_u, mask=inside)
            tl.store(_at(grad_delta, grad_delta_strides, batch, group, e, place), slope, mask=inside)
            at = sums + n[None, :, None] * length + place[:, None, :]
            if turn > 0:
                part_B += tl.load(grad_B + at, mask=matrix_in, other=0.0)
                part_C += tl.load(grad_C + at, mask=matrix_in, other=0.0)
            tl.store(grad_B + at, part_B, mask=matrix_in)
            tl.store(grad_C + at, part_C, mask=matrix_in)
        first = _place(order, group, length, tl.zeros((1, 1), tl.int32))
        raw = _load(delta, delta_strides, batch, group, e, first, e_in[None, :, None])
        _, d = _step_sizes(raw, bias, e_in[None, :, None], softplus)
        carry *= tl.exp2(tl.reshape(d, (1, BLOCK_E)) * rate * LOG2_E)
        tl.store(grad_start + sample + pair, carry, mask=pair_in)
        tl.store(grad_A + sample + pair, sum_A, mask=pair_in)
        tl.store(grad_bias + batch * channels + row, sum_bias, mask=e_in)
        if D is not None:
            tl.store(grad_D + batch * channels + row, sum_D, mask=e_in)
        # What this turn has written the next one reads, and other threads of the program may do so.
        tl.debug_barrier()
