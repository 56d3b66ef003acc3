/* native/attention.c and native/program.c on memory of exactly their size, against sums in double; for sanitizers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "cpu.h"
#include "program.h"
#include "reading.h"
#include "token.h"

static uint32_t state = 7;
static int failed, checked;

static float small(void) {
    state = state * 1664525u + 1013904223u;
    return (float)((state >> 8) % 2001) / 1000.0f - 1.0f;
}

static float *floats(int64_t n) {
    float *x = malloc(n * sizeof(float));
    for (int64_t i = 0; i < n; i++)
        x[i] = small();
    return x;
}

static void check(double got, double wanted, double allowed, const char *what) {
    checked++;
    if (!(fabs(got - wanted) <= allowed)) {
        failed++;
        printf("%s: %g, expected %g\n", what, got, wanted);
    }
}

static void one_attention(int64_t heads, int64_t kv_heads, int64_t dim, const int64_t *sizes, int count,
                          enum level level, int threads) {
    struct key_range ranges[4];
    int64_t runs = 0, keys = 0;
    for (int r = 0; r < count; r++) {
        int64_t n = sizes[r];
        ranges[r] = (struct key_range){floats(heads * dim), floats(kv_heads * n * dim), floats(kv_heads * n * dim),
                                       n, n % 3 ? 1 : 3, n * dim, n * dim};
        runs += ranges[r].runs;
        keys += n;
    }
    float *out = malloc(heads * dim * sizeof(float));
    float *shares = malloc(runs * heads * sizeof(float));
    struct attention call = {.out = out, .shares = shares, .heads = heads, .kv_heads = kv_heads, .dim = dim,
                             .scale = 0.3f, .ranges = ranges, .count = count, .threads = threads, .level = level};
    check(attention(&call), 0, 0, "memory");
    double *weights = malloc(keys * sizeof(double));
    for (int64_t h = 0; h < heads; h++) {
        int64_t g = h / (heads / kv_heads);
        double sum = 0;
        int64_t at = 0;
        for (int r = 0; r < count; r++)
            for (int64_t j = 0; j < ranges[r].n; j++, at++) {
                double score = 0;
                for (int64_t d = 0; d < dim; d++)
                    score += (double)((const float *)ranges[r].q)[h * dim + d] *
                             ((const float *)ranges[r].k)[(g * ranges[r].n + j) * dim + d];
                sum += weights[at] = exp(0.3 * score);
            }
        for (int64_t d = 0; d < dim; d++) {
            double wanted = 0;
            at = 0;
            for (int r = 0; r < count; r++)
                for (int64_t j = 0; j < ranges[r].n; j++, at++)
                    wanted += weights[at] / sum * ((const float *)ranges[r].v)[(g * ranges[r].n + j) * dim + d];
            check(out[h * dim + d], wanted, 1e-5, "attention");
        }
        double all = 0;
        for (int64_t run = 0; run < runs; run++)
            all += shares[run * heads + h];
        check(all, 1, 1e-5, "shares");
    }
    for (int r = 0; r < count; r++) {
        free((void *)ranges[r].q);
        free((void *)ranges[r].k);
        free((void *)ranges[r].v);
    }
    free(out);
    free(shares);
    free(weights);
}

/* A window of `window` keys over `keys` keys, the last `tokens` of which are the queries' own. */
static void one_reading(int64_t heads, int64_t kv_heads, int64_t dim, int64_t tokens, int64_t keys, int64_t window,
                        int half, enum level level, int threads) {
    float *q = floats(heads * tokens * dim), *k = floats(kv_heads * keys * dim), *v = floats(kv_heads * keys * dim);
    float *all[] = {q, k, v};
    int64_t sizes[] = {heads * tokens * dim, kv_heads * keys * dim, kv_heads * keys * dim};
    void *given[3];
    for (int x = 0; x < 3; x++) {
        given[x] = malloc(sizes[x] * (half ? 2 : 4));
        for (int64_t i = 0; i < sizes[x]; i++) {
            uint32_t bits;
            memcpy(&bits, &all[x][i], 4);
            bits = half ? bits & 0xffff0000u : bits;
            memcpy(&all[x][i], &bits, 4);
            if (half)
                ((uint16_t *)given[x])[i] = (uint16_t)(bits >> 16);
            else
                ((float *)given[x])[i] = all[x][i];
        }
    }
    int64_t *lo = malloc(tokens * sizeof(int64_t)), *hi = malloc(tokens * sizeof(int64_t));
    for (int64_t t = 0; t < tokens; t++) {
        hi[t] = keys - tokens + t + 1;
        lo[t] = hi[t] > window ? hi[t] - window : 0;
    }
    void *out = malloc(heads * tokens * dim * (half ? 2 : 4));
    struct part part = {given[0], given[1], given[2], lo, hi, tokens * dim, dim, keys * dim, keys * dim};
    struct reading call = {.out = out, .heads = heads, .kv_heads = kv_heads, .dim = dim, .tokens = tokens,
                           .scale = 0.3f, .half = half, .parts = &part, .count = 1, .threads = threads, .level = level};
    check(reading(&call), 0, 0, "memory");
    double *weights = malloc(keys * sizeof(double));
    for (int64_t h = 0; h < heads; h++)
        for (int64_t t = 0; t < tokens; t++) {
            int64_t g = h / (heads / kv_heads);
            double sum = 0;
            for (int64_t j = lo[t]; j < hi[t]; j++) {
                double score = 0;
                for (int64_t d = 0; d < dim; d++)
                    score += (double)q[(h * tokens + t) * dim + d] * k[(g * keys + j) * dim + d];
                sum += weights[j] = exp(0.3 * score);
            }
            for (int64_t d = 0; d < dim; d++) {
                double wanted = 0;
                for (int64_t j = lo[t]; j < hi[t]; j++)
                    wanted += weights[j] / sum * v[(g * keys + j) * dim + d];
                int64_t at = (t * heads + h) * dim + d;
                float got;
                uint32_t bits = half ? (uint32_t)((uint16_t *)out)[at] << 16 : 0;
                memcpy(&got, half ? (void *)&bits : (void *)((float *)out + at), 4);
                check(got, wanted, half ? 0.02 : 1e-5, "reading");
            }
        }
    for (int x = 0; x < 3; x++) {
        free(all[x]);
        free(given[x]);
    }
    free(lo);
    free(hi);
    free(out);
    free(weights);
}

static void one_program(int64_t n, enum level level) {
    float *a = floats(n), *b = floats(n), *out = malloc(n * sizeof(float)), *mean = malloc(sizeof(float));
    uint16_t *half = malloc(n * sizeof(uint16_t));
    struct operation ops[] = {
        {.kind = LOAD, .size = {1, 1, 1, n}, .out = out, .out_stride = {0, 0, 0, 1}},
        {.kind = ADD, .size = {1, 1, 1, n}, .out = out, .out_stride = {0, 0, 0, 1}, .a = out, .a_stride = {0, 0, 0, 1}, .b = b, .b_stride = {0, 0, 0, 1}},
        {.kind = SILU, .size = {1, 1, 1, n}, .out = out, .out_stride = {0, 0, 0, 1}, .a = out, .a_stride = {0, 0, 0, 1}},
        {.kind = MEAN, .size = {1, 1, 1, n}, .out = mean, .a = out, .a_stride = {0, 0, 0, 1}},
        {.kind = STORE, .size = {1, 1, 1, n}, .out = (float *)half, .out_stride = {0, 0, 0, 1}, .a = out, .a_stride = {0, 0, 0, 1}},
    };
    const void *inputs[] = {a};
    struct program run = {.rows = 1, .room = out, .room_bytes = 1, .inputs = inputs, .threads = 1, .level = level};
    check(run_program(&run, ops, 5), 0, 0, "memory");
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = (double)a[i] + b[i];
        double wanted = x / (1 + exp(-x));
        check(out[i], wanted, 1e-6, "silu");
        uint32_t bits = (uint32_t)half[i] << 16;
        float rounded;
        memcpy(&rounded, &bits, 4);
        check(rounded, wanted, 0.005, "bfloat16");
        sum += wanted;
    }
    check(*mean, sum / n, 1e-6, "mean");
    free(a);
    free(b);
    free(out);
    free(mean);
    free(half);
}

/* One attention of two rows over two ranges, the first met by a turned query; then the turned query is moved. */
static void one_token(int64_t heads, int64_t kv_heads, int64_t dim, int64_t keys, enum level level) {
    enum { ROWS = 2, RANGES = 2 };
    int64_t each = (heads + 2 * kv_heads) * dim, before = 3;
    float *room = floats(ROWS * each), *turn = floats(dim * dim);
    float *outs = malloc(ROWS * heads * dim * sizeof(float)), *queries = malloc(RANGES * heads * dim * sizeof(float));
    float *k[ROWS], *v[ROWS], *moved[ROWS], *wanted = malloc(heads * dim * sizeof(float));
    struct token_call calls[ROWS];
    struct token_range ranges[ROWS * RANGES];
    struct token_move moves[ROWS];
    const void *reads[ROWS] = {0};
    for (int r = 0; r < ROWS; r++) {
        k[r] = floats(kv_heads * keys * dim);
        v[r] = floats(kv_heads * keys * dim);
        moved[r] = malloc(heads * dim * sizeof(float));
        calls[r] = (struct token_call){1, k[r] + (keys - 1) * dim, v[r] + (keys - 1) * dim, keys * dim, keys * dim, NULL};
        ranges[2 * r] = (struct token_range){turn, k[r], v[r], before, 1, keys * dim, keys * dim};
        ranges[2 * r + 1] = (struct token_range){NULL, k[r] + before * dim, v[r] + before * dim, keys - before, 1,
                                                 keys * dim, keys * dim};
        moves[r] = (struct token_move){NULL, 0, turn, moved[r], dim, heads};
    }
    struct token_segment segments[2] = {
        {.attends = 1, .q = room, .k = room + heads * dim, .v = room + (heads + kv_heads) * dim, .q_stride = dim,
         .k_stride = dim, .v_stride = dim, .heads = heads, .kv_heads = kv_heads, .dim = dim, .scale = 0.3},
        {.attends = 0},
    };
    struct token token = {segments, 0, 2, ROWS, room, each * sizeof(float), 0, RANGES, 1, calls, ranges, moves, reads,
                          (char *)outs, heads * dim * sizeof(float), (char *)queries, 1};
    check(run_token(&token, level), 0, 0, "memory");
    for (int r = 0; r < ROWS; r++) {
        const float *q = room + r * each;
        for (int64_t i = 0; i < kv_heads * dim; i++) {
            int64_t at = i / dim * keys * dim + (keys - 1) * dim + i % dim;
            check(k[r][at], q[heads * dim + i], 0, "new key");
            check(v[r][at], q[(heads + kv_heads) * dim + i], 0, "new value");
        }
        for (int64_t i = 0; i < heads * dim; i++) {
            double sum = 0;
            for (int64_t d = 0; d < dim; d++)
                sum += (double)q[i / dim * dim + d] * turn[d * dim + i % dim];
            check(moved[r][i], sum, 1e-4, "turned query");
        }
        struct key_range same[RANGES] = {{moved[r], k[r], v[r], before, 1, keys * dim, keys * dim},
                                         {q, k[r] + before * dim, v[r] + before * dim, keys - before, 1, keys * dim,
                                          keys * dim}};
        struct attention call = {.out = wanted, .heads = heads, .kv_heads = kv_heads, .dim = dim, .scale = 0.3f,
                                 .ranges = same, .count = RANGES, .threads = 1, .level = level};
        check(attention(&call), 0, 0, "memory");
        for (int64_t i = 0; i < heads * dim; i++)
            check(((const float *)reads[r])[i], wanted[i], 1e-5, "token");
        free(k[r]);
        free(v[r]);
        free(moved[r]);
    }
    free(room);
    free(turn);
    free(outs);
    free(queries);
    free(wanted);
}

int main(void) {
    const int64_t sizes[][4] = {{1, 0, 0, 0}, {7, 3, 0, 0}, {12, 1, 30, 5}, {64, 2, 9, 0}};
    const int counts[] = {1, 2, 4, 3};
    for (enum level level = SCALAR; level <= cpu_level(); level++) {
        for (int i = 0; i < 4; i++) {
            one_attention(9, 3, 64, sizes[i], counts[i], level, 1);
            one_attention(5, 1, 80, sizes[i], counts[i], level, 2);
            one_attention(4, 4, 16, sizes[i], counts[i], level, 1);
        }
        for (int64_t n = 1; n < 40; n += 6)
            one_program(n, level);
        one_token(9, 3, 64, 21, level);
        one_token(4, 1, 16, 5, level);
        for (int half = 0; half < 2; half++) {
            one_reading(6, 2, 16, 13, 300, 270, half, level, 1);
            one_reading(3, 1, 48, 7, 7, 100, half, level, 2);
            one_reading(2, 2, 64, 9, 530, 40, half, level, 1);
        }
    }
    printf("%d checked, %d failed\n", checked, failed);
    return failed != 0;
}
