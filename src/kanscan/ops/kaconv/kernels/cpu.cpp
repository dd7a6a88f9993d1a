// KAonv without the products, which the caller's library does: SiLU and the sums of bases over channels in one pass over
// the input, the box filter over those sums, and what backward needs of either.
#include "window.h"

namespace {

#if defined(__AVX512F__)
// Sums of bases as `Rows` has them, for few bases: a row of pixels for each basis.
template <int P>
struct Columns {
    float* sums;

    Columns(int64_t, const Grid&) : sums(kanscan_workspace(0, IN_REGISTERS * TILE)) { clear(sums, IN_REGISTERS * TILE); }

    template <int K>
    ALWAYS_INLINE void add(const Vector* x, const Grid& grid, int64_t i, int) {
        Vector s[IN_REGISTERS];
#pragma GCC unroll 8
        for (int k = 0; k < IN_REGISTERS; k++) s[k] = load(sums + k * TILE + i);
#pragma GCC unroll 4
        for (int k = 0; k < K; k++) add_bases<P>(x[k], grid, s);
#pragma GCC unroll 8
        for (int k = 0; k < IN_REGISTERS; k++) store(sums + k * TILE + i, s[k]);
    }

    void hand_out(int64_t count, const Grid& grid, float* to) const {
        clear(sums + grid.bases * TILE, (IN_REGISTERS - grid.bases) * TILE);
        int64_t i = 0;
        for (; i + 8 <= count; i += 8) turn_eights(sums + i, TILE, to + i * IN_REGISTERS, IN_REGISTERS);
        for (; i < count; i++)
            for (int64_t k = 0; k < IN_REGISTERS; k++) to[i * IN_REGISTERS + k] = sums[k * TILE + i];
    }
};
#endif

// K channels, `apart` numbers from each other.
template <int K, class Sums>
ALWAYS_INLINE void add_channels(const float* x, int64_t start, int64_t apart, int64_t count, const Grid& grid,
                                float* silu, Sums& sums) {
    for (int64_t i = 0; i < count; i += LANES) {
        const int width = width_of(count - i);
        Vector v[K];
#pragma GCC unroll 4
        for (int k = 0; k < K; k++) {
            const int64_t at = start + k * apart + i;
            v[k] = load_first(x + at, width);
            store_first(silu + at, v[k] * sigmoid_of(v[k]), width);
        }
        sums.template add<K>(v, grid, i, width);
    }
}

// silu (batch, channels, pixels) and maps (batch, group, pixel, basis).
template <class Sums>
void sums(const float* x, int64_t groups, int64_t channels, int64_t pixels, const Grid& grid, float* silu, float* maps,
          int64_t threads) {
    const int64_t tiles = (pixels + TILE - 1) / TILE;
    auto body = [&](int64_t task) {
        const int64_t group = task / tiles, begin = task % tiles * TILE;
        const int64_t count = pixels - begin < TILE ? pixels - begin : TILE;
        Sums sums(count, grid);
        const int64_t start = group * channels * pixels + begin;
        int64_t c = 0;
        for (; c + 4 <= channels; c += 4) add_channels<4>(x, start + c * pixels, pixels, count, grid, silu, sums);
        for (; c < channels; c++) add_channels<1>(x, start + c * pixels, pixels, count, grid, silu, sums);
        sums.hand_out(count, grid, maps + (group * pixels + begin) * eights(grid.bases));
    };
    parallel(groups * tiles, threads, body);
}

inline void silu_alone(const float* x, int64_t size, float* silu, int64_t threads) {
    constexpr int64_t SHARE = 1 << 14;
    auto body = [&](int64_t task) {
        const int64_t end = (task + 1) * SHARE < size ? (task + 1) * SHARE : size;
        for (int64_t i = task * SHARE; i < end; i += LANES) {
            const int width = width_of(end - i);
            const Vector v = load_first(x + i, width);
            store_first(silu + i, v * sigmoid_of(v), width);
        }
    };
    parallel((size + SHARE - 1) / SHARE, threads, body);
}

template <int P>
void sums_or_silu(const float* x, int64_t groups, int64_t channels, int64_t pixels, const Grid& grid, float* silu,
                  float* maps, int64_t threads) {
    if (!maps) return silu_alone(x, groups * channels * pixels, silu, threads);
#if defined(__AVX512F__)
    if (grid.bases <= IN_REGISTERS) return sums<Columns<P>>(x, groups, channels, pixels, grid, silu, maps, threads);
#endif
    sums<Rows<P>>(x, groups, channels, pixels, grid, silu, maps, threads);
}

// Turn numbers (window, basis) into (basis, window): what a product over windows needs.
inline void turn(const float* from, int64_t count, int64_t each, float* to, int64_t stride) {
    int64_t q = 0;
#if defined(__AVX2__)
    for (; q + 8 <= count; q += 8)
        for (int64_t k = 0; k < each; k += 8) turn_eights(from + q * each + k, each, to + k * stride + q, stride);
#endif
    for (; q < count; q++)
        for (int64_t k = 0; k < each; k++) to[k * stride + q] = from[q * each + k];
}

// sums (batch, group, window, basis) = box filter of maps; y (batch, group, output, window) += sums times v.
template <int P>
void window_sums(const float* maps, int64_t batch, int64_t groups, int64_t channels, const Window& w, bool contributes,
                 const Grid& grid, const float* v, int64_t outputs, float* filtered, float* y, int64_t threads) {
    const int64_t each = eights(grid.bases), rows = rows_of(w), chunks = (w.out[0] + rows - 1) / rows;
    const int64_t length = rows * w.out[1];
    auto body = [&](int64_t task) {
        const int64_t group = task / chunks, first = task % chunks * rows, begin = first * w.out[1];
        const int64_t last = first + rows < w.out[0] ? first + rows : w.out[0], count = (last - first) * w.out[1];
        float* border = kanscan_workspace(0, each);
        float* turned = kanscan_workspace(1, each * length + LANES);
        bases_of<P>(0, contributes ? float(channels) : 0, grid, border);
        float* to = filtered + (group * w.windows() + begin) * each;
        for (int64_t row = first; row < last; row++)
            filter_row(maps + group * w.pixels() * each, w, row, each, border, to + (row - first) * w.out[1] * each);
        turn(to, count, each, turned, length);
        for (int64_t o = 0; o < outputs; o++) {
            const float* weights = v + (group % groups * outputs + o) * grid.bases;
            float* out = y + (group * outputs + o) * w.windows() + begin;
            int64_t q = 0;
            for (; q + 4 * LANES <= count; q += 4 * LANES) {
                Vector sum[4];
                for (int m = 0; m < 4; m++) sum[m] = load(out + q + m * LANES);
                for (int64_t k = 0; k < grid.bases; k++) {
                    const Vector weight = all(weights[k]);
                    for (int m = 0; m < 4; m++) sum[m] += weight * load(turned + k * length + q + m * LANES);
                }
                for (int m = 0; m < 4; m++) store(out + q + m * LANES, sum[m]);
            }
            for (; q < count; q += LANES) {
                const int width = width_of(count - q);
                Vector sum = load_first(out + q, width);
                for (int64_t k = 0; k < grid.bases; k++)
                    sum += weights[k] * load_first(turned + k * length + q, width);
                store_first(out + q, sum, width);
            }
        }
    };
    parallel(batch * groups * chunks, threads, body);
}

// partial (part, group, output, basis) = grad_y times sums; the parts share the windows and are to be summed.
void spline_gradient(const float* sums, const float* grad_y, int64_t batch, int64_t groups, int64_t windows,
                     int64_t bases, int64_t outputs, int64_t parts, float* partial, int64_t threads) {
    const int64_t each = eights(bases), chunks = (windows + SHARE - 1) / SHARE, tasks = batch * groups * chunks;
    auto body = [&](int64_t part) {
        float* turned = kanscan_workspace(0, each * SHARE);
        float* found = partial + part * groups * outputs * bases;
        clear(found, groups * outputs * bases);
        for (int64_t task = part * tasks / parts; task < (part + 1) * tasks / parts; task++) {
            const int64_t group = task / chunks, begin = task % chunks * SHARE;
            const int64_t count = windows - begin < SHARE ? windows - begin : SHARE;
            if (count < SHARE) clear(turned, each * SHARE);
            turn(sums + (group * windows + begin) * each, count, each, turned, SHARE);
            for (int64_t o = 0; o < outputs; o++) {
                const float* grad = grad_y + (group * outputs + o) * windows + begin;
                float* to = found + (group % groups * outputs + o) * bases;
                for (int64_t k = 0; k < each; k += 8) {
                    Vector sum[8] = {};
                    for (int64_t q = 0; q < count; q += LANES) {
                        const Vector g = load_first(grad + q, width_of(count - q));
                        for (int m = 0; m < 8; m++) sum[m] += g * load(turned + (k + m) * SHARE + q);
                    }
                    for (int m = 0; m < 8 && k + m < bases; m++) to[k + m] += sum_of(sum[m]);
                }
            }
        }
    };
    parallel(parts, threads, body);
}

// grad (batch, channel, pixel) comes as the gradient of SiLU(x) and leaves as that of x. `through`, the gradient of the
// window sums (batch, group, window, basis), is null where splines pass no gradients on.
template <int P>
void input_gradient(const float* x, int64_t groups, int64_t channels, const Window& w, const Grid& grid,
                    const float* through, float* grad, int64_t threads) {
    const int64_t stride = row_length<P>(grid.bases), each = eights(grid.bases), pixels = w.pixels();
    const int64_t tiles = (pixels + TILE - 1) / TILE;
    auto body = [&](int64_t task) {
        const int64_t group = task / tiles, begin = task % tiles * TILE;
        const int64_t count = pixels - begin < TILE ? pixels - begin : TILE;
        float* rows = kanscan_workspace(0, TILE * stride);
        if (through) clear(rows, count * stride);
        for (int64_t q = 0; through && q < count; q++)
            add_windows_of(through + group * w.windows() * each, w, begin + q, each, rows + q * stride + MARGIN<P>);
        for (int64_t c = 0; c < channels; c++) {
            const int64_t start = (group * channels + c) * pixels + begin;
            for (int64_t i = 0; i < count; i += LANES) {
                const int width = width_of(count - i);
                const Vector v = load_first(x + start + i, width);
                Vector sum = load_first(grad + start + i, width) * silu_slope(v);
                if (through) {
                    int32_t at[LANES];
                    Vector p[4];
                    slopes<P>(place<P>(v, grid, at), grid.per_unit, p);
                    sum += gather(p, at, rows + i * stride, stride, width);
                }
                store_first(grad + start + i, sum, width);
            }
        }
    };
    parallel(groups * tiles, threads, body);
}

// Add the windows of one row, whose first row on the padded map is `from`: along its columns, then along the row. Behind
// the map is room to read a vector.
inline void add_windows(const float* from, const Window& w, int64_t wide, float* sums, float* out) {
    for (int64_t l = 0; l < wide; l += LANES) {
        Vector sum = load(from + l);
        for (int64_t i = 1; i < w.kernel[0]; i++) sum += load(from + i * w.dilation[0] * wide + l);
        store(sums + l, sum);
    }
    if (w.stride[1] == 1)
        for (int64_t l = 0; l < w.out[1]; l += LANES) {
            const int width = width_of(w.out[1] - l);
            Vector sum = load_first(out + l, width);
            for (int64_t j = 0; j < w.kernel[1]; j++) sum += load_first(sums + l + j * w.dilation[1], width);
            store_first(out + l, sum, width);
        }
    else
        for (int64_t l = 0; l < w.out[1]; l++)
            for (int64_t j = 0; j < w.kernel[1]; j++) out[l] += sums[l * w.stride[1] + j * w.dilation[1]];
}

// The way back: add the gradients of one row of windows to all places they read.
inline void spread_windows(const float* from, const Window& w, int64_t wide, float* line, float* to) {
    // Vectors may reach into the next row of the map, with zeros.
    clear(line, wide + LANES);
    for (int64_t j = 0; j < w.kernel[1]; j++) {
        float* at = line + j * w.dilation[1];
        if (w.stride[1] == 1)
            for (int64_t l = 0; l < w.out[1]; l += LANES) {
                const int width = width_of(w.out[1] - l);
                store_first(at + l, load_first(at + l, width) + load_first(from + l, width), width);
            }
        else
            for (int64_t l = 0; l < w.out[1]; l++) at[l * w.stride[1]] += from[l];
    }
    for (int64_t i = 0; i < w.kernel[0]; i++, to += w.dilation[0] * wide)
        for (int64_t l = 0; l < wide; l += LANES) store(to + l, load(to + l) + load(line + l));
}

// The sum of a padded map over its padding.
inline float sum_around(const float* map, const Window& w, int64_t wide) {
    float sum = 0;
    for (int64_t h = 0; h < w.size[0] + 2 * w.padding[0]; h++, map += wide) {
        const int64_t inner = within(h - w.padding[0], w.size[0]) ? w.size[1] : 0;
        for (int64_t l = 0; l < (inner ? w.padding[1] : wide); l++) sum += map[l];
        for (int64_t l = w.padding[1] + inner; inner && l < wide; l++) sum += map[l];
    }
    return sum;
}

// Few outputs for each group (depth-wise layers): each output's spline first, then the box filter, which is added to y.
template <int P>
void curves(const float* x, int64_t batch, int64_t groups, int64_t channels, const Window& w, bool contributes,
            const Grid& grid, const float* v, int64_t outputs, float* y, int64_t threads) {
    const int64_t wide = w.size[1] + 2 * w.padding[1], high = w.size[0] + 2 * w.padding[0];
    auto body = [&](int64_t task) {
        const int64_t group = task / outputs, output = group % groups * outputs + task % outputs;
        float* map = kanscan_workspace(0, high * wide + 2 * LANES);
        const Curve<P> curve(v + output * grid.bases, grid, kanscan_workspace(1, row_length<P>(grid.bases)));
        float* zero = kanscan_workspace(2, eights(grid.bases));
        bases_of<P>(0, contributes ? float(channels) : 0, grid, zero);
        float border = 0;
        for (int64_t k = 0; k < grid.bases; k++) border += zero[k] * v[output * grid.bases + k];
        for (int64_t i = 0; i < high * wide; i++) map[i] = border;
        for (int64_t c = 0; c < channels; c++)
            for (int64_t h = 0; h < w.size[0]; h++) {
                const float* from = x + (group * channels + c) * w.pixels() + h * w.size[1];
                float* to = map + (h + w.padding[0]) * wide + w.padding[1];
                for (int64_t l = 0; l < w.size[1]; l += LANES) {
                    const int width = width_of(w.size[1] - l);
                    Integers interval;
                    Vector p[4];
                    pieces<P>(place<P>(load_first(from + l, width), grid, interval), p);
                    const Vector y = curve.at(interval, p, width);
                    store_first(to + l, c ? load_first(to + l, width) + y : y, width);
                }
            }
        float *out = y + task * w.windows(), *sums = kanscan_workspace(3, wide + 2 * LANES);
        for (int64_t r = 0; r < w.out[0]; r++, out += w.out[1])
            add_windows(map + r * w.stride[0] * wide, w, wide, sums, out);
    };
    parallel(batch * groups * outputs, threads, body);
}

// The gradient of one spline: pieces added up for each basis.
template <int P>
struct SplineGradient {
    const Grid& grid;
    float* rows;
    int64_t stride, set = 0;
    bool few = false;
#if defined(__AVX512F__)
    Vector sums[IN_REGISTERS] = {};
#endif

    SplineGradient(const Grid& grid, float* memory) : grid(grid), rows(memory), stride(row_length<P>(grid.bases)) {
#if defined(__AVX512F__)
        few = grid.bases <= IN_REGISTERS;
#endif
        if (!few) clear(rows, SETS * LANES * stride);
    }

    ALWAYS_INLINE void add(Integers interval, const Vector* p, int width) {
#if defined(__AVX512F__)
        if (few) return add_pieces<P>(interval, p, sums);
#endif
        int32_t at[LANES];
        store(at, interval);
        scatter(p, at, rows + set * LANES * stride, stride, width);
        set = (set + 1) % SETS;
    }

    void hand_out(float* to) {
#if defined(__AVX512F__)
        for (int64_t k = 0; few && k < grid.bases; k++) to[k] += sum_of(sums[k]);
        if (few) return;
#endif
        for (int64_t s = 1; s < SETS * LANES; s++)
            for (int64_t k = 0; k < stride; k += 8) add_eight(rows + k, rows + s * stride + k);
        for (int64_t k = 0; k < grid.bases; k++) to[k] += rows[MARGIN<P> + k];
    }
};

// grad_v (batch, group, output, basis) and, added to grad unless that is null, the gradient of x through the splines.
template <int P>
void curves_gradient(const float* x, const float* grad_y, int64_t batch, int64_t groups, int64_t channels,
                     const Window& w, bool contributes, const Grid& grid, const float* v, int64_t outputs,
                     float* grad_v, float* grad, int64_t threads) {
    const int64_t wide = w.size[1] + 2 * w.padding[1], high = w.size[0] + 2 * w.padding[0];
    const int64_t stride = row_length<P>(grid.bases);
    auto body = [&](int64_t group) {
        for (int64_t o = 0; o < outputs; o++) {
            const int64_t output = group % groups * outputs + o;
            float* map = kanscan_workspace(0, high * wide + 2 * LANES);
            const Curve<P> curve(v + output * grid.bases, grid, kanscan_workspace(1, stride));
            SplineGradient<P> found(grid, kanscan_workspace(2, SETS * LANES * stride));
            clear(map, high * wide + LANES);
            const float* from = grad_y + (group * outputs + o) * w.windows();
            float* line = kanscan_workspace(3, row_length<P>(grid.bases) + eights(grid.bases) + wide + 2 * LANES);
            for (int64_t r = 0; r < w.out[0]; r++, from += w.out[1])
                spread_windows(from, w, wide, line, map + r * w.stride[0] * wide);
            const float around = sum_around(map, w, wide);
            float* to = grad_v + (group * outputs + o) * grid.bases;
            float* zero = kanscan_workspace(3, row_length<P>(grid.bases) + eights(grid.bases)) + row_length<P>(grid.bases);
            bases_of<P>(0, contributes ? float(channels) * around : 0, grid, zero);
            memcpy(to, zero, size_t(grid.bases) * sizeof(float));
            for (int64_t c = 0; c < channels; c++)
                for (int64_t h = 0; h < w.size[0]; h++) {
                    const int64_t start = (group * channels + c) * w.pixels() + h * w.size[1];
                    const float* inner = map + (h + w.padding[0]) * wide + w.padding[1];
                    for (int64_t l = 0; l < w.size[1]; l += LANES) {
                        const int width = width_of(w.size[1] - l);
                        const Vector weight = load_first(inner + l, width);
                        Integers interval;
                        Vector p[4];
                        const Vector t = place<P>(load_first(x + start + l, width), grid, interval);
                        pieces<P>(t, p);
                        for (Vector& piece : p) piece *= weight;
                        found.add(interval, p, width);
                        if (!grad) continue;
                        slopes<P>(t, grid.per_unit, p);
                        const Vector slope = curve.at(interval, p, width);
                        store_first(grad + start + l, load_first(grad + start + l, width) + weight * slope, width);
                    }
                }
            found.hand_out(to);
        }
    };
    parallel(batch * groups, threads, body);
}

}  // namespace

// Groups are counted over the whole batch where their number within a sample does not matter.
KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_sums)(const float* x, int64_t groups, int64_t channels, int64_t pixels,
                                                  int64_t bases, int64_t order, float low, float per_unit, float* silu,
                                                  float* maps, int64_t threads) {
#define CALL(P) sums_or_silu<P>(x, groups, channels, pixels, grid, silu, maps, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_window)(const float* maps, int64_t batch, int64_t groups, int64_t channels,
                                                    const Window* window, int64_t contributes, int64_t bases,
                                                    int64_t order, float low, float per_unit, const float* v,
                                                    int64_t outputs, float* filtered, float* y, int64_t threads) {
#define CALL(P) \
    window_sums<P>(maps, batch, groups, channels, *window, contributes, grid, v, outputs, filtered, y, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_spline_gradient)(const float* sums, const float* grad_y, int64_t batch,
                                                             int64_t groups, int64_t windows, int64_t bases,
                                                             int64_t outputs, int64_t parts, float* partial,
                                                             int64_t threads) {
    spline_gradient(sums, grad_y, batch, groups, windows, bases, outputs, parts, partial, threads);
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_input_gradient)(const float* x, int64_t groups, int64_t channels,
                                                            const Window* window, int64_t bases, int64_t order,
                                                            float low, float per_unit, const float* through,
                                                            float* grad, int64_t threads) {
#define CALL(P) input_gradient<P>(x, groups, channels, *window, grid, through, grad, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_curves)(const float* x, int64_t batch, int64_t groups, int64_t channels,
                                                    const Window* window, int64_t contributes, int64_t bases,
                                                    int64_t order, float low, float per_unit, const float* v,
                                                    int64_t outputs, float* y, int64_t threads) {
#define CALL(P) curves<P>(x, batch, groups, channels, *window, contributes, grid, v, outputs, y, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_curves_gradient)(const float* x, const float* grad_y, int64_t batch,
                                                             int64_t groups, int64_t channels, const Window* window,
                                                             int64_t contributes, int64_t bases, int64_t order,
                                                             float low, float per_unit, const float* v,
                                                             int64_t outputs, float* grad_v, float* grad,
                                                             int64_t threads) {
#define CALL(P)                                                                                                      \
    curves_gradient<P>(x, grad_y, batch, groups, channels, *window, contributes, grid, v, outputs, grad_v, grad, \
                       threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}
