// The same as in `cpu.cpp` for maps whose channels lie last, (batch, pixel, channel): what libraries convolve fastest, and
// what the rows of a linear layer are. The products with splines need no transpose here: a row of bases meets all outputs.
#include "window.h"

namespace {

// SiLU of the channels of some pixels in a row.
ALWAYS_INLINE void silu_of(const float* x, int64_t count, float* silu) {
    for (int64_t i = 0; i < count; i += LANES) {
        const int width = width_of(count - i);
        const Vector v = load_first(x + i, width);
        store_first(silu + i, v * sigmoid_of(v), width);
    }
}

// LANES channels at most of LANES pixels at most: a vector of pixels for each channel.
ALWAYS_INLINE void turn_pixels(const float* x, int64_t apart, int pixels, int channels, Vector* turned) {
    if (pixels == LANES && channels == LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) turned[i] = load(x + i * apart);
        return transpose(turned);
    }
    alignas(64) float block[LANES * LANES] = {};
    for (int i = 0; i < pixels; i++)
        for (int c = 0; c < channels; c++) block[c * LANES + i] = x[i * apart + c];
    for (int c = 0; c < channels; c++) turned[c] = load(block + c * LANES);
}

// maps (pixel, basis) of one group for the pixels of a tile.
template <int P>
inline void sum_channels(const float* x, int64_t apart, int64_t channels, int64_t pixels, const Grid& grid, float* maps) {
    Vector turned[LANES];
#if defined(__AVX512F__)
    if (grid.bases <= IN_REGISTERS) {
        constexpr int64_t each = IN_REGISTERS;
        alignas(64) float block[each * LANES];
        for (int64_t i = 0; i < pixels; i += LANES) {
            const int width = width_of(pixels - i);
            Vector sums[IN_REGISTERS] = {};
            for (int64_t c = 0; c < channels; c += LANES) {
                const int those = width_of(channels - c);
                turn_pixels(x + i * apart + c, apart, width, those, turned);
                for (int k = 0; k < those; k++) add_bases<P>(turned[k], grid, sums);
            }
            for (int k = 0; k < IN_REGISTERS; k++) store(block + k * LANES, k < grid.bases ? sums[k] : Vector{});
            float* to = maps + i * each;
            if (width == LANES)
                for (int q = 0; q < LANES; q += 8) turn_eights(block + q, LANES, to + q * each, each);
            else
                for (int q = 0; q < width; q++)
                    for (int k = 0; k < IN_REGISTERS; k++) to[q * each + k] = block[k * LANES + q];
        }
        return;
    }
#endif
    Rows<P> sums(pixels, grid);
    for (int64_t i = 0; i < pixels; i += LANES) {
        const int width = width_of(pixels - i);
        for (int64_t c = 0; c < channels; c += LANES) {
            const int those = width_of(channels - c);
            turn_pixels(x + i * apart + c, apart, width, those, turned);
            for (int k = 0; k < those; k++) sums.template add<1>(turned + k, grid, i, width);
        }
    }
    sums.hand_out(pixels, grid, maps);
}

// silu (batch, pixel, channel) and, unless null, maps (batch, group, pixel, basis).
template <int P>
void sums_last(const float* x, int64_t batch, int64_t groups, int64_t channels, int64_t pixels, const Grid& grid,
               float* silu, float* maps, int64_t threads) {
    const int64_t each = eights(grid.bases), apart = groups * channels, tile = apart < 64 ? TILE : 4 * LANES;
    const int64_t tiles = (pixels + tile - 1) / tile;
    auto body = [&](int64_t task) {
        const int64_t sample = task / tiles, begin = task % tiles * tile;
        const int64_t count = pixels - begin < tile ? pixels - begin : tile;
        const float* from = x + (sample * pixels + begin) * apart;
        silu_of(from, count * apart, silu + (sample * pixels + begin) * apart);
        for (int64_t g = 0; maps && g < groups; g++)
            sum_channels<P>(from + g * channels, apart, channels, count, grid,
                            maps + ((sample * groups + g) * pixels + begin) * each);
    };
    parallel(batch * tiles, threads, body);
}

// y (window, output) += sums (window, basis) times v (output, basis), for LANES outputs at most.
ALWAYS_INLINE void add_products(const float* sums, int64_t each, int64_t windows, const float* v, int64_t bases,
                                int width, float* y, int64_t apart) {
    for (int64_t b = 0; b < bases; b += 8) {
        alignas(64) float turned[8 * LANES] = {};
        for (int o = 0; o < width; o++)
            for (int64_t k = b; k < bases && k < b + 8; k++) turned[(k - b) * LANES + o] = v[o * bases + k];
        Vector weights[8];
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) weights[k] = load(turned + k * LANES);
        const float* from = sums + b;
        float* to = y;
        int64_t q = 0;
        for (; q + 4 <= windows; q += 4, from += 4 * each, to += 4 * apart) {
            Vector sum[4];
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++) sum[m] = load_first(to + m * apart, width);
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++)
#pragma GCC unroll 4
                for (int m = 0; m < 4; m++) sum[m] += from[m * each + k] * weights[k];
#pragma GCC unroll 4
            for (int m = 0; m < 4; m++) store_first(to + m * apart, sum[m], width);
        }
        for (; q < windows; q++, from += each, to += apart) {
            Vector sum = load_first(to, width);
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) sum += from[k] * weights[k];
            store_first(to, sum, width);
        }
    }
}

// sums (batch, group, window, basis) = box filter of maps, unless maps is null: sums are given then;
// y (batch, window, group, output) += sums times v.
template <int P>
void windows_last(const float* maps, int64_t batch, int64_t groups, int64_t channels, const Window& w, bool contributes,
                  const Grid& grid, const float* v, int64_t outputs, float* sums, float* y, int64_t threads) {
    const int64_t each = eights(grid.bases), rows = rows_of(w), chunks = (w.out[0] + rows - 1) / rows;
    auto body = [&](int64_t task) {
        const int64_t group = task / chunks, first = task % chunks * rows;
        const int64_t last = first + rows < w.out[0] ? first + rows : w.out[0];
        float* to = sums + (group * w.windows() + first * w.out[1]) * each;
        if (maps) {
            float* border = kanscan_workspace(0, each);
            bases_of<P>(0, contributes ? float(channels) : 0, grid, border);
            for (int64_t row = first; row < last; row++)
                filter_row(maps + group * w.pixels() * each, w, row, each, border, to + (row - first) * w.out[1] * each);
        }
        const int64_t apart = groups * outputs, start = group % groups * outputs;
        float* out = y + (group / groups * w.windows() + first * w.out[1]) * apart + start;
        for (int64_t o = 0; o < outputs; o += LANES)
            add_products(to, each, (last - first) * w.out[1], v + (start + o) * grid.bases, grid.bases,
                         width_of(outputs - o), out + o, apart);
    };
    parallel(batch * groups * chunks, threads, body);
}

// partial (part, group, output, basis) = grad_y (batch, window, group, output) times sums; the parts are to be summed.
void spline_gradient_last(const float* sums, const float* grad_y, int64_t batch, int64_t groups, int64_t windows,
                          int64_t bases, int64_t outputs, int64_t parts, float* partial, int64_t threads) {
    const int64_t each = eights(bases), chunks = (windows + SHARE - 1) / SHARE, tasks = batch * groups * chunks;
    const int64_t apart = groups * outputs;
    auto body = [&](int64_t part) {
        float* found = partial + part * apart * bases;
        clear(found, apart * bases);
        for (int64_t task = part * tasks / parts; task < (part + 1) * tasks / parts; task++) {
            const int64_t group = task / chunks, begin = task % chunks * SHARE, start = group % groups * outputs;
            const int64_t count = windows - begin < SHARE ? windows - begin : SHARE;
            for (int64_t o = 0; o < outputs; o += LANES)
                for (int64_t b = 0; b < each; b += 8) {
                    const int width = width_of(outputs - o);
                    const float* from = sums + (group * windows + begin) * each + b;
                    const float* grad = grad_y + (group / groups * windows + begin) * apart + start + o;
                    Vector sum[8] = {};
                    for (int64_t q = 0; q < count; q++, from += each, grad += apart) {
                        const Vector g = load_first(grad, width);
#pragma GCC unroll 8
                        for (int k = 0; k < 8; k++) sum[k] += from[k] * g;
                    }
                    for (int64_t k = b; k < bases && k < b + 8; k++)
                        for (int i = 0; i < width; i++) found[(start + o + i) * bases + k] += sum[k - b][i];
                }
        }
    };
    parallel(parts, threads, body);
}

// grad (batch, pixel, channel) comes as the gradient of SiLU(x) and leaves as that of x. `through`, the gradient of the
// window sums (batch, group, window, basis), is null where splines pass no gradients on.
template <int P>
void input_gradient_last(const float* x, int64_t batch, int64_t groups, int64_t channels, const Window& w,
                         const Grid& grid, const float* through, float* grad, int64_t threads) {
    const int64_t each = eights(grid.bases), apart = groups * channels, pixels = w.pixels();
    const int64_t tiles = (pixels + TILE - 1) / TILE;
    auto body = [&](int64_t task) {
        const int64_t sample = task / tiles, begin = task % tiles * TILE;
        const int64_t end = begin + TILE < pixels ? begin + TILE : pixels;
        const float* from = x + (sample * pixels + begin) * apart;
        float* to = grad + (sample * pixels + begin) * apart;
        for (int64_t i = 0; i < (end - begin) * apart; i += LANES) {
            const int width = width_of((end - begin) * apart - i);
            store_first(to + i, load_first(to + i, width) * silu_slope(load_first(from + i, width)), width);
        }
        for (int64_t g = 0; through && g < groups; g++)
            for (int64_t q = begin; q < end; q++) {
                float* sums = kanscan_workspace(0, each);
                clear(sums, each);
                const float* gradients = through + (sample * groups + g) * w.windows() * each;
                add_windows_of(gradients, w, q, each, sums);
                const Curve<P> curve(sums, grid, kanscan_workspace(1, row_length<P>(grid.bases)));
                const int64_t start = (q - begin) * apart + g * channels;
                for (int64_t c = start; c < start + channels; c += LANES) {
                    const int width = width_of(start + channels - c);
                    Integers interval;
                    Vector p[4];
                    slopes<P>(place<P>(load_first(from + c, width), grid, interval), grid.per_unit, p);
                    store_first(to + c, load_first(to + c, width) + curve.at(interval, p, width), width);
                }
            }
    };
    parallel(batch * tiles, threads, body);
}

}  // namespace

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_sums_last)(const float* x, int64_t batch, int64_t groups, int64_t channels,
                                                       int64_t pixels, int64_t bases, int64_t order, float low,
                                                       float per_unit, float* silu, float* maps, int64_t threads) {
#define CALL(P) sums_last<P>(x, batch, groups, channels, pixels, grid, silu, maps, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_windows_last)(const float* maps, int64_t batch, int64_t groups,
                                                          int64_t channels, const Window* window, int64_t contributes,
                                                          int64_t bases, int64_t order, float low, float per_unit,
                                                          const float* v, int64_t outputs, float* sums, float* y,
                                                          int64_t threads) {
#define CALL(P) windows_last<P>(maps, batch, groups, channels, *window, contributes, grid, v, outputs, sums, y, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_spline_gradient_last)(const float* sums, const float* grad_y, int64_t batch,
                                                                  int64_t groups, int64_t windows, int64_t bases,
                                                                  int64_t outputs, int64_t parts, float* partial,
                                                                  int64_t threads) {
    spline_gradient_last(sums, grad_y, batch, groups, windows, bases, outputs, parts, partial, threads);
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_input_gradient_last)(const float* x, int64_t batch, int64_t groups,
                                                                 int64_t channels, const Window* window, int64_t bases,
                                                                 int64_t order, float low, float per_unit,
                                                                 const float* through, float* grad, int64_t threads) {
#define CALL(P) input_gradient_last<P>(x, batch, groups, channels, *window, grid, through, grad, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}
