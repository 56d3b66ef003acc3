/* What blocks of quantised keys get of the attention of a few queries: what the vote of the retrieval heads is made of. */
#pragma once
#include <stdint.h>

#include "linear.h"

/* key[d] of a block = code * scale[d] + low[d]; strides are bytes from one block to the next. */
struct masses {
    float *out;                 /* [blocks, queries]: log of the sum over a block's tokens of exp(q . key) */
    const float *q;             /* [queries, dim] */
    const uint8_t *codes;       /* [blocks][tokens, dim] */
    const uint8_t *scale, *low; /* [blocks][dim], float16, at any address */
    const int64_t *lengths;     /* [blocks], how many of its tokens a block has; NULL: all */
    int64_t blocks, tokens, queries, dim;
    int64_t codes_stride, scale_stride;
    int threads;
    enum level level;
};

/* The numbers of a key must be a multiple of so many. */
#define KEY_MULTIPLE 4

/* 0, or -1 where memory is short. */
int masses(const struct masses *call);
