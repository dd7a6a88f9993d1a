// The selective scan in one pass, and its backward by recomputation from the states at the start of each chunk of time.
//
// A vector holds LANES channels at one time and state: the recurrence of one lane never meets another's. Time is cut into
// chunks; for a chunk, inputs are turned to (time, channel) tiles, and the states of a block of channels stay in
// registers while the chunk is walked through. B and C are shared by the channels of a group and are read as scalars.
//
// All sequences are addressed as (batch, group, channel in group, time) with four strides, and time may be read through
// an order of its own for each group: directions over a map are groups that read the same pixels in other orders.
#include <type_traits>

#include "one_state_backward.h"
#include "scan.h"

namespace {

// The direct path, whose result the states are added to.
inline void direct(const float* u, Vector D, int64_t steps, float* y) {
    for (int64_t t = 0; t < steps; t++) store(y + t * LANES, D * load(u + t * LANES));
}

// Walk NUM states of one block of channels through some steps and add C h to y.
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
        store(y, NUM > 1 ? sum[0] + sum[1] : sum[0]);
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
inline void walk_all(int64_t states, const float* u, const float* delta, const float* A, const float* inverse,
                     const float* B, const float* C, int64_t row, int64_t steps, float* state, float* y) {
    for (int64_t n = 0; n < states;) {
        const int64_t left = states - n, at = n * LANES;
        auto step = walk<1, HOLD>;
        int num = 1;
        if (left >= 16 && IN_REGISTERS >= 16) {
            step = walk<16, HOLD>, num = 16;
        } else if (left >= 8 && IN_REGISTERS >= 8) {
            step = walk<8, HOLD>, num = 8;
        } else if (left >= 4) {
            step = walk<4, HOLD>, num = 4;
        } else if (left >= 2) {
            step = walk<2, HOLD>, num = 2;
        }
        step(u, delta, A + at, inverse + at, B + n, C + n, row, steps, state + at, y);
        n += num;
    }
}

// Where the vectors of a block of channels lie, one a step: in a tile, or in place.
struct Lane {
    float* data;
    int64_t stride;
};

// What a block of channels with few states keeps in registers while it is walked through.
template <int NUM>
struct Few {
    Vector bias, D, h[NUM], rate[NUM], inverse[NUM];
};

// K steps side by side, up to the recurrence itself.
template <int NUM, int K, bool HOLD, bool SOFTPLUS>
ALWAYS_INLINE void few_steps(Few<NUM>& few, Lane& u, Lane& delta, const float*& B, const float*& C, int64_t row,
                             Lane& y) {
    Vector value[K], step[K], e[K], decay[K * NUM];
#pragma GCC unroll 4
    for (int k = 0; k < K; k++) {
        value[k] = load(u.data), step[k] = load(delta.data) + few.bias;
        u.data += u.stride, delta.data += delta.stride;
    }
    if constexpr (SOFTPLUS) softplus_each<K>(step, e);
#pragma GCC unroll 4
    for (int i = 0; i < K * NUM; i++) decay[i] = step[i / NUM] * few.rate[i % NUM];
    exp2_each<K * NUM>(decay);
#pragma GCC unroll 4
    for (int k = 0; k < K; k++) {
        const Vector input = step[k] * value[k];
        Vector sum = few.D * value[k];
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) {
            Vector enters = input;
            if constexpr (HOLD) {
                const Vector exponent = step[k] * few.rate[n] * (1 / LOG2_E);
                enters = hold_gain(step[k], exponent, decay[k * NUM + n], few.inverse[n]) * value[k];
            }
            few.h[n] = decay[k * NUM + n] * few.h[n] + enters * B[n];
            sum += few.h[n] * C[n];
        }
        store(y.data, sum);
        y.data += y.stride, B += row, C += row;
    }
}

// The walk for few states, with softplus and direct path on the way: passes over a tile would cost more than the states.
template <int NUM, bool HOLD, bool SOFTPLUS>
void walk_few(Lane u, Lane delta, Vector bias, Vector D, const float* A, const float* inverse, const float* B,
              const float* C, int64_t steps, float* state, Lane y) {
    constexpr int K = 4 / NUM;
    Few<NUM> few{bias, D, {}, {}, {}};
#pragma GCC unroll 4
    for (int n = 0; n < NUM; n++)
        few.h[n] = load(state + n * LANES), few.rate[n] = load(A + n * LANES), few.inverse[n] = load(inverse + n * LANES);
    const int64_t row = row_of(NUM);
    int64_t t = 0;
    for (; t + K <= steps; t += K) few_steps<NUM, K, HOLD, SOFTPLUS>(few, u, delta, B, C, row, y);
    for (; t < steps; t++) few_steps<NUM, 1, HOLD, SOFTPLUS>(few, u, delta, B, C, row, y);
#pragma GCC unroll 4
    for (int n = 0; n < NUM; n++) store(state + n * LANES, few.h[n]);
}

template <int NUM, bool HOLD, class... Arguments>
inline void few(bool softplus, const Arguments&... arguments) {
    softplus ? walk_few<NUM, HOLD, true>(arguments...) : walk_few<NUM, HOLD, false>(arguments...);
}

constexpr int64_t TILE = 64;  // steps whose inputs and results lie turned in the first-level cache

inline Lane in_place(const View& view, int64_t b, int64_t g, int64_t e, int64_t t) {
    return {const_cast<float*>(view.at(b, g, e)) + t * view.time, view.time};
}

// Read a block of channels where it lies if a vector of channels lies there, and through a tile elsewhere.
inline Lane read(const View& view, int64_t b, int64_t g, int64_t e, int64_t t, int channels, int64_t steps,
                 const int32_t* places, float* tile) {
    if (view.channel == 1 && channels == LANES && !places) return in_place(view, b, g, e, t);
    load_tile(view.at(b, g, e), view, places, t, channels, steps, tile, LANES);
    return {tile, LANES};
}

template <bool HOLD>
void forward(const Scan& scan, const View& y, float* last, float* saved, int64_t threads) {
    const int64_t states = scan.states, chunk = scan.chunk, row = scan.row();
    auto body = [&](int64_t task) {
        const int64_t split = task % scan.splits, g = task / scan.splits % scan.groups;
        const int64_t b = task / scan.splits / scan.groups;
        const int64_t from = scan.first_block(split), to = scan.first_block(split + 1), size = states * LANES;
        float* h = kanscan_workspace(0, 3 * (to - from) * size);
        float *A = h + (to - from) * size, *inverse = A + (to - from) * size;
        float* u = kanscan_workspace(1, 3 * TILE * LANES + 2 * chunk * row + LANES);
        float *delta = u + TILE * LANES, *out = delta + TILE * LANES, *B = out + TILE * LANES, *C = B + chunk * row;
        for (int64_t k = from; k < to; k++) {
            const int64_t channel = g * scan.width + k * LANES;
            const int channels = scan.width - k * LANES < LANES ? int(scan.width - k * LANES) : LANES;
            const float* start = scan.start ? scan.start + (b * scan.groups * scan.width + channel) * states : nullptr;
            load_states(start, states, channels, 1, h + (k - from) * size);
            load_states(scan.A + channel * states, states, channels, LOG2_E, A + (k - from) * size);
        }
        if (HOLD) invert(A, (to - from) * size, inverse);
        for (int64_t c = 0; c < scan.num_chunks(); c++) {
            const int64_t begin = c * chunk, end = scan.length - begin < chunk ? scan.length : begin + chunk;
            load_matrix(scan, scan.B, b, g, begin, end - begin, B);
            load_matrix(scan, scan.C, b, g, begin, end - begin, C);
            for (int64_t k = from; k < to; k++) {
                const int64_t e = k * LANES, channel = g * scan.width + e, block = (k - from) * size;
                const int channels = scan.width - e < LANES ? int(scan.width - e) : LANES;
                const Vector bias = load_channels(scan.bias ? scan.bias + channel : nullptr, channels);
                const Vector D = load_channels(scan.D ? scan.D + channel : nullptr, channels);
                if (saved)
                    std::memcpy(saved + ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() + k * size,
                                h + block, size * sizeof(float));
                for (int64_t t = begin; t < end; t += TILE) {
                    const int64_t steps = end - t < TILE ? end - t : TILE, at = (t - begin) * row;
                    const int32_t* places = scan.places(g, t);
                    if (states <= 2) {
                        const Lane in = read(scan.u, b, g, e, t, channels, steps, places, u);
                        const Lane by = read(scan.delta, b, g, e, t, channels, steps, places, delta);
                        const bool there = y.channel == 1 && channels == LANES && !places;
                        const Lane to = there ? in_place(y, b, g, e, t) : Lane{out, LANES};
                        auto run = [&](auto num) {
                            few<decltype(num)::value, HOLD>(scan.softplus, in, by, bias, D, A + block, inverse + block,
                                                            B + at, C + at, steps, h + block, to);
                        };
                        if (states == 1) run(std::integral_constant<int, 1>());
                        if (states == 2) run(std::integral_constant<int, 2>());
                        if (!there) store_tile(out, y, places, t, channels, steps, y.at(b, g, e));
                        continue;
                    }
                    load_tile(scan.u.at(b, g, e), scan.u, places, t, channels, steps, u, LANES);
                    load_tile(scan.delta.at(b, g, e), scan.delta, places, t, channels, steps, delta, LANES);
                    prepare_steps(delta, bias, scan.softplus, steps, nullptr);
                    direct(u, D, steps, out);
                    walk_all<HOLD>(states, u, delta, A + block, inverse + block, B + at, C + at, row, steps, h + block,
                                   out);
                    store_tile(out, y, places, t, channels, steps, y.at(b, g, e));
                }
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
                      int64_t row, int64_t steps, const float* state, float* carry, float* grad_A, float* grad_B,
                      float* grad_C, float* memory) {
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
        inverse = A + blocks * size, state = inverse + blocks * size, carry = state + blocks * size;
        sum_A = carry + blocks * size;
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
    // States that all go at once need a block's tiles once: they stay in the cache from loading to storing.
    bool at_once() const { return scan.states <= AT_ONCE && scan.states != 3; }
    Tiles tiles_of(int64_t k) const {
        const int64_t which = at_once() ? 0 : k - from;
        return Tiles(tiles + which * Tiles::COUNT * scan.chunk * LANES, scan.chunk * LANES);
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
        const int64_t row = ((split * scan.batch + b) * scan.groups + g) * states;
        for (int64_t k = from; !at_once() && k < to; k++) load_block(k, c, begin, steps, places);
        for (int64_t n = 0; n < states;) {
            const int num = states - n >= AT_ONCE ? AT_ONCE : states - n >= 2 ? 2 : 1;
            for (int64_t i = 0; i < steps * num * LANES; i += LANES) {
                store(sum_B + i, Vector{});
                store(sum_C + i, Vector{});
            }
            auto walk = num == 1 ? walk_back<1, false> : num == 2 ? walk_back<2, false> : walk_back<AT_ONCE, false>;
            if (scan.hold) walk = num == 1 ? walk_back<1, true> : num == 2 ? walk_back<2, true> : walk_back<AT_ONCE, true>;
            for (int64_t k = from; k < to; k++) {
                const int64_t at = block(k) + n * LANES;
                if (at_once()) load_block(k, c, begin, steps, places);
                walk(tiles_of(k), A + at, inverse + at, B + n, C + n, scan.row(), steps, state + at,
                     carry + at, sum_A + at, sum_B, sum_C, memory);
                if (at_once()) store_block(k, begin, steps, places);
            }
            sum_lanes(sum_B, num, steps, places, begin, grads.B + (row + n) * scan.length, scan.length);
            sum_lanes(sum_C, num, steps, places, begin, grads.C + (row + n) * scan.length, scan.length);
            n += num;
        }
        for (int64_t k = from; !at_once() && k < to; k++) store_block(k, begin, steps, places);
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
                   grads.shared(scan) && g > 0);
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
    const int64_t apart = grads.shared(scan) ? 1 : scan.groups, together = scan.groups / apart;
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

// `numbers`: batch, groups, width, length, states, chunk, splits, softplus, hold, then four strides each of u, delta, B,
// C and y.
KANSCAN_EXPORT void KANSCAN_NAME(kanscan_scan_forward)(const int64_t* numbers, const float* u, const float* delta,
                                                        const float* A, const float* B, const float* C, const float* D,
                                                        const float* bias, const float* start, const int32_t* order,
                                                        float* y, float* last, float* saved, int64_t threads) {
    const Scan scan = scan_of(numbers, u, delta, A, B, C, D, bias, start, order);
    const View out = view_of(y, numbers + 25);
    if (along_time(scan, out)) return one_state_forward(scan, out, last, saved, threads);
    (scan.hold ? forward<true> : forward<false>)(scan, out, last, saved, threads);
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
    if ((grads.y.time == 0 || along_time(scan, grads.y)) && along_time(scan, grads.u) && along_time(scan, grads.delta))
        return one_state_backward(scan, grads, threads);
    backward(scan, grads, threads);
}
