/* See program.h. Loops are plain, so that the compiler makes vectors of them for each set of instructions. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "clones.h"
#include "exponential.h"
#include "program.h"

INLINE float sigmoid(float x) {
    return 1.0f / (1.0f + exponential(-x));
}

INLINE float hyperbolic(float x) {
    return 2.0f * sigmoid(2.0f * x) - 1.0f;
}

INLINE float unary(enum kind kind, float x, float number) {
    switch (kind) {
    case NEG: return -x;
    case EXP: return exponential(x);
    case TANH: return x * x < 1e-4f ? x - x * x * x / 3 : hyperbolic(x);
    case SIGMOID: return sigmoid(x);
    case SILU: return x * sigmoid(x);
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * x * (1.0f + hyperbolic(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case RELU: return x > 0.0f ? x : 0.0f;
    case RSQRT: return 1.0f / sqrtf(x);
    case SQRT: return sqrtf(x);
    case SQUARE: return x * x;
    case POWER: return powf(x, number);
    case SOFTPLUS: return x > 20.0f ? x : log1pf(expf(x));
    default: return x;
    }
}

INLINE float binary(enum kind kind, float x, float y) {
    switch (kind) {
    case ADD: return x + y;
    case SUB: return x - y;
    case MUL: return x * y;
    default: return x / y;
    }
}

/* One innermost row; the strides that vectors can be made of have loops of their own. */
INLINE void unary_row(enum kind kind, int64_t n, float *out, int64_t so, const float *a, int64_t sa, float number) {
    if (so == 1 && sa == 1)
        for (int64_t i = 0; i < n; i++)
            out[i] = unary(kind, a[i], number);
    else
        for (int64_t i = 0; i < n; i++)
            out[i * so] = unary(kind, a[i * sa], number);
}

INLINE void binary_row(enum kind kind, int64_t n, float *out, int64_t so, const float *a, int64_t sa, const float *b,
                       int64_t sb) {
    if (so == 1 && sa == 1 && sb == 1)
        for (int64_t i = 0; i < n; i++)
            out[i] = binary(kind, a[i], b[i]);
    else if (so == 1 && sa == 1 && sb == 0) {
        float y = *b;
        for (int64_t i = 0; i < n; i++)
            out[i] = binary(kind, a[i], y);
    } else
        for (int64_t i = 0; i < n; i++)
            out[i * so] = binary(kind, a[i * sa], b[i * sb]);
}

#define ROWS(op)                                                                                                       \
    for (int64_t i = 0; i < (op)->size[0]; i++)                                                                        \
        for (int64_t j = 0; j < (op)->size[1]; j++)                                                                    \
            for (int64_t k = 0; k < (op)->size[2]; k++)
#define AT(op, x) ((op)->x + i * (op)->x##_stride[0] + j * (op)->x##_stride[1] + k * (op)->x##_stride[2])

INLINE void each_unary(enum kind kind, const struct operation *op) {
    ROWS(op) unary_row(kind, op->size[3], AT(op, out), op->out_stride[3], AT(op, a), op->a_stride[3], (float)op->number);
}

INLINE void each_binary(enum kind kind, const struct operation *op) {
    if (op->b == NULL) {
        float number = (float)op->number;
        ROWS(op) binary_row(kind, op->size[3], AT(op, out), op->out_stride[3], AT(op, a), op->a_stride[3], &number, 0);
    } else
        ROWS(op)
    binary_row(kind, op->size[3], AT(op, out), op->out_stride[3], AT(op, a), op->a_stride[3], AT(op, b),
               op->b_stride[3]);
}

/* Sums of eight lanes each, so that their order does not keep the compiler from vectors. */
INLINE float sum_of(const float *a, int64_t stride, int64_t n, float centre, int squares) {
    float lanes[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) {
            float x = a[(i + l) * stride] - centre;
            lanes[l] += squares ? x * x : x;
        }
    for (; i < n; i++) {
        float x = a[i * stride] - centre;
        lanes[i & 7] += squares ? x * x : x;
    }
    float sum = 0;
    for (int l = 0; l < 8; l++)
        sum += lanes[l];
    return sum;
}

INLINE void norm_row(const struct operation *op, float *out, const float *a) {
    int64_t n = op->size[3];
    int64_t sa = op->a_stride[3];
    float centre = op->kind == LAYER_NORM ? sum_of(a, sa, n, 0, 0) / n : 0.0f;
    float scale = 1.0f / sqrtf(sum_of(a, sa, n, centre, 1) / n + (float)op->number);
    for (int64_t i = 0; i < n; i++) {
        float x = (a[i * sa] - centre) * scale;
        x = op->b ? x * op->b[i] : x;
        out[i * op->out_stride[3]] = op->c ? x + op->c[i] : x;
    }
}

CLONES static void elementwise(const struct operation *op) {
#define UNARY(kind) case kind: each_unary(kind, op); break
#define BINARY(kind) case kind: each_binary(kind, op); break
    switch ((enum kind)op->kind) {
        UNARY(COPY); UNARY(NEG); UNARY(EXP); UNARY(TANH); UNARY(SIGMOID); UNARY(SILU); UNARY(GELU); UNARY(GELU_TANH);
        UNARY(RELU); UNARY(RSQRT); UNARY(SQRT); UNARY(SQUARE); UNARY(POWER); UNARY(SOFTPLUS);
        BINARY(ADD); BINARY(SUB); BINARY(MUL); BINARY(DIV);
    case MEAN:
        ROWS(op) *AT(op, out) = sum_of(AT(op, a), op->a_stride[3], op->size[3], 0, 0) / (float)op->size[3];
        break;
    default: ROWS(op) norm_row(op, AT(op, out), AT(op, a));
    }
}

static void load(const struct operation *op, const void *input) {
    int64_t n = op->size[3];
    if (!op->format) {
        memcpy(op->out, input, n * sizeof(float));
        return;
    }
    const uint16_t *half = input;
    uint32_t *out = (uint32_t *)op->out;
    for (int64_t i = 0; i < n; i++)
        out[i] = (uint32_t)half[i] << 16;
}

/* To the nearest bfloat16, ties to even; what is no number stays none. */
static void store(const struct operation *op) {
    ROWS(op) {
        const float *a = AT(op, a);
        uint16_t *row = (uint16_t *)op->out + i * op->out_stride[0] + j * op->out_stride[1] + k * op->out_stride[2];
        for (int64_t l = 0; l < op->size[3]; l++) {
            uint32_t bits;
            memcpy(&bits, a + l * op->a_stride[3], sizeof bits);
            int none = (bits & 0x7fffffffu) > 0x7f800000u;
            row[l * op->out_stride[3]] = none ? 0x7fc0 : (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
        }
    }
}

/* Where a row has what the first one has at `at`; constants are the same for all. */
static void *of_row(const struct program *run, const void *at, int64_t row) {
    int64_t within = (const char *)at - (const char *)run->room;
    return (char *)at + (within >= 0 && within < run->room_bytes ? row * run->room_bytes : 0);
}

static int linear_rows(const struct program *run, const struct operation *op) {
    int64_t rows = run->rows;
    float *x = NULL;
    float *out = NULL;
    if (rows > 1) {
        x = malloc(rows * (op->inputs + op->outputs) * sizeof(float));
        if (!x)
            return -1;
        out = x + rows * op->inputs;
        for (int64_t r = 0; r < rows; r++)
            memcpy(x + r * op->inputs, of_row(run, op->a, r), op->inputs * sizeof(float));
    }
    struct linear call = {
        .x = x ? x : op->a,
        .out = x ? out : op->out,
        .weight = op->b,
        .bias = op->c,
        .rows = rows,
        .outputs = op->outputs,
        .inputs = op->inputs,
        .format = (enum format)op->format,
        .half = 0,
        .threads = run->threads,
        .level = run->level,
        .rounds = 1,
    };
    int failed = linear(&call);
    for (int64_t r = 0; x && r < rows; r++)
        memcpy(of_row(run, op->out, r), out + r * op->outputs, op->outputs * sizeof(float));
    free(x);
    return failed;
}

int run_program(const struct program *run, const struct operation *ops, int64_t count) {
    for (const struct operation *op = ops; op < ops + count; op++) {
        if (op->kind == LINEAR) {
            if (linear_rows(run, op))
                return -1;
            continue;
        }
        for (int64_t row = 0; row < run->rows; row++) {
            struct operation own = *op;
            own.out = of_row(run, op->out, row);
            own.a = of_row(run, op->a, row);
            own.b = of_row(run, op->b, row);
            own.c = of_row(run, op->c, row);
            if (op->kind == LOAD)
                load(&own, run->inputs[row]);
            else if (op->kind == STORE)
                store(&own);
            else
                elementwise(&own);
        }
    }
    return 0;
}
