// The selective scan in one pass, and its backward by recomputation from the states at the start of each chunk of time.
//
// A vector holds LANES channels at one time and state: the recurrence of one lane never meets another's. Time is cut into
// chunks; for a chunk, inputs are turned to (time, channel) tiles, and the states of a block of channels stay in
// registers while the chunk is walked through. B and C are shared by the channels of a group and are read as scalars.
//
// All sequences are addressed as (batch, group, channel in group, time) with four strides, and time may be read through
// an order of its own for each group: directions over a map are groups that read the same pixels in other orders.
#include "../native.h"
#include "../simd.h"

namespace {

struct View {
    const float* data;
    int64_t batch, group, channel, time;
    const float* at(int64_t b, int64_t g, int64_t c) const { return data + b * batch + g * group + c * channel; }
};

struct Scan {
    int64_t batch, groups, width, length, states, chunk, splits;
    View u, delta, B, C;  // for B and C "channel" is the state
    const float *A, *D, *bias, *start;
    const int32_t* order;  // (groups, length), or null
    bool softplus, hold;  // hold: the zero-order hold, which integrates the input over a step

    int64_t blocks() const { return (width + LANES - 1) / LANES; }
    int64_t num_chunks() const { return (length + chunk - 1) / chunk; }
    // Rows of B and C in a tile: whole vectors, unless so few states that single numbers are cheaper.
    int64_t row() const { return states < LANES / 2 ? states : (states + LANES - 1) / LANES * LANES; }
    int64_t saved_size() const { return (width + 15) / 16 * 16 * states; }
    const int32_t* places(int64_t g, int64_t t) const { return order ? order + g * length + t : nullptr; }
    // Whether all groups are views of one u; the gradient then has one group too.
    bool shared() const { return groups > 1 && u.group == 0; }
    int64_t first_block(int64_t split) const { return split * blocks() / splits; }
};

inline View view_of(const float* data, const int64_t* strides) {
    return {data, strides[0], strides[1], strides[2], strides[3]};
}

inline int64_t place(const int32_t* places, int64_t t) { return places ? places[t] : t; }

// tile[t * row + c] = p[c, t] for t < steps and c < LANES, zero beyond `channels`.
inline void load_tile(const float* p, const View& view, const int32_t* places, int64_t begin, int channels, int64_t steps,
                      float* tile, int64_t row) {
    int64_t t = 0;
    if (!places) p += begin * view.time;
    if (view.channel == 1 && channels > 1) {
        for (; t < steps; t++) store(tile + t * row, load_first(p + place(places, t) * view.time, channels));
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

inline void load_matrix(const Scan& scan, const View& view, int64_t b, int64_t g, int64_t begin, int64_t steps,
                        float* rows) {
    for (int64_t n = 0; n < scan.states; n += LANES) {
        const int count = scan.states - n < LANES ? int(scan.states - n) : LANES;
        load_tile(view.at(b, g, n), view, scan.places(g, begin), begin, count, steps, rows + n, scan.row());
    }
}

// delta' = softplus(delta + bias), or without the softplus; its slope too where asked for.
inline void prepare_steps(float* delta, Vector bias, bool softplus, int64_t steps, float* slope) {
    for (int64_t t = 0; t < steps; t++, delta += LANES) {
        const Vector x = load(delta) + bias;
        if (!softplus) {
            store(delta, x);
            if (slope) store(slope + t * LANES, all(1.0f));
            continue;
        }
        const Vector e = exp_of(-magnitude(x));
        store(delta, at_least(0.0f, x) + log1p_of(e));
        if (slope) store(slope + t * LANES, (x > 0.0f ? all(1.0f) : e) / (1.0f + e));
    }
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

// 1 / A of rates that were scaled for powers of two; 0 where A is 0.
inline void invert(const float* rates, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += LANES) {
        const Vector A = load(rates + i);
        store(out + i, A == 0.0f ? Vector{} : LOG2_E / A);
    }
}

// (exp(x) - 1) / A for x = step A: near zero, where the difference cancels, a series (remainder below 1e-8).
inline Vector hold_gain(Vector step, Vector x, Vector decay, Vector inverse) {
    Vector p = all(1.0f / 40320);
    p = p * x + 1.0f / 5040;
    p = p * x + 1.0f / 720;
    p = p * x + 1.0f / 120;
    p = p * x + 1.0f / 24;
    p = p * x + 1.0f / 6;
    p = p * x + 0.5f;
    p = p * x + 1.0f;
    return magnitude(x) < 0.5f ? step * p : (decay - 1.0f) * inverse;
}

// Its derivative by A.
inline Vector hold_slope(Vector step, Vector x, Vector decay, Vector gain, Vector inverse) {
    Vector p = all(1.0f / 45360);
    p = p * x + 1.0f / 5760;
    p = p * x + 1.0f / 840;
    p = p * x + 1.0f / 144;
    p = p * x + 1.0f / 30;
    p = p * x + 1.0f / 8;
    p = p * x + 1.0f / 3;
    p = p * x + 0.5f;
    return magnitude(x) < 0.5f ? step * step * p : (step * decay - gain) * inverse;
}

// Walk NUM states of one block of channels through a chunk and add C h to y.
template <int NUM, bool HOLD>
inline void walk(const float* u, const float* delta, const float* A, const float* inverse, const float* B,
                 const float* C, int64_t row, int64_t steps, float* state, float* y) {
    Vector h[NUM];
#pragma GCC unroll 16
    for (int n = 0; n < NUM; n++) h[n] = load(state + n * LANES);
    for (int64_t t = 0; t < steps; t++, u += LANES, delta += LANES, y += LANES, B += row, C += row) {
        const Vector step = load(delta), value = load(u), input = step * value;
        Vector sum[2] = {load(y), Vector{}};
#pragma GCC unroll 16
        for (int n = 0; n < NUM; n++) {
            const Vector exponent = step * load(A + n * LANES), decay = exp2_of(exponent);
            if constexpr (HOLD) {
                const Vector gain = hold_gain(step, exponent * (1 / LOG2_E), decay, load(inverse + n * LANES));
                h[n] = decay * h[n] + gain * value * B[n];
            } else {
                h[n] = decay * h[n] + input * B[n];
            }
            sum[n % 2] += h[n] * C[n];
        }
        store(y, sum[0] + sum[1]);
    }
#pragma GCC unroll 16
    for (int n = 0; n < NUM; n++) store(state + n * LANES, h[n]);
}

#if defined(__AVX512F__)
constexpr int IN_REGISTERS = 16;
#elif defined(__AVX2__)
constexpr int IN_REGISTERS = 8;
#else
constexpr int IN_REGISTERS = 4;
#endif

template <bool HOLD>
void forward(const Scan& scan, const View& y, float* last, float* saved, int64_t threads) {
    const int64_t states = scan.states, chunk = scan.chunk;
    auto body = [&](int64_t task) {
        const int64_t split = task % scan.splits, g = task / scan.splits % scan.groups;
        const int64_t b = task / scan.splits / scan.groups;
        const int64_t from = scan.first_block(split), to = scan.first_block(split + 1), size = states * LANES;
        float* h = kanscan_workspace(0, 3 * (to - from) * size);
        float *A = h + (to - from) * size, *inverse = A + (to - from) * size;
        float* u = kanscan_workspace(1, chunk * (3 * LANES + 2 * scan.row()) + LANES);
        float *delta = u + chunk * LANES, *out = delta + chunk * LANES, *B = out + chunk * LANES;
        float* C = B + chunk * scan.row();
        for (int64_t k = from; k < to; k++) {
            const int64_t channel = g * scan.width + k * LANES;
            const int channels = scan.width - k * LANES < LANES ? int(scan.width - k * LANES) : LANES;
            const float* start = scan.start ? scan.start + (b * scan.groups * scan.width + channel) * states : nullptr;
            load_states(start, states, channels, 1, h + (k - from) * size);
            load_states(scan.A + channel * states, states, channels, LOG2_E, A + (k - from) * size);
        }
        if (HOLD) invert(A, (to - from) * size, inverse);
        for (int64_t c = 0; c < scan.num_chunks(); c++) {
            const int64_t begin = c * chunk, steps = scan.length - begin < chunk ? scan.length - begin : chunk;
            const int32_t* places = scan.places(g, begin);
            load_matrix(scan, scan.B, b, g, begin, steps, B);
            load_matrix(scan, scan.C, b, g, begin, steps, C);
            for (int64_t k = from; k < to; k++) {
                const int64_t e = k * LANES, channel = g * scan.width + e;
                const int channels = scan.width - e < LANES ? int(scan.width - e) : LANES;
                float *state = h + (k - from) * size, *rates = A + (k - from) * size;
                if (saved)
                    std::memcpy(saved + ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() + k * size,
                                state, size * sizeof(float));
                load_tile(scan.u.at(b, g, e), scan.u, places, begin, channels, steps, u, LANES);
                load_tile(scan.delta.at(b, g, e), scan.delta, places, begin, channels, steps, delta, LANES);
                const Vector bias = load_channels(scan.bias ? scan.bias + channel : nullptr, channels);
                prepare_steps(delta, bias, scan.softplus, steps, nullptr);
                const Vector D = load_channels(scan.D ? scan.D + channel : nullptr, channels);
                for (int64_t t = 0; t < steps; t++) store(out + t * LANES, D * load(u + t * LANES));
                for (int64_t n = 0; n < states;) {
                    const float *r = rates + n * LANES, *i = inverse + (k - from) * size + n * LANES;
                    float* s = state + n * LANES;
                    const int64_t left = states - n;
                    if (left >= 16 && IN_REGISTERS >= 16) {
                        walk<16, HOLD>(u, delta, r, i, B + n, C + n, scan.row(), steps, s, out), n += 16;
                    } else if (left >= 8 && IN_REGISTERS >= 8) {
                        walk<8, HOLD>(u, delta, r, i, B + n, C + n, scan.row(), steps, s, out), n += 8;
                    } else if (left >= 4) {
                        walk<4, HOLD>(u, delta, r, i, B + n, C + n, scan.row(), steps, s, out), n += 4;
                    } else {
                        walk<1, HOLD>(u, delta, r, i, B + n, C + n, scan.row(), steps, s, out), n += 1;
                    }
                }
                store_tile(out, y, places, begin, channels, steps, y.at(b, g, e));
            }
        }
        for (int64_t k = from; k < to; k++) {
            const int64_t channel = g * scan.width + k * LANES;
            const int channels = scan.width - k * LANES < LANES ? int(scan.width - k * LANES) : LANES;
            store_states(h + (k - from) * size, states, channels,
                         last + (b * scan.groups * scan.width + channel) * states);
        }
    };
    parallel(scan.batch * scan.groups * scan.splits, threads, body);
}

// What backward hands out. Sums over time are kept for each sample, sums over channels for each split of a group; the
// caller adds them up.
struct Gradients {
    View y, u, delta;                            // y comes in
    const float *last, *saved;                   // last comes in (or null), saved are the states from forward
    float *A, *D, *bias, *start, *B, *C;         // (batch, channels, ...); B and C (splits, batch, groups, states, length)
};

constexpr int AT_ONCE = 4;  // states of a block of channels that go through a chunk together, there and back

// Tiles of one block of channels and one chunk that are needed for every state.
struct Tiles {
    float *u, *delta, *slope, *grad_y, *grad_input, *grad_delta;
    static constexpr int COUNT = 6;
    Tiles(float* memory, int64_t size)
        : u(memory), delta(u + size), slope(delta + size), grad_y(slope + size), grad_input(grad_y + size),
          grad_delta(grad_input + size) {}
};

template <int NUM, bool HOLD>
inline void walk_back(const Tiles& tiles, const float* A, const float* inverse, const float* B, const float* C,
                      int64_t row, int64_t steps, const float* state, float* carry, float* grad_A, float* grad_B, float* grad_C, float* memory) {
    constexpr int64_t SIZE = NUM * LANES;
    float *decays = memory, *history = memory + steps * SIZE;
    {
        Vector h[NUM];
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) store(history + n * LANES, h[n] = load(state + n * LANES));
        for (int64_t t = 0; t < steps; t++) {
            const Vector step = load(tiles.delta + t * LANES), value = load(tiles.u + t * LANES);
            const Vector input = step * value;
#pragma GCC unroll 4
            for (int n = 0; n < NUM; n++) {
                const Vector exponent = step * load(A + n * LANES), decay = exp2_of(exponent);
                if constexpr (HOLD) {
                    const Vector gain = hold_gain(step, exponent * (1 / LOG2_E), decay, load(inverse + n * LANES));
                    h[n] = decay * h[n] + gain * value * B[t * row + n];
                } else {
                    h[n] = decay * h[n] + input * B[t * row + n];
                }
                store(decays + t * SIZE + n * LANES, decay);
                store(history + (t + 1) * SIZE + n * LANES, h[n]);
            }
        }
    }
    Vector g[NUM], sum_A[NUM];
#pragma GCC unroll 4
    for (int n = 0; n < NUM; n++) g[n] = load(carry + n * LANES), sum_A[n] = load(grad_A + n * LANES);
    for (int64_t t = steps - 1; t >= 0; t--) {
        const Vector above = load(tiles.grad_y + t * LANES), step = load(tiles.delta + t * LANES);
        const Vector value = load(tiles.u + t * LANES), input = step * value;
        Vector grad_input = load(tiles.grad_input + t * LANES), through_decay = load(tiles.grad_delta + t * LANES);
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) {
            const int64_t at = t * SIZE + n * LANES;
            const Vector grad = g[n] + above * C[t * row + n];
            store(grad_C + at, load(grad_C + at) + above * load(history + at + SIZE));
            const Vector decay = load(decays + at), rate = load(A + n * LANES), by_input = grad * B[t * row + n];
            if constexpr (HOLD) {
                const Vector x = step * rate * (1 / LOG2_E), over = load(inverse + n * LANES);
                const Vector gain = hold_gain(step, x, decay, over), by_gain = by_input * value;
                store(grad_B + at, load(grad_B + at) + grad * gain * value);
                // Here `grad_input` is the gradient of u itself, and that of the step goes where the decay's goes.
                grad_input += by_input * gain;
                through_decay += by_gain * decay * LOG2_E;
                sum_A[n] += by_gain * hold_slope(step, x, decay, gain, over);
            } else {
                store(grad_B + at, load(grad_B + at) + grad * input);
                grad_input += by_input;
            }
            g[n] = grad * decay;
            const Vector through = g[n] * load(history + at);
            through_decay += through * rate;
            sum_A[n] += through * step;
        }
        store(tiles.grad_input + t * LANES, grad_input);
        store(tiles.grad_delta + t * LANES, through_decay);
    }
#pragma GCC unroll 4
    for (int n = 0; n < NUM; n++) store(carry + n * LANES, g[n]), store(grad_A + n * LANES, sum_A[n]);
}

inline void sum_lanes(const float* sums, int num, int64_t steps, const int32_t* places, int64_t begin, float* out,
                      int64_t length) {
    if (!places) out += begin;
    for (int n = 0; n < num; n++)
        for (int64_t t = 0; t < steps; t++)
            out[n * length + place(places, t)] = sum_of(load(sums + (t * num + n) * LANES));
}

// One split of the channels of one group of one sample.
struct BackwardTask {
    const Scan& scan;
    const Gradients& grads;
    int64_t split, b, g, from, to;
    float *A, *inverse, *state, *carry, *sum_A, *sum_D, *sum_bias, *tiles, *B, *C, *sum_B, *sum_C, *memory;

    BackwardTask(const Scan& scan, const Gradients& grads, int64_t split, int64_t b, int64_t g)
        : scan(scan), grads(grads), split(split), b(b), g(g) {
        from = scan.first_block(split), to = scan.first_block(split + 1);
        const int64_t blocks = to - from, size = scan.states * LANES, chunk = scan.chunk;
        A = kanscan_workspace(0, blocks * (5 * size + 2 * LANES));
        inverse = A + blocks * size, state = inverse + blocks * size, carry = state + blocks * size, sum_A = carry + blocks * size;
        sum_D = sum_A + blocks * size, sum_bias = sum_D + blocks * LANES;
        tiles = kanscan_workspace(1, blocks * Tiles::COUNT * chunk * LANES);
        B = kanscan_workspace(2, 2 * chunk * scan.row() + LANES), C = B + chunk * scan.row();
        sum_B = kanscan_workspace(3, (4 * chunk + 1) * AT_ONCE * LANES);
        sum_C = sum_B + chunk * AT_ONCE * LANES, memory = sum_C + chunk * AT_ONCE * LANES;
    }

    int64_t channel(int64_t k) const { return g * scan.width + k * LANES; }
    int channels(int64_t k) const { return scan.width - k * LANES < LANES ? int(scan.width - k * LANES) : LANES; }
    int64_t pair(int64_t k) const { return (b * scan.groups * scan.width + channel(k)) * scan.states; }
    int64_t block(int64_t k) const { return (k - from) * scan.states * LANES; }
    Tiles tiles_of(int64_t k) const {
        return Tiles(tiles + (k - from) * Tiles::COUNT * scan.chunk * LANES, scan.chunk * LANES);
    }

    void begin() {
        for (int64_t k = from; k < to; k++) {
            load_states(scan.A + channel(k) * scan.states, scan.states, channels(k), LOG2_E, A + block(k));
            load_states(grads.last ? grads.last + pair(k) : nullptr, scan.states, channels(k), 1, carry + block(k));
            load_states(nullptr, scan.states, 0, 1, sum_A + block(k));
            store(sum_D + (k - from) * LANES, Vector{});
            store(sum_bias + (k - from) * LANES, Vector{});
        }
        if (scan.hold) invert(A, (to - from) * scan.states * LANES, inverse);
    }

    void run_chunk(int64_t c) {
        const int64_t begin = c * scan.chunk, states = scan.states;
        const int64_t steps = scan.length - begin < scan.chunk ? scan.length - begin : scan.chunk;
        const int32_t* places = scan.places(g, begin);
        load_matrix(scan, scan.B, b, g, begin, steps, B);
        load_matrix(scan, scan.C, b, g, begin, steps, C);
        for (int64_t k = from; k < to; k++) load_block(k, c, begin, steps, places);
        const int64_t row = ((split * scan.batch + b) * scan.groups + g) * states;
        for (int64_t n = 0; n < states;) {
            const int num = states - n >= AT_ONCE ? AT_ONCE : 1;
            for (int64_t i = 0; i < steps * num * LANES; i += LANES) {
                store(sum_B + i, Vector{});
                store(sum_C + i, Vector{});
            }
            for (int64_t k = from; k < to; k++) {
                const int64_t at = block(k) + n * LANES;
                auto walk = num == 1 ? walk_back<1, false> : walk_back<AT_ONCE, false>;
                if (scan.hold) walk = num == 1 ? walk_back<1, true> : walk_back<AT_ONCE, true>;
                walk(tiles_of(k), A + at, inverse + at, B + n, C + n, scan.row(), steps, state + at, carry + at,
                     sum_A + at, sum_B, sum_C, memory);
            }
            sum_lanes(sum_B, num, steps, places, begin, grads.B + (row + n) * scan.length, scan.length);
            sum_lanes(sum_C, num, steps, places, begin, grads.C + (row + n) * scan.length, scan.length);
            n += num;
        }
        for (int64_t k = from; k < to; k++) store_block(k, begin, steps, places);
    }

    void load_block(int64_t k, int64_t c, int64_t begin, int64_t steps, const int32_t* places) {
        const Tiles t = tiles_of(k);
        const int64_t e = k * LANES;
        load_tile(scan.u.at(b, g, e), scan.u, places, begin, channels(k), steps, t.u, LANES);
        load_tile(scan.delta.at(b, g, e), scan.delta, places, begin, channels(k), steps, t.delta, LANES);
        load_tile(grads.y.at(b, g, e), grads.y, places, begin, channels(k), steps, t.grad_y, LANES);
        const Vector bias = load_channels(scan.bias ? scan.bias + channel(k) : nullptr, channels(k));
        prepare_steps(t.delta, bias, scan.softplus, steps, t.slope);
        for (int64_t i = 0; i < steps * LANES; i += LANES) {
            store(t.grad_input + i, Vector{});
            store(t.grad_delta + i, Vector{});
        }
        std::memcpy(state + block(k),
                    grads.saved + ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() +
                        k * scan.states * LANES,
                    scan.states * LANES * sizeof(float));
    }

    void store_block(int64_t k, int64_t begin, int64_t steps, const int32_t* places) {
        const Tiles t = tiles_of(k);
        const Vector D = load_channels(scan.D ? scan.D + channel(k) : nullptr, channels(k));
        Vector total_D = load(sum_D + (k - from) * LANES), total_bias = load(sum_bias + (k - from) * LANES);
        for (int64_t i = 0; i < steps * LANES; i += LANES) {
            const Vector u = load(t.u + i), above = load(t.grad_y + i), grad_input = load(t.grad_input + i);
            // The decay rates were scaled for powers of two; 1 / log2(e) takes that back.
            const Vector through_input = scan.hold ? Vector{} : grad_input * u;
            const Vector grad_step = load(t.grad_delta + i) * (1 / LOG2_E) + through_input;
            const Vector grad_delta = grad_step * load(t.slope + i);
            const Vector grad_u = scan.hold ? grad_input : grad_input * load(t.delta + i);
            store(t.grad_input + i, grad_u + above * D);
            store(t.grad_delta + i, grad_delta);
            total_D += above * u;
            total_bias += grad_delta;
        }
        store(sum_D + (k - from) * LANES, total_D);
        store(sum_bias + (k - from) * LANES, total_bias);
        store_tile(t.grad_input, grads.u, places, begin, channels(k), steps, grads.u.at(b, g, k * LANES),
                   scan.shared() && g > 0);
        store_tile(t.grad_delta, grads.delta, places, begin, channels(k), steps, grads.delta.at(b, g, k * LANES));
    }

    void end() {
        for (int64_t k = from; k < to; k++) {
            const int64_t at = b * scan.groups * scan.width + channel(k);
            store_states(carry + block(k), scan.states, channels(k), grads.start + pair(k));
            store_states(sum_A + block(k), scan.states, channels(k), grads.A + pair(k));
            store_first(grads.D + at, load(sum_D + (k - from) * LANES), channels(k));
            store_first(grads.bias + at, load(sum_bias + (k - from) * LANES), channels(k));
        }
    }
};

void backward(const Scan& scan, const Gradients& grads, int64_t threads) {
    // Groups that read the same u add to the same gradient, so one thread goes through all of them.
    const int64_t apart = scan.shared() ? 1 : scan.groups, together = scan.groups / apart;
    auto body = [&](int64_t index) {
        const int64_t split = index % scan.splits, first = index / scan.splits % apart * together;
        for (int64_t g = first; g < first + together; g++) {
            BackwardTask task(scan, grads, split, index / scan.splits / apart, g);
            task.begin();
            for (int64_t c = scan.num_chunks() - 1; c >= 0; c--) task.run_chunk(c);
            task.end();
        }
    };
    parallel(scan.batch * apart * scan.splits, threads, body);
}

inline Scan scan_of(const int64_t* numbers, const float* u, const float* delta, const float* A, const float* B,
                    const float* C, const float* D, const float* bias, const float* start, const int32_t* order) {
    Scan scan;
    scan.batch = numbers[0], scan.groups = numbers[1], scan.width = numbers[2], scan.length = numbers[3];
    scan.states = numbers[4], scan.chunk = numbers[5], scan.splits = numbers[6], scan.softplus = numbers[7];
    scan.hold = numbers[8];
    scan.u = view_of(u, numbers + 9), scan.delta = view_of(delta, numbers + 13);
    scan.B = view_of(B, numbers + 17), scan.C = view_of(C, numbers + 21);
    scan.A = A, scan.D = D, scan.bias = bias, scan.start = start, scan.order = order;
    return scan;
}

}  // namespace

// `numbers`: batch, groups, width, length, states, chunk, splits, softplus, hold, then four strides each of u, delta, B, C, y.
KANSCAN_EXPORT void KANSCAN_NAME(kanscan_scan_forward)(const int64_t* numbers, const float* u, const float* delta,
                                                        const float* A, const float* B, const float* C, const float* D,
                                                        const float* bias, const float* start, const int32_t* order,
                                                        float* y, float* last, float* saved, int64_t threads) {
    const Scan scan = scan_of(numbers, u, delta, A, B, C, D, bias, start, order);
    (scan.hold ? forward<true> : forward<false>)(scan, view_of(y, numbers + 25), last, saved, threads);
}

// `numbers` as for forward, with the strides of grad_y in the place of y's, then those of grad_u and grad_delta.
KANSCAN_EXPORT void KANSCAN_NAME(kanscan_scan_backward)(const int64_t* numbers, const float* u, const float* delta,
                                                         const float* A, const float* B, const float* C, const float* D,
                                                         const float* bias, const int32_t* order, const float* saved,
                                                         const float* grad_y, const float* grad_last, float* grad_u,
                                                         float* grad_delta, float* grad_A, float* grad_B, float* grad_C,
                                                         float* grad_D, float* grad_bias, float* grad_start,
                                                         int64_t threads) {
    const Scan scan = scan_of(numbers, u, delta, A, B, C, D, bias, nullptr, order);
    const Gradients grads{view_of(grad_y, numbers + 25), view_of(grad_u, numbers + 29),
                          view_of(grad_delta, numbers + 33), grad_last, saved, grad_A, grad_D, grad_bias, grad_start,
                          grad_B, grad_C};
    backward(scan, grads, threads);
}
