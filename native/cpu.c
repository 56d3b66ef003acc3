#define _GNU_SOURCE
#include "cpu.h"

#include <dlfcn.h>
#include <stddef.h>

enum level cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return SCALAR;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return AVX2;
    return __builtin_cpu_supports("avx512vnni") ? VNNI : AVX512;
#else
    return SCALAR;
#endif
}

/* torch has its OpenMP loaded: a second one would keep threads of its own, so this one is looked up and not linked. */
typedef void (*parallel_fn)(void (*)(void *), void *, unsigned, unsigned);
typedef int (*number_fn)(void);

struct team {
    void (*work)(void *, int, int);
    void *data;
    number_fn number, size;
};

static void member(void *given) {
    struct team *team = given;
    team->work(team->data, team->number(), team->size());
}

void in_parallel(void (*work)(void *, int, int), void *data, int parts) {
    if (parts > 1) {
        parallel_fn parallel = (parallel_fn)dlsym(RTLD_DEFAULT, "GOMP_parallel");
        struct team team = {work, data, (number_fn)dlsym(RTLD_DEFAULT, "omp_get_thread_num"),
                            (number_fn)dlsym(RTLD_DEFAULT, "omp_get_num_threads")};
        if (parallel && team.number && team.size) {
            parallel(member, &team, (unsigned)parts, 0);
            return;
        }
    }
    work(data, 0, 1);
}
