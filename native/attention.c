/* See attention.h. All scores of a kv head are kept, so that one softmax over all ranges needs no merging. */
#include "attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "exponential.h"
#include "floats.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float fours __attribute__((vector_size(16)));

#define KERNELS "attention_kernels.h"
#include "vector_sets.h"

struct kernels {
    void (*scores)(const struct key_range *, const char *, const float *, float *, int64_t, int64_t, int, int);
    void (*values)(const struct key_range *, const char *, const float *, int64_t, float *, int64_t, int, int);
    float (*largest)(const float *, int64_t, float);
    float (*weigh)(float *, int64_t, float);
};

static const struct kernels SETS[] = {
    {scores_scalar, values_scalar, largest_scalar, weigh_scalar},
#if defined(__x86_64__)
    {scores_avx2, values_avx2, largest_avx2, weigh_avx2},
    {scores_avx512, values_avx512, largest_avx512, weigh_avx512},
    {scores_avx512, values_avx512, largest_avx512, weigh_avx512},
#endif
};

struct work {
    const struct attention *call;
    float *room; /* for each kv head: scores, queries, output */
    int64_t keys, each;
};

static void one_head(const struct attention *call, int64_t g, int64_t keys, float *room) {
    const struct kernels *set = &SETS[call->level];
    int64_t dim = call->dim;
    int64_t queries = call->heads / call->kv_heads;
    int64_t size = call->half ? 2 : 4;
    float *scores = room;
    float *q = scores + queries * keys;
    float *out = q + queries * dim;
    memset(out, 0, queries * dim * sizeof(float));

    int64_t at = 0;
    for (int r = 0; r < call->count; r++) {
        const struct key_range *range = &call->ranges[r];
        const char *from = (const char *)range->q + g * queries * dim * size;
        for (int64_t i = 0; i < queries * dim; i++)
            q[i] = call->scale * (call->half ? bfloat16_at(from + 2 * i) : float_at(from + 4 * i));
        for (int64_t f = 0; f < queries; f += 4)
            set->scores(range, (const char *)range->k + g * range->k_stride * size, q + f * dim,
                        scores + f * keys + at, keys, dim, call->half, (int)(queries - f < 4 ? queries - f : 4));
        at += range->n;
    }

    for (int64_t f = 0; f < queries; f++) {
        float *row = scores + f * keys;
        int64_t head = g * queries + f;
        float most = set->largest(row, keys, call->aux ? call->aux[head] : row[0]);
        float sum = call->aux ? expf(call->aux[head] - most) : 0.0f;
        float *shares = call->shares ? call->shares + head : NULL;
        float *part = row;
        int64_t runs = 0;
        for (int r = 0; r < call->count; r++) {
            int64_t n = call->ranges[r].n / call->ranges[r].runs;
            for (int64_t run = 0; run < call->ranges[r].runs; run++, part += n, runs++) {
                float got = set->weigh(part, n, most);
                sum += got;
                if (shares)
                    shares[runs * call->heads] = got;
            }
        }
        for (int64_t run = 0; shares && run < runs; run++)
            shares[run * call->heads] /= sum;
        float share = 1.0f / sum;
        for (int64_t j = 0; j < keys; j++)
            row[j] *= share;
    }

    at = 0;
    for (int r = 0; r < call->count; r++) {
        const struct key_range *range = &call->ranges[r];
        for (int64_t f = 0; f < queries; f += 4)
            set->values(range, (const char *)range->v + g * range->v_stride * size, scores + f * keys + at, keys,
                        out + f * dim, dim, call->half, (int)(queries - f < 4 ? queries - f : 4));
        at += range->n;
    }
    if (!call->half)
        memcpy((float *)call->out + g * queries * dim, out, queries * dim * sizeof(float));
    else
        for (int64_t i = 0; i < queries * dim; i++)
            ((uint16_t *)call->out)[g * queries * dim + i] = bfloat16_of(out[i]);
}

static void some_heads(void *data, int part, int parts) {
    struct work *work = data;
    for (int64_t g = part; g < work->call->kv_heads; g += parts)
        one_head(work->call, g, work->keys, work->room + g * work->each);
}

int attention(const struct attention *call) {
    struct work work = {.call = call};
    for (int r = 0; r < call->count; r++)
        work.keys += call->ranges[r].n;
    work.each = call->heads / call->kv_heads * (work.keys + 2 * call->dim);
    work.room = malloc(call->kv_heads * work.each * sizeof(float));
    if (!work.room)
        return -1;
    int parts = call->threads < call->kv_heads ? call->threads : (int)call->kv_heads;
    in_parallel(some_heads, &work, parts);
    free(work.room);
    return 0;
}
