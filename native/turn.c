/* See turn.h. */
#include "turn.h"

#include "clones.h"
#include "floats.h"

/* Numbers of one type: a token's pairs as halves, as neighbours, and all tokens. */
#define HALVES(type, get, put)                                                                                         \
    static CLONES void halves_##type(type *restrict out, const type *restrict x, const float *restrict cos,            \
                                     const float *restrict sin, int64_t pairs) {                                       \
        for (int64_t i = 0; i < pairs; i++) {                                                                          \
            float a = get(x[i]), b = get(x[i + pairs]);                                                                \
            out[i] = put(a * cos[i] - b * sin[i]);                                                                     \
            out[i + pairs] = put(b * cos[i] + a * sin[i]);                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    static CLONES void neighbours_##type(type *restrict out, const type *restrict x, const float *restrict cos,        \
                                         const float *restrict sin, int64_t pairs) {                                   \
        for (int64_t i = 0; i < pairs; i++) {                                                                          \
            float a = get(x[2 * i]), b = get(x[2 * i + 1]);                                                            \
            out[2 * i] = put(a * cos[i] - b * sin[i]);                                                                 \
            out[2 * i + 1] = put(b * cos[i] + a * sin[i]);                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    static void turn_##type(const struct turn *call) {                                                                 \
        int64_t dim = call->dim, start = call->start, end = start + 2 * call->pairs;                                   \
        for (int64_t h = 0; h < call->heads; h++)                                                                      \
            for (int64_t t = 0; t < call->tokens; t++) {                                                               \
                const type *x = (const type *)call->x + h * call->x_head + t * call->x_token;                          \
                type *out = (type *)call->out + (h * call->tokens + t) * dim;                                          \
                const float *cos = call->cos + (call->turns > 1 ? t : 0) * call->pairs;                                \
                const float *sin = call->sin + (call->turns > 1 ? t : 0) * call->pairs;                                \
                memcpy(out, x, (size_t)start * sizeof(type));                                                          \
                (call->interleaved ? neighbours_##type : halves_##type)(out + start, x + start, cos, sin, call->pairs); \
                memcpy(out + end, x + end, (size_t)(dim - end) * sizeof(type));                                        \
            }                                                                                                          \
    }

static inline float wide(uint16_t half) {
    return float_of((int32_t)((uint32_t)half << 16));
}

#define SAME(x) (x)
HALVES(float, SAME, SAME)
HALVES(uint16_t, wide, bfloat16_of)

void turn(const struct turn *call) {
    if (call->half)
        turn_uint16_t(call);
    else
        turn_float(call);
}
