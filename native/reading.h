/* Attention of many new tokens over parts of a context, each query over an interval of a part's keys; one softmax. */
#pragma once
#include <stdint.h>

#include "linear.h"

/* Keys and values side by side within a kv head, queries turned to where they stand; query i sees lo[i] .. hi[i] - 1. */
struct part {
    const void *q, *k, *v;
    const int64_t *lo, *hi; /* [tokens], from the first key on; neither ever falls */
    int64_t q_head, q_token, k_head, v_head; /* from one head or token to the next, in numbers */
};

struct reading {
    void *out;        /* [tokens, heads, dim] */
    const float *aux; /* [heads]: a score that takes weight and gives no value; NULL for none */
    int64_t heads, kv_heads, dim, tokens;
    float scale;
    int half; /* whether q, k, v and out are bfloat16, not float32 */
    const struct part *parts;
    int count;
    int threads;
    enum level level;
};

/* 0, or -1 where memory is short. */
int reading(const struct reading *call);
