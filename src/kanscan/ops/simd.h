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

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline void store(int32_t* p, Integers v) { *reinterpret_cast<UnalignedIntegers*>(p) = v; }
inline Vector all(float x) { return x - Vector{}; }
inline Integers as_integers(Vector v) { return reinterpret_cast<Integers>(v); }
inline Vector as_floats(Integers v) { return reinterpret_cast<Vector>(v); }
inline Vector magnitude(Vector v) { return as_floats(as_integers(v) & 0x7fffffff); }

// NaN passes through both: the instructions return their second operand where a comparison fails.
inline Vector at_least(float low, Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_max_ps((__m512)all(low), (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_max_ps((__m256)all(low), (__m256)v);
#else
    return all(low) > v ? all(low) : v;
#endif
}

inline Vector at_most(float high, Vector v) {
#if defined(__AVX512F__)
    return (Vector)_mm512_min_ps((__m512)all(high), (__m512)v);
#elif defined(__AVX2__)
    return (Vector)_mm256_min_ps((__m256)all(high), (__m256)v);
#else
    return all(high) < v ? all(high) : v;
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
inline __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

inline Vector load_first(const float* p, int count) {
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

inline void store_first(float* p, Vector v, int count) {
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

inline float sum_of(Vector v) {
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

// 2^x: x = n + r with |r| <= 1/2, a polynomial of degree 5 for 2^r (relative error 9.2e-8 before rounding) and n put
// into the exponent. Below -126.5 it is
// 0 or next to it, from 128 on infinity; NaN stays NaN.
inline Vector exp2_of(Vector x) {
    x = at_most(128.0f, at_least(-127.0f, x));
#if defined(__AVX512F__)
    const Vector whole = (Vector)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const Vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const Vector shifted = x + magic, whole = shifted - magic;
#endif
    const Vector r = x - whole;
    Vector p = all(1.32647e-3f);
    p = p * r + 9.67151e-3f;
    p = p * r + 5.550734e-2f;
    p = p * r + 2.4022242e-1f;
    p = p * r + 6.9314698e-1f;
    p = p * r + 1.0f;
#if defined(__AVX512F__)
    return (Vector)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return p * as_floats((as_integers(shifted) << 23) + (127 << 23));
#endif
}

constexpr float LOG2_E = 1.44269504f;

inline Vector exp_of(Vector x) { return exp2_of(x * LOG2_E); }

inline Vector sigmoid_of(Vector x) { return 1.0f / (1.0f + exp_of(-x)); }

// log(1 + z) for 0 <= z <= 1: z times a polynomial of degree 8, relative error 3.4e-8 before rounding.
inline Vector log1p_of(Vector z) {
    Vector p = all(5.36482252e-3f);
    p = p * z - 3.00657859e-2f;
    p = p * z + 7.92045265e-2f;
    p = p * z - 1.37538017e-1f;
    p = p * z + 1.91536547e-1f;
    p = p * z - 2.48571636e-1f;
    p = p * z + 3.33213226e-1f;
    p = p * z - 4.9999648e-1f;
    p = p * z + 1.0f;
    return p * z;
}

// Turn LANES vectors of LANES numbers into their transpose.
inline void transpose(Vector* v) {
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

}  // namespace
