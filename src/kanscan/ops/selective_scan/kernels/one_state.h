// The scan with one state, where time is contiguous: a vector holds LANES times of one channel, so that nothing has to
// be turned into tiles. A chunk of a row goes through in passes, each over all of it, with what they hand on in the
// first-level cache: a processor looks ahead by some hundred instructions only, so short chains side by side keep its
// units busy where one long chain from the step to the result does not.
//
// In the recurrence, four times that follow each other are brought to the same lane of four vectors. They are composed
// one after the other, then all lanes 1, 2, 4.. groups of four apart, and the state before each group goes back to it.
#pragma once

#include <type_traits>

#include "scan.h"

namespace {

constexpr int64_t BLOCK = 4 * LANES;

// Whether this form serves: one state, no order, time contiguous. Too few lanes are not worth it.
inline bool along_time(const Scan& scan, const View& other) {
    return LANES >= 8 && scan.states == 1 && !scan.order && scan.u.time == 1 && scan.delta.time == 1 && other.time == 1;
}

// b_t becomes a_t b_(t-1) + b_t and so on over all lanes before t, a_t their product.
template <int BY = 1>
ALWAYS_INLINE void compose(Vector& a, Vector& b) {
    if constexpr (BY < LANES) {
        b += a * later<BY>(b, Vector{});
        a *= later<BY>(a, all(1.0f));
        compose<2 * BY>(a, b);
    }
}

// The same from the last lane to the first.
template <int BY = 1>
ALWAYS_INLINE void compose_back(Vector& a, Vector& b) {
    if constexpr (BY < LANES) {
        b += a * earlier<BY>(b, Vector{});
        a *= earlier<BY>(a, all(1.0f));
        compose_back<2 * BY>(a, b);
    }
}

// b becomes the states of a block whose decays are a; `carry` has, in all lanes, the state before it and then the last.
ALWAYS_INLINE void recur(Vector* a, Vector* b, Vector& carry) {
    transpose_fours(a), transpose_fours(b);
#pragma GCC unroll 4
    for (int i = 1; i < 4; i++) b[i] += a[i] * b[i - 1], a[i] *= a[i - 1];
    Vector product = fours_together(a[3]), state = fours_together(b[3]);
    compose(product, state);
    state += product * carry;
    const Vector before = fours_apart(later<1>(state, carry));
    carry = last_of(state);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) b[i] += a[i] * before;
    transpose_fours(b);
}

// The same from the last time to the first.
ALWAYS_INLINE void recur_back(Vector* a, Vector* b, Vector& carry) {
    transpose_fours(a), transpose_fours(b);
#pragma GCC unroll 4
    for (int i = 2; i >= 0; i--) b[i] += a[i] * b[i + 1], a[i] *= a[i + 1];
    Vector product = fours_together(a[0]), state = fours_together(b[0]);
    compose_back(product, state);
    state += product * carry;
    const Vector behind = fours_apart(earlier<1>(state, carry));
    carry = first_of(state);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) b[i] += a[i] * behind;
    transpose_fours(b);
}

// What does not change along a row.
struct Channel {
    Vector bias, D, rate, inverse;

    Channel(const Scan& scan, int64_t channel) {
        bias = all(scan.bias ? scan.bias[channel] : 0), D = all(scan.D ? scan.D[channel] : 0);
        const Vector given = all(scan.A[channel]), A = magnitude(given) < SMALLEST_RATE ? all(SMALLEST_RATE) : given;
        rate = A * LOG2_E, inverse = 1.0f / A;
    }
};

// Rows of a chunk: step sizes, their slopes (in the end), decays, and what enters the state.
struct Rows {
    float *step, *slope, *decay, *input;

    // Some space between the rows, and around the last: the state before the first time, and a rest of a chunk.
    static int64_t row(int64_t chunk) { return (chunk + LANES - 1) / LANES * LANES + 2 * BLOCK; }
    static int64_t size(int64_t chunk) { return 4 * row(chunk); }
    Rows(float* memory, int64_t chunk) {
        step = memory, slope = step + row(chunk), decay = slope + row(chunk), input = decay + row(chunk) + LANES;
    }
};

// Four vectors of step sizes on their way: exp(-|x|) into the place of the slope.
ALWAYS_INLINE void begin_steps(const Channel& c, const float* delta, float* slope) {
    Vector e[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) e[k] = load(delta + k * LANES) + c.bias;
    softplus_begin<4>(e);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) store(slope + k * LANES, e[k]);
}

template <bool SOFTPLUS, bool BACK>
ALWAYS_INLINE void finish_steps(const Channel& c, const float* delta, float* step, float* slope) {
    Vector x[4], e[4], log[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) x[k] = load(delta + k * LANES) + c.bias;
    if constexpr (SOFTPLUS) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) log[k] = e[k] = load(slope + k * LANES);
        log1p_each<4>(log);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        store(step + k * LANES, SOFTPLUS ? at_least(0.0f, x[k]) + log[k] : x[k]);
        if (BACK) store(slope + k * LANES, SOFTPLUS ? softplus_slope(x[k], e[k]) : all(1.0f));
    }
}

template <bool HOLD>
ALWAYS_INLINE void enter(const Channel& c, const float* u, const float* B, const float* step, float* decay,
                         float* input) {
    Vector a[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) a[k] = load(step + k * LANES) * c.rate;
    if constexpr (!HOLD) exp2_each<4>(a);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        Vector gain = load(step + k * LANES);
        if constexpr (HOLD) a[k] = growth_of(a[k]), gain = a[k] * c.inverse, a[k] += 1.0f;
        store(decay + k * LANES, a[k]), store(input + k * LANES, gain * load(u + k * LANES) * load(B + k * LANES));
    }
}

// Bring what a row is read or written at later on into the second-level cache; there is room for it to wait.
ALWAYS_INLINE void fetch(const float* p) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) __builtin_prefetch(p + k * LANES, 0, 2);
}

// All that comes before the recurrence, over whole blocks. On the way, a little in each pass, what lies `next` numbers
// ahead is brought nearer, and that of another row.
template <bool HOLD, bool SOFTPLUS, bool BACK>
ALWAYS_INLINE void prepare(const Channel& c, const float* u, const float* delta, const float* B, int64_t steps,
                           const Rows& rows, int64_t next, const float* other) {
    if constexpr (SOFTPLUS)
        for (int64_t t = 0; t < steps; t += BLOCK) {
            begin_steps(c, delta + t, rows.slope + t);
            fetch(delta + next + t);
        }
    for (int64_t t = 0; t < steps; t += BLOCK) {
        finish_steps<SOFTPLUS, BACK>(c, delta + t, rows.step + t, rows.slope + t);
        if (!SOFTPLUS) fetch(delta + next + t);
        fetch(u + next + t);
    }
    for (int64_t t = 0; t < steps; t += BLOCK) {
        enter<HOLD>(c, u + t, B + t, rows.step + t, rows.decay + t, rows.input + t);
        if (other) fetch(other + next + t);
    }
}

// The rest of a row that fills no block, with zeros behind it.
struct Rest {
    alignas(64) float numbers[BLOCK];
    Rest(const float* p, int64_t count) {
        for (int64_t t = 0; t < BLOCK; t++) numbers[t] = t < count ? p[t] : 0;
    }
};

// Times behind the end leave the state as it is, and nothing comes back from them.
inline void end_at(const Rows& rows, int64_t steps) {
    for (int64_t t = steps; t < steps + BLOCK; t++)
        rows.decay[t] = 1, rows.step[t] = rows.slope[t] = rows.input[t] = 0;
}

template <bool STREAM>
ALWAYS_INLINE void forward_block(const Channel& c, const float* u, const float* C, const float* decay,
                                 const float* input, Vector& carry, float* y) {
    Vector a[4], h[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) a[k] = load(decay + k * LANES), h[k] = load(input + k * LANES);
    recur(a, h, carry);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        const Vector out = h[k] * load(C + k * LANES) + c.D * load(u + k * LANES);
        STREAM ? store_past(y + k * LANES, out) : store(y + k * LANES, out);
    }
}

// One channel through one chunk; `next` is where the chunk lies that comes after it, seen from this one.
template <bool HOLD, bool SOFTPLUS, bool STREAM>
void forward_row(const Channel& channel, const float* u, const float* delta, const float* B, const float* C,
                 int64_t steps, int64_t next, const Rows& places, float& state, float* y) {
    // Copies that no store can change stay in registers.
    const Channel c = channel;
    const Rows rows = places;
    Vector carry = all(state);
    const int64_t whole = steps / BLOCK * BLOCK, rest = steps - whole;
    prepare<HOLD, SOFTPLUS, false>(c, u, delta, B, whole, rows, next, STREAM ? nullptr : y);
    for (int64_t t = 0; t < whole; t += BLOCK)
        forward_block<STREAM>(c, u + t, C + t, rows.decay + t, rows.input + t, carry, y + t);
    if (rest) {
        const Rest value(u + whole, rest), by(delta + whole, rest);
        alignas(64) float out[BLOCK];
        prepare<HOLD, SOFTPLUS, false>(c, value.numbers, by.numbers, B + whole, BLOCK, rows, 0, nullptr);
        end_at(rows, rest);
        forward_block<false>(c, value.numbers, C + whole, rows.decay, rows.input, carry, out);
        std::memcpy(y + whole, out, rest * sizeof(float));
    }
    state = carry[0];
}

// Rows of B and C over some time, with zeros behind their end.
inline void load_rows(const Scan& scan, int64_t b, int64_t g, int64_t begin, int64_t steps, float* B, float* C) {
    load_matrix(scan, scan.B, b, g, begin, steps, B);
    load_matrix(scan, scan.C, b, g, begin, steps, C);
    std::memset(B + steps, 0, BLOCK * sizeof(float)), std::memset(C + steps, 0, BLOCK * sizeof(float));
}

// The place of a channel's kept state.
inline int64_t kept(const Scan& scan, int64_t b, int64_t c, int64_t g, int64_t e) {
    return ((b * scan.num_chunks() + c) * scan.groups + g) * scan.saved_size() + e;
}

// Chunks that a row is walked through before the next row: reading far ahead in one row pays, and B and C of as long a
// time stay in the second-level cache.
inline int64_t chunks_in_turn(const Scan& scan) { return scan.chunk < 16384 ? 16384 / scan.chunk : 1; }

// Whether results are stored past the caches: more than stays there until it is read, in whole vectors at their places.
inline bool passes_by(const Scan& scan, const View& y) {
    const int64_t odd = scan.chunk | y.batch | y.group | y.channel | int64_t(reinterpret_cast<uintptr_t>(y.data) / 4);
    return scan.batch * scan.groups * scan.width * scan.length >= int64_t(1) << 23 && odd % LANES == 0;
}

inline void one_state_forward(const Scan& scan, const View& y, float* last, float* saved, int64_t threads) {
    const int64_t chunk = scan.chunk, turn = chunks_in_turn(scan);
    const int64_t row = (turn * chunk + LANES - 1) / LANES * LANES + BLOCK;
    auto row_of = [&](auto stream) {
        constexpr bool STREAM = decltype(stream)::value;
        if (scan.hold) return scan.softplus ? forward_row<true, true, STREAM> : forward_row<true, false, STREAM>;
        return scan.softplus ? forward_row<false, true, STREAM> : forward_row<false, false, STREAM>;
    };
    const bool past = passes_by(scan, y);
    const auto walk = past ? row_of(std::true_type()) : row_of(std::false_type());
    auto body = [&](int64_t task) {
        const int64_t split = task % scan.splits, g = task / scan.splits % scan.groups;
        const int64_t b = task / scan.splits / scan.groups;
        const int64_t from = scan.first_channel(split), to = scan.first_channel(split + 1);
        float *B = kanscan_workspace(0, 2 * row + Rows::size(chunk)), *C = B + row;
        const Rows rows(C + row, chunk);
        float* states = last + (b * scan.groups + g) * scan.width;
        for (int64_t e = from; e < to; e++)
            states[e] = scan.start ? scan.start[(b * scan.groups + g) * scan.width + e] : 0;
        for (int64_t first = 0; first < scan.num_chunks(); first += turn) {
            const int64_t start = first * chunk, left = scan.length - start;
            const int64_t end = left < turn * chunk ? scan.length : start + turn * chunk;
            load_rows(scan, b, g, start, end - start, B, C);
            for (int64_t e = from; e < to; e++) {
                const Channel channel(scan, g * scan.width + e);
                const float *u = scan.u.at(b, g, e), *delta = scan.delta.at(b, g, e);
                float* out = const_cast<float*>(y.at(b, g, e));
                for (int64_t t = start; t < end; t += chunk) {
                    if (saved) saved[kept(scan, b, t / chunk, g, e)] = states[e];
                    const int64_t at = t - start, next = t + chunk < end ? chunk : scan.u.channel - at;
                    walk(channel, u + t, delta + t, B + at, C + at, end - t < chunk ? end - t : chunk, next, rows,
                         states[e], out + t);
                }
            }
        }
        if (past) finish_past();
    };
    parallel(scan.batch * scan.groups * scan.splits, threads, body);
}

}  // namespace
