/* y = x W^T + bias for few rows, which reads the weights once and is as fast as memory.

   Packed weights are panels of 16 outputs (the last one filled with zeros), a panel being
     codes   [groups][chunks][16 outputs][4 bytes]: Q8 has 4 inputs in a chunk, as value + 128;
             Q4 has 8, the first four in the lower halves of the bytes, the others in the upper
     scales  [groups][16] float16
     minima  [groups][16] float16, Q4 alone: weight = scale * code + minimum
   and zeros up to a multiple of 64 bytes. A group is 32 inputs. */
#include "linear.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

#define ROWS 4 /* rows of x that one pass over a panel serves */

struct scaled { /* a group of a row of x */
    float scale, sum;
    int32_t offset[3];
};

struct rows { /* x as digits: [rows][groups][planes][GROUP] */
    int8_t *digits;
    struct scaled *scaled;
    int64_t groups;
    int planes;
};

static inline int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline float float_at(const void *from) {
    float x;
    memcpy(&x, from, 4);
    return x;
}

static inline float bfloat16_at(const void *from) {
    uint16_t half;
    memcpy(&half, from, 2);
    return float_of((int32_t)((uint32_t)half << 16));
}

static inline uint16_t bfloat16_of(float x) {
    uint32_t bits = (uint32_t)bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float float16_of(uint16_t half) {
    uint32_t magnitude = half & 0x7fff;
    float x = float_of((int32_t)(magnitude << 13)) * 0x1p112f;
    if (magnitude >= 0x7c00)
        x = float_of((int32_t)(magnitude << 13 | 0x7f800000));
    return half & 0x8000 ? -x : x;
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

typedef void (*quantise_fn)(const float *, int64_t, const struct rows *);
typedef void (*panel_fn)(int, int, const struct rows *, int64_t, const uint8_t *, float (*)[PANEL]);
typedef void (*plain_fn)(int, int, const float *, int64_t, const uint8_t *, int, float (*)[PANEL]);
typedef void (*unpack_fn)(int, int, const uint8_t *, int64_t, int64_t, uint8_t *);

static const struct kernels {
    quantise_fn quantise;
    panel_fn panel;
    plain_fn plain;
    unpack_fn unpack;
} kernels[] = {
    [SCALAR] = {quantise_scalar, panel_scalar, plain_panel_scalar, unpack_panel_scalar},
#if defined(__x86_64__)
    [AVX2] = {quantise_avx2, panel_avx2, plain_panel_avx2, unpack_panel_avx2},
    [AVX512] = {quantise_avx512, panel_avx512, plain_panel_avx512, unpack_panel_avx512},
    [VNNI] = {quantise_vnni, panel_vnni, plain_panel_vnni, unpack_panel_vnni},
#endif
};

struct work {
    const struct linear *call;
    const struct kernels *kernels;
    struct rows rows;
    float *x; /* plain weights: rows of float32, in bfloat16's case the even inputs, then the odd ones */
    int64_t x_row;
};

int64_t panel_bytes(enum format format, int64_t inputs) {
    int64_t groups = (inputs + GROUP - 1) / GROUP;
    int64_t bytes = groups * PANEL * (format == Q4 ? GROUP / 2 + 4 : GROUP + 2);
    return (bytes + 63) / 64 * 64;
}

static void store(const struct linear *call, int64_t row, int64_t first, int count, const float *values) {
    int64_t at = row * call->outputs + first;
    for (int o = 0; o < count; o++) {
        if (call->half) {
            float bias = call->bias ? bfloat16_at((const uint16_t *)call->bias + first + o) : 0;
            ((uint16_t *)call->out)[at + o] = bfloat16_of(values[o] + bias);
        } else {
            float bias = call->bias ? ((const float *)call->bias)[first + o] : 0;
            ((float *)call->out)[at + o] = values[o] + bias;
        }
    }
}

/* The panels of one thread, each for all rows. */
static void part(void *data, int number, int parts) {
    const struct work *work = data;
    const struct linear *call = work->call;
    int64_t panels = (call->outputs + PANEL - 1) / PANEL;
    int packed = call->format == Q4 || call->format == Q8;
    int64_t stride = packed ? panel_bytes(call->format, call->inputs)
                            : PANEL * call->inputs * (call->format == BF16 ? 2 : 4);
    float out[ROWS][PANEL];
    for (int64_t p = panels * number / parts; p < panels * (number + 1) / parts; p++) {
        const uint8_t *weight = (const uint8_t *)call->weight + p * stride;
        int64_t left = call->outputs - p * PANEL;
        int outputs = left < PANEL ? (int)left : PANEL;
        for (int64_t row = 0; row < call->rows; row += ROWS) {
            int count = call->rows - row < ROWS ? (int)(call->rows - row) : ROWS;
            if (packed)
                work->kernels->panel(call->format == Q8, count, &work->rows, row, weight, out);
            else
                work->kernels->plain(call->format == BF16, count, work->x + row * work->x_row, call->inputs, weight,
                                     outputs, out);
            for (int r = 0; r < count; r++)
                store(call, row + r, p * PANEL, outputs, out[r]);
        }
    }
}

static void widen(const struct linear *call, int64_t row, float *to) {
    const uint8_t *from = (const uint8_t *)call->x + row * call->inputs * (call->half ? 2 : 4);
    for (int64_t i = 0; i < call->inputs; i++)
        to[i] = call->half ? bfloat16_at(from + 2 * i) : float_at(from + 4 * i);
}

static void deal(float *row, float *spare, int64_t inputs) {
    int64_t odd = (inputs + 1) / 2;
    memcpy(spare, row, sizeof(float) * (size_t)inputs);
    for (int64_t i = 0; i < inputs; i++)
        row[(i % 2) * odd + i / 2] = spare[i];
}

static void run_packed(struct work *work, float *spare) {
    const struct linear *call = work->call;
    struct rows *rows = &work->rows;
    for (int64_t r = 0; r < call->rows; r++) {
        struct rows one = *rows;
        one.digits += r * rows->groups * rows->planes * GROUP;
        one.scaled += r * rows->groups;
        widen(call, r, spare);
        work->kernels->quantise(spare, call->inputs, &one);
    }
    in_parallel(part, work, call->threads);
}

static void run_plain(struct work *work, float *spare) {
    const struct linear *call = work->call;
    for (int64_t r = 0; r < call->rows; r++) {
        widen(call, r, work->x + r * work->x_row);
        if (call->format == BF16)
            deal(work->x + r * work->x_row, spare, call->inputs);
    }
    in_parallel(part, work, call->threads);
}

int linear(const struct linear *call) {
    int packed = call->format == Q4 || call->format == Q8;
    int64_t groups = (call->inputs + GROUP - 1) / GROUP;
    struct work work = {.call = call, .kernels = &kernels[call->level], .x_row = (call->inputs + 1) / 2 * 2};
    if (call->format == F32)
        work.x_row = call->inputs;
    work.rows.groups = groups;
    work.rows.planes = call->half ? 2 : 3;
    size_t spare = sizeof(float) * (size_t)(groups * GROUP);
    size_t count = (size_t)(call->rows * groups);
    size_t digits = count * (size_t)work.rows.planes * GROUP;
    size_t rest = packed ? digits + count * sizeof(struct scaled)
                         : sizeof(float) * (size_t)(call->rows * work.x_row);
    uint8_t *memory = malloc(spare + rest);
    if (!memory)
        return -1;
    if (packed) {
        work.rows.scaled = (struct scaled *)(memory + spare);
        work.rows.digits = (int8_t *)(work.rows.scaled + count);
        run_packed(&work, (float *)memory);
    } else {
        work.x = (float *)(memory + spare);
        run_plain(&work, (float *)memory);
    }
    free(memory);
    return 0;
}

static void unpack_part(void *data, int number, int parts) {
    const struct unpacking *call = data;
    int64_t stride = panel_bytes(call->format, call->inputs);
    for (int64_t p = call->panels * number / parts; p < call->panels * (number + 1) / parts; p++)
        kernels[call->level].unpack(call->format == Q8, call->half, (const uint8_t *)call->weight + p * stride,
                                    call->inputs, call->panels * PANEL,
                                    (uint8_t *)call->out + p * PANEL * (call->half ? 2 : 4));
}

void unpack(const struct unpacking *call) {
    in_parallel(unpack_part, (void *)call, call->threads);
}
