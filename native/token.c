/* See token.h. */
#include "token.h"

#include <stddef.h>
#include <string.h>

#include "attention.h"
#include "clones.h"
#include "exponential.h"
#include "floats.h"

#define MOST_DIM 512

static const char *of_row(const struct token *token, const void *at, int64_t row) {
    return (const char *)at + row * token->room_bytes;
}

/* x [dim] times a matrix [dim, dim]. */
CLONES static void product(const float *x, const float *matrix, int64_t dim, float *out) {
    memset(out, 0, (size_t)dim * sizeof(float));
    for (int64_t i = 0; i < dim; i++) {
        float each = x[i];
        const float *row = matrix + i * dim;
        for (int64_t d = 0; d < dim; d++)
            out[d] += each * row[d];
    }
}

/* Copies heads of `dim` numbers, each turned on the way. */
static void move(const char *from, int64_t from_stride, char *to, int64_t to_stride, int64_t heads, int64_t dim,
                 const float *turn, int half) {
    int64_t size = half ? 2 : 4;
    float x[MOST_DIM], out[MOST_DIM];
    for (int64_t h = 0; h < heads; h++) {
        const char *source = from + h * from_stride * size;
        char *target = to + h * to_stride * size;
        if (!turn) {
            memcpy(target, source, (size_t)(dim * size));
            continue;
        }
        for (int64_t d = 0; d < dim; d++)
            x[d] = half ? bfloat16_at(source + 2 * d) : float_at(source + 4 * d);
        product(x, turn, dim, out);
        if (!half)
            memcpy(target, out, (size_t)dim * sizeof(float));
        else
            for (int64_t d = 0; d < dim; d++) {
                uint16_t rounded = bfloat16_of(out[d]);
                memcpy(target + 2 * d, &rounded, 2);
            }
    }
}

static int attend(const struct token *token, const struct token_segment *segment, int64_t at, int64_t row,
                  enum level level) {
    int half = (int)token->half;
    int64_t dim = segment->dim;
    const struct token_call *call = token->calls + at;
    const struct token_range *given = token->ranges + at * token->ranges_each;
    const struct token_move *moves = token->moves + at * token->moves_each;
    const char *q = of_row(token, segment->q, row);
    move(of_row(token, segment->k, row), segment->k_stride, call->k_to, call->k_stride, segment->kv_heads, dim, NULL, half);
    move(of_row(token, segment->v, row), segment->v_stride, call->v_to, call->v_stride, segment->kv_heads, dim, NULL, half);

    struct key_range ranges[MOST_TOKEN_RANGES];
    int count = 0;
    for (int64_t r = 0; r < token->ranges_each; r++) {
        const struct token_range *range = given + r;
        if (!range->n)
            continue;
        char *query = token->queries + count * token->out_bytes;
        move(q, segment->q_stride, query, dim, segment->heads, dim, range->turn, half);
        ranges[count++] = (struct key_range){query,       range->k,        range->v,       range->n,
                                             range->runs, range->k_stride, range->v_stride};
    }
    char *out = token->outs + row * token->out_bytes;
    struct attention attended = {
        .out = out,
        .shares = call->shares,
        .aux = segment->aux,
        .heads = segment->heads,
        .kv_heads = segment->kv_heads,
        .dim = dim,
        .scale = (float)segment->scale,
        .half = half,
        .ranges = ranges,
        .count = count,
        .threads = (int)token->threads,
        .level = level,
    };
    if (attention(&attended))
        return -1;
    token->reads[row] = out;
    for (int64_t m = 0; m < token->moves_each; m++) {
        const struct token_move *one = moves + m;
        const char *from = one->from ? one->from : q;
        int64_t stride = one->from ? one->from_stride : segment->q_stride;
        move(from, stride, one->to, one->to_stride, one->heads, dim, one->turn, half);
    }
    return 0;
}

int run_token(const struct token *token, enum level level) {
    struct program run = {
        .rows = token->rows,
        .room = token->room,
        .room_bytes = token->room_bytes,
        .inputs = token->reads,
        .threads = (int)token->threads,
        .level = level,
    };
    for (int64_t s = token->first; s < token->end; s++) {
        const struct token_segment *segment = token->segments + s;
        if (run_program(&run, segment->first, segment->count))
            return -1;
        for (int64_t row = 0; segment->attends && row < token->rows; row++) {
            int64_t at = s * token->rows + row;
            if (token->calls[at].planned && attend(token, segment, at, row, level))
                return -1;
        }
    }
    return 0;
}
