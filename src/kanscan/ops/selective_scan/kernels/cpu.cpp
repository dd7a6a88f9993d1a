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
            const Vector exponent = step * load(A + n * LANES);
            if constexpr (HOLD) {
                h[n] += growth_of(exponent) * (h[n] + load(inverse + n * LANES) * (value * B[n]));
            } else {
                h[n] = exp2_of(exponent) * h[n] + input * B[n];
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
    // With the zero-order hold, of the decays what they differ from one by.
    Vector value[K], step[K], e[K], decay[K * NUM];
#pragma GCC unroll 4
    for (int k = 0; k < K; k++) {
        value[k] = load(u.data), step[k] = load(delta.data) + few.bias;
        u.data += u.stride, delta.data += delta.stride;
    }
    if constexpr (SOFTPLUS) softplus_each<K>(step, e);
#pragma GCC unroll 4
    for (int i = 0; i < K * NUM; i++) decay[i] = step[i / NUM] * few.rate[i % NUM];
    if constexpr (HOLD) {
#pragma GCC unroll 4
        for (int i = 0; i < K * NUM; i++) decay[i] = growth_of(decay[i]);
    } else {
        exp2_each<K * NUM>(decay);
    }
#pragma GCC unroll 4
    for (int k = 0; k < K; k++) {
        const Vector input = step[k] * value[k];
        Vector sum = few.D * value[k];
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) {
            if constexpr (HOLD) {
                few.h[n] += decay[k * NUM + n] * (few.h[n] + few.inverse[n] * (value[k] * B[n]));
            } else {
                few.h[n] = decay[k * NUM + n] * few.h[n] + input * B[n];
            }
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

constexpr int64_t TILE = 64;    // steps whose inputs and results lie turned in the cache
constexpr int64_t PANEL = 16;   // blocks of channels that are turned together
// From one block's tile of so many steps to the next: a line more than the steps, lest all fall on the same places of the cache.
constexpr int64_t apart_of(int64_t steps) { return (steps + 1) * LANES; }

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

// One split of the channels of one group of one sample; with `add` its result is added to what is there.
template <bool HOLD>
void forward_task(const Scan& scan, const View& y, float* last, float* saved, int64_t split, int64_t b, int64_t g,
                  bool add) {
    const int64_t states = scan.states, chunk = scan.chunk, row = scan.row();
    const int64_t from = scan.first_block(split), to = scan.first_block(split + 1), size = states * LANES;
    float* h = kanscan_workspace(0, 3 * (to - from) * size);
    float *A = h + (to - from) * size, *inverse = A + (to - from) * size;
    constexpr int64_t apart = apart_of(TILE);
    float* u = kanscan_workspace(1, 3 * PANEL * apart + 2 * chunk * row + LANES);
    float *delta = u + PANEL * apart, *out = delta + PANEL * apart, *B = out + PANEL * apart, *C = B + chunk * row;
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
        if (saved)
            std::memcpy(saved + ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() + from * size, h,
                        (to - from) * size * sizeof(float));
        for (int64_t first = from; first < to; first += PANEL) {
            const int64_t blocks = to - first < PANEL ? to - first : PANEL;
            for (int64_t t = begin; t < end; t += TILE) {
                const int64_t steps = end - t < TILE ? end - t : TILE, at = (t - begin) * row;
                const int32_t* places = scan.places(g, t);
                if (states > 2) {
                    load_tiles(scan, scan.u, b, g, first, blocks, places, t, steps, u, apart);
                    load_tiles(scan, scan.delta, b, g, first, blocks, places, t, steps, delta, apart);
                }
                for (int64_t k = first; k < first + blocks; k++) {
                    const int64_t e = k * LANES, channel = g * scan.width + e, block = (k - from) * size;
                    const int64_t tile = (k - first) * apart;
                    const int channels = scan.width - e < LANES ? int(scan.width - e) : LANES;
                    const Vector bias = load_channels(scan.bias ? scan.bias + channel : nullptr, channels);
                    const Vector D = load_channels(scan.D ? scan.D + channel : nullptr, channels);
                    if (states <= 2) {
                        const Lane in = read(scan.u, b, g, e, t, channels, steps, places, u);
                        const Lane by = read(scan.delta, b, g, e, t, channels, steps, places, delta);
                        const bool there = y.channel == 1 && channels == LANES && !places && !add;
                        const Lane to = there ? in_place(y, b, g, e, t) : Lane{out, LANES};
                        auto run = [&](auto num) {
                            few<decltype(num)::value, HOLD>(scan.softplus, in, by, bias, D, A + block,
                                                            inverse + block, B + at, C + at, steps, h + block, to);
                        };
                        if (states == 1) run(std::integral_constant<int, 1>());
                        if (states == 2) run(std::integral_constant<int, 2>());
                        if (!there) store_tile(out, y, places, t, channels, steps, y.at(b, g, e), add);
                        continue;
                    }
                    prepare_steps(delta + tile, bias, scan.softplus, steps, nullptr);
                    direct(u + tile, D, steps, out + tile);
                    walk_all<HOLD>(states, u + tile, delta + tile, A + block, inverse + block, B + at, C + at, row,
                                   steps, h + block, out + tile);
                }
                if (states > 2) store_tiles(scan, out, apart, y, b, g, first, blocks, places, t, steps, add);
            }
        }
    }
    for (int64_t k = from; k < to; k++) {
        const int64_t channel = g * scan.width + k * LANES;
        const int channels = scan.width - k * LANES < LANES ? int(scan.width - k * LANES) : LANES;
        store_states(h + (k - from) * size, states, channels,
                     last + (b * scan.groups * scan.width + channel) * states);
    }
}

template <bool HOLD>
void forward(const Scan& scan, const View& y, float* last, float* saved, int64_t threads) {
    // Groups whose results are summed write to the same places, so one thread goes through all of them.
    const int64_t apart = scan.summed(y) ? 1 : scan.groups, together = scan.groups / apart;
    auto body = [&](int64_t index) {
        const int64_t split = index % scan.splits, first = index / scan.splits % apart * together;
        for (int64_t g = first; g < first + together; g++)
            forward_task<HOLD>(scan, y, last, saved, split, index / scan.splits / apart, g, g > first);
    };
    parallel(scan.batch * apart * scan.splits, threads, body);
}

constexpr int AT_ONCE = 4;  // states of a block of channels that go through a chunk together, there and back

// Tiles of one block of channels and one chunk that are needed for every state; those of the next block follow at the end
// of `apart` numbers.
struct Tiles {
    float *u, *delta, *slope, *grad_y, *grad_input, *grad_delta;
    static constexpr int COUNT = 6;
    Tiles(float* memory, int64_t size, int64_t block)
        : u(memory + block * size), delta(u + PANEL * size), slope(delta + PANEL * size), grad_y(slope + PANEL * size),
          grad_input(grad_y + PANEL * size), grad_delta(grad_input + PANEL * size) {}
};

template <int NUM, bool HOLD>
inline void walk_back(const Tiles& tiles, const float* A, const float* inverse, const float* B, const float* C,
                      int64_t row, int64_t steps, const float* state, float* carry, float* grad_A, float* grad_B,
                      float* grad_C, float* memory) {
    constexpr int64_t SIZE = NUM * LANES;
    // Copies, since the compiler must take every store for one that could change the originals.
    const float *u = tiles.u, *delta = tiles.delta, *grad_y = tiles.grad_y;
    float *grad_inputs = tiles.grad_input, *grad_delta = tiles.grad_delta;
    // With the zero-order hold, of the decays what they differ from one by.
    float *decays = memory, *history = memory + steps * SIZE + LANES;
    Vector g[NUM], sum_A[NUM], after[NUM];
    {
        Vector h[NUM];
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) store(history + n * LANES, h[n] = load(state + n * LANES));
        for (int64_t t = 0; t < steps; t++) {
            const Vector step = load(delta + t * LANES), value = load(u + t * LANES);
            const Vector input = step * value;
#pragma GCC unroll 4
            for (int n = 0; n < NUM; n++) {
                const Vector exponent = step * load(A + n * LANES);
                Vector decay;
                if constexpr (HOLD) {
                    decay = growth_of(exponent);
                    h[n] += decay * (h[n] + load(inverse + n * LANES) * (value * B[t * row + n]));
                } else {
                    decay = exp2_of(exponent);
                    h[n] = decay * h[n] + input * B[t * row + n];
                }
                store(decays + t * SIZE + n * LANES, decay);
                store(history + (t + 1) * SIZE + n * LANES, h[n]);
            }
        }
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) after[n] = h[n];
    }
    Vector rate[NUM], over[NUM];
#pragma GCC unroll 4
    for (int n = 0; n < NUM; n++) {
        g[n] = load(carry + n * LANES), sum_A[n] = load(grad_A + n * LANES);
        // The decay rates were scaled for powers of two; 1 / log2(e) takes that back.
        rate[n] = load(A + n * LANES) * (1 / LOG2_E);
        if constexpr (HOLD) over[n] = load(inverse + n * LANES);
    }
    for (int64_t t = steps - 1; t >= 0; t--) {
        const Vector above = load(grad_y + t * LANES), step = load(delta + t * LANES);
        const Vector value = load(u + t * LANES), input = step * value;
        Vector grad_input = load(grad_inputs + t * LANES), grad_step = load(grad_delta + t * LANES);
#pragma GCC unroll 4
        for (int n = 0; n < NUM; n++) {
            const int64_t at = t * SIZE + n * LANES;
            const Vector grad = g[n] + above * C[t * row + n], by_input = grad * B[t * row + n];
            store(grad_C + at, load(grad_C + at) + above * after[n]);
            Vector decay = load(decays + at);
            if constexpr (HOLD) {
                const Vector gain = decay * over[n], by_gain = by_input * value;
                decay += 1.0f;
                store(grad_B + at, load(grad_B + at) + grad * gain * value);
                // Here `grad_input` is the gradient of u itself.
                grad_input += by_input * gain;
                grad_step += by_gain * decay;
                sum_A[n] += by_gain * hold_slope(step, step * rate[n], decay, gain, over[n]);
            } else {
                store(grad_B + at, load(grad_B + at) + grad * input);
                grad_input += by_input;
            }
            g[n] = grad * decay;
            after[n] = load(history + at);
            const Vector through = g[n] * after[n];
            grad_step += through * rate[n];
            sum_A[n] += through * step;
        }
        store(grad_inputs + t * LANES, grad_input);
        store(grad_delta + t * LANES, grad_step);
    }
#pragma GCC unroll 4
    for (int n = 0; n < NUM; n++) store(carry + n * LANES, g[n]), store(grad_A + n * LANES, sum_A[n]);
}

// What is summed over the channels of a panel, [time][state][lane], goes to the sums of the whole split.
inline void sum_lanes(const float* sums, int num, int64_t steps, const int32_t* places, int64_t begin, float* out,
                      int64_t by_state, int64_t by_time, bool add) {
    if (!places) out += begin * by_time;
    alignas(64) float total[LANES];
    for (int64_t i = 0; i < steps * num; i += LANES) {
        const int count = steps * num - i < LANES ? int(steps * num - i) : LANES;
        Vector v[LANES];
        for (int j = 0; j < LANES; j++) v[j] = j < count ? load(sums + (i + j) * LANES) : Vector{};
        transpose(v);
        for (int j = 1; j < LANES; j++) v[0] += v[j];
        store(total, v[0]);
        for (int j = 0; j < count; j += num) {
            float* to = out + place(places, (i + j) / num) * by_time;
            for (int n = 0; n < num; n++) to[n * by_state] = add ? to[n * by_state] + total[j + n] : total[j + n];
        }
    }
}

// One split of the channels of one group of one sample.
struct BackwardTask {
    const Scan& scan;
    const Gradients& grads;
    int64_t split, b, g, from, to, apart;
    float *A, *inverse, *state, *carry, *sum_A, *sum_D, *sum_bias, *tiles, *B, *C, *sum_B, *sum_C, *memory;

    BackwardTask(const Scan& scan, const Gradients& grads, int64_t split, int64_t b, int64_t g)
        : scan(scan), grads(grads), split(split), b(b), g(g) {
        from = scan.first_block(split), to = scan.first_block(split + 1);
        const int64_t blocks = to - from, size = scan.states * LANES, chunk = scan.chunk;
        apart = apart_of(chunk);
        A = kanscan_workspace(0, blocks * (5 * size + 2 * LANES));
        inverse = A + blocks * size, state = inverse + blocks * size, carry = state + blocks * size;
        sum_A = carry + blocks * size;
        sum_D = sum_A + blocks * size, sum_bias = sum_D + blocks * LANES;
        tiles = kanscan_workspace(1, PANEL * Tiles::COUNT * apart);
        B = kanscan_workspace(2, 2 * chunk * scan.row() + LANES), C = B + chunk * scan.row();
        // A line lies between arrays that are read side by side.
        const int64_t sums = chunk * AT_ONCE * LANES + LANES;
        sum_B = kanscan_workspace(3, 4 * sums + AT_ONCE * LANES), sum_C = sum_B + sums, memory = sum_C + sums;
    }

    int64_t channel(int64_t k) const { return g * scan.width + k * LANES; }
    int channels(int64_t k) const { return scan.width - k * LANES < LANES ? int(scan.width - k * LANES) : LANES; }
    int64_t pair(int64_t k) const { return (b * scan.groups * scan.width + channel(k)) * scan.states; }
    int64_t block(int64_t k) const { return (k - from) * scan.states * LANES; }

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
        const int64_t begin = c * scan.chunk, size = scan.states * LANES;
        const int64_t steps = scan.length - begin < scan.chunk ? scan.length - begin : scan.chunk;
        load_matrix(scan, scan.B, b, g, begin, steps, B);
        load_matrix(scan, scan.C, b, g, begin, steps, C);
        std::memcpy(state, grads.saved + ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() + from * size,
                    (to - from) * size * sizeof(float));
        for (int64_t first = from; first < to; first += PANEL)
            run_panel(first, to - first < PANEL ? to - first : PANEL, begin, steps);
    }

    void run_panel(int64_t first, int64_t blocks, int64_t begin, int64_t steps) {
        const int64_t states = scan.states, row = ((split * scan.batch + b) * scan.groups + g) * states;
        const int32_t* places = scan.places(g, begin);
        const Tiles all(tiles, apart, 0);
        load_tiles(scan, scan.u, b, g, first, blocks, places, begin, steps, all.u, apart);
        load_tiles(scan, scan.delta, b, g, first, blocks, places, begin, steps, all.delta, apart);
        load_tiles(scan, grads.y, b, g, first, blocks, places, begin, steps, all.grad_y, apart);
        for (int64_t k = first; k < first + blocks; k++) {
            const Vector bias = load_channels(scan.bias ? scan.bias + channel(k) : nullptr, channels(k));
            const Tiles t(tiles, apart, k - first);
            prepare_steps(t.delta, bias, scan.softplus, steps, t.slope);
            std::memset(t.grad_input, 0, steps * LANES * sizeof(float));
            std::memset(t.grad_delta, 0, steps * LANES * sizeof(float));
        }
        for (int64_t n = 0; n < states;) {
            const int num = states - n >= AT_ONCE ? AT_ONCE : states - n >= 2 ? 2 : 1;
            std::memset(sum_B, 0, steps * num * LANES * sizeof(float));
            std::memset(sum_C, 0, steps * num * LANES * sizeof(float));
            auto walk = num == 1 ? walk_back<1, false> : num == 2 ? walk_back<2, false> : walk_back<AT_ONCE, false>;
            if (scan.hold) walk = num == 1 ? walk_back<1, true> : num == 2 ? walk_back<2, true> : walk_back<AT_ONCE, true>;
            for (int64_t k = first; k < first + blocks; k++) {
                const int64_t at = block(k) + n * LANES;
                walk(Tiles(tiles, apart, k - first), A + at, inverse + at, B + n, C + n, scan.row(), steps, state + at,
                     carry + at, sum_A + at, sum_B, sum_C, memory);
            }
            const int64_t at = row * scan.length + n * grads.by_state;
            sum_lanes(sum_B, num, steps, places, begin, grads.B + at, grads.by_state, grads.by_time, first > from);
            sum_lanes(sum_C, num, steps, places, begin, grads.C + at, grads.by_state, grads.by_time, first > from);
            n += num;
        }
        for (int64_t k = first; k < first + blocks; k++) finish_block(k, Tiles(tiles, apart, k - first), steps);
        store_tiles(scan, all.grad_input, apart, grads.u, b, g, first, blocks, places, begin, steps,
                    grads.shared(scan) && g > 0);
        store_tiles(scan, all.grad_delta, apart, grads.delta, b, g, first, blocks, places, begin, steps);
    }

    void finish_block(int64_t k, const Tiles& t, int64_t steps) {
        const Vector D = load_channels(scan.D ? scan.D + channel(k) : nullptr, channels(k));
        Vector total_D = load(sum_D + (k - from) * LANES), total_bias = load(sum_bias + (k - from) * LANES);
        for (int64_t i = 0; i < steps * LANES; i += LANES) {
            const Vector u = load(t.u + i), above = load(t.grad_y + i), grad_input = load(t.grad_input + i);
            const Vector grad_step = load(t.grad_delta + i) + (scan.hold ? Vector{} : grad_input * u);
            const Vector grad_delta = grad_step * load(t.slope + i);
            const Vector grad_u = scan.hold ? grad_input : grad_input * load(t.delta + i);
            store(t.grad_input + i, grad_u + above * D);
            store(t.grad_delta + i, grad_delta);
            total_D += above * u;
            total_bias += grad_delta;
        }
        store(sum_D + (k - from) * LANES, total_D);
        store(sum_bias + (k - from) * LANES, total_bias);
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
    if (along_time(scan, out) && !scan.summed(out)) return one_state_forward(scan, out, last, saved, threads);
    (scan.hold ? forward<true> : forward<false>)(scan, out, last, saved, threads);
}

// `numbers` as for forward, with the strides of grad_y in the place of y's, then those of grad_u and grad_delta, and for
// grad_B and grad_C those of state and time.
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
                          grad_B, grad_C, numbers[37], numbers[38]};
    if ((grads.y.time == 0 || along_time(scan, grads.y)) && along_time(scan, grads.u) && along_time(scan, grads.delta))
        return one_state_backward(scan, grads, threads);
    backward(scan, grads, threads);
}
