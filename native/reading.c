/* See reading.h. Keys are taken in tiles, packed once for all queries of a kv head; the softmax goes on from tile to tile
   (Milakov and Gimelshein, arXiv 1805.02867; tiles: FlashAttention, 2205.14135). */
#include "reading.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "exponential.h"
#include "floats.h"

#define TILE 256 /* keys of a tile */
#define ROWS 6   /* queries of a block */
#define FLOOR -1e30f
#define LOG2E 1.4426950408889634f

#define NAME(x) x##_scalar
#define TARGET
#define BYTES 16
#define WIDTH 2
#define PAIRED 0
#include "reading_kernels.h"
#undef NAME
#undef TARGET
#undef BYTES
#undef WIDTH

#if defined(__x86_64__)
#include <immintrin.h>

#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define BYTES 32
#define WIDTH 2
#include "reading_kernels.h"
#undef NAME
#undef TARGET
#undef BYTES
#undef WIDTH

#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#define BYTES 64
#define WIDTH 4
#include "reading_kernels.h"
#undef NAME
#undef TARGET
#undef PAIRED

#define NAME(x) x##_pairs
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prefer-vector-width=512")))
#define PAIRED 1
#include "reading_kernels.h"
#undef NAME
#undef TARGET
#undef BYTES
#undef WIDTH
#endif

struct kernels {
    void (*pack)(const char *, const char *, int64_t, int64_t, int, uint32_t *, uint32_t *);
    void (*product)(const uint32_t *, int64_t, const uint32_t *, int64_t, float *, int64_t, int64_t, int, int64_t, int);
    float (*weigh)(const float *, int64_t, float, float, uint32_t *);
    float (*largest)(const float *, int64_t);
    void (*scale)(float *, int64_t, float);
    void (*finish)(const float *, int64_t, float, int, char *);
    int paired;
};

#define SET(name, paired)                                                                                              \
    {pack_##name, product_##name, weigh_##name, largest_##name, scale_##name, finish_##name, paired}
static const struct kernels SETS[] = {
    SET(scalar, 0),
#if defined(__x86_64__)
    SET(avx2, 0),
    SET(avx512, 0),
    SET(avx512, 0),
    SET(pairs, 1),
#endif
};

static const struct kernels *kernels_of(const struct reading *call) {
#if defined(__x86_64__)
    if (call->half && call->level >= AVX512 && __builtin_cpu_supports("avx512bf16"))
        return &SETS[VNNI + 1];
#endif
    return &SETS[call->level];
}

/* The rows of one kv head and some tokens: what was summed so far, and the tile at hand. */
struct room {
    float *out, *most, *sum; /* [rows, dim], [rows], [rows] */
    uint32_t *keys, *values; /* units: [dim, TILE] and [TILE, dim], half as many in pairs */
    uint32_t *queries;       /* [ROWS, dim] units */
    float scores[ROWS * TILE];
    uint32_t weights[ROWS * TILE];
};

static void one_block(const struct reading *call, const struct kernels *set, struct room *room, const struct part *part,
                      int64_t head, int64_t token, int rows, int64_t row, int64_t first, int64_t n) {
    int64_t dim = call->dim;
    int64_t size = call->half ? 2 : 4;
    int64_t units = set->paired ? dim / 2 : dim;
    float unit = call->scale * LOG2E;
    int64_t low = part->lo[token] - first;
    int64_t high = part->hi[token + rows - 1] - first;
    low = low < 0 ? 0 : low / 32 * 32;
    high = high > n ? n : high;
    if (low >= high)
        return;
    int64_t columns = (high - low + 31) / 32 * 32;
    for (int r = 0; r < rows; r++) {
        const char *q = (const char *)part->q + (head * part->q_head + (token + r) * part->q_token) * size;
        if (set->paired || !call->half)
            memcpy(room->queries + r * units, q, units * 4);
        else
            for (int64_t d = 0; d < dim; d++)
                ((float *)room->queries)[r * units + d] = bfloat16_at(q + 2 * d);
    }
    set->product(room->queries, units, room->keys + low, TILE, room->scores, TILE, units, rows, columns, 0);
    for (int r = 0; r < rows; r++) {
        float *scores = room->scores + r * TILE;
        int64_t begin = part->lo[token + r] - first - low;
        int64_t end = part->hi[token + r] - first - low;
        begin = begin < 0 ? 0 : begin;
        end = end > high - low ? high - low : end;
        uint32_t *weights = room->weights + r * TILE;
        if (begin >= end) {
            memset(weights, 0, columns * sizeof(uint32_t));
            continue;
        }
        for (int64_t j = 0; j < begin; j++)
            scores[j] = -INFINITY;
        for (int64_t j = end; j < columns; j++)
            scores[j] = -INFINITY;
        float most = set->largest(scores, columns) * unit;
        float before = room->most[row + r];
        if (most > before) {
            float shrink = exp2f(before - most);
            room->most[row + r] = most;
            room->sum[row + r] *= shrink;
            set->scale(room->out + (row + r) * dim, dim, shrink);
        }
        room->sum[row + r] += set->weigh(scores, columns, unit, room->most[row + r], weights);
    }
    int64_t from = set->paired ? low / 2 : low;
    set->product(room->weights, TILE, room->values + from * dim, dim, room->out + row * dim, dim,
                 set->paired ? columns / 2 : columns, rows, dim, 1);
}

/* The queries of kv head `g` at the tokens `begin` .. `end` - 1. */
static void some_rows(const struct reading *call, struct room *room, int64_t g, int64_t begin, int64_t end) {
    const struct kernels *set = kernels_of(call);
    int64_t dim = call->dim;
    int64_t size = call->half ? 2 : 4;
    int64_t fold = call->heads / call->kv_heads;
    int64_t tokens = end - begin;
    for (int64_t row = 0; row < fold * tokens; row++) {
        room->most[row] = call->aux ? call->aux[g * fold + row / tokens] * LOG2E : FLOOR;
        room->sum[row] = call->aux ? 1.0f : 0.0f;
    }
    memset(room->out, 0, fold * tokens * dim * sizeof(float));
    for (int p = 0; p < call->count; p++) {
        const struct part *part = &call->parts[p];
        int64_t last = part->hi[end - 1];
        for (int64_t first = part->lo[begin]; first < last; first += TILE) {
            int64_t n = last - first < TILE ? last - first : TILE;
            set->pack((const char *)part->k + (g * part->k_head + first * dim) * size,
                      (const char *)part->v + (g * part->v_head + first * dim) * size, n, dim, call->half, room->keys,
                      room->values);
            for (int64_t f = 0; f < fold; f++)
                for (int64_t t = begin; t < end; t += ROWS)
                    one_block(call, set, room, part, g * fold + f, t, (int)(end - t < ROWS ? end - t : ROWS),
                              f * tokens + t - begin, first, n);
        }
    }
    for (int64_t row = 0; row < fold * tokens; row++) {
        float share = room->sum[row] > 0.0f ? 1.0f / room->sum[row] : 0.0f;
        int64_t to = ((begin + row % tokens) * call->heads + g * fold + row / tokens) * dim;
        set->finish(room->out + row * dim, dim, share, call->half, (char *)call->out + to * size);
    }
}

struct work {
    const struct reading *call;
    int64_t slices, each;
    int failed;
};

static void some_slices(void *data, int part, int parts) {
    struct work *work = data;
    const struct reading *call = work->call;
    int64_t rows = call->heads / call->kv_heads * work->each;
    int64_t numbers = rows * (call->dim + 2) + (2 * TILE + ROWS) * call->dim;
    struct room *room = malloc(sizeof(struct room) + numbers * sizeof(float));
    if (!room) {
        work->failed = 1;
        return;
    }
    room->out = (float *)(room + 1);
    room->most = room->out + rows * call->dim;
    room->sum = room->most + rows;
    room->keys = (uint32_t *)(room->sum + rows);
    room->values = room->keys + TILE * call->dim;
    room->queries = room->values + TILE * call->dim;
    for (int64_t i = part; i < call->kv_heads * work->slices; i += parts) {
        int64_t begin = i / call->kv_heads * work->each;
        int64_t end = begin + work->each < call->tokens ? begin + work->each : call->tokens;
        if (begin < end)
            some_rows(call, room, i % call->kv_heads, begin, end);
    }
    free(room);
}

int reading(const struct reading *call) {
    struct work work = {.call = call, .slices = call->threads > 1 ? 4 : 1};
    work.each = (call->tokens + work.slices - 1) / work.slices;
    in_parallel(some_slices, &work, call->threads);
    return work.failed ? -1 : 0;
}
