/* Attention of one token over ranges of keys: one softmax over all of them, and what each run of keys got of it. */
#pragma once
#include <stdint.h>

#include "linear.h"

/* `n` keys and values, side by side within a kv head, that the query `q` [heads, dim] sees; `runs` equal parts of them. */
struct key_range {
    const void *q, *k, *v;
    int64_t n, runs;
    int64_t k_stride, v_stride; /* from one kv head to the next, in numbers */
};

struct attention {
    void *out;        /* [heads, dim] */
    float *shares;    /* [runs of all ranges, heads]; NULL where they are not wanted */
    const float *aux; /* [heads]: a score that takes weight and gives no value; NULL for none */
    int64_t heads, kv_heads, dim;
    float scale;
    int half; /* whether q, k, v and out are bfloat16, not float32 */
    const struct key_range *ranges;
    int count;
    int threads;
    enum level level;
};

/* The numbers of a head must be a multiple of so many. */
#define HEAD_MULTIPLE 16

/* 0, or -1 where memory is short. */
int attention(const struct attention *call);
