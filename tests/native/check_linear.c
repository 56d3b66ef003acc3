/* The kernels of native/linear.c on memory of exactly their size, against sums in double; for sanitizers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "linear.h"

static uint32_t state = 1;

static uint32_t draw(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static float small(void) {
    return (float)(draw() % 2001) / 1000.0f - 1.0f;
}

static float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static uint16_t narrowed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)(bits >> 16);
}

/* A float16 between 2^-8 and 2^-4. */
static uint16_t scale(void) {
    return (uint16_t)(0x1c00 + draw() % 0x1000);
}

static double float16(uint16_t half) {
    return ldexp(1.0 + (half & 1023) / 1024.0, (half >> 10) - 15);
}

static void put(void *to, int64_t at, int half, float x) {
    if (half)
        ((uint16_t *)to)[at] = narrowed(x);
    else
        ((float *)to)[at] = x;
}

static double get(const void *from, int64_t at, int half) {
    return half ? widened(((const uint16_t *)from)[at]) : ((const float *)from)[at];
}

/* Weight [output, input] of panels, by the layout that linear.c describes. */
static double weight_at(const uint8_t *data, enum format format, int64_t inputs, int64_t output, int64_t input) {
    int64_t groups = (inputs + GROUP - 1) / GROUP, group = input / GROUP, lane = output % PANEL;
    const uint8_t *panel = data + output / PANEL * panel_bytes(format, inputs);
    int per = format == Q4 ? 8 : 4, within = (int)(input % GROUP);
    const uint8_t *byte = panel + ((group * (GROUP / per) + within / per) * PANEL + lane) * 4 + within % 4;
    const uint16_t *scales = (const uint16_t *)(panel + groups * (GROUP / per) * 4 * PANEL);
    double step = float16(scales[group * PANEL + lane]);
    if (format == Q8)
        return step * (*byte - 128);
    int code = within % 8 < 4 ? *byte & 15 : *byte >> 4;
    return step * code + float16(scales[(groups + group) * PANEL + lane]);
}

static void *weights(enum format format, int64_t outputs, int64_t inputs) {
    int64_t panels = (outputs + PANEL - 1) / PANEL;
    if (format == BF16 || format == F32) {
        void *made = malloc((size_t)(outputs * inputs * (format == BF16 ? 2 : 4)));
        for (int64_t i = 0; i < outputs * inputs; i++)
            put(made, i, format == BF16, small());
        return made;
    }
    int64_t bytes = panel_bytes(format, inputs), codes = (inputs + GROUP - 1) / GROUP * PANEL * (format == Q4 ? 16 : 32);
    uint8_t *made = calloc((size_t)panels, (size_t)bytes);
    for (int64_t p = 0; p < panels; p++) {
        for (int64_t i = 0; i < codes; i++)
            made[p * bytes + i] = (uint8_t)draw();
        for (int64_t i = codes; i + 1 < bytes; i += 2) {
            uint16_t value = scale();
            memcpy(made + p * bytes + i, &value, 2);
        }
    }
    return made;
}

static int check(const struct linear *call) {
    int plain = call->format == BF16 || call->format == F32;
    for (int64_t r = 0; r < call->rows; r++)
        for (int64_t o = 0; o < call->outputs; o++) {
            double want = call->bias ? get(call->bias, o, call->half) : 0, size = fabs(want);
            for (int64_t i = 0; i < call->inputs; i++) {
                double w = plain ? get(call->weight, o * call->inputs + i, call->format == BF16)
                                 : weight_at(call->weight, call->format, call->inputs, o, i);
                double part = w * get(call->x, r * call->inputs + i, call->half);
                want += part;
                size += fabs(part);
            }
            double got = get(call->out, r * call->outputs + o, call->half);
            if (!(fabs(got - want) <= size * (call->half || call->rounds ? 1.0 / 128 : 1e-5) + 1e-6)) {
                printf("level %d format %d half %d rows %lld outputs %lld inputs %lld: %g, not %g\n", call->level,
                       call->format, call->half, (long long)call->rows, (long long)call->outputs,
                       (long long)call->inputs, got, want);
                return 1;
            }
        }
    return 0;
}

static int check_unpacked(enum format format, int64_t outputs, int64_t inputs, const void *weight, int half,
                          enum level level) {
    int64_t panels = (outputs + PANEL - 1) / PANEL;
    void *out = malloc((size_t)(panels * PANEL * inputs * (half ? 2 : 4)));
    struct unpacking call = {weight, out, panels, inputs, format, half, 1, level};
    unpack(&call);
    int failed = 0;
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < inputs; i++) {
            double want = weight_at(weight, format, inputs, o, i);
            failed |= fabs(get(out, i * panels * PANEL + o, half) - want) > fabs(want) * (half ? 1.0 / 128 : 1e-5) + 1e-6;
        }
    free(out);
    if (failed)
        printf("unpack: level %d format %d half %d differs\n", level, format, half);
    return failed;
}

static int one(enum level level, enum format format, int half, int64_t rows, int64_t outputs, int64_t inputs) {
    size_t item = half ? 2 : 4;
    void *weight = weights(format, outputs, inputs);
    void *x = malloc((size_t)(rows * inputs) * item), *out = malloc((size_t)(rows * outputs) * item);
    void *bias = rows % 2 ? malloc((size_t)outputs * item) : NULL;
    for (int64_t i = 0; i < rows * inputs; i++)
        put(x, i, half, small());
    for (int64_t i = 0; bias && i < outputs; i++)
        put(bias, i, half, small());
    struct linear call = {x, out, weight, bias, rows, outputs, inputs, format, half, 1, level, 0};
    int failed = linear(&call) || check(&call);
    call.rounds = 1;
    failed |= linear(&call) || check(&call);
    if (format == Q4 || format == Q8)
        failed |= check_unpacked(format, outputs, inputs, weight, half, level);
    free(weight), free(x), free(out), free(bias);
    return failed;
}

int main(void) {
    static const int64_t rows[] = {1, 2, 3, 4, 5, 9}, outputs[] = {1, 15, 16, 17, 33}, inputs[] = {1, 31, 32, 33, 100};
    int failed = 0, done = 0;
    for (int level = SCALAR; level <= (int)cpu_level(); level++)
        for (int format = Q4; format <= F32; format++)
            for (int half = 0; half < 2; half++)
                for (int r = 0; r < 6; r++)
                    for (int o = 0; o < 5; o++)
                        for (int i = 0; i < 5; i++, done++)
                            failed += one((enum level)level, (enum format)format, half, rows[r], outputs[o], inputs[i]);
    printf("%d cases, %d failed\n", done, failed);
    return failed != 0;
}
