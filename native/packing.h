/* Weights as panels of 4 or 8 bits, in the order that linear.c reads. */
#pragma once
#include <stdint.h>

#include "linear.h"

struct packing {
    const uint8_t *rows; /* [outputs, blocks of inputs] of a GGUF file */
    uint8_t *out;        /* [panels, panel_bytes] */
    int64_t outputs, inputs;
    int kind; /* of blocks, see gguf.h */
    enum format format;
};

/* Codes are taken over and scales rounded to float16: the number of groups that this moves by more than is held, or -1
   for codes that the format does not hold. Q4: kinds of 4 bits; Q8: kinds of at most 8 bits without minima. */
int64_t pack_blocks(const struct packing *call);

/* Each group of 32 weights rounded to 8 bits: its scale is the largest magnitude by 127, or by 8 or 16 where that is
   nearer. A last group that is not full repeats its last weight. */
void pack_eight_bits(const float *weights, int64_t outputs, int64_t inputs, uint8_t *out);
