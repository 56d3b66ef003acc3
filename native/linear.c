/* y = x W^T + bias for few rows, which reads the weights once and is as fast as memory.

   Packed weights are panels of 16 outputs (the last one filled with zeros), a panel being
     codes   [groups][chunks][16 outputs][4 bytes]: Q8 has 4 inputs in a chunk, as value + 128;
             Q4 has 8, the first four in the lower halves of the bytes, the others in the upper
     scales  [groups][16] float16
     minima  [groups][16] float16, Q4 alone: weight = scale * code + minimum
   and zeros up to a multiple of 64 bytes. A group is 32 inputs. */
#include "linear.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "floats.h"

#define ROWS 4 /* rows of x that one pass over a panel serves */

struct scaled { /* a group of a row of x */
    float scale, sum;
    int32_t offset[3];
};

struct rows { /* x as digits: [rows][groups][planes][GROUP] */
    int8_t *digits;
    struct scaled *scaled;
    int64_t groups;
    int planes;
};

#include "linear_sets.h"

#include "linear_bf16.h"

typedef void (*quantise_fn)(const float *, int64_t, const struct rows *);
typedef void (*panel_fn)(int, int, const struct rows *, int64_t, const uint8_t *, float (*)[PANEL]);
typedef void (*plain_fn)(int, int, const float *, int64_t, const uint8_t *, int, float (*)[PANEL]);
typedef void (*unpack_fn)(int, int, const uint8_t *, int64_t, int64_t, uint8_t *);

static const struct kernels {
    quantise_fn quantise;
    panel_fn panel;
    plain_fn plain;
    unpack_fn unpack;
} kernels[] = {
    [SCALAR] = {quantise_scalar, panel_scalar, plain_panel_scalar, unpack_panel_scalar},
#if defined(__x86_64__)
    [AVX2] = {quantise_avx2, panel_avx2, plain_panel_avx2, unpack_panel_avx2},
    [AVX512] = {quantise_avx512, panel_avx512, plain_panel_avx512, unpack_panel_avx512},
    [VNNI] = {quantise_vnni, panel_vnni, plain_panel_vnni, unpack_panel_vnni},
#endif
};

struct work {
    const struct linear *call;
    const struct kernels *kernels;
    struct rows rows;
    float *x; /* plain weights: rows of float32, in bfloat16's case the even inputs, then the odd ones */
    int64_t x_row;
    const uint16_t *halves; /* BF16 where the processor multiplies it: rows of x, [rows][inputs]; else NULL */
};

int64_t panel_bytes(enum format format, int64_t inputs) {
    int64_t groups = (inputs + GROUP - 1) / GROUP;
    int64_t bytes = groups * PANEL * (format == Q4 ? GROUP / 2 + 4 : GROUP + 2);
    return (bytes + 63) / 64 * 64;
}

static void store(const struct linear *call, int64_t row, int64_t first, int count, const float *values) {
    int64_t at = row * call->outputs + first;
    for (int o = 0; o < count; o++) {
        if (call->half) {
            float bias = call->bias ? bfloat16_at((const uint16_t *)call->bias + first + o) : 0;
            ((uint16_t *)call->out)[at + o] = bfloat16_of(values[o] + bias);
        } else {
            float bias = call->bias ? ((const float *)call->bias)[first + o] : 0;
            ((float *)call->out)[at + o] = values[o] + bias;
        }
    }
}

/* The panels of one thread, each for all rows. */
static void part(void *data, int number, int parts) {
    const struct work *work = data;
    const struct linear *call = work->call;
    int64_t panels = (call->outputs + PANEL - 1) / PANEL;
    int packed = call->format == Q4 || call->format == Q8;
    int64_t stride = packed ? panel_bytes(call->format, call->inputs)
                            : PANEL * call->inputs * (call->format == BF16 ? 2 : 4);
    float out[ROWS][PANEL];
    for (int64_t p = panels * number / parts; p < panels * (number + 1) / parts; p++) {
        const uint8_t *weight = (const uint8_t *)call->weight + p * stride;
        int64_t left = call->outputs - p * PANEL;
        int outputs = left < PANEL ? (int)left : PANEL;
        for (int64_t row = 0; row < call->rows; row += ROWS) {
            int count = call->rows - row < ROWS ? (int)(call->rows - row) : ROWS;
            if (packed)
                work->kernels->panel(call->format == Q8, count, &work->rows, row, weight, out);
            else if (work->halves)
                panel_bf16(count, work->halves + row * call->inputs, call->inputs, (const uint16_t *)weight, outputs, out);
            else
                work->kernels->plain(call->format == BF16, count, work->x + row * work->x_row, call->inputs, weight,
                                     outputs, out);
            for (int r = 0; r < count; r++)
                store(call, row + r, p * PANEL, outputs, out[r]);
        }
    }
}

static void widen(const struct linear *call, int64_t row, float *to) {
    const uint8_t *from = (const uint8_t *)call->x + row * call->inputs * (call->half ? 2 : 4);
    for (int64_t i = 0; i < call->inputs; i++)
        to[i] = call->half ? bfloat16_at(from + 2 * i) : float_at(from + 4 * i);
}

static void deal(float *row, float *spare, int64_t inputs) {
    int64_t odd = (inputs + 1) / 2;
    memcpy(spare, row, sizeof(float) * (size_t)inputs);
    for (int64_t i = 0; i < inputs; i++)
        row[(i % 2) * odd + i / 2] = spare[i];
}

static void run_packed(struct work *work, float *spare) {
    const struct linear *call = work->call;
    struct rows *rows = &work->rows;
    for (int64_t r = 0; r < call->rows; r++) {
        struct rows one = *rows;
        one.digits += r * rows->groups * rows->planes * GROUP;
        one.scaled += r * rows->groups;
        widen(call, r, spare);
        work->kernels->quantise(spare, call->inputs, &one);
    }
    in_parallel(part, work, call->threads);
}

static void run_plain(struct work *work, float *spare) {
    const struct linear *call = work->call;
    if (call->format == BF16 && (call->half || call->rounds) && multiplies_bf16(call->level)) {
        uint16_t *rounded = (uint16_t *)work->x;
        for (int64_t r = 0; r < call->rows && !call->half; r++)
            round_row((const float *)call->x + r * call->inputs, call->inputs, rounded + r * call->inputs);
        work->halves = call->half ? call->x : rounded;
        in_parallel(part, work, call->threads);
        return;
    }
    for (int64_t r = 0; r < call->rows; r++) {
        widen(call, r, work->x + r * work->x_row);
        if (call->format == BF16)
            deal(work->x + r * work->x_row, spare, call->inputs);
    }
    in_parallel(part, work, call->threads);
}

int linear(const struct linear *call) {
    int packed = call->format == Q4 || call->format == Q8;
    int64_t groups = (call->inputs + GROUP - 1) / GROUP;
    struct work work = {.call = call, .kernels = &kernels[call->level], .x_row = (call->inputs + 1) / 2 * 2};
    if (call->format == F32)
        work.x_row = call->inputs;
    work.rows.groups = groups;
    work.rows.planes = call->half ? 2 : 3;
    size_t spare = sizeof(float) * (size_t)(groups * GROUP);
    size_t count = (size_t)(call->rows * groups);
    size_t digits = count * (size_t)work.rows.planes * GROUP;
    size_t rest = packed ? digits + count * sizeof(struct scaled)
                         : sizeof(float) * (size_t)(call->rows * work.x_row);
    uint8_t *memory = malloc(spare + rest);
    if (!memory)
        return -1;
    if (packed) {
        work.rows.scaled = (struct scaled *)(memory + spare);
        work.rows.digits = (int8_t *)(work.rows.scaled + count);
        run_packed(&work, (float *)memory);
    } else {
        work.x = (float *)(memory + spare);
        run_plain(&work, (float *)memory);
    }
    free(memory);
    return 0;
}

static void unpack_part(void *data, int number, int parts) {
    const struct unpacking *call = data;
    int64_t stride = panel_bytes(call->format, call->inputs);
    for (int64_t p = call->panels * number / parts; p < call->panels * (number + 1) / parts; p++)
        kernels[call->level].unpack(call->format == Q8, call->half, (const uint8_t *)call->weight + p * stride,
                                    call->inputs, call->panels * PANEL,
                                    (uint8_t *)call->out + p * PANEL * (call->half ? 2 : 4));
}

void unpack(const struct unpacking *call) {
    in_parallel(unpack_part, (void *)call, call->threads);
}
