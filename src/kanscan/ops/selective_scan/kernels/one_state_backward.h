// Backward of the scan with one state where time is contiguous, chunk by chunk from the last: the states of a chunk are
// computed again from the one kept before it, then what comes back goes through the same recurrence the other way.
#pragma once

#include "one_state.h"

namespace {

// What backward adds up for one channel, and what it hands to the chunk before.
struct Sums {
    float carry, A, D, bias;
};

// What backward reads and writes of one channel, and where the chunk lies that comes after this one, seen from it.
struct Back {
    const float *u, *delta, *above;
    float *g, *grad_u, *grad_delta, *sum_B, *sum_C, *spare;
    int64_t next;
    bool add, past;
};

struct Totals {
    Vector A, D, bias;
};

// What enters the state becomes the state.
ALWAYS_INLINE void remember_block(const float* decay, float* history, Vector& carry) {
    Vector a[4], h[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) a[k] = load(decay + k * LANES), h[k] = load(history + k * LANES);
    recur(a, h, carry);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) store(history + k * LANES, h[k]);
}

// The gradient of the state.
ALWAYS_INLINE void return_block(const float* decay, const float* above, const float* C, float* to, Vector& carry) {
    Vector a[4], g[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        // What comes back from step t + 1 has passed that step's decay.
        a[k] = load(decay + k * LANES + 1), g[k] = load(above + k * LANES) * load(C + k * LANES);
    }
    recur_back(a, g, carry);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) store(to + k * LANES, g[k]);
}

// All other gradients at the LANES times from `at` on.
template <bool HOLD>
ALWAYS_INLINE void gradients(const Channel& c, const float* B, const Back& back, const Rows& rows, int64_t at,
                             Totals& sums) {
    const Vector value = load(back.u + at), above = load(back.above + at), g = load(back.g + at);
    const Vector step = load(rows.step + at), decay = load(rows.decay + at);
    const Vector through = g * decay * load(rows.input + at - 1), by_input = g * load(B + at);
    const Vector by_gain = by_input * value;
    Vector gain = step, grad_step = through * c.rate * (1 / LOG2_E), grad_A = through * step;
    if constexpr (HOLD) {
        const Vector x = step * c.rate;
        gain = growth_of(x) * c.inverse;
        grad_step += by_gain * decay;
        grad_A += by_gain * hold_slope(step, x * (1 / LOG2_E), decay, gain, c.inverse);
    } else {
        grad_step += by_gain;
    }
    const Vector grad_u = by_input * gain + above * c.D, grad_delta = grad_step * load(rows.slope + at);
    if (back.past) {
        store_past(back.grad_u + at, grad_u), store_past(back.grad_delta + at, grad_delta);
    } else {
        store(back.grad_u + at, back.add ? grad_u + load(back.grad_u + at) : grad_u);
        store(back.grad_delta + at, grad_delta);
    }
    store(back.sum_B + at, load(back.sum_B + at) + g * (gain * value));
    store(back.sum_C + at, load(back.sum_C + at) + above * load(rows.input + at));
    sums.A += grad_A, sums.D += above * value, sums.bias += grad_delta;
}

// Whole blocks of one channel and one chunk, from the state before them, with what comes back from behind them.
template <bool HOLD, bool SOFTPLUS>
ALWAYS_INLINE void backward_blocks(const Channel& c, const float* B, const float* C, const Back& back, int64_t steps,
                                   int64_t end, const Rows& rows, Vector& state, Vector& carry, Totals& sums) {
    prepare<HOLD, SOFTPLUS, true>(c, back.u, back.delta, B, steps, rows, back.next, back.above);
    if (end < steps) end_at(rows, end);
    // Steps behind the end pass on what comes from the next chunk, whose first decay it has passed already.
    rows.decay[steps] = 1, rows.input[-1] = state[0];
    for (int64_t t = 0; t < steps; t += BLOCK) {
        remember_block(rows.decay + t, rows.input + t, state);
        if (!back.past) fetch(back.grad_u + back.next + t);
    }
    for (int64_t t = steps - BLOCK; t >= 0; t -= BLOCK) {
        return_block(rows.decay + t, back.above + t, C + t, back.g + t, carry);
        if (!back.past) fetch(back.grad_delta + back.next + t);
    }
    for (int64_t t = 0; t < steps; t += LANES) gradients<HOLD>(c, B, back, rows, t, sums);
    carry *= rows.decay[0];
}

template <bool HOLD, bool SOFTPLUS>
void backward_row(const Channel& channel, const float* B, const float* C, const Back& places, int64_t steps,
                  const Rows& rows, float start, Sums& sums) {
    const Channel c = channel;
    const Back back = places;
    Vector state = all(start), carry = all(sums.carry);
    Totals totals{};
    const int64_t whole = (steps + BLOCK - 1) / BLOCK * BLOCK;
    if (whole == steps) {
        backward_blocks<HOLD, SOFTPLUS>(c, B, C, back, steps, steps, rows, state, carry, totals);
    } else {
        // The last chunk of a row, copied to where zeros stand behind its end.
        const size_t bytes = steps * sizeof(float);
        float* copies[5];
        for (int i = 0; i < 5; i++) copies[i] = back.spare + i * Rows::row(whole);
        Back there = back;
        there.past = false;
        there.u = copies[0], there.delta = copies[1], there.above = copies[2];
        there.grad_u = copies[3], there.grad_delta = copies[4];
        const float* from[4] = {back.u, back.delta, back.above, back.grad_u};
        for (int i = 0; i < 4; i++) {
            std::memcpy(copies[i], from[i], bytes);
            std::memset(copies[i] + steps, 0, (whole - steps) * sizeof(float));
        }
        backward_blocks<HOLD, SOFTPLUS>(c, B, C, there, whole, steps, rows, state, carry, totals);
        std::memcpy(back.grad_u, copies[3], bytes), std::memcpy(back.grad_delta, copies[4], bytes);
    }
    sums.carry = carry[0];
    sums.A += sum_of(totals.A), sums.D += sum_of(totals.D), sums.bias += sum_of(totals.bias);
}

// One split of the channels of one group of one sample.
inline void one_state_task(const Scan& scan, const Gradients& grads, int64_t split, int64_t b, int64_t g) {
    auto walk = backward_row<false, false>;
    if (scan.hold) walk = scan.softplus ? backward_row<true, true> : backward_row<true, false>;
    if (!scan.hold && scan.softplus) walk = backward_row<false, true>;
    const int64_t from = scan.first_channel(split), to = scan.first_channel(split + 1), chunk = scan.chunk;
    const int64_t turn = chunks_in_turn(scan), group = b * scan.groups + g, tile = Rows::row(chunk);
    const int64_t row = (turn * chunk + LANES - 1) / LANES * LANES + BLOCK;
    float *B = kanscan_workspace(0, 4 * row + Rows::size(chunk) + 7 * tile), *C = B + row;
    float *sum_B = C + row, *sum_C = sum_B + row, *tiles = sum_C + row, *same = tiles + Rows::size(chunk);
    const Rows rows(tiles, chunk);
    Back back{};
    back.g = same + tile, back.spare = same + 2 * tile, back.add = grads.shared(scan) && g > 0;
    back.past = !grads.shared(scan) && passes_by(scan, grads.u) && passes_by(scan, grads.delta);
    Sums* sums = reinterpret_cast<Sums*>(kanscan_workspace(1, 4 * (to - from)));
    for (int64_t e = from; e < to; e++)
        sums[e - from] = {grads.last ? grads.last[group * scan.width + e] : 0, 0, 0, 0};
    for (int64_t first = (scan.num_chunks() + turn - 1) / turn * turn - turn; first >= 0; first -= turn) {
        const int64_t start = first * chunk, left = scan.length - start;
        const int64_t end = left < turn * chunk ? scan.length : start + turn * chunk;
        load_rows(scan, b, g, start, end - start, B, C);
        std::memset(sum_B, 0, 2 * row * sizeof(float));
        for (int64_t e = from; e < to; e++) {
            const Channel channel(scan, g * scan.width + e);
            const float* above = grads.y.at(b, g, e);
            // A gradient that is the same at all times lies there once.
            if (grads.y.time == 0)
                for (int64_t t = 0; t < chunk; t++) same[t] = *above;
            for (int64_t c = (end - start - 1) / chunk; c >= 0; c--) {
                const int64_t at = c * chunk, t = start + at;
                back.u = scan.u.at(b, g, e) + t, back.delta = scan.delta.at(b, g, e) + t;
                back.above = grads.y.time == 0 ? same : above + t;
                back.grad_u = const_cast<float*>(grads.u.at(b, g, e)) + t;
                back.grad_delta = const_cast<float*>(grads.delta.at(b, g, e)) + t;
                back.next = c > 0 ? -chunk : scan.u.channel + (end - start - 1) / chunk * chunk;
                back.sum_B = sum_B + at, back.sum_C = sum_C + at;
                walk(channel, B + at, C + at, back, end - t < chunk ? end - t : chunk, rows,
                     grads.saved[kept(scan, b, first + c, g, e)], sums[e - from]);
            }
        }
        const int64_t at = ((split * scan.batch + b) * scan.groups + g) * scan.length + start;
        std::memcpy(grads.B + at, sum_B, (end - start) * sizeof(float));
        std::memcpy(grads.C + at, sum_C, (end - start) * sizeof(float));
    }
    for (int64_t e = from; e < to; e++) {
        const int64_t at = group * scan.width + e;
        grads.start[at] = sums[e - from].carry, grads.A[at] = sums[e - from].A;
        grads.D[at] = sums[e - from].D, grads.bias[at] = sums[e - from].bias;
    }
    if (back.past) finish_past();
}

inline void one_state_backward(const Scan& scan, const Gradients& grads, int64_t threads) {
    // Groups that read the same u add to the same gradient, so one thread goes through all of them.
    const int64_t apart = grads.shared(scan) ? 1 : scan.groups, together = scan.groups / apart;
    auto body = [&](int64_t index) {
        const int64_t split = index % scan.splits, first = index / scan.splits % apart * together;
        for (int64_t g = first; g < first + together; g++)
            one_state_task(scan, grads, split, index / scan.splits / apart, g);
    };
    parallel(scan.batch * apart * scan.splits, threads, body);
}

}  // namespace
