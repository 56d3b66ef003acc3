/* One block with all queries, for one set of instructions (masses.c): NAME, TARGET and BYTES are given. */

#define LANES (BYTES / 4)
#define TILE LANES   /* more vectors of tokens at once: the compiler keeps the sums in memory, and it takes twice as long */
#define TOGETHER 4 /* queries */
typedef float NAME(vector) __attribute__((vector_size(BYTES)));

/* Codes of `n` <= TILE tokens as [dim][TILE] floats, so that each lane is a token. */
TARGET INLINE void NAME(turn)(const uint8_t *codes, int64_t n, int64_t dim, float *turned) {
    uint32_t words[TILE] = {0};
    for (int64_t d = 0; d < dim; d += 4, turned += 4 * TILE) {
        for (int64_t j = 0; j < n; j++)
            memcpy(&words[j], codes + j * dim + d, 4);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < TILE; j++)
                turned[i * TILE + j] = (float)(int32_t)(words[j] >> (8 * i) & 255);
    }
}

/* Scores of `queries` queries with the tokens of a tile; `row` numbers of scores to each query. */
TARGET INLINE void NAME(tile)(const float *turned, const float *q, const float *offset, int64_t dim, int queries,
                              float *scores, int64_t row) {
    NAME(vector) sums[TOGETHER];
    for (int f = 0; f < queries; f++)
        sums[f] = offset[f] - (NAME(vector)){0};
    for (int64_t d = 0; d < dim; d++) {
        NAME(vector) part;
        memcpy(&part, turned + d * TILE, sizeof part);
        for (int f = 0; f < queries; f++)
            sums[f] += q[f * dim + d] * part;
    }
    for (int f = 0; f < queries; f++)
        memcpy(scores + f * row, &sums[f], sizeof sums[f]);
}

/* log(sum of e^x) over `n` numbers. */
TARGET INLINE float NAME(log_sum)(const float *x, int64_t n) {
    float most = -INFINITY;
    float lanes[16];
    int64_t whole = n / 16 * 16;
    for (int l = 0; l < 16; l++)
        lanes[l] = most;
    for (int64_t i = 0; i < whole; i += 16)
        for (int l = 0; l < 16; l++)
            lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    for (int l = 0; l < 16; l++)
        most = lanes[l] > most ? lanes[l] : most;
    for (int64_t i = whole; i < n; i++)
        most = x[i] > most ? x[i] : most;
    if (n < 1)
        return most;
    memset(lanes, 0, sizeof lanes);
    for (int64_t i = 0; i < whole; i += 16)
        for (int l = 0; l < 16; l++)
            lanes[l] += exponential(x[i + l] - most);
    for (int64_t i = whole; i < n; i++)
        lanes[i - whole] += exponential(x[i] - most);
    float sum = 0;
    for (int l = 0; l < 16; l++)
        sum += lanes[l];
    return most + logf(sum);
}

/* float16 as float32. */
TARGET INLINE void NAME(widen)(const uint8_t *from, int64_t dim, uint16_t *halves, float *to) {
    memcpy(halves, from, 2 * dim);
    for (int64_t d = 0; d < dim; d++)
        to[d] = float16_of(halves[d]);
}

/* The scale goes into the queries and the offset into a number for each, so that no key is made. */
TARGET INLINE void NAME(weigh)(const struct masses *call, const float *scale, const float *low, float *q, float *offset) {
    const int64_t dim = call->dim;
    const int64_t whole = dim / 16 * 16;
    for (int64_t f = 0; f < call->queries; f++) {
        const float *from = call->q + f * dim;
        float lanes[16] = {0};
        for (int64_t d = 0; d < whole; d += 16)
            for (int l = 0; l < 16; l++)
                lanes[l] += from[d + l] * low[d + l];
        for (int64_t d = whole; d < dim; d++)
            lanes[d - whole] += from[d] * low[d];
        for (int64_t d = 0; d < dim; d++)
            q[f * dim + d] = from[d] * scale[d];
        float sum = 0;
        for (int l = 0; l < 16; l++)
            sum += lanes[l];
        offset[f] = sum;
    }
}

TARGET static void NAME(block)(const struct masses *call, int64_t block, float *room) {
    const int64_t dim = call->dim;
    const int64_t row = (call->tokens + TILE - 1) / TILE * TILE;
    const int64_t n = call->lengths ? call->lengths[block] : call->tokens;
    float *scores = room;
    float *q = scores + call->queries * row;
    float *offset = q + call->queries * dim;
    float *turned = offset + call->queries;
    float *scale = turned;
    float *low = scale + dim;
    NAME(widen)(call->scale + block * call->scale_stride, dim, (uint16_t *)(low + dim), scale);
    NAME(widen)(call->low + block * call->scale_stride, dim, (uint16_t *)(low + dim), low);
    NAME(weigh)(call, scale, low, q, offset);
    const uint8_t *codes = call->codes + block * call->codes_stride;
    for (int64_t j = 0; j < n; j += TILE) {
        NAME(turn)(codes + j * dim, n - j < TILE ? n - j : TILE, dim, turned);
        int64_t f = 0;
        for (; f + TOGETHER <= call->queries; f += TOGETHER)
            NAME(tile)(turned, q + f * dim, offset + f, dim, TOGETHER, scores + f * row + j, row);
        for (; f < call->queries; f++)
            NAME(tile)(turned, q + f * dim, offset + f, dim, 1, scores + f * row + j, row);
    }
    for (int64_t f = 0; f < call->queries; f++)
        call->out[block * call->queries + f] = NAME(log_sum)(scores + f * row, n);
}

#undef LANES
#undef TOGETHER
#undef TILE
