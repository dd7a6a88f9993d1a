// The scan with one state, where time is contiguous: a vector holds LANES times of one channel, so that nothing has to be
// turned into tiles. Within a vector the recurrence h = a h + b is composed with itself 1, 2, 4.. steps apart.
#pragma once

#include "scan.h"

namespace {

// Whether this form serves: one state, no order, time contiguous. Too few lanes are not worth it.
inline bool along_time(const Scan& scan, const View& other) {
    return LANES >= 8 && scan.states == 1 && !scan.order && scan.u.time == 1 && scan.delta.time == 1 && other.time == 1;
}

// b_t becomes a_t b_(t-1) + b_t and so on over all lanes before t, a_t their product; K vectors side by side.
template <int K, int BY = 1>
ALWAYS_INLINE void compose(Vector* a, Vector* b) {
    if constexpr (BY < LANES) {
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) b[k] += a[k] * later<BY>(b[k], Vector{});
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) a[k] *= later<BY>(a[k], all(1.0f));
        compose<K, 2 * BY>(a, b);
    }
}

// The same from the last lane to the first.
template <int K, int BY = 1>
ALWAYS_INLINE void compose_back(Vector* a, Vector* b) {
    if constexpr (BY < LANES) {
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) b[k] += a[k] * earlier<BY>(b[k], Vector{});
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) a[k] *= earlier<BY>(a[k], all(1.0f));
        compose_back<K, 2 * BY>(a, b);
    }
}

// One channel, and where its chunk begins.
struct Channel {
    const float *u, *delta, *B, *C;
    Vector bias, D, rate, inverse;

    Channel(const Scan& scan, int64_t b, int64_t g, int64_t e, int64_t begin, const float* B, const float* C)
        : u(scan.u.at(b, g, e) + begin), delta(scan.delta.at(b, g, e) + begin), B(B), C(C) {
        const int64_t channel = g * scan.width + e;
        bias = all(scan.bias ? scan.bias[channel] : 0), D = all(scan.D ? scan.D[channel] : 0);
        rate = all(scan.A[channel] * LOG2_E);
        inverse = all(scan.A[channel] == 0 ? 0 : 1 / scan.A[channel]);
    }
};

// K vectors of the recurrence.
template <int K, bool HOLD>
struct Walk {
    Vector value[K], step[K], slope[K], decay[K], h[K];

    ALWAYS_INLINE Walk(const Channel& c, int64_t t, int count, bool softplus, Vector& carry) {
        Vector product[K], e[K];
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) {
            value[k] = load_first(c.u + t + k * LANES, K > 1 ? LANES : count);
            step[k] = load_first(c.delta + t + k * LANES, K > 1 ? LANES : count) + c.bias;
            slope[k] = step[k];
        }
        if (softplus) {
            softplus_each<K>(step, e);
#pragma GCC unroll 8
            for (int k = 0; k < K; k++) slope[k] = softplus_slope(slope[k], e[k]);
        } else {
#pragma GCC unroll 8
            for (int k = 0; k < K; k++) slope[k] = all(1.0f);
        }
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) decay[k] = step[k] * c.rate;
        exp2_each<K>(decay);
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) {
            Vector gain = step[k];
            if constexpr (HOLD) gain = hold_gain(step[k], step[k] * c.rate * (1 / LOG2_E), decay[k], c.inverse);
            h[k] = gain * value[k] * load(c.B + t + k * LANES), product[k] = decay[k];
        }
        compose<K>(product, h);
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) h[k] += product[k] * carry, carry = last_of(h[k]);
    }
};

template <int K, bool HOLD>
ALWAYS_INLINE void forward_some(const Channel& c, int64_t t, int count, bool softplus, Vector& carry, float* y) {
    const Walk<K, HOLD> walk(c, t, count, softplus, carry);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const int64_t at = t + k * LANES;
        store_first(y + at, walk.h[k] * load(c.C + at) + c.D * walk.value[k], K > 1 ? LANES : count);
    }
    if (K == 1 && count < LANES) carry = all(walk.h[0][count - 1]);
}

template <bool HOLD, bool SOFTPLUS>
void forward_channel(const Channel& channel, int64_t steps, float& state, float* y) {
    // A copy that no store can change stays in registers.
    const Channel c = channel;
    Vector carry = all(state);
    int64_t t = 0;
    for (; t + 4 * LANES <= steps; t += 4 * LANES) forward_some<4, HOLD>(c, t, LANES, SOFTPLUS, carry, y);
    for (; t < steps; t += LANES)
        forward_some<1, HOLD>(c, t, steps - t < LANES ? int(steps - t) : LANES, SOFTPLUS, carry, y);
    state = carry[0];
}

// Rows of B and C of a chunk, with zeros behind their end.
inline void load_rows(const Scan& scan, int64_t b, int64_t g, int64_t begin, int64_t steps, float* B, float* C) {
    load_matrix(scan, scan.B, b, g, begin, steps, B);
    load_matrix(scan, scan.C, b, g, begin, steps, C);
    store(B + steps, Vector{}), store(C + steps, Vector{});
}

// The place of a channel's kept state.
inline int64_t kept(const Scan& scan, int64_t b, int64_t c, int64_t g, int64_t e) {
    return ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() + e;
}

inline void one_state_forward(const Scan& scan, const View& y, float* last, float* saved, int64_t threads) {
    const int64_t chunk = scan.chunk;
    auto channel_of = forward_channel<false, false>;
    if (scan.hold) channel_of = scan.softplus ? forward_channel<true, true> : forward_channel<true, false>;
    if (!scan.hold && scan.softplus) channel_of = forward_channel<false, true>;
    auto body = [&](int64_t task) {
        const int64_t split = task % scan.splits, g = task / scan.splits % scan.groups;
        const int64_t b = task / scan.splits / scan.groups;
        const int64_t from = scan.first_channel(split), to = scan.first_channel(split + 1);
        float *B = kanscan_workspace(0, 2 * (chunk + LANES)), *C = B + chunk + LANES;
        float* states = last + (b * scan.groups + g) * scan.width;
        for (int64_t e = from; e < to; e++)
            states[e] = scan.start ? scan.start[(b * scan.groups + g) * scan.width + e] : 0;
        for (int64_t c = 0; c < scan.num_chunks(); c++) {
            const int64_t begin = c * chunk, steps = scan.length - begin < chunk ? scan.length - begin : chunk;
            load_rows(scan, b, g, begin, steps, B, C);
            if (saved) std::memcpy(saved + kept(scan, b, c, g, from), states + from, (to - from) * sizeof(float));
            for (int64_t e = from; e < to; e++)
                channel_of(Channel(scan, b, g, e, begin, B, C), steps, states[e],
                           const_cast<float*>(y.at(b, g, e)) + begin);
        }
    };
    parallel(scan.batch * scan.groups * scan.splits, threads, body);
}

// What backward adds up for one channel, and what it hands to the chunk before.
struct Sums {
    float carry, A, D, bias;
};

// What backward reads and writes of one channel in one chunk; history[t] is the state before step t.
struct Back {
    const float* above;
    float *step, *slope, *decay, *history, *grad_u, *grad_delta, *sum_B, *sum_C;
    bool add;
    Vector A, D, bias;
};

template <int K, bool HOLD>
ALWAYS_INLINE void remember_some(const Channel& c, const Back& back, int64_t t, int count, bool softplus, Vector& carry) {
    const Walk<K, HOLD> walk(c, t, count, softplus, carry);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const int64_t at = t + k * LANES;
        store(back.step + at, walk.step[k]), store(back.slope + at, walk.slope[k]);
        store(back.decay + at, walk.decay[k]), store(back.history + at + 1, walk.h[k]);
    }
}

template <int K, bool HOLD>
ALWAYS_INLINE void backward_some(const Channel& c, Back& back, int64_t t, int count, Vector& carry) {
    Vector above[K], product[K], g[K];
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const int64_t at = t + k * LANES;
        above[k] = load_first(back.above + at, K > 1 ? LANES : count);
        // What comes back from step t + 1 has passed that step's decay.
        g[k] = above[k] * load(c.C + at), product[k] = load(back.decay + at + 1);
    }
    compose_back<K>(product, g);
#pragma GCC unroll 8
    for (int k = K - 1; k >= 0; k--) g[k] += product[k] * carry, carry = first_of(g[k]);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const int64_t at = t + k * LANES;
        const int width = K > 1 ? LANES : count;
        const Vector value = load_first(c.u + at, width), step = load(back.step + at), decay = load(back.decay + at);
        Vector through = g[k] * decay * load(back.history + at);
        if (K == 1 && count < LANES) through = first_lanes_of(through, count);
        const Vector by_input = g[k] * load(c.B + at), by_gain = by_input * value;
        Vector gain = step, grad_step = through * c.rate * (1 / LOG2_E), grad_A = through * step;
        if constexpr (HOLD) {
            const Vector x = step * c.rate * (1 / LOG2_E);
            gain = hold_gain(step, x, decay, c.inverse);
            grad_step += by_gain * decay;
            grad_A += by_gain * hold_slope(step, x, decay, gain, c.inverse);
        } else {
            grad_step += by_gain;
        }
        const Vector grad_u = by_input * gain + above[k] * c.D, grad_delta = grad_step * load(back.slope + at);
        float* u = back.grad_u + at;
        store_first(u, back.add ? grad_u + load_first(u, width) : grad_u, width);
        store_first(back.grad_delta + at, grad_delta, width);
        store(back.sum_B + at, load(back.sum_B + at) + g[k] * gain * value);
        store(back.sum_C + at, load(back.sum_C + at) + above[k] * load(back.history + at + 1));
        back.A += grad_A, back.D += above[k] * value, back.bias += grad_delta;
    }
}

template <bool HOLD, bool SOFTPLUS>
void backward_channel(const Channel& channel, const Back& places, int64_t steps, float state, Sums& sums) {
    const Channel c = channel;
    Back back = places;
    Vector carry = all(state);
    back.history[0] = state;
    int64_t t = 0;
    for (; t + 4 * LANES <= steps; t += 4 * LANES) remember_some<4, HOLD>(c, back, t, LANES, SOFTPLUS, carry);
    const int64_t whole = t;
    for (; t < steps; t += LANES)
        remember_some<1, HOLD>(c, back, t, steps - t < LANES ? int(steps - t) : LANES, SOFTPLUS, carry);
    // Steps behind the end pass on what comes from the next chunk, whose first decay it has passed already.
    store(back.decay + steps, all(1.0f)), back.decay[steps + LANES] = 1;
    back.A = back.D = back.bias = Vector{}, carry = all(sums.carry);
    for (t -= LANES; t >= whole; t -= LANES)
        backward_some<1, HOLD>(c, back, t, steps - t < LANES ? int(steps - t) : LANES, carry);
    for (t = whole - 4 * LANES; t >= 0; t -= 4 * LANES) backward_some<4, HOLD>(c, back, t, LANES, carry);
    sums.carry = carry[0] * back.decay[0];
    sums.A += sum_of(back.A), sums.D += sum_of(back.D), sums.bias += sum_of(back.bias);
}

// One split of the channels of one group of one sample.
inline void one_state_task(const Scan& scan, const Gradients& grads, int64_t split, int64_t b, int64_t g) {
    auto channel_of = backward_channel<false, false>;
    if (scan.hold) channel_of = scan.softplus ? backward_channel<true, true> : backward_channel<true, false>;
    if (!scan.hold && scan.softplus) channel_of = backward_channel<false, true>;
    const int64_t from = scan.first_channel(split), to = scan.first_channel(split + 1), chunk = scan.chunk;
    const int64_t row = chunk + 2 * LANES, group = b * scan.groups + g;
    float *B = kanscan_workspace(0, 8 * row), *C = B + row;
    Back back{nullptr, C + row, C + 2 * row, C + 3 * row, C + 4 * row, nullptr, nullptr, C + 5 * row, C + 6 * row,
              grads.shared(scan) && g > 0, {}, {}, {}};
    Sums* sums = reinterpret_cast<Sums*>(kanscan_workspace(1, 4 * (to - from)));
    for (int64_t e = from; e < to; e++)
        sums[e - from] = {grads.last ? grads.last[group * scan.width + e] : 0, 0, 0, 0};
    for (int64_t c = scan.num_chunks() - 1; c >= 0; c--) {
        const int64_t begin = c * chunk, steps = scan.length - begin < chunk ? scan.length - begin : chunk;
        load_rows(scan, b, g, begin, steps, B, C);
        std::memset(back.sum_B, 0, 2 * row * sizeof(float));
        for (int64_t e = from; e < to; e++) {
            back.above = grads.y.at(b, g, e) + begin;
            back.grad_u = const_cast<float*>(grads.u.at(b, g, e)) + begin;
            back.grad_delta = const_cast<float*>(grads.delta.at(b, g, e)) + begin;
            channel_of(Channel(scan, b, g, e, begin, B, C), back, steps, grads.saved[kept(scan, b, c, g, e)],
                       sums[e - from]);
        }
        const int64_t at = ((split * scan.batch + b) * scan.groups + g) * scan.length + begin;
        std::memcpy(grads.B + at, back.sum_B, steps * sizeof(float));
        std::memcpy(grads.C + at, back.sum_C, steps * sizeof(float));
    }
    for (int64_t e = from; e < to; e++) {
        const int64_t at = group * scan.width + e;
        grads.start[at] = sums[e - from].carry, grads.A[at] = sums[e - from].A;
        grads.D[at] = sums[e - from].D, grads.bias[at] = sums[e - from].bias;
    }
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
