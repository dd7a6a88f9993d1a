// Uniform B-splines of order P at a vector of places: of all bases only P + 1 are not zero, those of the interval that
// the place lies in. Four numbers that follow each other in memory hold them all, so bases are added up, and coefficients
// are read, by one load of four numbers for each place, however many bases there are.
#pragma once

#include "simd.h"

namespace {

typedef float Four __attribute__((vector_size(16)));
typedef float UnalignedFour __attribute__((vector_size(16), aligned(4), may_alias));

struct Grid {
    int64_t bases;
    float low, per_unit;  // (x - low) * per_unit counts intervals
};

// Numbers before the first basis in a row of bases: pieces of places beyond the grid fall there or behind the last basis.
template <int P>
constexpr int64_t MARGIN = P + 1;

// Maps of bases hold a multiple of eight numbers for each pixel.
ALWAYS_INLINE int64_t eights(int64_t bases) { return (bases + 7) / 8 * 8; }

// Length of a row of bases with its margins, a multiple of 16.
template <int P>
ALWAYS_INLINE int64_t row_length(int64_t bases) {
    const int64_t pieces = bases + P + 5, row = P + 1 + eights(bases);
    return ((pieces > row ? pieces : row) + 15) / 16 * 16;
}

// Where in a row the pieces of each lane begin, and how far the place is into its interval, 0..1. NaN is taken for a
// place below the grid.
template <int P>
ALWAYS_INLINE Vector place(Vector x, const Grid& grid, Integers& interval) {
    Vector s = (x - grid.low) * grid.per_unit + float(P + 1);
    s = at_most(float(grid.bases + P + 1), not_negative(s));
    interval = __builtin_convertvector(s, Integers);
    return s - __builtin_convertvector(interval, Vector);
}

template <int P>
ALWAYS_INLINE Vector place(Vector x, const Grid& grid, int32_t* at) {
    Integers interval;
    const Vector t = place<P>(x, grid, interval);
    store(at, interval);
    return t;
}

// The pieces of the bases that are not zero at t, first the basis that ends first.
template <int P>
ALWAYS_INLINE void pieces(Vector t, Vector* p) {
    const Vector a = 1.0f - t;
    if constexpr (P == 1) {
        p[0] = a, p[1] = t, p[2] = p[3] = Vector{};
    } else if constexpr (P == 2) {
        p[0] = 0.5f * (a * a), p[1] = 0.5f + a * t, p[2] = 0.5f * (t * t), p[3] = Vector{};
    } else {
        const Vector a2 = a * a, t2 = t * t;
        p[0] = (1.0f / 6) * (a2 * a), p[3] = (1.0f / 6) * (t2 * t);
        p[1] = (2.0f / 3) - t2 * (1.0f - 0.5f * t), p[2] = (2.0f / 3) - a2 * (1.0f - 0.5f * a);
    }
}

// Their slopes by x.
template <int P>
ALWAYS_INLINE void slopes(Vector t, float per_unit, Vector* p) {
    const Vector a = 1.0f - t, one = all(per_unit);
    if constexpr (P == 1) {
        p[0] = -one, p[1] = one, p[2] = p[3] = Vector{};
    } else if constexpr (P == 2) {
        p[0] = -a * one, p[1] = (a - t) * one, p[2] = t * one, p[3] = Vector{};
    } else {
        p[0] = -0.5f * (a * a) * one, p[3] = 0.5f * (t * t) * one;
        p[1] = t * (1.5f * t - 2.0f) * one, p[2] = a * (2.0f - 1.5f * a) * one;
    }
}

#if defined(__AVX512F__)
constexpr int64_t IN_REGISTERS = 8;  // bases at most whose sums, or coefficients, never leave the registers

// Pieces of places in different intervals, sorted by where they belong: of four bases in a row each gets exactly one piece,
// so piece[r] is that of a basis r, r + 4 ..., and the masks say to which lanes basis k is one of the four.
struct Sorted {
    __m512 piece[4];
    __m512i bit;

    __mmask16 within(int k) const { return _mm512_test_epi32_mask(bit, _mm512_set1_epi32(0xf << (k + 1))); }
};

template <int P>
ALWAYS_INLINE Sorted sorted(Integers interval, const Vector* p) {
    // Piece m belongs to basis ends + m - 4. The pieces rotate by one place, and by two, where the bits of that number say so.
    const __m512i ends = (__m512i)(interval + (3 - P)), one = _mm512_set1_epi32(1);
    const __mmask16 odd = _mm512_test_epi32_mask(ends, one), second = _mm512_test_epi32_mask(ends, _mm512_set1_epi32(2));
    __m512 turned[4];
    Sorted s;
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) turned[r] = _mm512_mask_blend_ps(odd, (__m512)p[r], (__m512)p[(r + 3) % 4]);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) s.piece[r] = _mm512_mask_blend_ps(second, turned[r], turned[(r + 2) % 4]);
    s.bit = _mm512_sllv_epi32(one, ends);
    return s;
}

// Add pieces to the sums of eight bases. Sums beyond the last basis get what lies beyond the grid.
template <int P>
ALWAYS_INLINE void add_pieces(Integers interval, const Vector* p, Vector* sums) {
    const Sorted s = sorted<P>(interval, p);
#pragma GCC unroll 8
    for (int k = 0; k < IN_REGISTERS; k++)
        sums[k] = (Vector)_mm512_mask_add_ps((__m512)sums[k], s.within(k), (__m512)sums[k], s.piece[k % 4]);
}

template <int P>
ALWAYS_INLINE void add_bases(Vector x, const Grid& grid, Vector* sums) {
    Integers interval;
    Vector p[4];
    pieces<P>(place<P>(x, grid, interval), p);
    add_pieces<P>(interval, p, sums);
}
#endif

#if defined(__AVX2__)
ALWAYS_INLINE __m256 eight_of(Vector v, int half) {
#if defined(__AVX512F__)
    return half ? _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)) : _mm512_castps512_ps256((__m512)v);
#else
    return (void)half, (__m256)v;
#endif
}

ALWAYS_INLINE void add_four(float* to, __m128 v) { _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), v)); }

ALWAYS_INLINE __m256 two_fours(const float* low, const float* high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

// Write the transpose of eight rows of eight numbers.
ALWAYS_INLINE void turn_eights(const float* from, int64_t stride, float* to, int64_t to_stride) {
    __m256 a[8];
    for (int i = 0; i < 4; i++) {
        // Halves that belong together: the first four numbers of rows i and i + 4, then their last four.
        a[i] = two_fours(from + i * stride, from + (i + 4) * stride);
        a[i + 4] = two_fours(from + i * stride + 4, from + (i + 4) * stride + 4);
    }
    for (int half = 0; half < 2; half++, to += 4 * to_stride) {
        const __m256* r = a + 4 * half;
        const __m256d b = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1]));
        const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
        const __m256d e = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
        _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_unpacklo_pd(b, c)));
        _mm256_storeu_ps(to + to_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(b, c)));
        _mm256_storeu_ps(to + 2 * to_stride, _mm256_castpd_ps(_mm256_unpacklo_pd(d, e)));
        _mm256_storeu_ps(to + 3 * to_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(d, e)));
    }
}
#endif

// Add the four pieces of each of the first `count` lanes to that lane's row, from `at` on.
ALWAYS_INLINE void scatter(const Vector* p, const int32_t* at, float* rows, int64_t stride, int count) {
    int i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= count; i += 8) {
        __m256 q[4];
        for (int m = 0; m < 4; m++) q[m] = eight_of(p[m], i / 8);
        const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(q[0], q[1]));
        const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(q[0], q[1]));
        const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(q[2], q[3]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(q[2], q[3]));
        const __m256 r[4] = {_mm256_castpd_ps(_mm256_unpacklo_pd(a, c)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, c)),
                             _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)), _mm256_castpd_ps(_mm256_unpackhi_pd(b, d))};
        for (int m = i; m < i + 4; m++) {
            add_four(rows + m * stride + at[m], _mm256_castps256_ps128(r[m - i]));
            add_four(rows + (m + 4) * stride + at[m + 4], _mm256_extractf128_ps(r[m - i], 1));
        }
    }
#endif
    for (; i < count; i++) {
        UnalignedFour& to = *reinterpret_cast<UnalignedFour*>(rows + i * stride + at[i]);
        to += Four{p[0][i], p[1][i], p[2][i], p[3][i]};
    }
}

// Multiply the four pieces of each lane by four numbers of that lane's row, from `at` on, and sum; zero from `count` on.
ALWAYS_INLINE Vector gather(const Vector* p, const int32_t* at, const float* rows, int64_t stride, int count) {
    alignas(64) float sums[LANES] = {};
    int i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= count; i += 8) {
        const float* row = rows + i * stride;
        __m256 r[4];
        for (int m = 0; m < 4; m++)
            r[m] = two_fours(row + m * stride + at[i + m], row + (m + 4) * stride + at[i + m + 4]);
        const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1]));
        const __m256d b = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3]));
        const __m256d c = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
        __m256 sum = _mm256_mul_ps(eight_of(p[0], i / 8), _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)));
        sum = _mm256_fmadd_ps(eight_of(p[1], i / 8), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)), sum);
        sum = _mm256_fmadd_ps(eight_of(p[2], i / 8), _mm256_castpd_ps(_mm256_unpacklo_pd(c, d)), sum);
        sum = _mm256_fmadd_ps(eight_of(p[3], i / 8), _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)), sum);
        _mm256_store_ps(sums + i, sum);
    }
#endif
    for (; i < count; i++) {
        const float* row = rows + i * stride + at[i];
        sums[i] = p[0][i] * row[0] + p[1][i] * row[1] + p[2][i] * row[2] + p[3][i] * row[3];
    }
    return load(sums);
}

// One spline, read at many places: its coefficients between zeros.
template <int P>
struct Curve {
    float* row;
    bool few = false;

    Curve(const float* coefficients, const Grid& grid, float* row) : row(row) {
        memset(row, 0, size_t(row_length<P>(grid.bases)) * sizeof(float));
        memcpy(row + MARGIN<P>, coefficients, size_t(grid.bases) * sizeof(float));
#if defined(__AVX512F__)
        few = grid.bases <= IN_REGISTERS;
#endif
    }

    // Pieces times the coefficients of their bases; arbitrary from lane `count` on.
    ALWAYS_INLINE Vector at(Integers interval, const Vector* p, int count) const {
#if defined(__AVX512F__)
        if (few) {
            // A row of so few bases fits into one vector, and reading it by lane is one instruction.
            const __m512 table = (__m512)load(row);
            Vector sum = p[0] * (Vector)_mm512_permutexvar_ps((__m512i)interval, table);
#pragma GCC unroll 4
            for (int m = 1; m <= P; m++)
                sum += p[m] * (Vector)_mm512_permutexvar_ps((__m512i)(interval + m), table);
            return sum;
        }
#endif
        int32_t places[LANES];
        store(places, interval);
        return gather(p, places, row, 0, count);
    }
};

ALWAYS_INLINE Vector silu_slope(Vector x) {
    const Vector sigmoid = sigmoid_of(x);
    return sigmoid * (1.0f + x * (1.0f - sigmoid));
}

}  // namespace
