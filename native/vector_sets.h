/* KERNELS (a file) once for each set of instructions: any processor, AVX2, AVX-512. No guard: each includer has its own. */
#define NAME(x) x##_scalar
#define TARGET
#define BYTES 16
#include KERNELS
#undef NAME
#undef TARGET
#undef BYTES

#if defined(__x86_64__)
#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define BYTES 32
#include KERNELS
#undef NAME
#undef TARGET
#undef BYTES

#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#define BYTES 64
#include KERNELS
#undef NAME
#undef TARGET
#undef BYTES
#endif
