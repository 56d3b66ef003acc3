/* A flat list of operations over float32 buffers: what a decoder computes for one token between two attentions. */
#pragma once
#include <stdint.h>

#include "linear.h"

#define DIMS 4

enum kind {
    COPY = 0, /* out = a */
    NEG, EXP, TANH, SIGMOID, SILU, GELU, GELU_TANH, RELU, RSQRT, SQRT, SQUARE, POWER, SOFTPLUS,
    ADD = 32, SUB, MUL, DIV, /* out = a . b, or a . number without b */
    MEAN = 48, /* over the last dimension, which out has as 1 */
    RMS_NORM,  /* rows of n[3] numbers: a / sqrt(mean(a a) + number) * b */
    LAYER_NORM,
    LINEAR = 64,
    LOAD,  /* out = what the caller hands over, float32 or (half) bfloat16, contiguous */
    STORE, /* out (bfloat16, contiguous) = a */
    KINDS
};

/* Dimensions of size 1 are in front; strides count numbers, 0 where a dimension is broadcast. */
struct operation {
    int64_t kind;
    int64_t size[DIMS];
    float *out;
    int64_t out_stride[DIMS];
    const float *a;
    int64_t a_stride[DIMS];
    const float *b; /* NULL: `number` in its place */
    int64_t b_stride[DIMS];
    const float *c; /* LAYER_NORM: what is added; LINEAR: the bias */
    double number;
    int64_t format, outputs, inputs; /* LINEAR, weights in b; LOAD: format 1 is bfloat16 */
    int64_t spare[3];
};

/* Rows are run at once, each in a room of its own behind the first one, which the operations name. */
struct program {
    int64_t rows;
    const void *room;
    int64_t room_bytes;        /* of one row */
    const void *const *inputs; /* what LOAD reads, for each row */
    int threads;
    enum level level;
};

/* Runs `count` operations; 0, or -1 where memory is short. */
int run_program(const struct program *run, const struct operation *ops, int64_t count);
