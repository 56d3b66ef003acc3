/* native/masses.c on memory of exactly its size, against sums in double; for sanitizers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "masses.h"

static uint32_t state = 7;
static int failed, checked;

static uint32_t drawn(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static void check(double got, double wanted, double allowed, const char *what) {
    checked++;
    if (!(fabs(got - wanted) <= allowed) && !(isinf(got) && isinf(wanted))) {
        failed++;
        printf("%s: %g, expected %g\n", what, got, wanted);
    }
}

/* 2^-5 times 1 to 2 as float16, and below 0 for `sign` 1. */
static uint16_t half(int sign) {
    return (uint16_t)(sign << 15 | 10 << 10 | (drawn() & 1023));
}

static double value(uint16_t x) {
    return (x >> 15 ? -1 : 1) * (1 + (x & 1023) / 1024.0) / 32;
}

static void one(int64_t blocks, int64_t tokens, int64_t queries, int64_t dim, int cut, enum level level, int threads) {
    int64_t row = (tokens + 4) * dim + 1; /* rows at odd addresses, as files have them */
    uint8_t *rows = malloc(blocks * row);
    float *q = malloc(queries * dim * sizeof(float));
    float *out = malloc(blocks * queries * sizeof(float));
    int64_t *lengths = malloc(blocks * sizeof(int64_t));
    for (int64_t i = 0; i < queries * dim; i++)
        q[i] = (float)(drawn() % 2001) / 1000.0f - 1.0f;
    for (int64_t b = 0; b < blocks; b++) {
        lengths[b] = cut ? drawn() % (tokens + 1) : tokens;
        for (int64_t i = 0; i < row; i++)
            rows[b * row + i] = (uint8_t)drawn();
        for (int64_t d = 0; d < 2 * dim; d++) {
            uint16_t x = half(d >= dim);
            memcpy(rows + b * row + tokens * dim + 2 * d, &x, 2);
        }
    }
    struct masses call = {.out = out, .q = q, .codes = rows, .scale = rows + tokens * dim,
                          .low = rows + (tokens + 2) * dim, .lengths = cut ? lengths : NULL, .blocks = blocks,
                          .tokens = tokens, .queries = queries, .dim = dim, .codes_stride = row, .scale_stride = row,
                          .threads = threads, .level = level};
    check(masses(&call), 0, 0, "memory");
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t f = 0; f < queries; f++) {
            double sum = 0;
            for (int64_t j = 0; j < lengths[b]; j++) {
                double score = 0;
                for (int64_t d = 0; d < dim; d++) {
                    uint16_t x[2];
                    memcpy(&x[0], call.scale + b * row + 2 * d, 2);
                    memcpy(&x[1], call.low + b * row + 2 * d, 2);
                    score += q[f * dim + d] * (rows[b * row + j * dim + d] * value(x[0]) + value(x[1]));
                }
                sum += exp(score);
            }
            double wanted = log(sum);
            check(out[b * queries + f], wanted, 1e-4 * fmax(1, fabs(wanted)), "mass");
        }
    free(rows);
    free(q);
    free(out);
    free(lengths);
}

int main(void) {
    for (enum level level = SCALAR; level <= cpu_level(); level++)
        for (int cut = 0; cut < 2; cut++) {
            one(3, 128, 20, 64, cut, level, 1);
            one(2, 100, 7, 20, cut, level, 2);
            one(1, 1, 1, 4, cut, level, 1);
            one(5, 63, 9, 96, cut, level, 3);
            one(0, 16, 3, 16, cut, level, 1);
        }
    printf("%d checked, %d failed\n", checked, failed);
    return failed != 0;
}
