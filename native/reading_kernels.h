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

/* `n` keys as columns of a tile, zeros behind them, and as many values as rows, up to a multiple of 32. */
TARGET static void NAME(pack)(const char *k, const char *v, int64_t n, int64_t dim, int half, uint32_t *keys,
                              uint32_t *values) {
    int64_t whole = (n + 31) / 32 * 32;
#if PAIRED
    int64_t units = dim / 2;
    for (int64_t j = 0; j < whole; j += 2) {
        const uint16_t *one = (const uint16_t *)v + j * dim;
        uint32_t *to = values + j / 2 * dim;
        if (j + 1 < n)
            for (int64_t d = 0; d < dim; d++)
                to[d] = one[d] | (uint32_t)one[dim + d] << 16;
        else
            for (int64_t d = 0; d < dim; d++)
                to[d] = j < n ? one[d] : 0;
    }
#else
    int64_t units = dim;
    for (int64_t at = 0; at < whole * dim; at++)
        ((float *)values)[at] = at >= n * dim ? 0 : half ? bfloat16_at(v + 2 * at) : float_at(v + 4 * at);
#endif
    if (n < TILE)
        memset(keys, 0, units * TILE * sizeof(uint32_t));
    /* One line of each key at a time: the lines written to are a whole row of the tile apart. */
    for (int64_t from = 0; from < units; from += 16)
        for (int64_t j = 0; j < n; j++)
            for (int64_t d = from; d < from + 16 && d < units; d++) {
                uint32_t unit;
                if (PAIRED || !half)
                    memcpy(&unit, k + (j * units + d) * 4, 4);
                else
                    unit = (uint32_t)((const uint16_t *)k)[j * units + d] << 16;
                keys[d * TILE + j] = unit;
            }
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

#if BYTES == 64
/* 2^x, 0 for -inf: 2^n by the exponent times a polynomial of x - n, to 2e-9, or to 3e-6 where bfloat16 takes it up. */
TARGET INLINE __m512 NAME(power)(__m512 x) {
#if PAIRED
    static const float terms[] = {9.582852866e-3f, 5.590642492e-2f, 2.402409862e-1f, 6.931241934e-1f, 1.0f};
#else
    static const float terms[] = {1.535336188319500e-4f, 1.339887440266574e-3f, 9.618437357674640e-3f,
                                  5.550332471162809e-2f, 2.402264791363012e-1f, 6.931472028550421e-1f, 1.0f};
#endif
    __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT);
    __m512 p = _mm512_set1_ps(terms[0]);
    for (unsigned i = 1; i < sizeof terms / sizeof *terms; i++)
        p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(p, _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT));
}
#endif

/* One row of scores, `columns` of them (a multiple of 32): 2^(x * unit - most) as units of the product with values; their
   sum. A score of -inf gets 0. */
TARGET static float NAME(weigh)(const float *x, int64_t columns, float unit, float most, uint32_t *to) {
#if BYTES == 64
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0; i < columns; i += 32) {
        __m512 w[2];
        for (int half = 0; half < 2; half++) {
            __m512 power = _mm512_fmsub_ps(_mm512_loadu_ps(x + i + 16 * half), _mm512_set1_ps(unit), _mm512_set1_ps(most));
            w[half] = NAME(power)(power);
            sums[half] = _mm512_add_ps(sums[half], w[half]);
        }
#if PAIRED
        __m512bh pairs = _mm512_cvtne2ps_pbh(w[1], w[0]);
        memcpy(to + i / 2, &pairs, sizeof pairs);
#else
        memcpy(to + i, w, sizeof w);
#endif
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
#else
    float lanes[16] = {0};
    float *weights = (float *)to;
    for (int64_t i = 0; i < columns; i += 16)
        for (int l = 0; l < 16; l++) {
            weights[i + l] = power_of_two(x[i + l] * unit - most);
            lanes[l] += weights[i + l];
        }
    float sum = 0;
    for (int l = 0; l < 16; l++)
        sum += lanes[l];
    return sum;
#endif
}

TARGET static float NAME(largest)(const float *x, int64_t columns) {
#if BYTES == 64
    __m512 most[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
    for (int64_t i = 32; i < columns; i += 32)
        for (int half = 0; half < 2; half++)
            most[half] = _mm512_max_ps(most[half], _mm512_loadu_ps(x + i + 16 * half));
    return _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1]));
#else
    float lanes[16];
    memcpy(lanes, x, sizeof lanes);
    for (int64_t i = 16; i < columns; i += 16)
        for (int l = 0; l < 16; l++)
            lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    float most = lanes[0];
    for (int l = 1; l < 16; l++)
        most = lanes[l] > most ? lanes[l] : most;
    return most;
#endif
}

TARGET static void NAME(scale)(float *x, int64_t n, float by) {
    for (int64_t i = 0; i < n; i++)
        x[i] *= by;
}

/* `n` sums (a multiple of 16) times `share`, as float32 or bfloat16. */
TARGET static void NAME(finish)(const float *x, int64_t n, float share, int half, char *to) {
#if PAIRED
    for (int64_t i = 0; i < n; i += 16) {
        __m256bh part = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(share)));
        memcpy(to + 2 * i, &part, sizeof part);
    }
#else
    if (half)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)to)[i] = bfloat16_of(x[i] * share);
    else
        for (int64_t i = 0; i < n; i++)
            ((float *)to)[i] = x[i] * share;
#endif
}

#undef LANES
#undef PRODUCT
