/* One kv head with its query heads, for one set of instructions (attention.c): NAME, TARGET and BYTES are given. */

#define LANES (BYTES / 4)
typedef float NAME(vector) __attribute__((vector_size(BYTES)));
typedef uint32_t NAME(words) __attribute__((vector_size(BYTES)));
typedef uint16_t NAME(shorts) __attribute__((vector_size(BYTES / 2)));

TARGET INLINE NAME(vector) NAME(load)(const void *from, int half) {
    if (half) {
#if BYTES == 64 /* the compiler makes five instructions of the conversion below */
        return (NAME(vector))(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from)), 16));
#endif
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
#if BYTES == 64
    NAME(vector) front = __builtin_shufflevector(x[0], x[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                         __builtin_shufflevector(x[0], x[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    NAME(vector) back = __builtin_shufflevector(x[2], x[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                        __builtin_shufflevector(x[2], x[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    NAME(vector) all = __builtin_shufflevector(front, back, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                       __builtin_shufflevector(front, back, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return __builtin_shufflevector(all, all, 0, 4, 8, 12);
#else
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
#endif
}

/* Scores of `queries` queries with four keys from `j` on; q is scaled already. */
TARGET INLINE void NAME(four)(const char *k, const int64_t *key, const float *q, int64_t dim, int half, int queries,
                              fours *found) {
    int64_t size = half ? 2 : 4;
    NAME(vector) sums[4][4];
    for (int f = 0; f < queries; f++)
        for (int i = 0; i < 4; i++)
            sums[f][i] = (NAME(vector)){0};
    for (int64_t d = 0; d < dim; d += LANES)
        for (int i = 0; i < 4; i++) {
            NAME(vector) part = NAME(load)(k + (key[i] * dim + d) * size, half);
            for (int f = 0; f < queries; f++)
                sums[f][i] += NAME(load)(q + f * dim + d, 0) * part;
        }
    for (int f = 0; f < queries; f++)
        found[f] = NAME(totals)(sums[f]);
}

/* Scores of `queries` queries with each key of a range. */
TARGET INLINE void NAME(score)(const struct key_range *range, const char *k, const float *q, float *scores,
                               int64_t row, int64_t dim, int half, int queries) {
    fours found[4];
    int64_t j = 0;
    for (; j + 4 <= range->n; j += 4) {
        NAME(four)(k, (int64_t[]){j, j + 1, j + 2, j + 3}, q, dim, half, queries, found);
        for (int f = 0; f < queries; f++)
            memcpy(scores + f * row + j, &found[f], sizeof(fours));
    }
    if (j == range->n)
        return;
    int64_t last = range->n - 1;
    int64_t key[4] = {j, j + 1 < last ? j + 1 : last, j + 2 < last ? j + 2 : last, last};
    NAME(four)(k, key, q, dim, half, queries, found);
    for (int f = 0; f < queries; f++)
        memcpy(scores + f * row + j, &found[f], (size_t)(range->n - j) * sizeof(float));
}

/* Adds the values of a range, `parts` vectors of each, with the weights of `queries` queries. */
TARGET INLINE void NAME(add)(const struct key_range *range, const char *v, const float *weights, int64_t row, float *out,
                             int64_t dim, int half, int queries, int parts) {
    int64_t size = half ? 2 : 4;
    NAME(vector) sums[4][4];
    for (int f = 0; f < queries; f++)
        for (int p = 0; p < parts; p++)
            sums[f][p] = (NAME(vector)){0};
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

/* The largest of `n` numbers and `most`. */
TARGET static float NAME(largest)(const float *x, int64_t n, float most) {
    float lanes[16];
    int64_t i = 0;
    for (int l = 0; l < 16; l++)
        lanes[l] = most;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++)
            lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    for (; i < n; i++)
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (int l = 0; l < 16; l++)
        most = lanes[l] > most ? lanes[l] : most;
    return most;
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
