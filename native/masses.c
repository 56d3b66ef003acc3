/* See masses.h. */
#include "masses.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "exponential.h"
#include "floats.h"

#define MOST_TILE 16 /* tokens of the widest tile */

#define KERNELS "masses_kernels.h"
#include "vector_sets.h"

static void (*const BLOCK[])(const struct masses *, int64_t, float *) = {
    block_scalar,
#if defined(__x86_64__)
    block_avx2,
    block_avx512,
    block_avx512,
#endif
};

struct work {
    const struct masses *call;
    float *room;
    int64_t each;
};

static void some_blocks(void *data, int part, int parts) {
    struct work *work = data;
    const struct masses *call = work->call;
    float *room = work->room + part * work->each;
    for (int64_t block = part; block < call->blocks; block += parts)
        BLOCK[call->level](call, block, room);
}

int masses(const struct masses *call) {
    int parts = call->threads < call->blocks ? call->threads : (int)call->blocks;
    struct work work = {.call = call};
    work.each = call->queries * (call->tokens + MOST_TILE + call->dim + 1) + call->dim * MOST_TILE;
    work.room = malloc((size_t)(parts > 0 ? parts : 1) * work.each * sizeof(float));
    if (!work.room)
        return -1;
    in_parallel(some_blocks, &work, parts);
    free(work.room);
    return 0;
}
