// What the kernels of KAonv share, whatever the order of a map: the window, sums of bases for the pixels of a tile, and the
// box filter over maps of bases.
//
// Maps of bases have the bases last, eight or a multiple of it for each pixel: the box filter then adds whole vectors,
// whatever the stride, the dilation or the border, and no row of pixels has a tail.
#pragma once

#include "../../kernels/native.h"
#include "../../kernels/simd.h"
#include "../../kernels/spline.h"

namespace {

constexpr int64_t TILE = 256;  // pixels whose bases are summed at a time: their rows stay in the first-level cache
constexpr int64_t CHUNK = 128;  // windows worked on at a time
constexpr int64_t SHARE = 512;  // windows whose products with a gradient are summed before the lanes are
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

// Add the numbers (window, basis) of all windows that read one place of a map.
inline void add_windows_of(const float* from, const Window& w, int64_t pixel, int64_t each, float* to) {
    for (int64_t i = 0; i < w.kernel[0]; i++) {
        const int64_t row = w.window_of(0, pixel / w.size[1], i);
        for (int64_t j = 0; row >= 0 && j < w.kernel[1]; j++) {
            const int64_t column = w.window_of(1, pixel % w.size[1], j);
            if (column < 0) continue;
            for (int64_t k = 0; k < each; k += 8) add_eight(to + k, from + (row * w.out[1] + column) * each + k);
        }
    }
}

}  // namespace

#define KANSCAN_FOR_ORDER(call)        \
    const Grid grid{bases, low, per_unit}; \
    switch (order) {                   \
        case 1: return call(1);        \
        case 2: return call(2);        \
        case 3: return call(3);        \
    }
