/* Vectors turned by angles, pair by pair: RoPE by a difference of positions (RoFormer, arXiv 2104.09864, eq. 34). */
#pragma once
#include <stdint.h>

struct turn {
    void *out;             /* [heads, tokens, dim], side by side */
    const void *x;         /* the same numbers of a token side by side */
    const float *cos, *sin; /* [turns, pairs] */
    int64_t heads, tokens, dim, start, pairs, turns; /* turns: one for each token, or 1 for all */
    int64_t x_head, x_token;                         /* from one head or token to the next, in numbers */
    int interleaved;                                 /* number 2 i with 2 i + 1 behind `start`, not i with i + pairs */
    int half;                                        /* whether x and out are bfloat16, not float32 */
};

void turn(const struct turn *call);
