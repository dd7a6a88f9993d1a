// KAonv and SaKAN without the products, which the caller's library does: SiLU and the sums of bases over channels in one
// pass over the input, the box filter over those sums, and what backward needs of either.
//
// Maps of bases have the bases last, eight or a multiple of it for each pixel: the box filter then adds whole vectors,
// whatever the stride, the dilation or the border, and no row of pixels has a tail.
#include "../native.h"
#include "../simd.h"
#include "../spline.h"

namespace {

constexpr int64_t TILE = 256;  // pixels whose bases are summed at a time: their rows stay in the first-level cache
constexpr int64_t CHUNK = 128;  // windows worked on at a time
constexpr int64_t SHARE = 512;  // windows whose products with a gradient are summed before the lanes are
constexpr int64_t ROWS = 16;    // rows of a linear layer worked on at a time
constexpr int64_t MOST_ROWS = 8;  // rows of a map that are added up in one pass
constexpr int SETS = 4;         // copies of a sum that take turns, since a row just written cannot be read at once

typedef float Eight __attribute__((vector_size(32)));
typedef float UnalignedEight __attribute__((vector_size(32), aligned(4), may_alias));

inline void add_eight(float* to, const float* from) {
    *reinterpret_cast<UnalignedEight*>(to) += *reinterpret_cast<const UnalignedEight*>(from);
}

struct Window {
    int64_t kernel[2], stride[2], padding[2], dilation[2], size[2], out[2];

    int64_t pixels() const { return size[0] * size[1]; }
    int64_t windows() const { return out[0] * out[1]; }
    // The place on the map that a tap of a window reads, perhaps outside; and the window one of whose taps reads a place.
    int64_t reads(int axis, int64_t window, int64_t tap) const {
        return window * stride[axis] - padding[axis] + tap * dilation[axis];
    }
    int64_t window_of(int axis, int64_t place, int64_t tap) const {
        const int64_t first = place + padding[axis] - tap * dilation[axis];
        return first < 0 || first % stride[axis] || first / stride[axis] >= out[axis] ? -1 : first / stride[axis];
    }
};

// Rows of windows worked on at a time: enough to fill a chunk.
inline int64_t rows_of(const Window& w) { return w.out[1] < CHUNK ? CHUNK / w.out[1] : 1; }

inline bool within(int64_t place, int64_t size) { return place >= 0 && place < size; }
inline int width_of(int64_t left) { return left < LANES ? int(left) : LANES; }
inline void clear(float* p, int64_t count) { memset(p, 0, size_t(count) * sizeof(float)); }

// The bases of one number, times a factor.
template <int P>
void bases_of(float x, float factor, const Grid& grid, float* to) {
    float* row = kanscan_workspace(3, row_length<P>(grid.bases));
    clear(row, row_length<P>(grid.bases));
    int32_t at[LANES];
    Vector p[4];
    pieces<P>(place<P>(all(x), grid, at), p);
    scatter(p, at, row, 0, 1);
    for (int64_t k = 0; k < eights(grid.bases); k++) to[k] = k < grid.bases ? factor * row[MARGIN<P> + k] : 0;
}

// Sums of bases over channels for the pixels of a tile: a row of bases for each pixel.
template <int P>
struct Rows {
    float* rows;
    int64_t stride;

    Rows(int64_t count, const Grid& grid) : stride(row_length<P>(grid.bases)) {
        rows = kanscan_workspace(0, TILE * stride);
        clear(rows, count * stride);
    }

    template <int K>
    ALWAYS_INLINE void add(const Vector* x, const Grid& grid, int64_t i, int width) {
        for (int k = 0; k < K; k++) {
            int32_t at[LANES];
            Vector p[4];
            pieces<P>(place<P>(x[k], grid, at), p);
            scatter(p, at, rows + i * stride, stride, width);
        }
    }

    void hand_out(int64_t count, const Grid& grid, float* to) const {
        const int64_t each = eights(grid.bases);
        for (int64_t i = 0; i < count; i++, to += each)
            for (int64_t k = 0; k < each; k++) to[k] = k < grid.bases ? rows[i * stride + MARGIN<P> + k] : 0;
    }
};

#if defined(__AVX512F__)
// The same for few bases: a row of pixels for each basis.
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

// Sums along the columns of the map under one row of windows, the border around it included.
inline void sum_columns(const float* maps, const Window& w, int64_t row, int64_t each, const float* border, float* sums) {
    const int64_t wide = w.size[1] + 2 * w.padding[1], left = w.padding[1] * each, inner = w.size[1] * each;
    for (int64_t l = 0; l < wide; l++) {
        if (l == w.padding[1]) l += w.size[1];
        for (int64_t k = 0; l < wide && k < each; k++) sums[l * each + k] = float(w.kernel[0]) * border[k];
    }
    const float* rows[MOST_ROWS];
    for (int64_t i = 0; i < w.kernel[0];) {
        int64_t found = 0, outside = 0;
        const bool first = i == 0;
        for (; i < w.kernel[0] && found < MOST_ROWS; i++) {
            const int64_t h = w.reads(0, row, i);
            if (within(h, w.size[0])) rows[found++] = maps + h * inner;
            else outside++;
        }
        for (int64_t k = 0; k < each; k += 8) {
            const Eight around = float(outside) * *reinterpret_cast<const UnalignedEight*>(border + k);
            for (int64_t l = k; l < inner; l += each) {
                UnalignedEight& to = *reinterpret_cast<UnalignedEight*>(sums + left + l);
                Eight sum = first ? around : to + around;
                for (int64_t f = 0; f < found; f++) sum += *reinterpret_cast<const UnalignedEight*>(rows[f] + l);
                to = sum;
            }
        }
    }
}

// Box filter of one row of windows, first along the columns of the map, then along the row.
inline void filter_row(const float* maps, const Window& w, int64_t row, int64_t each, const float* border, float* to) {
    float* sums = kanscan_workspace(2, (w.size[1] + 2 * w.padding[1]) * each);
    sum_columns(maps, w, row, each, border, sums);
    const int64_t step = w.dilation[1] * each;
    for (int64_t q = 0; q < w.out[1]; q++, to += each)
        for (int64_t k = 0; k < each; k += 8) {
            const float* from = sums + q * w.stride[1] * each + k;
            Eight sum = {};
            for (int64_t j = 0; j < w.kernel[1]; j++, from += step) sum += *reinterpret_cast<const UnalignedEight*>(from);
            *reinterpret_cast<UnalignedEight*>(to + k) = sum;
        }
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
        for (int64_t q = 0; through && q < count; q++) {
            float* to = rows + q * stride + MARGIN<P>;
            for (int64_t i = 0; i < w.kernel[0]; i++) {
                const int64_t row = w.window_of(0, (begin + q) / w.size[1], i);
                for (int64_t j = 0; row >= 0 && j < w.kernel[1]; j++) {
                    const int64_t column = w.window_of(1, (begin + q) % w.size[1], j);
                    if (column < 0) continue;
                    const float* from = through + ((group * w.out[0] + row) * w.out[1] + column) * each;
                    for (int64_t k = 0; k < each; k += 8) add_eight(to + k, from + k);
                }
            }
        }
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

#if defined(__AVX512F__)
template <int P>
inline void columns_row(const float* x, int64_t inputs, const Grid& grid, float* out) {
    Vector sums[IN_REGISTERS] = {};
    for (int64_t i = 0; i < inputs; i += LANES) {
        const int width = width_of(inputs - i);
        // Lanes without an input get a place beyond the grid.
        const Vector v = load_first(x + i, width);
        store_first(out + i, v * sigmoid_of(v), width);
        add_bases<P>(width == LANES ? v : first_lanes_of(v, width, grid.low - 1e6f), grid, sums);
    }
    for (int64_t k = 0; k < IN_REGISTERS; k++) out[inputs + k] = k < grid.bases ? sum_of(sums[k]) : 0;
}
#endif

// columns (row, inputs + bases) = [SiLU(x) | sums of bases over the inputs].
template <int P>
void columns(const float* x, int64_t rows, int64_t inputs, const Grid& grid, float* out, int64_t threads) {
    const int64_t stride = row_length<P>(grid.bases), length = inputs + eights(grid.bases);
    auto body = [&](int64_t task) {
        const int64_t begin = task * ROWS, count = rows - begin < ROWS ? rows - begin : ROWS;
#if defined(__AVX512F__)
        if (grid.bases <= IN_REGISTERS) {
            for (int64_t t = begin; t < begin + count; t++) columns_row<P>(x + t * inputs, inputs, grid, out + t * length);
            return;
        }
#endif
        // A row of sums for each lane.
        float* sums = kanscan_workspace(0, ROWS * LANES * stride);
        clear(sums, count * LANES * stride);
        for (int64_t i = 0; i < inputs; i += LANES) {
            const int width = width_of(inputs - i);
            for (int64_t t = 0; t < count; t++) {
                const Vector v = load_first(x + (begin + t) * inputs + i, width);
                store_first(out + (begin + t) * length + i, v * sigmoid_of(v), width);
                int32_t at[LANES];
                Vector p[4];
                pieces<P>(place<P>(v, grid, at), p);
                scatter(p, at, sums + t * LANES * stride, stride, width);
            }
        }
        for (int64_t t = 0; t < count; t++) {
            float* to = out + (begin + t) * length + inputs;
            clear(to, length - inputs);
            float* lanes = sums + t * LANES * stride;
            for (int lane = 1; lane < LANES; lane++)
                for (int64_t k = 0; k < stride; k += 8) add_eight(lanes + k, lanes + lane * stride + k);
            for (int64_t k = 0; k < grid.bases; k++) to[k] = lanes[MARGIN<P> + k];
        }
    };
    parallel((rows + ROWS - 1) / ROWS, threads, body);
}

template <int P>
void columns_gradient(const float* x, const float* grad, int64_t rows, int64_t inputs, const Grid& grid,
                      bool through_splines, float* grad_x, int64_t threads) {
    const int64_t stride = row_length<P>(grid.bases), length = inputs + eights(grid.bases);
    auto body = [&](int64_t task) {
        float* row = kanscan_workspace(0, stride);
        const int64_t end = (task + 1) * ROWS < rows ? (task + 1) * ROWS : rows;
        for (int64_t t = task * ROWS; t < end; t++) {
            const Curve<P> curve(grad + t * length + inputs, grid, row);
            for (int64_t i = 0; i < inputs; i += LANES) {
                const int width = width_of(inputs - i);
                const Vector v = load_first(x + t * inputs + i, width);
                Vector sum = load_first(grad + t * length + i, width) * silu_slope(v);
                if (through_splines) {
                    Integers interval;
                    Vector p[4];
                    slopes<P>(place<P>(v, grid, interval), grid.per_unit, p);
                    sum += curve.at(interval, p, width);
                }
                store_first(grad_x + t * inputs + i, sum, width);
            }
        }
    };
    parallel((rows + ROWS - 1) / ROWS, threads, body);
}

}  // namespace

#define KANSCAN_FOR_ORDER(call)        \
    const Grid grid{bases, low, per_unit}; \
    switch (order) {                   \
        case 1: return call(1);        \
        case 2: return call(2);        \
        case 3: return call(3);        \
    }

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

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_columns)(const float* x, int64_t rows, int64_t inputs, int64_t bases,
                                                     int64_t order, float low, float per_unit, float* out,
                                                     int64_t threads) {
#define CALL(P) columns<P>(x, rows, inputs, grid, out, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_ka_columns_gradient)(const float* x, const float* grad, int64_t rows,
                                                              int64_t inputs, int64_t bases, int64_t order, float low,
                                                              float per_unit, int64_t through_splines, float* grad_x,
                                                              int64_t threads) {
#define CALL(P) columns_gradient<P>(x, grad, rows, inputs, grid, through_splines, grad_x, threads)
    KANSCAN_FOR_ORDER(CALL)
#undef CALL
}
