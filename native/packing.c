/* See packing.h; the panels are those of ops/packed.py, bit by bit. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif

#include "packing.h"

#include <math.h>
#include <string.h>

#include "clones.h"
#include "floats.h"
#include "gguf.h"

#define HELD 0.02f /* how far, in steps, rounding a scale and minimum may move a weight */
#define STEPS 15   /* between the codes of 4 bits */
#define LARGEST 127

/* Where the parts of a panel begin. */
struct panel {
    uint8_t *codes, *scales, *minima;
};

static struct panel panel_at(uint8_t *out, int64_t panel, enum format format, int64_t inputs) {
    int64_t size = panel_bytes(format, inputs), groups = (inputs + GROUP - 1) / GROUP;
    uint8_t *from = out + panel * size;
    memset(from, 0, (size_t)size);
    uint8_t *scales = from + groups * PANEL * GROUP / (format == Q4 ? 2 : 1);
    return (struct panel){from, scales, format == Q4 ? scales + groups * PANEL * 2 : NULL};
}

static void put_half(uint8_t *to, int64_t group, int output, uint16_t half) {
    memcpy(to + 2 * (group * PANEL + output), &half, 2);
}

/* 32 codes, 0 to 15, of one output: 8 of them in 4 bytes, the second four in the upper halves. */
static void put_four_bits(uint8_t *to, int64_t group, int output, const int8_t *codes) {
    for (int c = 0; c < GROUP / 8; c++) {
        uint32_t low, high;
        memcpy(&low, codes + 8 * c, 4);
        memcpy(&high, codes + 8 * c + 4, 4);
        low |= high << 4;
        memcpy(to + 4 * ((group * (GROUP / 8) + c) * PANEL + output), &low, 4);
    }
}

/* 32 codes, -127 to 127, of one output, with 128 added. */
static void put_eight_bits(uint8_t *to, int64_t group, int output, const int8_t *codes) {
    for (int c = 0; c < GROUP / 4; c++) {
        uint32_t four;
        memcpy(&four, codes + 4 * c, 4);
        four ^= 0x80808080;
        memcpy(to + 4 * ((group * (GROUP / 4) + c) * PANEL + output), &four, 4);
    }
}

static int is_moved(float scale, float minimum, int has_minima) {
    float moved = fabsf(float16_of(float16_from(scale)) - scale) * STEPS, step = fabsf(scale);
    if (has_minima) {
        moved = moved + fabsf(float16_of(float16_from(minimum)) - minimum);
        if (step == 0)
            step = fabsf(minimum) / STEPS;
    }
    return !(moved <= HELD * step);
}

/* What one block becomes; the number of groups that are moved, or -1. */
static int put_block(const struct packing *call, struct panel panel, int64_t group, int output, const uint8_t *block) {
    int8_t codes[GGUF_MOST];
    float scales[GGUF_MOST_GROUPS], minima[GGUF_MOST_GROUPS];
    gguf_codes(block, 1, call->kind, codes, scales, minima);
    int four = call->format == Q4, moved = 0, groups = gguf_size(call->kind).weights / GROUP;
    for (int g = 0; g < groups; g++) {
        int8_t *own = codes + g * GROUP;
        if (call->kind == GGUF_Q8_0 && memchr(own, 128, GROUP))
            return -1;
        if (four && call->kind == GGUF_Q4_0) { /* -8 to 7 */
            for (int i = 0; i < GROUP; i++)
                own[i] = (int8_t)(own[i] + 8);
            minima[g] = -8 * scales[g];
        }
        (four ? put_four_bits : put_eight_bits)(panel.codes, group + g, output, own);
        put_half(panel.scales, group + g, output, float16_from(scales[g]));
        if (four)
            put_half(panel.minima, group + g, output, float16_from(minima[g]));
        moved += is_moved(scales[g], minima[g], four);
    }
    return moved;
}

/* Outputs behind the last have codes of 0. */
static void fill_up(struct panel panel, int output, enum format format, int64_t groups) {
    const int8_t none[GROUP] = {0};
    for (; format == Q8 && output < PANEL; output++)
        for (int64_t g = 0; g < groups; g++)
            put_eight_bits(panel.codes, g, output, none);
}

static int outputs_of(int64_t panel, int64_t outputs) {
    int64_t left = outputs - panel * PANEL;
    return left < PANEL ? (int)left : PANEL;
}

int64_t pack_blocks(const struct packing *call) {
    struct gguf_size size = gguf_size(call->kind);
    int64_t blocks = call->inputs / size.weights, moved = 0;
    for (int64_t p = 0; p * PANEL < call->outputs; p++) {
        struct panel panel = panel_at(call->out, p, call->format, call->inputs);
        int count = outputs_of(p, call->outputs);
        for (int64_t b = 0; b < blocks; b++) /* outputs within: what lies beside each other is written together */
            for (int o = 0; o < count; o++) {
                const uint8_t *block = call->rows + ((p * PANEL + o) * blocks + b) * size.bytes;
                int found = put_block(call, panel, b * (size.weights / GROUP), o, block);
                if (found < 0)
                    return -1;
                moved += found;
            }
        fill_up(panel, count, call->format, call->inputs / GROUP);
    }
    return moved;
}

static inline float code_of(float weight, float scale) {
    float code = rintf(weight / (scale == 0 ? 1 : scale));
    return code < -LARGEST ? -LARGEST : code > LARGEST ? LARGEST : code;
}

/* The largest of 32 magnitudes, as whole numbers, which order them and find what is not a number the largest. */
static inline float largest_of(const float *magnitudes) {
    int32_t most = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t bits = bits_of(magnitudes[i]);
        most = bits > most ? bits : most;
    }
    return float_of(most);
}

static inline float distance(const float *weights, float scale) {
    float off[GROUP];
    for (int i = 0; i < GROUP; i++)
        off[i] = fabsf(code_of(weights[i], scale) * scale - weights[i]);
    return largest_of(off);
}

/* The scale of 32 weights, as float16 holds it, and their codes. */
CLONES static float eight_bits(const float *weights, int8_t *codes) {
    float magnitudes[GROUP];
    for (int i = 0; i < GROUP; i++)
        magnitudes[i] = fabsf(weights[i]);
    float largest = largest_of(magnitudes);
    float best = float16_of(float16_from(largest / LARGEST)), error = distance(weights, best);
    for (int steps = 8; steps <= 16; steps += 8) {
        float scale = float16_of(float16_from(largest / (float)steps)), found = distance(weights, scale);
        best = found < error ? scale : best;
        error = found < error ? found : error;
    }
    for (int i = 0; i < GROUP; i++)
        codes[i] = (int8_t)code_of(weights[i], best);
    return best;
}

void pack_eight_bits(const float *weights, int64_t outputs, int64_t inputs, uint8_t *out) {
    int64_t groups = (inputs + GROUP - 1) / GROUP;
    for (int64_t p = 0; p * PANEL < outputs; p++) {
        struct panel panel = panel_at(out, p, Q8, inputs);
        int count = outputs_of(p, outputs);
        for (int64_t g = 0; g < groups; g++)
            for (int o = 0; o < count; o++) {
                float own[GROUP];
                int8_t codes[GROUP];
                const float *row = weights + (p * PANEL + o) * inputs;
                for (int i = 0; i < GROUP; i++) /* the last input again, which changes no range */
                    own[i] = row[g * GROUP + i < inputs ? g * GROUP + i : inputs - 1];
                put_half(panel.scales, g, o, float16_from(eight_bits(own, codes)));
                put_eight_bits(panel.codes, g, o, codes);
            }
        fill_up(panel, count, Q8, groups);
    }
}
