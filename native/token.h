/* A decoder's whole forward for one token of each row: the operations of program.h, and the attentions between them.

   All members have 8 bytes, so that Python writes these structures as rows of int64 (ops/token_tables.py). */
#pragma once
#include <stdint.h>

#include "program.h"

/* `n` columns that a row attends to; `turn` [dim, dim], from the right, brings its query to them (NULL: as it is). */
struct token_range {
    const float *turn;
    const void *k, *v;
    int64_t n, runs;
    int64_t k_stride, v_stride; /* from one kv head to the next, in numbers */
};

/* What is put elsewhere after the attention: heads from `from` (NULL: the query), each turned, to `to`. */
struct token_move {
    const void *from;
    int64_t from_stride;
    const float *turn;
    void *to;
    int64_t to_stride;
    int64_t heads; /* 0: nothing is moved */
};

/* One attention of one row. */
struct token_call {
    int64_t planned; /* 0: whoever runs the list does this attention between two calls of `run_token` */
    void *k_to, *v_to; /* the columns of the new key and value */
    int64_t k_stride, v_stride;
    float *shares; /* [runs of all ranges, heads]; NULL where they are not wanted */
};

/* Operations, then an attention over what they gave; addresses are those of the first row. */
struct token_segment {
    const struct operation *first;
    int64_t count;
    int64_t attends; /* 0: the list ends here */
    const void *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    int64_t heads, kv_heads, dim;
    double scale;
    const float *aux;
};

struct token {
    const struct token_segment *segments;
    int64_t first, end; /* those that are run */
    int64_t rows;
    const void *room;
    int64_t room_bytes;
    int64_t half; /* whether attention is in bfloat16 */
    int64_t ranges_each, moves_each;
    const struct token_call *calls;   /* [segments, rows] */
    const struct token_range *ranges; /* [segments, rows, ranges_each]; those of no columns are left out */
    const struct token_move *moves;   /* [segments, rows, moves_each] */
    const void **reads;               /* [rows]: what the next segment loads */
    char *outs;                       /* [rows, out_bytes]: room for outputs */
    int64_t out_bytes;
    char *queries; /* [ranges_each, out_bytes]: room for queries */
    int64_t threads;
};

#define MOST_TOKEN_RANGES 16

/* 0, or -1 where memory is short. */
int run_token(const struct token *token, enum level level);
