/* float32, bfloat16 and float16, one by one. */
#pragma once
#include <stdint.h>
#include <string.h>

static inline int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline float float_at(const void *from) {
    float x;
    memcpy(&x, from, 4);
    return x;
}

static inline float bfloat16_at(const void *from) {
    uint16_t half;
    memcpy(&half, from, 2);
    return float_of((int32_t)((uint32_t)half << 16));
}

static inline uint16_t bfloat16_of(float x) {
    uint32_t bits = (uint32_t)bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float float16_of(uint16_t half) {
    uint32_t magnitude = half & 0x7fff;
    float x = float_of((int32_t)(magnitude << 13)) * 0x1p112f;
    if (magnitude >= 0x7c00)
        x = float_of((int32_t)(magnitude << 13 | 0x7f800000));
    return half & 0x8000 ? -x : x;
}

/* The nearest float16, ties to even. */
static inline uint16_t float16_from(float x) {
    uint32_t bits = (uint32_t)bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520 */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) /* below 2**-14: steps of 2**-24, which are those of floats from .5 to 1 */
        return (uint16_t)(sign | (uint32_t)(bits_of(float_of((int32_t)magnitude) + .5f) - 0x3f000000));
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}
