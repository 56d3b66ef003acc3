/* y = x W^T + bias for few rows of x: what one token of an answer needs. */
#pragma once
#include <stdint.h>

enum format { Q4 = 0, Q8 = 1, BF16 = 2, F32 = 3 };
enum level { SCALAR = 0, AVX2 = 1, AVX512 = 2, VNNI = 3 };

#define GROUP 32 /* inputs that share a scale */
#define PANEL 16 /* outputs that lie beside each other in packed weights */

struct linear {
    const void *x;      /* [rows, inputs], float32 or bfloat16 */
    void *out;          /* [rows, outputs], as x */
    const void *weight; /* Q4, Q8: panels (see linear.c); BF16, F32: [outputs, inputs] */
    const void *bias;   /* [outputs], as x; NULL for none */
    int64_t rows, outputs, inputs;
    enum format format;
    int half; /* whether x, out and bias are bfloat16 */
    int threads;
    enum level level;
    int rounds; /* BF16: whether x may be rounded to bfloat16, as the model's own layers round it */
};

/* 0, or -1 where memory is short. */
int linear(const struct linear *call);

/* Bytes of a panel of Q4 or Q8 weights. */
int64_t panel_bytes(enum format format, int64_t inputs);

struct unpacking {
    const void *weight; /* panels of Q4 or Q8 */
    void *out;          /* [inputs, 16 panels], float32 or bfloat16 */
    int64_t panels, inputs;
    enum format format;
    int half, threads;
    enum level level;
};

/* The weights of panels, transposed. */
void unpack(const struct unpacking *call);
