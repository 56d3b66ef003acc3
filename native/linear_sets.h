/* The sets of instructions that linear.c has kernels for: what they are made of, then linear_kernels.h for each. */
#pragma once
#include "floats.h"
#include "linear.h"

/* Asks for weights that are read soon, past the ends of panels and rows: of 2 to 32 KiB ahead, 12 and 16 took least. */
static inline void ahead(const uint8_t *at) {
    __builtin_prefetch(at + 12288, 0, 3);
}

/* Any processor: registers of 16 bytes, as the compiler finds them. */
typedef float floats_scalar __attribute__((vector_size(16)));
typedef int32_t ints_scalar __attribute__((vector_size(16)));
typedef uint32_t words_scalar __attribute__((vector_size(16)));
typedef uint16_t shorts_scalar __attribute__((vector_size(8)));

static inline ints_scalar dot8_scalar(ints_scalar sums, words_scalar codes, const int8_t *x) {
    sums += (ints_scalar)(codes & 255) * x[0];
    sums += (ints_scalar)(codes >> 8 & 255) * x[1];
    sums += (ints_scalar)(codes >> 16 & 255) * x[2];
    return sums + (ints_scalar)(codes >> 24) * x[3];
}

static inline ints_scalar dot4_scalar(ints_scalar sums, words_scalar codes, const int8_t *x) {
    return dot8_scalar(sums, codes, x);
}

static inline ints_scalar whole4_scalar(ints_scalar sums) {
    return sums;
}

static inline floats_scalar halves_scalar(const uint16_t *from) {
    return (floats_scalar){float16_of(from[0]), float16_of(from[1]), float16_of(from[2]), float16_of(from[3])};
}

#define NAME(x) x##_scalar
#define TARGET
#define BYTES 16
#include "linear_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ON_AVX2 __attribute__((target("avx2,fma,f16c")))
typedef float floats_avx2 __attribute__((vector_size(32)));
typedef int32_t ints_avx2 __attribute__((vector_size(32)));
typedef uint32_t words_avx2 __attribute__((vector_size(32)));
typedef uint16_t shorts_avx2 __attribute__((vector_size(16)));

ON_AVX2 static inline __m256i word_avx2(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}

ON_AVX2 static inline ints_avx2 dot4_avx2(ints_avx2 sums, words_avx2 codes, const int8_t *x) {
    return (ints_avx2)_mm256_add_epi16((__m256i)sums, _mm256_maddubs_epi16((__m256i)codes, word_avx2(x)));
}

ON_AVX2 static inline ints_avx2 whole4_avx2(ints_avx2 sums) {
    return (ints_avx2)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1));
}

ON_AVX2 static inline ints_avx2 dot8_avx2(ints_avx2 sums, words_avx2 codes, const int8_t *x) {
    return sums + whole4_avx2((ints_avx2)_mm256_maddubs_epi16((__m256i)codes, word_avx2(x)));
}

ON_AVX2 static inline floats_avx2 halves_avx2(const uint16_t *from) {
    return (floats_avx2)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

#define NAME(x) x##_avx2
#define TARGET ON_AVX2
#define BYTES 32
#include "linear_kernels.h"

#define ON_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
typedef float floats_avx512 __attribute__((vector_size(64)));
typedef int32_t ints_avx512 __attribute__((vector_size(64)));
typedef uint32_t words_avx512 __attribute__((vector_size(64)));
typedef uint16_t shorts_avx512 __attribute__((vector_size(32)));

ON_AVX512 static inline __m512i word_avx512(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

ON_AVX512 static inline ints_avx512 dot4_avx512(ints_avx512 sums, words_avx512 codes, const int8_t *x) {
    return (ints_avx512)_mm512_add_epi16((__m512i)sums, _mm512_maddubs_epi16((__m512i)codes, word_avx512(x)));
}

ON_AVX512 static inline ints_avx512 whole4_avx512(ints_avx512 sums) {
    return (ints_avx512)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(1));
}

ON_AVX512 static inline ints_avx512 dot8_avx512(ints_avx512 sums, words_avx512 codes, const int8_t *x) {
    return sums + whole4_avx512((ints_avx512)_mm512_maddubs_epi16((__m512i)codes, word_avx512(x)));
}

ON_AVX512 static inline floats_avx512 halves_avx512(const uint16_t *from) {
    return (floats_avx512)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

#define NAME(x) x##_avx512
#define TARGET ON_AVX512
#define BYTES 64
#include "linear_kernels.h"

#define ON_VNNI __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
typedef floats_avx512 floats_vnni;
typedef ints_avx512 ints_vnni;
typedef words_avx512 words_vnni;
typedef shorts_avx512 shorts_vnni;

ON_VNNI static inline ints_vnni dot8_vnni(ints_vnni sums, words_vnni codes, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return (ints_vnni)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, _mm512_set1_epi32(four));
}

ON_VNNI static inline ints_vnni dot4_vnni(ints_vnni sums, words_vnni codes, const int8_t *x) {
    return dot8_vnni(sums, codes, x);
}

ON_VNNI static inline ints_vnni whole4_vnni(ints_vnni sums) {
    return sums;
}

ON_VNNI static inline floats_vnni halves_vnni(const uint16_t *from) {
    return (floats_vnni)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

#define NAME(x) x##_vnni
#define TARGET ON_VNNI
#define BYTES 64
#include "linear_kernels.h"
#endif
