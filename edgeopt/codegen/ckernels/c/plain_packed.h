/* Weights of four or two bits in plain C: a byte has an input's, of two channels or of four. The
 * uppermost has its sign, those below are biased (8 or 2 too large), so that a shift leaves some
 * channels' fields as one number. Its sum less those of the fields above, and less the bias times
 * the sum of the inputs, is a channel's. Fields of two bits are -2 to 1 and stand for twice that
 * and one more. */

/* Products of two rows of inputs with a row of bytes, shifted in two ways. */
EDGEOPT_INLINE void edgeopt_plain_fields(
    int32_t length, const int8_t *first, const int8_t *second, const int8_t *w, int32_t low,
    int32_t high, int32_t sums[4]) {
    int32_t a = 0;
    int32_t b = 0;
    int32_t c = 0;
    int32_t d = 0;
#if defined(__ARM_ARCH_6M__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
    /* as in plain_rows.h; a shift by nothing is left out */
#define EDGEOPT_PLAIN_FIELDS(shifted)                                            \
    __asm__ volatile(                                                            \
        ".syntax unified\n"                                                      \
        "1:\n\t"                                                                 \
        "ldrsb %[t], [%[first], %[i]]\n\t"                                       \
        "ldrsb %[u], [%[w], %[i]]\n\t" shifted                                   \
        "muls %[u], %[t], %[u]\n\t"                                              \
        "add %[a], %[u]\n\t"                                                     \
        "ldrsb %[u], [%[w], %[i]]\n\t"                                           \
        "asrs %[u], %[u], %[high]\n\t"                                           \
        "muls %[t], %[u], %[t]\n\t"                                              \
        "add %[b], %[t]\n\t"                                                     \
        "ldrsb %[t], [%[second], %[i]]\n\t"                                      \
        "muls %[u], %[t], %[u]\n\t"                                              \
        "add %[d], %[u]\n\t"                                                     \
        "ldrsb %[u], [%[w], %[i]]\n\t" shifted                                   \
        "muls %[u], %[t], %[u]\n\t"                                              \
        "add %[c], %[u]\n\t"                                                     \
        "adds %[i], #1\n\t"                                                      \
        "bne 1b"                                                                 \
        : [i] "+l"(i), [t] "=&l"(t), [u] "=&l"(u), [a] "+h"(a), [b] "+h"(b),     \
          [c] "+h"(c), [d] "+h"(d)                                               \
        : [first] "l"(first + length), [second] "l"(second + length),            \
          [w] "l"(w + length), [high] "I"(high)                                  \
        : "cc", "memory")
    int32_t i = -length, t, u;
    EDGEOPT_PLAIN_LOWER(a, b, c, d);
    if (low == 0) {
        EDGEOPT_PLAIN_FIELDS("");
    } else {
        EDGEOPT_PLAIN_FIELDS("asrs %[u], %[u], #4\n\t");
    }
    EDGEOPT_PLAIN_LOWER(a, b, c, d);
#undef EDGEOPT_PLAIN_FIELDS
#else
    /* pointers that compilers do not know to be related each stay in a register */
    __asm__("" : "+r"(second), "+r"(w));
    for (int32_t i = length / 4; i > 0; --i) {
#pragma GCC unroll 4
        for (int32_t j = 0; j < 4; ++j) {
            a += first[j] * (w[j] >> low);
            b += first[j] * (w[j] >> high);
            c += second[j] * (w[j] >> low);
            d += second[j] * (w[j] >> high);
        }
        first += 4;
        second += 4;
        w += 4;
    }
    for (int32_t j = 0; j < length % 4; ++j) {
        a += first[j] * (w[j] >> low);
        b += first[j] * (w[j] >> high);
        c += second[j] * (w[j] >> low);
        d += second[j] * (w[j] >> high);
    }
#endif
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

EDGEOPT_SHARED int32_t edgeopt_plain_sum(int32_t length, const int8_t *x) {
    int32_t sum = 0;
#pragma GCC unroll 4
    for (int32_t i = 0; i < length; ++i) {
        sum += x[i];
    }
    return sum;
}

/* A sum less that of the fields above it, and with its bias. */
EDGEOPT_INLINE int32_t edgeopt_plain_alone(
    int32_t sum, int32_t above, int32_t bits, int32_t bias) {
    return (int32_t)((uint32_t)sum - ((uint32_t)above << bits) + (uint32_t)bias);
}

/* Two rows of inputs with all channels; the second row and its outputs may be the first's. */
EDGEOPT_INLINE void edgeopt_plain_rows_w4(
    const int8_t *first, const int8_t *second, int32_t length, int32_t outputs, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *z) {
    const int32_t lack = 8 * edgeopt_plain_sum(length, first);
    const int32_t less = 8 * edgeopt_plain_sum(length, second);
    for (int32_t o = 0; o < outputs; o += 2) {
        const int32_t other = o + 1 < outputs ? o + 1 : o;
        const int32_t one = edgeopt_bias(params, o);
        const int32_t factor = edgeopt_multiplier(params, o);
        int32_t sums[4];
        edgeopt_plain_fields(length, first, second, w, 0, 4, sums);
        w += length;
        if (other != o) {
            const int32_t two = edgeopt_bias(params, other);
            const int32_t times = edgeopt_multiplier(params, other);
            y[other] = edgeopt_stored(edgeopt_plain_alone(sums[1], 0, 0, two), times, params);
            z[other] = edgeopt_stored(edgeopt_plain_alone(sums[3], 0, 0, two), times, params);
        }
        sums[0] = edgeopt_plain_alone(sums[0], sums[1], 4, edgeopt_plain_alone(one, lack, 0, 0));
        sums[2] = edgeopt_plain_alone(sums[2], sums[3], 4, edgeopt_plain_alone(one, less, 0, 0));
        y[o] = edgeopt_stored(sums[0], factor, params);
        z[o] = edgeopt_stored(sums[2], factor, params);
    }
}

EDGEOPT_SHARED void edgeopt_plain_put(
    int32_t a, int32_t b, const int32_t *params, int32_t channel, int8_t *y, int8_t *z) {
    const int32_t bias = edgeopt_bias(params, channel);
    const int32_t factor = edgeopt_multiplier(params, channel);
    y[channel] = edgeopt_stored(edgeopt_plain_alone(a, 0, 0, bias), factor, params);
    z[channel] = edgeopt_stored(edgeopt_plain_alone(b, 0, 0, bias), factor, params);
}

/* Twice a sum of fields less those above, and the inputs' sum as often as the fields lack it. */
EDGEOPT_INLINE int32_t edgeopt_plain_odd(int32_t sum, int32_t above, int32_t lack) {
    const uint32_t fields = (uint32_t)sum - ((uint32_t)above << 2);
    return (int32_t)(2u * fields + (uint32_t)lack);
}

EDGEOPT_INLINE void edgeopt_plain_rows_w2(
    const int8_t *first, const int8_t *second, int32_t length, int32_t outputs, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *z) {
    const int32_t sum = edgeopt_plain_sum(length, first);
    const int32_t other = edgeopt_plain_sum(length, second);
    const int32_t lack = -3 * sum;
    const int32_t less = -3 * other;
    for (int32_t o = 0; o < outputs; o += 4) {
        int32_t s[4], t[4];
        edgeopt_plain_fields(length, first, second, w, 4, 6, t);
        if (o + 3 < outputs) {
            edgeopt_plain_put(
                edgeopt_plain_odd(t[1], 0, sum), edgeopt_plain_odd(t[3], 0, other), params, o + 3,
                y, z);
        }
        if (o + 2 < outputs) {
            edgeopt_plain_put(
                edgeopt_plain_odd(t[0], t[1], lack), edgeopt_plain_odd(t[2], t[3], less),
                params, o + 2, y, z);
        }
        edgeopt_plain_fields(length, first, second, w, 0, 2, s);
        if (o + 1 < outputs) {
            edgeopt_plain_put(
                edgeopt_plain_odd(s[1], t[0], lack), edgeopt_plain_odd(s[3], t[2], less),
                params, o + 1, y, z);
        }
        edgeopt_plain_put(
            edgeopt_plain_odd(s[0], s[1], lack), edgeopt_plain_odd(s[2], s[3], less),
            params, o, y, z);
        w += length;
    }
}

EDGEOPT_INLINE void edgeopt_plain_rows_packed(
    int32_t bits, const int8_t *first, const int8_t *second, int32_t length, int32_t outputs,
    const int8_t *w, const int32_t *params, int8_t *y, int8_t *z) {
    if (bits == 4) {
        edgeopt_plain_rows_w4(first, second, length, outputs, w, params, y, z);
    } else {
        edgeopt_plain_rows_w2(first, second, length, outputs, w, params, y, z);
    }
}

/* Pointwise convolution and linear layer, two pixels at a time; an odd one is computed twice. */
EDGEOPT_INLINE void edgeopt_plain_pointwise_packed(
    int32_t bits, int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x,
    const int8_t *w, const int32_t *params, int8_t *y) {
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        edgeopt_plain_rows_packed(
            bits, x, x + other * inputs, inputs, outputs, w, params, y, y + other * outputs);
        x += 2 * inputs;
        y += 2 * outputs;
    }
}

/* Any convolution of one group, as in plain_patches.h. */
EDGEOPT_INLINE void edgeopt_plain_patches_packed(
    int32_t bits, const edgeopt_window *g, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *scratch) {
    const int32_t length = g->height * g->width * g->in_channels;
    const int32_t pixels = g->out_height * g->out_width;
    int32_t y0 = -g->top;
    int32_t x0 = -g->left;
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        for (int32_t i = 0; i <= other; ++i) {
            edgeopt_plain_patch(g, x, y0, x0, params[EDGEOPT_ZERO_X], scratch + i * length);
            x0 += g->stride_x;
            if (x0 == g->out_width * g->stride_x - g->left) {
                x0 = -g->left;
                y0 += g->stride_y;
            }
        }
        edgeopt_plain_rows_packed(
            bits, scratch, scratch + other * length, length, g->out_channels, w, params, y,
            y + other * g->out_channels);
        y += 2 * g->out_channels;
    }
}
