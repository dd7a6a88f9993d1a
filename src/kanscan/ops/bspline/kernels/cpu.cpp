// KAN linear: splines formed in cache-sized blocks in front of the matrix product, and in its backward.
//
// Of an input's 1 + M columns [SiLU(x) | M bases] only 1 + (P + 1) are not zero: SiLU and the P + 1 bases of the interval
// that x lies in. The product runs over these alone. A row of outputs stays in registers while the weights of the few
// columns are read from the first-level cache, so a block of weights must fit there: the packed weights are cut into
// tiles of up to eight vectors of outputs, and within a tile everything that belongs to one input is contiguous:
//
//     packed[tile][input][0: SiLU, 1 + m: basis m][output in tile]
//
// Outputs come in multiples of 16 (the caller pads), inputs and rows in any number.
#include "../../kernels/native.h"
#include "../../kernels/simd.h"

namespace {

constexpr int MAX_TILE = 8;          // vectors of outputs in registers
constexpr int64_t CHUNK = 128;       // rows worked on at a time
constexpr int64_t FIRST_LEVEL = 20480;  // bytes of weights that stay in the first-level cache

struct Grid {
    int64_t num_intervals;
    float low, per_unit;  // s = (x - low) * per_unit counts intervals
};

inline Vector positive(Vector v) { return v > 0.0f ? v : Vector{}; }

// One bump of order P and its slope by the distance d from its middle, in intervals.
template <int P>
inline Vector bump(Vector d) {
    const Vector far = magnitude(d);
    if constexpr (P == 1) return positive(1.0f - far);
    const Vector u = positive((P + 1) / 2.0f - far), w = positive((P - 1) / 2.0f - far);
    if constexpr (P == 2) return 0.5f * (u * u) - 1.5f * (w * w);
    return (1.0f / 6) * (u * u * u) - (2.0f / 3) * (w * w * w);
}

template <int P>
inline Vector bump_slope(Vector d) {
    const Vector far = magnitude(d);
    Vector size;
    if constexpr (P == 1) {
        size = far < 1.0f ? all(-1.0f) : Vector{};
    } else {
        const Vector u = positive((P + 1) / 2.0f - far), w = positive((P - 1) / 2.0f - far);
        size = P == 2 ? 3.0f * w - u : 2.0f * (w * w) - 0.5f * (u * u);
    }
    return d > 0.0f ? size : (d < 0.0f ? -size : Vector{});
}

// What one row needs of a block of LANES inputs: its columns that are not zero, and which they are.
template <int P>
struct Columns {
    float value[P + 2][LANES];
    int32_t row[LANES];
};

template <int P, bool SLOPE>
inline void form(const float* x, int count, const Grid& grid, Columns<P>& out) {
    const Vector v = load_first(x, count);
    const Vector s = (v - grid.low) * grid.per_unit;
    Vector inside = positive(s);
    inside = inside < float(grid.num_intervals - 1) ? inside : all(float(grid.num_intervals - 1));
    const Integers interval = __builtin_convertvector(inside, Integers);
    store(out.row, interval + 1);
    const Vector sigmoid = sigmoid_of(v);
    const Vector from = s - __builtin_convertvector(interval, Vector) + (P - 1) / 2.0f;
    store(out.value[0], SLOPE ? sigmoid * (1.0f + v * (1.0f - sigmoid)) : v * sigmoid);
    for (int m = 0; m <= P; m++)
        store(out.value[1 + m], SLOPE ? bump_slope<P>(from - float(m)) * grid.per_unit : bump<P>(from - float(m)));
}

// Where the tiles of `vectors` vectors of outputs begin; as even as possible, none above MAX_TILE.
inline int64_t num_tiles(int64_t vectors) { return (vectors + MAX_TILE - 1) / MAX_TILE; }
inline int64_t tile_start(int64_t tile, int64_t vectors) { return tile * vectors / num_tiles(vectors); }

template <template <int> class Kernel, class... Arguments>
inline void for_width(int width, Arguments... arguments) {
    switch (width) {
        case 1: return Kernel<1>::run(arguments...);
        case 2: return Kernel<2>::run(arguments...);
        case 3: return Kernel<3>::run(arguments...);
        case 4: return Kernel<4>::run(arguments...);
        case 5: return Kernel<5>::run(arguments...);
        case 6: return Kernel<6>::run(arguments...);
        case 7: return Kernel<7>::run(arguments...);
        case 8: return Kernel<8>::run(arguments...);
    }
}

template <int P>
struct Product {
    template <int WIDTH>
    struct Of {
        // y[t] += columns[t] of inputs first..last times their weights, for all rows t of the chunk.
        static void run(const Columns<P>* columns, int64_t rows, int first, int last, const float* weights,
                        int64_t per_input, float* y, int64_t y_stride, bool fresh) {
            constexpr int64_t ROW = WIDTH * LANES;
            for (int64_t t = 0; t < rows; t++, y += y_stride) {
                const Columns<P>& c = columns[t];
                Vector sum[WIDTH];
                for (int v = 0; v < WIDTH; v++) sum[v] = fresh ? Vector{} : load(y + v * LANES);
                const float* w = weights;
                for (int i = first; i < last; i++, w += per_input) {
                    const Vector base = all(c.value[0][i]);
                    for (int v = 0; v < WIDTH; v++) sum[v] += base * load(w + v * LANES);
                    const float* spline = w + c.row[i] * ROW;
                    for (int m = 0; m <= P; m++) {
                        const Vector b = all(c.value[1 + m][i]);
                        for (int v = 0; v < WIDTH; v++) sum[v] += b * load(spline + m * ROW + v * LANES);
                    }
                }
                for (int v = 0; v < WIDTH; v++) store(y + v * LANES, sum[v]);
            }
        }
    };
};

template <int P>
void forward(const float* x, int64_t rows, int64_t inputs, const float* packed, int64_t outputs, int64_t bases,
             const Grid& grid, float* y, int64_t threads) {
    const int64_t vectors = outputs / LANES, tiles = num_tiles(vectors);
    auto body = [&](int64_t task) {
        auto* columns = reinterpret_cast<Columns<P>*>(kanscan_workspace(0, CHUNK * sizeof(Columns<P>) / 4));
        const int64_t begin = task * CHUNK, count = rows - begin < CHUNK ? rows - begin : CHUNK;
        for (int64_t block = 0; block < inputs; block += LANES) {
            const int width = inputs - block < LANES ? int(inputs - block) : LANES;
            for (int64_t t = 0; t < count; t++)
                form<P, false>(x + (begin + t) * inputs + block, width, grid, columns[t]);
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t start = tile_start(tile, vectors);
                const int size = int(tile_start(tile + 1, vectors) - start);
                const int64_t per_input = (1 + bases) * size * LANES;
                const float* weights = packed + start * LANES * inputs * (1 + bases) + block * per_input;
                const int step = int(FIRST_LEVEL / (per_input * 4) > 1 ? FIRST_LEVEL / (per_input * 4) : 1);
                for (int first = 0; first < width; first += step) {
                    const int last = first + step < width ? first + step : width;
                    for_width<Product<P>::template Of>(size, columns, count, first, last, weights + first * per_input,
                                                       per_input, y + begin * outputs + start * LANES, outputs,
                                                       block == 0 && first == 0);
                }
            }
        }
    };
    parallel((rows + CHUNK - 1) / CHUNK, threads, body);
}

// What backward gives for one input: the five products of its columns' weights with grad_y, weighted by their slopes.
template <int P>
struct InputGradient {
    template <int WIDTH>
    struct Of {
        static void run(const Columns<P>* slopes, int64_t rows, int first, int last, const float* weights,
                        int64_t per_input, const float* grad_y, int64_t y_stride, float* grad_x) {
            constexpr int64_t ROW = WIDTH * LANES;
            for (int64_t t = 0; t < rows; t++, grad_y += y_stride, grad_x += LANES) {
                const Columns<P>& c = slopes[t];
                Vector grad[WIDTH];
                for (int v = 0; v < WIDTH; v++) grad[v] = load(grad_y + v * LANES);
                const float* w = weights;
                for (int i = first; i < last; i++, w += per_input) {
                    const float* spline = w + c.row[i] * ROW;
                    Vector sum[P + 2] = {};
                    for (int v = 0; v < WIDTH; v++) {
                        sum[0] += grad[v] * load(w + v * LANES);
                        for (int m = 0; m <= P; m++) sum[1 + m] += grad[v] * load(spline + m * ROW + v * LANES);
                    }
                    Vector total = sum[0] * c.value[0][i];
                    for (int m = 0; m <= P; m++) total += sum[1 + m] * c.value[1 + m][i];
                    grad_x[i] += sum_of(total);
                }
            }
        }
    };
};

template <int P>
void input_gradient(const float* x, int64_t rows, int64_t inputs, const float* packed, int64_t outputs, int64_t bases,
                    const Grid& grid, const float* grad_y, float* grad_x, int64_t threads) {
    const int64_t vectors = outputs / LANES, tiles = num_tiles(vectors);
    auto body = [&](int64_t task) {
        auto* slopes = reinterpret_cast<Columns<P>*>(kanscan_workspace(0, CHUNK * sizeof(Columns<P>) / 4));
        float* sums = kanscan_workspace(1, CHUNK * LANES);
        const int64_t begin = task * CHUNK, count = rows - begin < CHUNK ? rows - begin : CHUNK;
        for (int64_t block = 0; block < inputs; block += LANES) {
            const int width = inputs - block < LANES ? int(inputs - block) : LANES;
            for (int64_t t = 0; t < count; t++) {
                form<P, true>(x + (begin + t) * inputs + block, width, grid, slopes[t]);
                store(sums + t * LANES, Vector{});
            }
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t start = tile_start(tile, vectors);
                const int size = int(tile_start(tile + 1, vectors) - start);
                const int64_t per_input = (1 + bases) * size * LANES;
                const float* weights = packed + start * LANES * inputs * (1 + bases) + block * per_input;
                const int step = int(FIRST_LEVEL / (per_input * 4) > 1 ? FIRST_LEVEL / (per_input * 4) : 1);
                for (int first = 0; first < width; first += step)
                    for_width<InputGradient<P>::template Of>(
                        size, slopes, count, first, first + step < width ? first + step : width,
                        weights + first * per_input, per_input, grad_y + begin * outputs + start * LANES, outputs, sums);
            }
            for (int64_t t = 0; t < count; t++)
                store_first(grad_x + (begin + t) * inputs + block, load(sums + t * LANES), width);
        }
    };
    parallel((rows + CHUNK - 1) / CHUNK, threads, body);
}

// For the weights' gradient the rows of a chunk are sorted by the interval their input lies in: the few columns of one
// interval are then sums in registers, over all rows of that interval.
template <int P>
struct Entry {
    float value[P + 2];
    int32_t row;
};

template <int P, int WIDTH>
inline void add_interval(const Entry<P>* entries, int64_t begin, int64_t end, const float* grad_y, int64_t stride,
                         float* base, float* spline) {
    Vector sum[P + 2][WIDTH];
    for (int v = 0; v < WIDTH; v++) {
        sum[0][v] = load(base + v * LANES);
        for (int m = 0; m <= P; m++) sum[1 + m][v] = load(spline + m * stride + v * LANES);
    }
    for (int64_t e = begin; e < end; e++) {
        const Entry<P>& entry = entries[e];
        const float* grad = grad_y + entry.row * stride;
        Vector g[WIDTH];
        for (int v = 0; v < WIDTH; v++) g[v] = load(grad + v * LANES);
        for (int c = 0; c < P + 2; c++) {
            const Vector value = all(entry.value[c]);
            for (int v = 0; v < WIDTH; v++) sum[c][v] += value * g[v];
        }
    }
    for (int v = 0; v < WIDTH; v++) {
        store(base + v * LANES, sum[0][v]);
        for (int m = 0; m <= P; m++) store(spline + m * stride + v * LANES, sum[1 + m][v]);
    }
}

template <int P>
void weight_gradient(const float* x, int64_t rows, int64_t inputs, int64_t outputs, int64_t bases, const Grid& grid,
                     const float* grad_y, float* gradient, int64_t threads) {
#if defined(__AVX512F__)
    constexpr int WIDTH = 4;
#else
    constexpr int WIDTH = 2;
#endif
    constexpr int64_t ROWS = 2 * CHUNK;
    const int64_t per_input = (1 + bases) * outputs, intervals = grid.num_intervals;
    auto body = [&](int64_t task) {
        const int64_t block = task * LANES;
        const int width = inputs - block < LANES ? int(inputs - block) : LANES;
        auto* columns = reinterpret_cast<Columns<P>*>(kanscan_workspace(0, ROWS * sizeof(Columns<P>) / 4));
        auto* entries = reinterpret_cast<Entry<P>*>(kanscan_workspace(1, ROWS * sizeof(Entry<P>) / 4));
        auto* places = reinterpret_cast<int32_t*>(kanscan_workspace(2, intervals + 2));
        float* sums = gradient + block * per_input;
        for (int64_t o = 0; o < width * per_input; o++) sums[o] = 0;
        for (int64_t begin = 0; begin < rows; begin += ROWS) {
            const int64_t count = rows - begin < ROWS ? rows - begin : ROWS;
            for (int64_t t = 0; t < count; t++)
                form<P, false>(x + (begin + t) * inputs + block, width, grid, columns[t]);
            for (int i = 0; i < width; i++) {
                for (int64_t k = 0; k < intervals + 2; k++) places[k] = 0;
                for (int64_t t = 0; t < count; t++) places[columns[t].row[i] + 1]++;
                for (int64_t k = 1; k < intervals + 2; k++) places[k] += places[k - 1];
                // places[k] now begins interval k (counted from 1) and moves to its end while the entries are written.
                for (int64_t t = 0; t < count; t++) {
                    Entry<P>& entry = entries[places[columns[t].row[i]]++];
                    for (int c = 0; c < P + 2; c++) entry.value[c] = columns[t].value[c][i];
                    entry.row = int32_t(t);
                }
                const float* grad = grad_y + begin * outputs;
                float* to = sums + i * per_input;
                for (int64_t k = 1, start = 0; k <= intervals; start = places[k++]) {
                    if (places[k] == start) continue;
                    int64_t o = 0;
                    for (; o + WIDTH * LANES <= outputs; o += WIDTH * LANES)
                        add_interval<P, WIDTH>(entries, start, places[k], grad + o, outputs, to + o, to + k * outputs + o);
                    for (; o < outputs; o += LANES)
                        add_interval<P, 1>(entries, start, places[k], grad + o, outputs, to + o, to + k * outputs + o);
                }
            }
        }
    };
    parallel((inputs + LANES - 1) / LANES, threads, body);
}

}  // namespace

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_kan_pack)(const float* base, const float* spline,
                                                    const float* scaler, int64_t outputs,
                                                    int64_t padded, int64_t inputs, int64_t bases, float* packed,
                                                    int64_t threads) {
    const int64_t vectors = padded / LANES;
    auto body = [&](int64_t tile) {
        const int64_t start = tile_start(tile, vectors) * LANES, size = tile_start(tile + 1, vectors) * LANES - start;
        float* to = packed + start * inputs * (1 + bases);
        for (int64_t i = 0; i < inputs; i++, to += (1 + bases) * size)
            for (int64_t o = 0; o < size; o++) {
                const bool here = start + o < outputs;
                const int64_t edge = (start + o) * inputs + i;
                const float scale = here && scaler ? scaler[edge] : 1.0f;
                to[o] = here ? base[edge] : 0;
                for (int64_t m = 0; m < bases; m++)
                    to[(1 + m) * size + o] = here ? scale * spline[edge * bases + m] : 0;
            }
    };
    parallel(num_tiles(vectors), threads, body);
}

// From what `kan_weight_gradient` gives to the gradients of the three weights; scaler and its gradient may be null.
KANSCAN_EXPORT void KANSCAN_NAME(kanscan_kan_unpack)(const float* gradient, int64_t outputs, int64_t padded,
                                                      int64_t inputs, int64_t bases, const float* spline,
                                                      const float* scaler, float* grad_base, float* grad_spline,
                                                      float* grad_scaler, int64_t threads) {
    constexpr int64_t BLOCK = 16;  // outputs whose numbers lie in one line of the cache
    auto body = [&](int64_t task) {
        const int64_t end = (task + 1) * BLOCK < outputs ? (task + 1) * BLOCK : outputs;
        for (int64_t i = 0; i < inputs; i++) {
            const float* from = gradient + i * (1 + bases) * padded;
            for (int64_t o = task * BLOCK; o < end; o++) {
                const int64_t edge = o * inputs + i;
                const float* weights = spline + edge * bases;
                const float scale = scaler ? scaler[edge] : 1.0f;
                float sum = 0, *to = grad_spline + edge * bases;
                for (int64_t m = 0; m < bases; m++) {
                    const float through = from[(1 + m) * padded + o];
                    sum += through * weights[m];
                    to[m] = through * scale;
                }
                grad_base[edge] = from[o];
                if (grad_scaler) grad_scaler[edge] = sum;
            }
        }
    };
    parallel((outputs + BLOCK - 1) / BLOCK, threads, body);
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_kan_forward)(const float* x, int64_t rows, int64_t inputs,
                                                       const float* packed, int64_t outputs, int64_t num_intervals,
                                                       int64_t order, float low, float per_unit, float* y,
                                                       int64_t threads) {
    const Grid grid{num_intervals, low, per_unit};
    const int64_t bases = num_intervals + order;
    if (order == 1) forward<1>(x, rows, inputs, packed, outputs, bases, grid, y, threads);
    if (order == 2) forward<2>(x, rows, inputs, packed, outputs, bases, grid, y, threads);
    if (order == 3) forward<3>(x, rows, inputs, packed, outputs, bases, grid, y, threads);
}

KANSCAN_EXPORT void KANSCAN_NAME(kanscan_kan_input_gradient)(const float* x, int64_t rows, int64_t inputs,
                                                              const float* packed, int64_t outputs,
                                                              int64_t num_intervals, int64_t order, float low,
                                                              float per_unit, const float* grad_y, float* grad_x,
                                                              int64_t threads) {
    const Grid grid{num_intervals, low, per_unit};
    const int64_t bases = num_intervals + order;
    if (order == 1) input_gradient<1>(x, rows, inputs, packed, outputs, bases, grid, grad_y, grad_x, threads);
    if (order == 2) input_gradient<2>(x, rows, inputs, packed, outputs, bases, grid, grad_y, grad_x, threads);
    if (order == 3) input_gradient<3>(x, rows, inputs, packed, outputs, bases, grid, grad_y, grad_x, threads);
}

// `gradient` is (inputs, 1 + bases, outputs).
KANSCAN_EXPORT void KANSCAN_NAME(kanscan_kan_weight_gradient)(const float* x, int64_t rows, int64_t inputs,
                                                               int64_t outputs, int64_t num_intervals, int64_t order,
                                                               float low, float per_unit, const float* grad_y,
                                                               float* gradient, int64_t threads) {
    const Grid grid{num_intervals, low, per_unit};
    const int64_t bases = num_intervals + order;
    if (order == 1) weight_gradient<1>(x, rows, inputs, outputs, bases, grid, grad_y, gradient, threads);
    if (order == 2) weight_gradient<2>(x, rows, inputs, outputs, bases, grid, grad_y, gradient, threads);
    if (order == 3) weight_gradient<3>(x, rows, inputs, outputs, bases, grid, grad_y, gradient, threads);
}
