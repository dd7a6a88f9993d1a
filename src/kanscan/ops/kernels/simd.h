// Vectors of float as wide as the instruction set this file is compiled for, written in the vector extension that GCC
// and Clang share: one source serves SSE2, AVX2, AVX-512 and NEON. Every kernel file is compiled once for each set, and
// KANSCAN_NAME appends the set's name to what it exports; which of them runs is decided when the library is loaded.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef KANSCAN_ISA
#define KANSCAN_ISA base
#endif
#define KANSCAN_JOIN(a, b) a##_##b
#define KANSCAN_EXPAND(a, b) KANSCAN_JOIN(a, b)
#define KANSCAN_NAME(name) KANSCAN_EXPAND(name, KANSCAN_ISA)
#define KANSCAN_EXPORT extern "C" __attribute__((visibility("default")))

// Not called from any one place only, and worth it everywhere: vectors passed through memory cost more than the work.
#define ALWAYS_INLINE inline __attribute__((always_inline))

// Nothing here has a name that two instruction sets could share: the linker would keep only one of the copies.
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t UnalignedIntegers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

ALWAYS_INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
ALWAYS_INLINE void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
ALWAYS_INLINE void store(int32_t* p, Integers v) { *reinterpret_cast<UnalignedIntegers*>(p) = v; }
ALWAYS_INLINE Vector all(float x) { return x - Vector{}; }
ALWAYS_INLINE Integers as_integers(Vector v) { return reinterpret_cast<Integers>(v); }
ALWAYS_INLINE Vector as_floats(Integers v) { return reinterpret_cast<Vector>(v); }
ALWAYS_INLINE Vector magnitude(Vector v) { return as_floats(as_integers(v) & 0x7fffffff); }

// NaN passes through both: the instructions return their second operand where a comparison fails.
ALWAYS_INLINE Vector at_least(float low, Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_max_ps((__m512)all(low), (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_max_ps((__m256)all(low), (__m256)v);
#else
    return all(low) > v ? all(low) : v;
#endif
}

ALWAYS_INLINE Vector at_most(float high, Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_min_ps((__m512)all(high), (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_min_ps((__m256)all(high), (__m256)v);
#else
    return all(high) < v ? all(high) : v;
#endif
}

// Zero in place of negative numbers and of NaN.
ALWAYS_INLINE Vector not_negative(Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_max_ps((__m512)v, _mm512_setzero_ps());
#elif defined(__AVX2__)
    return (Vector)_mm256_max_ps((__m256)v, _mm256_setzero_ps());
#else
    return v > 0.0f ? v : Vector{};
#endif
}

// Store past the caches, at a multiple of a vector's size; `finish_past` makes it seen by other threads.
ALWAYS_INLINE void store_past(float* p, Vector v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}

inline void finish_past() {
#if defined(__AVX2__) || defined(__AVX512F__)
    _mm_sfence();
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
ALWAYS_INLINE __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

ALWAYS_INLINE Vector load_first(const float* p, int count) {
    if (count >= LANES) return load(p);
#if defined(__AVX512F__)
    return (Vector)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#elif defined(__AVX2__)
    return (Vector)_mm256_maskload_ps(p, first_lanes(count));
#else
    alignas(64) float lanes[LANES] = {};
    for (int i = 0; i < count; i++) lanes[i] = p[i];
    return load(lanes);
#endif
}

ALWAYS_INLINE void store_first(float* p, Vector v, int count) {
    if (count >= LANES) return store(p, v);
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
#else
    alignas(64) float lanes[LANES];
    store(lanes, v);
    for (int i = 0; i < count; i++) p[i] = lanes[i];
#endif
}

// Another number from lane `count` on, whatever stood there.
ALWAYS_INLINE Vector first_lanes_of(Vector v, int count, float rest = 0) {
    for (int i = count; i < LANES; i++) v[i] = rest;
    return v;
}

ALWAYS_INLINE float sum_of(Vector v) {
#if defined(__AVX512F__)
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
#elif defined(__AVX2__)
    __m256 half = v;
#endif
#if defined(__AVX2__)
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
#else
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
#endif
}

// K polynomials of the same coefficients, highest first, side by side: their steps wait for each other's result else.
template <int K, int COUNT>
ALWAYS_INLINE void polynomial(const float (&coefficients)[COUNT], const Vector* x, Vector* p) {
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) p[k] = all(coefficients[0]);
#pragma GCC unroll 16
    for (int i = 1; i < COUNT; i++)
#pragma GCC unroll 8
        for (int k = 0; k < K; k++) p[k] = p[k] * x[k] + coefficients[i];
}

// x = 2^x; 0 from about -150 down, infinity from 128 on, NaN stays NaN: x = n + r with |r| <= 1/2, a polynomial of
// degree 5 for 2^r (relative error 9.4e-8 before rounding), and n goes into the exponent. AVX-512 rounds and scales in one
// instruction each; the latter makes 0 and infinity of an infinite x, whose r is NaN. Elsewhere n is added to the
// exponent, and below -126.5 the result is 0 or next to it.
template <int K>
ALWAYS_INLINE void exp2_each(Vector* x) {
    constexpr float C[] = {0.00132694072f, 0.00967129413f, 0.0555071123f, 0.240222469f, 0.693147004f, 1.0f};
    Vector r[K], p[K];
#if defined(__AVX512F__)
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const Vector n = (Vector)_mm512_roundscale_ps((__m512)x[k], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        r[k] = x[k] - n, x[k] = n;
    }
    polynomial<K>(C, r, p);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) x[k] = (Vector)_mm512_scalef_ps((__m512)p[k], (__m512)x[k]);
#else
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const Vector bound = at_most(128.0f, at_least(-127.0f, x[k]));
        x[k] = bound + magic;
        r[k] = bound - (x[k] - magic);
    }
    polynomial<K>(C, r, p);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) x[k] = p[k] * as_floats((as_integers(x[k]) << 23) + (127 << 23));
#endif
}

ALWAYS_INLINE Vector exp2_of(Vector x) {
    exp2_each<1>(&x);
    return x;
}

constexpr float LOG2_E = 1.44269504f;

ALWAYS_INLINE Vector exp_of(Vector x) { return exp2_of(x * LOG2_E); }

// 1 / x for 1 <= x <= 2^127, NaN stays NaN: an estimate and one step of Newton's method where the first is good enough.
ALWAYS_INLINE Vector inverse_of(Vector x) {
#if defined(__AVX512F__)
    const Vector guess = (Vector)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

// 0 where 2^-126 would be less than what is left of it: SiLU of a huge negative number is 0, not that number times 2^-126.
ALWAYS_INLINE Vector sigmoid_of(Vector x) {
    const Vector sigmoid = inverse_of(1.0f + exp2_of(at_most(126.0f, x * -LOG2_E)));
    return as_floats(as_integers(sigmoid) & (Integers)(x > all(-126.0f / LOG2_E)));
}

// z = log(1 + z) for 0 <= z < 1. AVX-512: z times a polynomial of degree 3, whose coefficients stand in tables for each
// sixteenth (relative error 5.3e-8 before rounding): looking up takes other units than those that multiply. Elsewhere z
// times one of degree 8 (relative error 3.4e-8).
template <int K>
ALWAYS_INLINE void log1p_each(Vector* z) {
    Vector p[K];
#if defined(__AVX512F__)
    alignas(64) static constexpr float C[4][16] = {
        {-0.226711065f, -0.187715039f, -0.157012761f, -0.132532179f, -0.112789251f, -0.0967028216f,
         -0.0834730119f, -0.0724997669f, -0.0633271635f, -0.0556047671f, -0.049060341f, -0.0434803031f,
         -0.0386955701f, -0.0345711522f, -0.0309984386f, -0.0278894044f},
        {0.332444876f, 0.325272173f, 0.313862294f, 0.300170243f, 0.28542304f, 0.270388633f, 0.255541712f,
         0.24116841f, 0.227432817f, 0.21442014f, 0.20216471f, 0.190668523f, 0.179913327f, 0.169868767f,
         0.160497695f, 0.151759684f},
        {-0.499989033f, -0.499530315f, -0.498101979f, -0.4955374f, -0.491855949f, -0.487164378f,
         -0.48160404f, -0.475323081f, -0.468462467f, -0.461149663f, -0.453496426f, -0.445598751f,
         -0.437537879f, -0.429381728f, -0.421186686f, -0.412999034f},
        {1.0f, 0.999989808f, 0.999929607f, 0.999768734f, 0.999461591f, 0.998972774f, 0.998277783f,
         0.997362137f, 0.996219158f, 0.994848549f, 0.993254781f, 0.991445661f, 0.989431202f, 0.987223089f,
         0.984833717f, 0.982275963f},
    };
    __m512i place[K];
#pragma GCC unroll 8
    for (int k = 0; k < K; k++)  // 1.5 * 2^19: adding it leaves the number of the sixteenth in the low bits
        place[k] = _mm512_castps_si512(
            _mm512_add_round_ps((__m512)z[k], _mm512_set1_ps(786432.0f), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) p[k] = (Vector)_mm512_permutexvar_ps(place[k], _mm512_load_ps(C[0]));
#pragma GCC unroll 4
    for (int i = 1; i < 4; i++)
#pragma GCC unroll 8
        for (int k = 0; k < K; k++)
            p[k] = p[k] * z[k] + (Vector)_mm512_permutexvar_ps(place[k], _mm512_load_ps(C[i]));
#else
    constexpr float C[] = {5.36482252e-3f, -3.00657859e-2f, 7.92045265e-2f, -1.37538017e-1f, 1.91536547e-1f,
                           -2.48571636e-1f, 3.33213226e-1f, -4.9999648e-1f, 1.0f};
    polynomial<K>(C, z, p);
#endif
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) z[k] *= p[k];
}

// Turn LANES vectors of LANES numbers into their transpose.
ALWAYS_INLINE void transpose(Vector* v) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)v[i], (__m512)v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)v[i], (__m512)v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int j = 0; j < 4; j++) {
        a[j] = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88);
        a[4 + j] = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
        a[8 + j] = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        a[12 + j] = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; j++) {
        v[j] = (Vector)_mm512_shuffle_f32x4(a[j], a[8 + j], 0x88);
        v[8 + j] = (Vector)_mm512_shuffle_f32x4(a[j], a[8 + j], 0xdd);
        v[4 + j] = (Vector)_mm512_shuffle_f32x4(a[4 + j], a[12 + j], 0x88);
        v[12 + j] = (Vector)_mm512_shuffle_f32x4(a[4 + j], a[12 + j], 0xdd);
    }
#elif defined(__AVX2__)
    __m256 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps((__m256)v[i], (__m256)v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps((__m256)v[i], (__m256)v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m256d low = _mm256_castps_pd(a[i + j]), high = _mm256_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
            b[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
        }
    for (int j = 0; j < 4; j++) {
        v[j] = (Vector)_mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
        v[4 + j] = (Vector)_mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
    }
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const float kept = v[i][j];
            v[i][j] = v[j][i];
            v[j][i] = kept;
        }
#endif
}

// Turn four vectors v[i][4 q + k] into v[k][4 q + i]: one transpose for each four lanes.
ALWAYS_INLINE void transpose_fours(Vector* v) {
#if defined(__AVX512F__)
    const __m512 a = _mm512_unpacklo_ps((__m512)v[0], (__m512)v[1]), b = _mm512_unpackhi_ps((__m512)v[0], (__m512)v[1]);
    const __m512 c = _mm512_unpacklo_ps((__m512)v[2], (__m512)v[3]), d = _mm512_unpackhi_ps((__m512)v[2], (__m512)v[3]);
    v[0] = (Vector)_mm512_unpacklo_pd((__m512d)a, (__m512d)c), v[1] = (Vector)_mm512_unpackhi_pd((__m512d)a, (__m512d)c);
    v[2] = (Vector)_mm512_unpacklo_pd((__m512d)b, (__m512d)d), v[3] = (Vector)_mm512_unpackhi_pd((__m512d)b, (__m512d)d);
#elif defined(__AVX2__)
    const __m256 a = _mm256_unpacklo_ps((__m256)v[0], (__m256)v[1]), b = _mm256_unpackhi_ps((__m256)v[0], (__m256)v[1]);
    const __m256 c = _mm256_unpacklo_ps((__m256)v[2], (__m256)v[3]), d = _mm256_unpackhi_ps((__m256)v[2], (__m256)v[3]);
    v[0] = (Vector)_mm256_unpacklo_pd((__m256d)a, (__m256d)c), v[1] = (Vector)_mm256_unpackhi_pd((__m256d)a, (__m256d)c);
    v[2] = (Vector)_mm256_unpacklo_pd((__m256d)b, (__m256d)d), v[3] = (Vector)_mm256_unpackhi_pd((__m256d)b, (__m256d)d);
#else
    transpose(v);
#endif
}

// Move lane 4 k + q, with LANES / 4 numbers q for each of four k, from or to where lane 4 q + k is.
ALWAYS_INLINE Vector fours_apart(Vector v) {
#if defined(__AVX512F__)
    const __m512i from = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return (Vector)_mm512_permutexvar_ps(from, (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_permutevar8x32_ps((__m256)v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
#else
    return v;
#endif
}

ALWAYS_INLINE Vector fours_together(Vector v) {
#if defined(__AVX512F__)
    return fours_apart(v);
#elif defined(__AVX2__)
    return (Vector)_mm256_permutevar8x32_ps((__m256)v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#else
    return v;
#endif
}

// Move numbers by BY lanes, to later or to earlier ones; `fill` takes the places that become free.
template <int BY>
ALWAYS_INLINE Vector later(Vector v, Vector fill) {
#if defined(__AVX512F__)
    return (Vector)_mm512_alignr_epi32((__m512i)v, (__m512i)fill, 16 - BY);
#elif defined(__AVX2__)
    const __m256i t = _mm256_permute2x128_si256((__m256i)fill, (__m256i)v, 0x21);
    if constexpr (BY == 4) return (Vector)t;
    return (Vector)_mm256_alignr_epi8((__m256i)v, t, 16 - 4 * (BY % 4));
#else
    for (int i = LANES - 1; i >= 0; i--) v[i] = i < BY ? fill[i] : v[i - BY];
    return v;
#endif
}

template <int BY>
ALWAYS_INLINE Vector earlier(Vector v, Vector fill) {
#if defined(__AVX512F__)
    return (Vector)_mm512_alignr_epi32((__m512i)fill, (__m512i)v, BY);
#elif defined(__AVX2__)
    const __m256i t = _mm256_permute2x128_si256((__m256i)v, (__m256i)fill, 0x21);
    if constexpr (BY == 4) return (Vector)t;
    return (Vector)_mm256_alignr_epi8(t, (__m256i)v, 4 * (BY % 4));
#else
    for (int i = 0; i < LANES; i++) v[i] = i + BY < LANES ? v[i + BY] : fill[i];
    return v;
#endif
}

// All lanes get the number of the last, or of the first one.
ALWAYS_INLINE Vector last_of(Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_permutexvar_ps(_mm512_set1_epi32(15), (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_permutevar8x32_ps((__m256)v, _mm256_set1_epi32(7));
#else
    return all(v[LANES - 1]);
#endif
}

ALWAYS_INLINE Vector first_of(Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_broadcastss_ps(_mm512_castps512_ps128((__m512)v));
#elif defined(__AVX2__)
    return (Vector)_mm256_broadcastss_ps(_mm256_castps256_ps128((__m256)v));
#else
    return all(v[0]);
#endif
}

}  // namespace
