/* One tile of keys for a block of queries, for one set of instructions (reading.c).

   NAME, TARGET and BYTES are given; with PAIRED two bfloat16 numbers are one unit of a product, else one float32 is. */

#define LANES (BYTES / 4)
typedef float NAME(vector) __attribute__((vector_size(BYTES)));

TARGET INLINE NAME(vector) NAME(at)(const void *from) {
    NAME(vector) x;
    memcpy(&x, from, sizeof x);
    return x;
}

TARGET INLINE NAME(vector) NAME(all)(const uint32_t *unit) {
    float x;
    memcpy(&x, unit, sizeof x);
    return x - (NAME(vector)){0};
}

#if PAIRED
#define PRODUCT(sum, unit, with)                                                                                       \
    (NAME(vector)) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32((int)*(unit)), (__m512bh)NAME(at)(with))
#else
#define PRODUCT(sum, unit, with) (sum) + NAME(all)(unit) * NAME(at)(with)
#endif

/* out[row][column] (+)= the products of `units` units: rows of a, columns of b in `width` vectors. */
TARGET INLINE void NAME(block)(const uint32_t *a, int64_t a_row, const uint32_t *b, int64_t b_unit, float *out,
                               int64_t out_row, int64_t units, int rows, int width, int adds) {
    NAME(vector) sums[ROWS][WIDTH];
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < width; w++)
            sums[r][w] = adds ? NAME(at)(out + r * out_row + w * LANES) : (NAME(vector)){0};
    for (int64_t u = 0; u < units; u++)
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < width; w++)
                sums[r][w] = PRODUCT(sums[r][w], a + r * a_row + u, b + u * b_unit + w * LANES);
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < width; w++)
            memcpy(out + r * out_row + w * LANES, &sums[r][w], BYTES);
}

TARGET static void NAME(product)(const uint32_t *a, int64_t a_row, const uint32_t *b, int64_t b_unit, float *out,
                                 int64_t out_row, int64_t units, int rows, int64_t columns, int adds) {
    int64_t at = 0;
#define CASE(n, w) case n: NAME(block)(a, a_row, b + at, b_unit, out + at, out_row, units, n, w, adds); break
    for (; at + WIDTH * LANES <= columns; at += WIDTH * LANES)
        switch (rows) { CASE(1, WIDTH); CASE(2, WIDTH); CASE(3, WIDTH); CASE(4, WIDTH); CASE(5, WIDTH); CASE(6, WIDTH); }
    for (; at < columns; at += LANES)
        switch (rows) { CASE(1, 1); CASE(2, 1); CASE(3, 1); CASE(4, 1); CASE(5, 1); CASE(6, 1); }
#undef CASE
}

/* One row of scores to weights: x = 2^(x * unit - most) between first and end, 0 elsewhere; their sum. */
TARGET static float NAME(weigh)(float *x, int64_t first, int64_t end, int64_t columns, float unit, float most) {
    float lanes[16] = {0};
    memset(x, 0, first * sizeof(float));
    int64_t i = first;
    for (; i + 16 <= end; i += 16)
        for (int l = 0; l < 16; l++) {
            x[i + l] = power_of_two(x[i + l] * unit - most);
            lanes[l] += x[i + l];
        }
    for (; i < end; i++) {
        x[i] = power_of_two(x[i] * unit - most);
        lanes[i & 15] += x[i];
    }
    memset(x + end, 0, (columns - end) * sizeof(float));
    float sum = 0;
    for (int l = 0; l < 16; l++)
        sum += lanes[l];
    return sum;
}

TARGET static float NAME(largest)(const float *x, int64_t n) {
    float lanes[16];
    for (int l = 0; l < 16; l++)
        lanes[l] = -INFINITY;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++)
            lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    for (; i < n; i++)
        lanes[i & 15] = x[i] > lanes[i & 15] ? x[i] : lanes[i & 15];
    float most = -INFINITY;
    for (int l = 0; l < 16; l++)
        most = lanes[l] > most ? lanes[l] : most;
    return most;
}

TARGET static void NAME(scale)(float *x, int64_t n, float by) {
    for (int64_t i = 0; i < n; i++)
        x[i] *= by;
}

/* Weights as units of the product with values. */
TARGET static void NAME(units)(const float *x, int64_t n, uint32_t *to) {
#if PAIRED
    for (int64_t i = 0; i < n; i += 32) {
        __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)NAME(at)(x + i + 16), (__m512)NAME(at)(x + i));
        memcpy(to + i / 2, &pairs, sizeof pairs);
    }
#else
    memcpy(to, x, n * sizeof(float));
#endif
}

#undef LANES
#undef PRODUCT
