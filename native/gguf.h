/* Blocks of weights as GGUF files hold them. */
#pragma once
#include <stdint.h>

enum gguf_kind { /* by the numbers that the files have */
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_IQ4_NL = 20,
    GGUF_IQ4_XS = 23,
};

#define GGUF_MOST 256      /* weights of the largest block */
#define GGUF_MOST_GROUPS 16

/* Whether blocks of this kind are known here. */
int gguf_known(int kind);

struct gguf_size {
    int weights, bytes;
};

/* Of a block. */
struct gguf_size gguf_size(int kind);

/* The weights of blocks one after the other, float32 or bfloat16. */
void gguf_weights(const uint8_t *blocks, int64_t count, int kind, int half, void *out);

/* The codes of blocks and the scale of each group of codes (and its minimum, 0 where the kind has none). */
void gguf_codes(const uint8_t *blocks, int64_t count, int kind, int8_t *codes, float *scales, float *minima);
