/* The kernels of linear.c for one set of instructions, which includes this once for each, with

   NAME(x)               x with the set's suffix
   TARGET                the attribute that allows its instructions
   BYTES                 of a register
   NAME(dot4)(s, c, x)   s + products of each lane's four codes 0..15 with x, int8[4] for all lanes and -64..64; a group
                         of them may be summed in 16 bits, which NAME(whole4)(s) then adds up to 32
   NAME(dot8)(s, c, x)   s + four products for each lane in 32 bits, codes 0..255
   NAME(halves)(p)       LANES float16 at p as float32 */

#define LANES (BYTES / 4)
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE NAME(floats) NAME(load)(const void *from) {
    NAME(floats) found;
    __builtin_memcpy(&found, from, BYTES);
    return found;
}

INLINE NAME(words) NAME(load_words)(const void *from) {
    NAME(words) found;
    __builtin_memcpy(&found, from, BYTES);
    return found;
}

INLINE NAME(floats) NAME(all)(float x) {
    return x - (NAME(floats)){0};
}

/* One group of one row as `planes` digits of -64..64 with a common scale. */
TARGET static void NAME(quantise_group)(const float *x, int planes, int8_t *digits, struct scaled *to) {
    int32_t largest = 0;
    for (int i = 0; i < GROUP; i++) {
        int32_t bits = bits_of(x[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float most = float_of(largest);
    float top = planes == 3 ? 64.0f * 128 * 128 : 64.0f * 128;
    int finite = most <= 3.4e38f;
    float inverse = most > 1e-30f && finite ? top / most : 0;
    int32_t sums[3] = {0, 0, 0};
    for (int i = 0; i < GROUP; i++) {
        float scaled = finite ? x[i] * inverse : 0;
        int32_t whole = (int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
        int32_t high = planes == 3 ? (whole + 8192) >> 14 : 0;
        int32_t rest = whole - high * 16384;
        int32_t middle = (rest + 64) >> 7;
        int32_t low = rest - middle * 128;
        digits[i] = (int8_t)low;
        digits[GROUP + i] = (int8_t)middle;
        if (planes == 3)
            digits[2 * GROUP + i] = (int8_t)high;
        sums[0] += low;
        sums[1] += middle;
        sums[2] += high;
    }
    to->scale = finite ? most / top : __builtin_nanf("");
    to->sum = to->scale * ((float)sums[2] * 16384 + (float)sums[1] * 128 + (float)sums[0]);
    for (int p = 0; p < 3; p++)
        to->offset[p] = -128 * sums[p];
}

TARGET static void NAME(quantise)(const float *x, int64_t inputs, const struct rows *to) {
    int64_t groups = (inputs + GROUP - 1) / GROUP;
    for (int64_t g = 0; g < groups; g++) {
        float part[GROUP] = {0};
        int64_t left = inputs - g * GROUP;
        __builtin_memcpy(part, x + g * GROUP, sizeof(float) * (size_t)(left < GROUP ? left : GROUP));
        NAME(quantise_group)(part, to->planes, to->digits + g * to->planes * GROUP, to->scaled + g);
    }
}

/* LANES outputs of a panel for `count` rows, added up over all groups. */
INLINE void NAME(lanes)(const int q8, const int planes, const int count, const struct rows *rows, int64_t row,
                        const uint8_t *panel, int lane, float (*out)[PANEL]) {
    const int chunks = q8 ? GROUP / 4 : GROUP / 8;
    const int group_bytes = PANEL * (q8 ? GROUP + 2 : GROUP / 2 + 4);
    const int64_t groups = rows->groups;
    const uint16_t *scales = (const uint16_t *)(panel + groups * chunks * 4 * PANEL) + lane;
    NAME(floats) total[ROWS];
    for (int r = 0; r < count; r++)
        total[r] = NAME(all)(0);
    for (int64_t g = 0; g < groups; g++) {
        NAME(ints) sums[ROWS][3];
        /* As many bytes for each group as it has in all, so that scales are asked for as well. */
        for (int b = 0; lane == 0 && b < group_bytes; b += 64)
            ahead(panel + g * group_bytes + b);
        const int8_t *digits[ROWS];
        const struct scaled *scaled[ROWS];
        for (int r = 0; r < count; r++) {
            digits[r] = rows->digits + ((row + r) * groups + g) * planes * GROUP;
            scaled[r] = rows->scaled + (row + r) * groups + g;
            for (int p = 0; p < planes; p++)
                sums[r][p] = (NAME(ints)){0} + (q8 ? scaled[r]->offset[p] : 0);
        }
        for (int c = 0; c < chunks; c++) {
            const uint8_t *at = panel + ((g * chunks + c) * PANEL + lane) * 4;
            NAME(words) codes = NAME(load_words)(at);
            NAME(words) first = q8 ? codes : codes & 0x0f0f0f0fu;
            NAME(words) second = (codes >> 4) & 0x0f0f0f0fu;
            for (int r = 0; r < count; r++)
                for (int p = 0; p < planes; p++) {
                    const int8_t *x = digits[r] + p * GROUP + c * (q8 ? 4 : 8);
                    if (q8) {
                        sums[r][p] = NAME(dot8)(sums[r][p], first, x);
                    } else {
                        sums[r][p] = NAME(dot4)(sums[r][p], first, x);
                        sums[r][p] = NAME(dot4)(sums[r][p], second, x + 4);
                    }
                }
        }
        NAME(floats) scale = NAME(halves)(scales + g * PANEL);
        NAME(floats) minimum = q8 ? scale : NAME(halves)(scales + (groups + g) * PANEL);
        for (int r = 0; r < count; r++) {
            for (int p = 0; p < planes && !q8; p++)
                sums[r][p] = NAME(whole4)(sums[r][p]);
            NAME(floats) sum = __builtin_convertvector(sums[r][0], NAME(floats));
            sum += __builtin_convertvector(sums[r][1], NAME(floats)) * 128.0f;
            if (planes == 3)
                sum += __builtin_convertvector(sums[r][2], NAME(floats)) * 16384.0f;
            total[r] += (scale * scaled[r]->scale) * sum;
            if (!q8)
                total[r] += minimum * scaled[r]->sum;
        }
    }
    for (int r = 0; r < count; r++)
        __builtin_memcpy(out[r] + lane, &total[r], BYTES);
}

#define CASE(q8, planes, count)                                                                                        \
    case (q8) * 100 + (planes) * 10 + (count):                                                                         \
        for (int lane = 0; lane < PANEL; lane += LANES)                                                                \
            NAME(lanes)(q8, planes, count, rows, row, panel, lane, out);                                               \
        break;

TARGET static void NAME(panel)(int q8, int count, const struct rows *rows, int64_t row, const uint8_t *panel,
                               float (*out)[PANEL]) {
    switch (q8 * 100 + rows->planes * 10 + count) {
        CASE(0, 2, 1) CASE(0, 2, 2) CASE(0, 2, 3) CASE(0, 2, 4)
        CASE(0, 3, 1) CASE(0, 3, 2) CASE(0, 3, 3) CASE(0, 3, 4)
        CASE(1, 2, 1) CASE(1, 2, 2) CASE(1, 2, 3) CASE(1, 2, 4)
        CASE(1, 3, 1) CASE(1, 3, 2) CASE(1, 3, 3) CASE(1, 3, 4)
    }
}
#undef CASE

/* Products of `count` rows with `outputs` rows of plain weights. In bfloat16 a word holds two weights, the even one
   in its lower half; x lies as all even ones, then all odd ones. */
INLINE void NAME(plain)(const int half, const int count, const int outputs, const float *x, int64_t inputs,
                        const uint8_t *weight, float (*out)[PANEL]) {
    const int64_t step = half ? 2 * LANES : LANES;
    const int64_t whole = inputs / step * step;
    const int64_t row_bytes = inputs * (half ? 2 : 4);
    const int64_t odd = (inputs + 1) / 2;
    NAME(floats) sums[ROWS][PANEL];
    for (int r = 0; r < count; r++)
        for (int o = 0; o < outputs; o++)
            sums[r][o] = NAME(all)(0);
    for (int64_t i = 0; i < whole; i += step)
        for (int o = 0; o < outputs; o++) {
            const uint8_t *from = weight + o * row_bytes;
            ahead(from + i * (half ? 2 : 4));
            if (half) {
                NAME(words) pair = NAME(load_words)(from + i * 2);
                NAME(floats) low = (NAME(floats))(pair << 16);
                NAME(floats) high = (NAME(floats))(pair & 0xffff0000u);
                for (int r = 0; r < count; r++)
                    sums[r][o] += low * NAME(load)(x + r * 2 * odd + i / 2);
                for (int r = 0; r < count; r++)
                    sums[r][o] += high * NAME(load)(x + r * 2 * odd + odd + i / 2);
            } else {
                NAME(floats) full = NAME(load)(from + i * 4);
                for (int r = 0; r < count; r++)
                    sums[r][o] += full * NAME(load)(x + r * inputs + i);
            }
        }
    for (int r = 0; r < count; r++)
        for (int o = 0; o < outputs; o++) {
            float sum = 0;
            for (int lane = 0; lane < LANES; lane++)
                sum += sums[r][o][lane];
            for (int64_t i = whole; i < inputs; i++) {
                const uint8_t *at = weight + o * row_bytes + i * (half ? 2 : 4);
                float w = half ? bfloat16_at(at) : float_at(at);
                sum += w * (half ? x[r * 2 * odd + (i % 2) * odd + i / 2] : x[r * inputs + i]);
            }
            out[r][o] = sum;
        }
}

#define CASE(half, count, together)                                                                                    \
    case (half) * 10 + (count):                                                                                        \
        for (; o + (together) <= outputs; o += (together)) {                                                           \
            NAME(plain)(half, count, together, x, inputs, weight + o * row_bytes, part);                               \
            for (int r = 0; r < (count); r++)                                                                          \
                __builtin_memcpy(out[r] + o, part[r], sizeof(float) * (together));                                     \
        }                                                                                                              \
        for (; o < outputs; o++) {                                                                                     \
            NAME(plain)(half, count, 1, x, inputs, weight + o * row_bytes, part);                                      \
            for (int r = 0; r < (count); r++)                                                                          \
                out[r][o] = part[r][0];                                                                                \
        }                                                                                                              \
        break;

/* Up to PANEL outputs of plain weights. */
TARGET static void NAME(plain_panel)(int half, int count, const float *x, int64_t inputs, const uint8_t *weight,
                                     int outputs, float (*out)[PANEL]) {
    const int64_t row_bytes = inputs * (half ? 2 : 4);
    float part[ROWS][PANEL];
    int o = 0;
    switch (half * 10 + count) {
        CASE(0, 1, 4) CASE(0, 2, 4) CASE(0, 3, 2) CASE(0, 4, 2)
        CASE(1, 1, 4) CASE(1, 2, 4) CASE(1, 3, 2) CASE(1, 4, 2)
    }
}
#undef CASE
/* A panel as [inputs][columns], of which it fills 16 columns. */
INLINE void NAME(unpack_lanes)(const int q8, const int half, const uint8_t *panel, int lane, int64_t inputs,
                               int64_t columns, uint8_t *out) {
    const int chunks = q8 ? GROUP / 4 : GROUP / 8;
    const int64_t groups = (inputs + GROUP - 1) / GROUP;
    const uint16_t *scales = (const uint16_t *)(panel + groups * chunks * 4 * PANEL) + lane;
    for (int64_t g = 0; g < groups; g++) {
        NAME(floats) scale = NAME(halves)(scales + g * PANEL);
        NAME(floats) minimum = q8 ? scale * -128.0f : NAME(halves)(scales + (groups + g) * PANEL);
        for (int c = 0; c < chunks; c++) {
            NAME(words) codes = NAME(load_words)(panel + ((g * chunks + c) * PANEL + lane) * 4);
            for (int i = 0; i < (q8 ? 4 : 8); i++) {
                int64_t input = g * GROUP + c * (q8 ? 4 : 8) + i;
                if (input >= inputs)
                    return;
                NAME(ints) code = (NAME(ints))(q8 ? codes >> (8 * i) & 255u : codes >> (8 * (i % 4) + i / 4 * 4) & 15u);
                NAME(floats) value = scale * __builtin_convertvector(code, NAME(floats)) + minimum;
                uint8_t *to = out + (input * columns + lane) * (half ? 2 : 4);
                if (half) {
                    NAME(words) bits = (NAME(words))value;
                    bits = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
                    NAME(shorts) short_bits = __builtin_convertvector(bits, NAME(shorts));
                    __builtin_memcpy(to, &short_bits, BYTES / 2);
                } else
                    __builtin_memcpy(to, &value, BYTES);
            }
        }
    }
}

TARGET static void NAME(unpack_panel)(int q8, int half, const uint8_t *panel, int64_t inputs, int64_t columns,
                                      uint8_t *out) {
    for (int lane = 0; lane < PANEL; lane += LANES) {
        if (q8 && half)
            NAME(unpack_lanes)(1, 1, panel, lane, inputs, columns, out);
        else if (q8)
            NAME(unpack_lanes)(1, 0, panel, lane, inputs, columns, out);
        else if (half)
            NAME(unpack_lanes)(0, 1, panel, lane, inputs, columns, out);
        else
            NAME(unpack_lanes)(0, 0, panel, lane, inputs, columns, out);
    }
}
#undef LANES
#undef INLINE
#undef NAME
#undef TARGET
#undef BYTES
