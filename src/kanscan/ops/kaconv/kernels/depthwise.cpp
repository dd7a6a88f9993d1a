// Depth-wise KAonv on maps whose channels lie last: neighboring channels fill a vector, each with a spline and a window of
// weights of its own. Convolution and splines read the same few rows, so all is done here, in one pass each way.
#include "window.h"

namespace {

// The splines of neighboring channels: each lane reads its own coefficients.
template <int P>
struct LaneCurves {
    const Grid& grid;
    float* rows;
    int64_t stride;
    bool few = false;

    // v (channel, basis)
    LaneCurves(const float* v, int width, const Grid& grid, float* memory)
        : grid(grid), rows(memory), stride(row_length<P>(grid.bases)) {
#if defined(__AVX512F__)
        few = grid.bases <= IN_REGISTERS;
#endif
        clear(rows, LANES * stride);
        for (int i = 0; i < width; i++)
            for (int64_t k = 0; k < grid.bases; k++)
                rows[few ? k * LANES + i : i * stride + MARGIN<P> + k] = v[i * grid.bases + k];
    }

    // Pieces times the coefficients of their bases.
    ALWAYS_INLINE Vector at(Integers interval, const Vector* p) const {
#if defined(__AVX512F__)
        if (few) {
            const Sorted s = sorted<P>(interval, p);
            __m512 sums[2] = {};
#pragma GCC unroll 8
            for (int k = 0; k < IN_REGISTERS; k++)
                sums[k / 4] = _mm512_mask3_fmadd_ps(s.piece[k % 4], (__m512)load(rows + k * LANES), sums[k / 4], s.within(k));
            return (Vector)_mm512_add_ps(sums[0], sums[1]);
        }
#endif
        int32_t places[LANES];
        store(places, interval);
        return gather(p, places, rows, stride, LANES);
    }

    ALWAYS_INLINE Vector value(Vector x) const {
        Integers interval;
        Vector p[4];
        pieces<P>(place<P>(x, grid, interval), p);
        return at(interval, p);
    }

    ALWAYS_INLINE Vector slope(Vector x) const {
        Integers interval;
        Vector p[4];
        slopes<P>(place<P>(x, grid, interval), grid.per_unit, p);
        return at(interval, p);
    }
};

// The gradients of those splines: pieces added up for each lane and basis.
template <int P>
struct LaneGradients {
    const Grid& grid;
    float* rows;
    int64_t stride, set = 0;
    bool few = false;

    LaneGradients(const Grid& grid, float* memory) : grid(grid), rows(memory), stride(row_length<P>(grid.bases)) {
#if defined(__AVX512F__)
        few = grid.bases <= IN_REGISTERS;
#endif
        clear(rows, length(grid));
    }

    static int64_t length(const Grid& grid) { return SETS * LANES * row_length<P>(grid.bases); }

    // Add the bases at `count` places (place, lane), each times its weight.
    ALWAYS_INLINE void add(const float* x, int64_t apart, const float* weights, int64_t count, int width) {
#if defined(__AVX512F__)
        if (few) {
            // A sum for each row of a map first: small numbers are not added to large ones.
            Vector sums[IN_REGISTERS] = {};
            for (int64_t l = 0; l < count; l++) {
                const Vector weight = load(weights + l * LANES);
                Integers interval;
                Vector p[4];
                pieces<P>(place<P>(load_first(x + l * apart, width), grid, interval), p);
#pragma GCC unroll 4
                for (int m = 0; m <= P; m++) p[m] *= weight;
                add_pieces<P>(interval, p, sums);
            }
            for (int k = 0; k < IN_REGISTERS; k++) store(rows + k * LANES, load(rows + k * LANES) + sums[k]);
            return;
        }
#endif
        for (int64_t l = 0; l < count; l++) {
            const Vector weight = load(weights + l * LANES);
            int32_t at[LANES];
            Vector p[4];
            pieces<P>(place<P>(load_first(x + l * apart, width), grid, at), p);
            for (Vector& piece : p) piece *= weight;
            scatter(p, at, rows + set * LANES * stride, stride, width);
            set = (set + 1) % SETS;
        }
    }

    // to (lane, basis)
    void hand_out(int width, float* to) const {
        for (int i = 0; i < width; i++, to += grid.bases)
            for (int64_t k = 0; k < grid.bases; k++) {
                to[k] = few ? rows[k * LANES + i] : 0;
                for (int s = 0; !few && s < SETS; s++) to[k] += rows[(s * LANES + i) * stride + MARGIN<P> + k];
            }
    }
};

// Weights (channel, tap) as a vector of channels for each tap.
inline void turn_weights(const float* u, int64_t taps, int width, float* to) {
    clear(to, taps * LANES);
    for (int i = 0; i < width; i++)
        for (int64_t t = 0; t < taps; t++) to[t * LANES + i] = u[i * taps + t];
}

// One row of windows: the taps of `silu` times their weights, and the sums of `line` along the row. K x K taps side by
// side, or as many as the window says where K is 0.
template <int K>
ALWAYS_INLINE void convolve_row(const float* silu, const float* line, const Window& w, int64_t wide, const float* u,
                                int width, float* y, int64_t apart) {
    const int64_t high = K ? K : w.kernel[0], broad = K ? K : w.kernel[1];
    const int64_t down = w.dilation[0] * wide * LANES, right = w.dilation[1] * LANES;
    for (int64_t q = 0; q < w.out[1]; q++, y += apart) {
        const float* from = silu + q * w.stride[1] * LANES;
        Vector sum = {}, splines = {};
#pragma GCC unroll 3
        for (int64_t j = 0; j < broad; j++) splines += load(line + q * w.stride[1] * LANES + j * right);
#pragma GCC unroll 3
        for (int64_t i = 0; i < high; i++)
#pragma GCC unroll 3
            for (int64_t j = 0; j < broad; j++) sum += load(u + (i * broad + j) * LANES) * load(from + i * down + j * right);
        store_first(y, sum + splines, width);
    }
}

template <int P>
void depthwise(const float* x, int64_t batch, int64_t channels, const Window& w, bool contributes, const Grid& grid,
               const float* u, const float* v, float* y, int64_t threads) {
    const int64_t wide = w.size[1] + 2 * w.padding[1], high = w.size[0] + 2 * w.padding[0];
    const int64_t blocks = (channels + LANES - 1) / LANES, taps = w.kernel[0] * w.kernel[1];
    auto body = [&](int64_t task) {
        const int64_t first = task % blocks * LANES;
        const int width = width_of(channels - first);
        float* silu = kanscan_workspace(0, (2 * high + 1) * wide * LANES);
        float *map = silu + high * wide * LANES, *line = map + high * wide * LANES;
        float* weights = kanscan_workspace(1, taps * LANES);
        turn_weights(u + first * taps, taps, width, weights);
        const LaneCurves<P> curves(v + first * grid.bases, width, grid,
                                   kanscan_workspace(2, LANES * row_length<P>(grid.bases)));
        const Vector border = contributes ? curves.value(Vector{}) : Vector{};
        const float* from = x + task / blocks * w.pixels() * channels + first;
        for (int64_t h = 0; h < high; h++) {
            const bool inner = within(h - w.padding[0], w.size[0]);
            for (int64_t l = 0; l < wide; l++) {
                float* to = silu + (h * wide + l) * LANES;
                if (!inner || !within(l - w.padding[1], w.size[1])) {
                    store(to, Vector{});
                    store(to + high * wide * LANES, border);
                    continue;
                }
                const Vector value = load_first(from, width);
                from += channels;
                store(to, value * sigmoid_of(value));
                store(to + high * wide * LANES, curves.value(value));
            }
        }
        float* out = y + task / blocks * w.windows() * channels + first;
        for (int64_t r = 0; r < w.out[0]; r++, out += w.out[1] * channels) {
            const int64_t start = r * w.stride[0] * wide * LANES;
            for (int64_t l = 0; l < wide * LANES; l += LANES) {
                Vector sum = load(map + start + l);
                for (int64_t i = 1; i < w.kernel[0]; i++) sum += load(map + start + i * w.dilation[0] * wide * LANES + l);
                store(line + l, sum);
            }
            if (w.kernel[0] == 3 && w.kernel[1] == 3)
                convolve_row<3>(silu + start, line, w, wide, weights, width, out, channels);
            else
                convolve_row<0>(silu + start, line, w, wide, weights, width, out, channels);
        }
    };
    parallel(batch * blocks, threads, body);
}

// The gradients of windows, laid out so that place p of the map reads tap t at p + (taps - 1 - t) * dilation: zeros lie
// where no window begins. Returned is the sum over all taps beyond the map.
inline Vector lay_out(const float* grad_y, int64_t channels, const Window& w, int width, float* laid) {
    const int64_t taps = w.kernel[0] * w.kernel[1];
    int64_t reach[2], length[2];
    for (int axis = 0; axis < 2; axis++) {
        reach[axis] = (w.kernel[axis] - 1) * w.dilation[axis] - w.padding[axis];
        length[axis] = w.size[axis] + (w.kernel[axis] - 1) * w.dilation[axis];
    }
    clear(laid, length[0] * length[1] * LANES);
    Vector around = {};
    for (int64_t r = 0; r < w.out[0]; r++) {
        int64_t rows = 0;
        for (int64_t i = 0; i < w.kernel[0]; i++) rows += within(w.reads(0, r, i), w.size[0]);
        const int64_t h = r * w.stride[0] + reach[0];
        Vector beside = {};
        for (int64_t q = 0; q < w.out[1]; q++, grad_y += channels) {
            const Vector g = load_first(grad_y, width);
            const int64_t l = q * w.stride[1] + reach[1];
            if (within(h, length[0]) && within(l, length[1])) store(laid + (h * length[1] + l) * LANES, g);
            int64_t inside = 0;
            if (rows < w.kernel[0] || w.reads(1, q, 0) < 0 || w.reads(1, q, w.kernel[1] - 1) >= w.size[1]) {
                for (int64_t j = 0; j < w.kernel[1]; j++) inside += within(w.reads(1, q, j), w.size[1]);
                beside += float(taps - rows * inside) * g;
            }
        }
        around += beside;
    }
    return around;
}

// One row of a map: grad_x = the gradient of SiLU(x) through its slope, sums = the gradient of the splines of x,
// grad_u (tap, lane) += SiLU(x) times gradients.
template <int K>
ALWAYS_INLINE void spread_row(const float* x, int64_t channels, const float* laid, const Window& w, int64_t wide,
                              const float* u, int width, float* sums, float* grad_u, float* grad_x) {
    const int64_t high = K ? K : w.kernel[0], broad = K ? K : w.kernel[1];
    const int64_t down = w.dilation[0] * wide * LANES, right = w.dilation[1] * LANES;
    Vector found[K ? K * K : 1] = {};
    for (int64_t l = 0; l < w.size[1]; l++, x += channels) {
        const Vector value = load_first(x, width), sigmoid = sigmoid_of(value), silu = value * sigmoid;
        Vector grad = {}, sum = {};
        const float* last = laid + l * LANES + (high - 1) * down + (broad - 1) * right;
#pragma GCC unroll 3
        for (int64_t i = 0; i < high; i++)
#pragma GCC unroll 3
            for (int64_t j = 0; j < broad; j++) {
                const Vector g = load(last - i * down - j * right);
                const int64_t tap = i * broad + j;
                grad += load(u + tap * LANES) * g;
                sum += g;
                if (K) found[K ? tap : 0] += silu * g;
                else store(grad_u + tap * LANES, load(grad_u + tap * LANES) + silu * g);
            }
        store(sums + l * LANES, sum);
        if (grad_x) store_first(grad_x + l * channels, grad * (sigmoid * (1.0f + value * (1.0f - sigmoid))), width);
    }
    for (int t = 0; t < K * K; t++) store(grad_u + t * LANES, load(grad_u + t * LANES) + found[K ? t : 0]);
}

// grad_x (batch, pixel, channel) unless null, grad_u (batch, channel, tap) and grad_v (batch, channel, basis).
template <int P>
void depthwise_gradient(const float* x, const float* grad_y, int64_t batch, int64_t channels, const Window& w,
                        bool contributes, const Grid& grid, const float* u, const float* v, bool through_splines,
                        float* grad_u, float* grad_v, float* grad_x, int64_t threads) {
    const int64_t wide = w.size[1] + (w.kernel[1] - 1) * w.dilation[1];
    const int64_t high = w.size[0] + (w.kernel[0] - 1) * w.dilation[0];
    const int64_t blocks = (channels + LANES - 1) / LANES, taps = w.kernel[0] * w.kernel[1];
    auto body = [&](int64_t task) {
        const int64_t sample = task / blocks, first = task % blocks * LANES;
        const int width = width_of(channels - first);
        float* laid = kanscan_workspace(0, (high * wide + w.size[1]) * LANES);
        float *sums = laid + high * wide * LANES, *weights = kanscan_workspace(1, 2 * taps * LANES);
        float* found = weights + taps * LANES;
        turn_weights(u + first * taps, taps, width, weights);
        clear(found, taps * LANES);
        float* memory = kanscan_workspace(2, LaneGradients<P>::length(grid) + LANES * row_length<P>(grid.bases));
        LaneGradients<P> gradients(grid, memory);
        const LaneCurves<P> curves(v + first * grid.bases, width, grid, memory + LaneGradients<P>::length(grid));
        const float* from = x + sample * w.pixels() * channels + first;
        float* to = grad_x ? grad_x + sample * w.pixels() * channels + first : nullptr;
        const Vector around = lay_out(grad_y + sample * w.windows() * channels + first, channels, w, width, laid);
        for (int64_t h = 0; h < w.size[0]; h++, from += w.size[1] * channels) {
            float* row = to ? to + h * w.size[1] * channels : nullptr;
            if (w.kernel[0] == 3 && w.kernel[1] == 3)
                spread_row<3>(from, channels, laid + h * wide * LANES, w, wide, weights, width, sums, found, row);
            else
                spread_row<0>(from, channels, laid + h * wide * LANES, w, wide, weights, width, sums, found, row);
            gradients.add(from, channels, sums, w.size[1], width);
            for (int64_t l = 0; row && through_splines && l < w.size[1]; l++) {
                float* at = row + l * channels;
                const Vector slope = curves.slope(load_first(from + l * channels, width));
                store_first(at, load_first(at, width) + load(sums + l * LANES) * slope, width);
            }
        }
        float* zero = kanscan_workspace(0, LANES);
        store(zero, Vector{});
        alignas(64) float outside[LANES];
        store(outside, contributes ? around : Vector{});
        gradients.add(zero, 0, outside, 1, LANES);
        gradients.hand_out(width, grad_v + (sample * channels + first) * grid.bases);
        for (int i = 0; i < width; i++)
            for (int64_t t = 0; t < taps; t++)
                grad_u[(sample * channels + first + i) * taps + t] = found[t * LANES + i];
    };
    parallel(batch * blocks, threads, body);
}

}  // namespace

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_depthwise)(const float* x, int64_t batch, int64_t channels,
                                                       const Window* window, int64_t contributes, int64_t bases,
                                                       int64_t order, float low, float per_unit, const float* u,
                                                       const float* v, float* y, int64_t threads) {
#define CALL(P) depthwise<P>(x, batch, channels, *window, contributes, grid, u, v, y, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_depthwise_gradient)(const float* x, const float* grad_y, int64_t batch,
                                                                int64_t channels, const Window* window,
                                                                int64_t contributes, int64_t bases, int64_t order,
                                                                float low, float per_unit, const float* u,
                                                                const float* v, int64_t through_splines, float* grad_u,
                                                                float* grad_v, float* grad_x, int64_t threads) {
#define CALL(P)                                                                                                       \
    depthwise_gradient<P>(x, grad_y, batch, channels, *window, contributes, grid, u, v, through_splines, grad_u, grad_v, \
                          grad_x, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}
