// What both forms of the selective scan share: how sequences are addressed, and the arithmetic of one step.
#pragma once

#include "../../kernels/native.h"
#include "../../kernels/simd.h"

namespace {

struct View {
    const float* data;
    int64_t batch, group, channel, time;
    const float* at(int64_t b, int64_t g, int64_t c) const { return data + b * batch + g * group + c * channel; }
};

// Rows of B and C in a tile: whole vectors, unless so few states that single numbers are cheaper.
constexpr int64_t row_of(int64_t states) {
    return states < LANES / 2 ? states : (states + LANES - 1) / LANES * LANES;
}

struct Scan {
    int64_t batch, groups, width, length, states, chunk, splits;
    View u, delta, B, C;  // for B and C "channel" is the state
    const float *A, *D, *bias, *start;
    const int32_t* order;  // (groups, length), or null
    bool softplus, hold;  // hold: the zero-order hold, which integrates the input over a step

    int64_t blocks() const { return (width + LANES - 1) / LANES; }
    int64_t num_chunks() const { return (length + chunk - 1) / chunk; }
    int64_t row() const { return row_of(states); }
    int64_t saved_size() const { return (width + 15) / 16 * 16 * states; }
    const int32_t* places(int64_t g, int64_t t) const { return order ? order + g * length + t : nullptr; }
    // Whether the results of all groups are added up.
    bool summed(const View& y) const { return groups > 1 && y.group == 0; }
    int64_t first_block(int64_t split) const { return split * blocks() / splits; }
    int64_t first_channel(int64_t split) const {
        const int64_t first = first_block(split) * LANES;
        return first < width ? first : width;
    }
};

inline View view_of(const float* data, const int64_t* strides) {
    return {data, strides[0], strides[1], strides[2], strides[3]};
}

inline int64_t place(const int32_t* places, int64_t t) { return places ? places[t] : t; }

// Steps that memory is asked for before they are read.
constexpr int64_t AHEAD = 4;

// tile[t * row + c] = p[c, t] for t < steps and c < LANES, zero beyond `channels`.
inline void load_tile(const float* p, const View& view, const int32_t* places, int64_t begin, int channels, int64_t steps,
                      float* tile, int64_t row) {
    int64_t t = 0;
    if (view.time == 0 && row >= LANES) {
        Vector v{};
        for (int c = 0; c < channels; c++) v[c] = p[c * view.channel];
        for (; t < steps; t++) store(tile + t * row, v);
        return;
    }
    if (!places) p += begin * view.time;
    if (view.channel == 1 && channels > 1) {
        for (; t < steps; t++) {
            if (places && t + AHEAD < steps) __builtin_prefetch(p + places[t + AHEAD] * view.time);
            store(tile + t * row, load_first(p + place(places, t) * view.time, channels));
        }
        return;
    }
    if (view.time == 1 && !places && row >= LANES)
        for (; t + LANES <= steps; t += LANES) {
            Vector v[LANES];
            for (int c = 0; c < LANES; c++) v[c] = c < channels ? load(p + c * view.channel + t) : Vector{};
            transpose(v);
            for (int i = 0; i < LANES; i++) store(tile + (t + i) * row, v[i]);
        }
    const int width = row < LANES ? int(row) : LANES;
    for (; t < steps; t++)
        for (int c = 0; c < width; c++)
            tile[t * row + c] = c < channels ? p[c * view.channel + place(places, t) * view.time] : 0.0f;
}

// The way back, and with `add` onto what is there.
inline void store_tile(const float* tile, const View& view, const int32_t* places, int64_t begin, int channels,
                       int64_t steps, const float* where, bool add = false) {
    float* p = const_cast<float*>(where);
    int64_t t = 0;
    if (!places) p += begin * view.time;
    if (view.channel == 1 && channels > 1) {
        for (; t < steps; t++) {
            float* to = p + place(places, t) * view.time;
            const Vector v = load(tile + t * LANES);
            store_first(to, add ? v + load_first(to, channels) : v, channels);
        }
        return;
    }
    if (view.time == 1 && !places)
        for (; t + LANES <= steps; t += LANES) {
            Vector v[LANES];
            for (int i = 0; i < LANES; i++) v[i] = load(tile + (t + i) * LANES);
            transpose(v);
            for (int c = 0; c < channels; c++) {
                float* to = p + c * view.channel + t;
                store(to, add ? v[c] + load(to) : v[c]);
            }
        }
    for (; t < steps; t++)
        for (int c = 0; c < channels; c++) {
            float& to = p[c * view.channel + place(places, t) * view.time];
            to = add ? to + tile[t * LANES + c] : tile[t * LANES + c];
        }
}

// The tiles of several blocks of channels, `apart` numbers from one to the next. Where a time's channels lie side by side,
// each time is visited once for all blocks: an order may jump through time further than the caches reach.
inline void load_tiles(const Scan& scan, const View& view, int64_t b, int64_t g, int64_t block, int64_t blocks,
                       const int32_t* places, int64_t begin, int64_t steps, float* tiles, int64_t apart) {
    const float* p = view.at(b, g, block * LANES);
    const int64_t channels = scan.width - block * LANES, whole = channels / LANES < blocks ? channels / LANES : blocks;
    const int rest = int(channels - whole * LANES);
    if (view.channel != 1 || channels == 1) {
        for (int64_t k = 0; k < blocks; k++)
            load_tile(p + k * LANES * view.channel, view, places, begin, k < whole ? LANES : rest, steps,
                      tiles + k * apart, LANES);
        return;
    }
    for (int64_t t = 0; t < steps; t++) {
        const float* from = p + (places ? places[t] : begin + t) * view.time;
        const float* ahead = places && t + AHEAD < steps ? p + places[t + AHEAD] * view.time : from;
        float* to = tiles + t * LANES;
        for (int64_t k = 0; k < whole; k++) {
            __builtin_prefetch(ahead + k * LANES);
            store(to + k * apart, load(from + k * LANES));
        }
        if (whole < blocks) store(to + whole * apart, load_first(from + whole * LANES, rest));
    }
}

// The way back, and with `add` onto what is there.
inline void store_tiles(const Scan& scan, const float* tiles, int64_t apart, const View& view, int64_t b, int64_t g,
                        int64_t block, int64_t blocks, const int32_t* places, int64_t begin, int64_t steps,
                        bool add = false) {
    float* p = const_cast<float*>(view.at(b, g, block * LANES));
    const int64_t channels = scan.width - block * LANES, whole = channels / LANES < blocks ? channels / LANES : blocks;
    const int rest = int(channels - whole * LANES);
    if (view.channel != 1 || channels == 1) {
        for (int64_t k = 0; k < blocks; k++)
            store_tile(tiles + k * apart, view, places, begin, k < whole ? LANES : rest, steps,
                       p + k * LANES * view.channel, add);
        return;
    }
    for (int64_t t = 0; t < steps; t++) {
        float* to = p + (places ? places[t] : begin + t) * view.time;
        const float* ahead = places && t + AHEAD < steps ? p + places[t + AHEAD] * view.time : to;
        const float* from = tiles + t * LANES;
        for (int64_t k = 0; k < blocks; k++) {
            __builtin_prefetch(ahead + k * LANES, 1);
            const Vector v = load(from + k * apart);
            const int count = k < whole ? LANES : rest;
            store_first(to + k * LANES, add ? v + load_first(to + k * LANES, count) : v, count);
        }
    }
}

inline void load_matrix(const Scan& scan, const View& view, int64_t b, int64_t g, int64_t begin, int64_t steps,
                        float* rows) {
    for (int64_t n = 0; n < scan.states; n += LANES) {
        const int count = scan.states - n < LANES ? int(scan.states - n) : LANES;
        load_tile(view.at(b, g, n), view, scan.places(g, begin), begin, count, steps, rows + n, scan.row());
    }
}

// x = exp(-|x|), held a hair below 1.
template <int K>
ALWAYS_INLINE void softplus_begin(Vector* x) {
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) x[k] = magnitude(x[k]) * -LOG2_E - 1e-7f;
    exp2_each<K>(x);
}

// x = softplus(x), and what it is computed from: exp(-|x|).
template <int K>
ALWAYS_INLINE void softplus_each(Vector* x, Vector* e) {
    Vector log[K];
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) e[k] = x[k];
    softplus_begin<K>(e);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) log[k] = e[k];
    log1p_each<K>(log);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) x[k] = at_least(0.0f, x[k]) + log[k];
}

// Its slope.
ALWAYS_INLINE Vector softplus_slope(Vector x, Vector e) { return (x > 0.0f ? all(1.0f) : e) * inverse_of(1.0f + e); }

template <int K>
ALWAYS_INLINE void prepare_some(float* delta, Vector bias, bool softplus, float* slope) {
    Vector x[K], step[K], e[K];
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) step[k] = x[k] = load(delta + k * LANES) + bias;
    if (softplus) softplus_each<K>(step, e);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        store(delta + k * LANES, step[k]);
        if (slope) store(slope + k * LANES, softplus ? softplus_slope(x[k], e[k]) : all(1.0f));
    }
}

// delta' = softplus(delta + bias), or without the softplus; its slope too where asked for.
inline void prepare_steps(float* delta, Vector bias, bool softplus, int64_t steps, float* slope) {
    int64_t t = 0;
    for (; t + 4 <= steps; t += 4) prepare_some<4>(delta + t * LANES, bias, softplus, slope ? slope + t * LANES : nullptr);
    for (; t < steps; t++) prepare_some<1>(delta + t * LANES, bias, softplus, slope ? slope + t * LANES : nullptr);
}

// (channels, states) -> [state][lane], zero in lanes without a channel.
inline void load_states(const float* p, int64_t states, int channels, float factor, float* out) {
    for (int64_t n = 0; n < states; n++)
        for (int c = 0; c < LANES; c++) out[n * LANES + c] = p && c < channels ? p[c * states + n] * factor : 0.0f;
}

inline void store_states(const float* in, int64_t states, int channels, float* p) {
    for (int c = 0; c < channels; c++)
        for (int64_t n = 0; n < states; n++) p[c * states + n] = in[n * LANES + c];
}

inline Vector load_channels(const float* p, int channels) { return p ? load_first(p, channels) : Vector{}; }

// The derivative by A of what an input held over a step adds to the state, (exp(x) - 1) / A for x = step A: near zero a
// polynomial (relative error 5.4e-9 before rounding).
ALWAYS_INLINE Vector hold_slope(Vector step, Vector x, Vector decay, Vector gain, Vector inverse) {
    constexpr float C[] = {1.73169738e-4f, 1.20008804e-3f, 6.94487995e-3f, 3.33321432e-2f,
                           1.24999951e-1f, 3.3333337e-1f,  0.5f};
    Vector p;
    polynomial<1>(C, &x, &p);
    return magnitude(x) < 0.5f ? step * step * p : (step * decay - gain) * inverse;
}

// Below this size a rate is as good as zero; what takes its place may be divided by.
constexpr float SMALLEST_RATE = 1e-20f;

// Rates that may be divided by, and their inverses; of rates that were scaled for powers of two those of the unscaled.
inline void invert(float* rates, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += LANES) {
        const Vector rate = load(rates + i), A = magnitude(rate) < SMALLEST_RATE ? all(SMALLEST_RATE) : rate;
        store(rates + i, A), store(out + i, LOG2_E / A);
    }
}

// 2^x - 1 without cancellation near zero: x = n + r with |r| <= 1/2, 2^r - 1 = r times a polynomial (relative error 1.1e-8
// before rounding), and 2^n (2^r - 1) + (2^n - 1).
ALWAYS_INLINE Vector growth_of(Vector x) {
    constexpr float C[] = {1.54035127e-4f, 1.33907356e-3f, 9.61823749e-3f, 5.55035743e-2f, 2.40226498e-1f, 6.93147188e-1f};
#if defined(__AVX512F__)
    const Vector r = (Vector)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector power = (Vector)_mm512_scalef_ps((__m512)all(1.0f), (__m512)(x - r));
#else
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const Vector bound = at_most(128.0f, at_least(-127.0f, x)), shifted = bound + magic;
    const Vector r = bound - (shifted - magic);
    const Vector power = as_floats((as_integers(shifted) << 23) + (127 << 23));
#endif
    Vector p;
    polynomial<1>(C, &r, &p);
    return power * (r * p) + (power - 1.0f);
}

// What backward hands out. Sums over time are kept for each sample, sums over channels for each split of a group; the
// caller adds them up.
struct Gradients {
    View y, u, delta;                            // y comes in
    const float *last, *saved;                   // last comes in (or null), saved are the states from forward
    float *A, *D, *bias, *start, *B, *C;         // (batch, channels, ...); B and C (splits, batch, groups, ...)
    int64_t by_state, by_time;                   // strides of the gradients of B and C

    // Whether all groups add to one gradient of u: the caller passes one group of it, at the place of all of them. That u
    // itself lies in memory once says nothing, since an expanded u has a gradient for each group.
    bool shared(const Scan& scan) const { return scan.groups > 1 && u.group == 0; }
};

}  // namespace
