/* One kv head with its query heads, for one set of instructions (attention.c): NAME, TARGET and BYTES are given. */

#define LANES (BYTES / 4)
typedef float NAME(vector) __attribute__((vector_size(BYTES)));
typedef uint32_t NAME(words) __attribute__((vector_size(BYTES)));
typedef uint16_t NAME(shorts) __attribute__((vector_size(BYTES / 2)));

TARGET INLINE NAME(vector) NAME(load)(const void *from, int half) {
    if (half) {
        NAME(shorts) narrow;
        memcpy(&narrow, from, sizeof narrow);
        return (NAME(vector))(__builtin_convertvector(narrow, NAME(words)) << 16);
    }
    NAME(vector) wide;
    memcpy(&wide, from, sizeof wide);
    return wide;
}

/* The sums of the numbers of four vectors. */
TARGET INLINE fours NAME(totals)(const NAME(vector) *x) {
    fours sum[4];
    for (int i = 0; i < 4; i++) {
        fours parts[BYTES / 16];
        memcpy(parts, &x[i], sizeof parts);
        sum[i] = parts[0];
        for (int p = 1; p < BYTES / 16; p++)
            sum[i] += parts[p];
    }
    fours low = __builtin_shufflevector(sum[0], sum[1], 0, 4, 1, 5) +
                __builtin_shufflevector(sum[0], sum[1], 2, 6, 3, 7);
    fours high = __builtin_shufflevector(sum[2], sum[3], 0, 4, 1, 5) +
                 __builtin_shufflevector(sum[2], sum[3], 2, 6, 3, 7);
    return __builtin_shufflevector(low, high, 0, 1, 4, 5) + __builtin_shufflevector(low, high, 2, 3, 6, 7);
}

/* Scores of `queries` queries with each key of a range, four keys at a time; q is scaled already. */
TARGET INLINE void NAME(score)(const struct key_range *range, const char *k, const float *q, float *scores,
                               int64_t row, int64_t dim, int half, int queries) {
    int64_t size = half ? 2 : 4;
    for (int64_t j = 0; j < range->n; j += 4) {
        NAME(vector) sums[4][4] = {{{0}}};
        const char *key[4];
        for (int i = 0; i < 4; i++)
            key[i] = k + (j + i < range->n ? j + i : range->n - 1) * dim * size;
        for (int64_t d = 0; d < dim; d += LANES)
            for (int i = 0; i < 4; i++) {
                NAME(vector) part = NAME(load)(key[i] + d * size, half);
                for (int f = 0; f < queries; f++)
                    sums[f][i] += NAME(load)(q + f * dim + d, 0) * part;
            }
        int64_t count = range->n - j < 4 ? range->n - j : 4;
        for (int f = 0; f < queries; f++) {
            fours found = NAME(totals)(sums[f]);
            memcpy(scores + f * row + j, &found, count * sizeof(float));
        }
    }
}

/* Adds the values of a range, `parts` vectors of each, with the weights of `queries` queries. */
TARGET INLINE void NAME(add)(const struct key_range *range, const char *v, const float *weights, int64_t row, float *out,
                             int64_t dim, int half, int queries, int parts) {
    int64_t size = half ? 2 : 4;
    NAME(vector) sums[4][4] = {{{0}}};
    for (int64_t j = 0; j < range->n; j++) {
        const char *value = v + j * dim * size;
        NAME(vector) part[4];
        for (int p = 0; p < parts; p++)
            part[p] = NAME(load)(value + p * LANES * size, half);
        for (int f = 0; f < queries; f++) {
            float weight = weights[f * row + j];
            for (int p = 0; p < parts; p++)
                sums[f][p] += weight * part[p];
        }
    }
    for (int f = 0; f < queries; f++)
        for (int p = 0; p < parts; p++)
            for (int l = 0; l < LANES; l++)
                out[f * dim + p * LANES + l] += sums[f][p][l];
}

TARGET static void NAME(scores)(const struct key_range *range, const char *k, const float *q, float *scores, int64_t row,
                                int64_t dim, int half, int queries) {
#define CASE(n) case n: half ? NAME(score)(range, k, q, scores, row, dim, 1, n) : NAME(score)(range, k, q, scores, row, dim, 0, n); break
    switch (queries) { CASE(1); CASE(2); CASE(3); default: CASE(4); }
#undef CASE
}

TARGET static void NAME(values)(const struct key_range *range, const char *v, const float *weights, int64_t row,
                                float *out, int64_t dim, int half, int queries) {
    int64_t size = half ? 2 : 4;
    for (int64_t d = 0; d < dim;) {
        int parts = dim - d >= 4 * LANES ? 4 : dim - d >= 2 * LANES ? 2 : 1;
        const char *from = v + d * size;
        float *to = out + d;
#define CASE(n, p) case n * 8 + p: half ? NAME(add)(range, from, weights, row, to, dim, 1, n, p) : NAME(add)(range, from, weights, row, to, dim, 0, n, p); break
        switch (queries * 8 + parts) {
            CASE(1, 1); CASE(1, 2); CASE(1, 4); CASE(2, 1); CASE(2, 2); CASE(2, 4);
            CASE(3, 1); CASE(3, 2); CASE(3, 4); CASE(4, 1); CASE(4, 2); CASE(4, 4);
        }
#undef CASE
        d += parts * LANES;
    }
}

/* e^(x - most), and their sum. */
TARGET static float NAME(weigh)(float *x, int64_t n, float most) {
    float lanes[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) {
            x[i + l] = exponential(x[i + l] - most);
            lanes[l] += x[i + l];
        }
    for (; i < n; i++) {
        x[i] = exponential(x[i] - most);
        lanes[i & 15] += x[i];
    }
    float sum = 0;
    for (int l = 0; l < 16; l++)
        sum += lanes[l];
    return sum;
}

#undef LANES
