/* Blocks of weights as GGUF files hold them: weight = scale * code, plus a minimum in some kinds.

   A block has 32 or 256 codes of 4, 5, 6 or 8 bits, a float16 scale, and in the large ones small scales for each group of
   32 codes (16 in Q6_K). Products are rounded to float32 before sums, as numpy does: the weights are the same bits. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif

#include "gguf.h"

#include <string.h>

#include "floats.h"

struct kind {
    int weights, bytes, group; /* of a block, of a block, of a scale */
    int has_minima;
    void (*decode)(const uint8_t *block, int8_t *codes, float *scales, float *minima);
};

static float half_at(const uint8_t *from) {
    uint16_t half;
    memcpy(&half, from, 2);
    return float16_of(half);
}

static uint32_t word_at(const uint8_t *from) {
    uint32_t word;
    memcpy(&word, from, 4);
    return word;
}

/* 16 bytes as 32 codes: the lower halves, then the upper ones. */
static void halves(const uint8_t *from, int8_t *codes) {
    for (int i = 0; i < 16; i++) {
        codes[i] = (int8_t)(from[i] & 15);
        codes[16 + i] = (int8_t)(from[i] >> 4);
    }
}

/* Eight bits at a time: each byte of a word keeps its own bit, and adding 127 carries it into the highest place. */
static void add_fifth_bits(uint32_t bits, int8_t *codes) {
    for (int eight = 0; eight < 4; eight++) {
        uint64_t own = (bits >> 8 * eight & 255) * 0x0101010101010101u & 0x8040201008040201u, word;
        own = (own + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
        memcpy(&word, codes + 8 * eight, 8);
        word |= own << 4;
        memcpy(codes + 8 * eight, &word, 8);
    }
}

static void shift(int8_t *codes, int count, int by) {
    for (int i = 0; i < count; i++)
        codes[i] = (int8_t)(codes[i] - by);
}

static void q4_0(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    (void)minima;
    scales[0] = half_at(block);
    halves(block + 2, codes);
    shift(codes, 32, 8);
}

static void q4_1(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    scales[0] = half_at(block);
    minima[0] = half_at(block + 2);
    halves(block + 4, codes);
}

static void q5_0(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    (void)minima;
    scales[0] = half_at(block);
    halves(block + 6, codes);
    add_fifth_bits(word_at(block + 2), codes);
    shift(codes, 32, 16);
}

static void q5_1(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    scales[0] = half_at(block);
    minima[0] = half_at(block + 2);
    halves(block + 8, codes);
    add_fifth_bits(word_at(block + 4), codes);
}

static void q8_0(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    (void)minima;
    scales[0] = half_at(block);
    memcpy(codes, block + 2, 32);
}

/* Eight scales and minima of 6 bits from 12 bytes: four of each whole, the others from low bits and the spare high ones. */
static void scales_of_six_bits(const uint8_t *block, float *scales, float *minima) {
    const uint8_t *from = block + 4;
    float scale = half_at(block), minimum = half_at(block + 2);
    for (int i = 0; i < 8; i++) {
        int s = i < 4 ? from[i] & 63 : (from[i + 4] & 15) | (from[i - 4] >> 6) << 4;
        int m = i < 4 ? from[i + 4] & 63 : from[i + 4] >> 4 | (from[i] >> 6) << 4;
        scales[i] = scale * (float)s;
        minima[i] = -(minimum * (float)m);
    }
}

/* 128 bytes as 256 codes: of each 32 bytes the lower halves, then the upper ones. */
static void long_halves(const uint8_t *from, int8_t *codes) {
    for (int chunk = 0; chunk < 4; chunk++)
        for (int i = 0; i < 32; i++) {
            codes[64 * chunk + i] = (int8_t)(from[32 * chunk + i] & 15);
            codes[64 * chunk + 32 + i] = (int8_t)(from[32 * chunk + i] >> 4);
        }
}

static void q4_k(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    scales_of_six_bits(block, scales, minima);
    long_halves(block + 16, codes);
}

static void q5_k(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    scales_of_six_bits(block, scales, minima);
    long_halves(block + 48, codes);
    for (int group = 0; group < 8; group++)
        for (int i = 0; i < 32; i++)
            codes[32 * group + i] = (int8_t)(codes[32 * group + i] | (block[16 + i] >> group & 1) << 4);
}

static void q6_k(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    (void)minima;
    float scale = half_at(block + 208);
    for (int i = 0; i < 16; i++)
        scales[i] = scale * (float)(int8_t)block[192 + i];
    for (int part = 0; part < 2; part++) {
        const uint8_t *low = block + 64 * part, *high = block + 128 + 32 * part;
        int8_t *to = codes + 128 * part;
        for (int i = 0; i < 32; i++) {
            to[i] = (int8_t)((low[i] & 15) | (high[i] & 3) << 4);
            to[32 + i] = (int8_t)((low[32 + i] & 15) | (high[i] >> 2 & 3) << 4);
            to[64 + i] = (int8_t)(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
            to[96 + i] = (int8_t)(low[32 + i] >> 4 | (high[i] >> 6) << 4);
        }
    }
    shift(codes, 256, 32);
}

static const int8_t STEPS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void take_steps(int8_t *codes, int count) {
    for (int i = 0; i < count; i++)
        codes[i] = STEPS[codes[i]];
}

static void iq4_nl(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    (void)minima;
    scales[0] = half_at(block);
    halves(block + 2, codes);
    take_steps(codes, 32);
}

static void iq4_xs(const uint8_t *block, int8_t *codes, float *scales, float *minima) {
    (void)minima;
    float scale = half_at(block);
    uint32_t high = (uint32_t)(block[2] | block[3] << 8);
    for (int i = 0; i < 8; i++) {
        int low = block[4 + i / 2] >> 4 * (i % 2) & 15;
        scales[i] = scale * (float)((low | (int)(high >> 2 * i & 3) << 4) - 32);
        halves(block + 8 + 16 * i, codes + 32 * i);
    }
    take_steps(codes, 256);
}

static const struct kind KINDS[] = {
    [GGUF_Q4_0] = {32, 18, 32, 0, q4_0},       [GGUF_Q4_1] = {32, 20, 32, 1, q4_1},
    [GGUF_Q5_0] = {32, 22, 32, 0, q5_0},       [GGUF_Q5_1] = {32, 24, 32, 1, q5_1},
    [GGUF_Q8_0] = {32, 34, 32, 0, q8_0},       [GGUF_Q4_K] = {256, 144, 32, 1, q4_k},
    [GGUF_Q5_K] = {256, 176, 32, 1, q5_k},     [GGUF_Q6_K] = {256, 210, 16, 0, q6_k},
    [GGUF_IQ4_NL] = {32, 18, 32, 0, iq4_nl},   [GGUF_IQ4_XS] = {256, 136, 32, 0, iq4_xs},
};

int gguf_known(int kind) {
    return kind >= 0 && kind < (int)(sizeof KINDS / sizeof *KINDS) && KINDS[kind].decode;
}

struct gguf_size gguf_size(int kind) {
    return (struct gguf_size){KINDS[kind].weights, KINDS[kind].bytes};
}

static void weights_of(const struct kind *kind, const int8_t *codes, const float *scales, const float *minima, float *out) {
    for (int g = 0; g * kind->group < kind->weights; g++) {
        float scale = scales[g], minimum = minima[g];
        const int8_t *from = codes + g * kind->group;
        float *to = out + g * kind->group;
        if (kind->has_minima)
            for (int i = 0; i < kind->group; i++)
                to[i] = scale * (float)from[i] + minimum;
        else
            for (int i = 0; i < kind->group; i++)
                to[i] = scale * (float)from[i];
    }
}

void gguf_weights(const uint8_t *blocks, int64_t count, int kind, int half, void *out) {
    const struct kind *of = &KINDS[kind];
    int8_t codes[GGUF_MOST];
    float scales[GGUF_MOST_GROUPS], minima[GGUF_MOST_GROUPS] = {0}, weights[GGUF_MOST];
    for (int64_t b = 0; b < count; b++) {
        of->decode(blocks + b * of->bytes, codes, scales, minima);
        if (!half) {
            weights_of(of, codes, scales, minima, (float *)out + b * of->weights);
            continue;
        }
        weights_of(of, codes, scales, minima, weights);
        uint16_t *to = (uint16_t *)out + b * of->weights;
        for (int i = 0; i < of->weights; i++)
            to[i] = bfloat16_of(weights[i]);
    }
}

void gguf_codes(const uint8_t *blocks, int64_t count, int kind, int8_t *codes, float *scales, float *minima) {
    const struct kind *of = &KINDS[kind];
    int groups = of->weights / of->group;
    for (int64_t b = 0; b < count; b++) {
        float *minimum = minima + b * groups;
        memset(minimum, 0, sizeof(float) * (size_t)groups);
        of->decode(blocks + b * of->bytes, codes + b * of->weights, scales + b * groups, minimum);
    }
}
