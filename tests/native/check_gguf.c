/* The blocks of native/gguf.c in memory of exactly their size, and weights against codes with scales; for sanitizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

#define COUNT 5

static const struct {
    int kind, weights, bytes, group;
} KINDS[] = {
    {GGUF_Q4_0, 32, 18, 32},   {GGUF_Q4_1, 32, 20, 32},   {GGUF_Q5_0, 32, 22, 32},    {GGUF_Q5_1, 32, 24, 32},
    {GGUF_Q8_0, 32, 34, 32},   {GGUF_Q4_K, 256, 144, 32}, {GGUF_Q5_K, 256, 176, 32},  {GGUF_Q6_K, 256, 210, 16},
    {GGUF_IQ4_NL, 32, 18, 32}, {GGUF_IQ4_XS, 256, 136, 32},
};

int main(void) {
    int checks = 0, failed = 0;
    for (size_t k = 0; k < sizeof KINDS / sizeof *KINDS; k++) {
        int numbers = KINDS[k].weights * COUNT, groups = numbers / KINDS[k].group;
        uint8_t *blocks = malloc((size_t)(KINDS[k].bytes * COUNT));
        float *weights = malloc(sizeof(float) * (size_t)numbers);
        uint16_t *half = malloc(sizeof(uint16_t) * (size_t)numbers);
        int8_t *codes = malloc((size_t)numbers);
        float *scales = malloc(sizeof(float) * (size_t)groups), *minima = malloc(sizeof(float) * (size_t)groups);
        for (int i = 0; i < KINDS[k].bytes * COUNT; i++)
            blocks[i] = (uint8_t)(rand() % 60); /* scales are finite */
        gguf_weights(blocks, COUNT, KINDS[k].kind, 0, weights);
        gguf_weights(blocks, COUNT, KINDS[k].kind, 1, half);
        gguf_codes(blocks, COUNT, KINDS[k].kind, codes, scales, minima);
        for (int i = 0; i < numbers; i++) {
            int g = i / KINDS[k].group;
            double want = (double)scales[g] * codes[i] + minima[g], size = want < 0 ? -want : want;
            double error = weights[i] - want, most = 1e-6 * (size + (minima[g] < 0 ? -minima[g] : minima[g])) + 1e-30;
            uint32_t bits;
            memcpy(&bits, &weights[i], 4);
            int near = (int)half[i] - (int)(bits >> 16);
            failed += error > most || -error > most || near < 0 || near > 1;
            checks++;
        }
        free(blocks), free(weights), free(half), free(codes), free(scales), free(minima);
    }
    failed += gguf_known(-1) || gguf_known(0) || gguf_known(24) || gguf_known(1 << 20) || !gguf_known(GGUF_Q4_0);
    printf("%d checks, %d failed\n", checks, failed);
    return failed != 0;
}
