/* Products with bfloat16 weights where the processor multiplies bfloat16 itself, for rows of x that are bfloat16 too. */
#pragma once
#include "floats.h"
#include "linear.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define ON_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))

/* `to` of a row: `from` rounded to the nearest. */
ON_BF16 static void round_row(const float *from, int64_t inputs, uint16_t *to) {
    for (int64_t i = 0; i < inputs; i += 16) {
        __mmask16 some = inputs - i < 16 ? (__mmask16)((1u << (inputs - i)) - 1) : 0xffff;
        __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, from + i));
        _mm256_mask_storeu_epi16(to + i, some, (__m256i)rounded);
    }
}

ON_BF16 static inline __attribute__((always_inline)) void multiply(const int count, const int together, const uint16_t *x,
                                                                   int64_t inputs, const uint16_t *weight,
                                                                   float (*out)[PANEL], int first) {
    __m512 sums[ROWS][4];
    for (int r = 0; r < count; r++)
        for (int o = 0; o < together; o++)
            sums[r][o] = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 32) {
        __mmask32 some = inputs - i < 32 ? (__mmask32)((1u << (inputs - i)) - 1) : 0xffffffffu;
        __m512i weights[4];
        for (int o = 0; o < together; o++) {
            const uint16_t *from = weight + o * inputs + i;
            ahead((const uint8_t *)from);
            weights[o] = _mm512_maskz_loadu_epi16(some, from);
        }
        for (int r = 0; r < count; r++) {
            __m512i row = _mm512_maskz_loadu_epi16(some, x + r * inputs + i);
            for (int o = 0; o < together; o++)
                sums[r][o] = _mm512_dpbf16_ps(sums[r][o], (__m512bh)row, (__m512bh)weights[o]);
        }
    }
    for (int r = 0; r < count; r++)
        for (int o = 0; o < together; o++)
            out[r][first + o] = _mm512_reduce_add_ps(sums[r][o]);
}

/* Up to PANEL outputs for `count` rows of x, [rows][inputs]. */
ON_BF16 static void panel_bf16(int count, const uint16_t *x, int64_t inputs, const uint16_t *weight, int outputs,
                               float (*out)[PANEL]) {
    for (int o = 0; o < outputs;) {
        const uint16_t *from = weight + o * inputs;
        int together = outputs - o < 4 ? 1 : 4;
        switch (count * 8 + together) {
#define CASE(rows, n) case rows * 8 + n: multiply(rows, n, x, inputs, from, out, o); break;
            CASE(1, 1) CASE(1, 4) CASE(2, 1) CASE(2, 4) CASE(3, 1) CASE(3, 4) CASE(4, 1) CASE(4, 4)
#undef CASE
        }
        o += together;
    }
}

static int multiplies_bf16(enum level level) {
    return level >= AVX512 && __builtin_cpu_supports("avx512bf16");
}
#else
static void round_row(const float *from, int64_t inputs, uint16_t *to) {
}

static void panel_bf16(int count, const uint16_t *x, int64_t inputs, const uint16_t *weight, int outputs,
                       float (*out)[PANEL]) {
}

static int multiplies_bf16(enum level level) {
    return 0;
}
#endif
