/* Rows as in mve_rows.h with weights of four or two bits: a byte is the sum of an input's weights
 * for two outputs, the second 16 times, or for four, each 4 times the one before. Rounding shifts
 * give back what stands above, since what stands below is less than half; so no field of four bits
 * is biased, and an output's sum is that of the byte less that of what stands above. Of two bits
 * fields are 0 to 3, and shifts and a mask give what is no sign; weights are twice a field less 3,
 * so the sum of the inputs comes in.
 *
 * In a block of four outputs, weights of four bits are bytes of outputs 0 and 2, then of 1 and 3;
 * of two bits, fields from below are those of outputs 0, 2, 1 and 3. */

/* The sum of bytes after `pre`, and of these after `shift`, with two rows of inputs. */
#define EDGEOPT_MVE_FIELDS_FIRST(pre, shift, u, v, w, a, b, c, d)    \
    do {                                                             \
        int8x16_t weights_;                                          \
        __asm__ volatile(                                            \
            "vldrb.u8 %q[q], [%[p]], #16\n\t" pre                    \
            "vmladav.s8 %[s0], %q[x0], %q[q]\n\t"                    \
            "vmladav.s8 %[s2], %q[x1], %q[q]\n\t"                    \
            shift "\n\t"                                             \
            "vmladav.s8 %[s1], %q[x0], %q[q]\n\t"                    \
            "vmladav.s8 %[s3], %q[x1], %q[q]"                        \
            : [q] "=&t"(weights_), [p] "+r"(w), [s0] "=&Te"(a), [s1] "=&Te"(b), [s2] "=&Te"(c), \
              [s3] "=&Te"(d)                                         \
            : [x0] "t"(u), [x1] "t"(v), [lower] "t"(lower)           \
            : "memory");                                             \
    } while (0)

#define EDGEOPT_MVE_FIELDS_NEXT(pre, shift, u, v, w, a, b, c, d)     \
    do {                                                             \
        int8x16_t weights_;                                          \
        __asm__ volatile(                                            \
            "vldrb.u8 %q[q], [%[p]], #16\n\t" pre                    \
            "vmladava.s8 %[s0], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s2], %q[x1], %q[q]\n\t"                   \
            shift "\n\t"                                             \
            "vmladava.s8 %[s1], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s3], %q[x1], %q[q]"                       \
            : [q] "=&t"(weights_), [p] "+r"(w), [s0] "+&Te"(a), [s1] "+&Te"(b), [s2] "+&Te"(c), \
              [s3] "+&Te"(d)                                         \
            : [x0] "t"(u), [x1] "t"(v), [lower] "t"(lower)           \
            : "memory");                                             \
    } while (0)

#define EDGEOPT_MVE_FIELDS_STEP(pre, shift, x, z, w, a, b, c, d)     \
    do {                                                             \
        int8x16_t weights_, u_, v_;                                  \
        __asm__ volatile(                                            \
            "vldrb.u8 %q[q], [%[p]], #16\n\t" pre                    \
            "vldrb.u8 %q[x0], [%[r0]], #16\n\t"                      \
            "vmladava.s8 %[s0], %q[x0], %q[q]\n\t"                   \
            "vldrb.u8 %q[x1], [%[r1]], #16\n\t"                      \
            "vmladava.s8 %[s2], %q[x1], %q[q]\n\t"                   \
            shift "\n\t"                                             \
            "vmladava.s8 %[s1], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s3], %q[x1], %q[q]"                       \
            : [q] "=&t"(weights_), [x0] "=&t"(u_), [x1] "=&t"(v_), [p] "+r"(w), [r0] "+r"(x), \
              [r1] "+r"(z), [s0] "+&Te"(a), [s1] "+&Te"(b), [s2] "+&Te"(c), [s3] "+&Te"(d) \
            : [lower] "t"(lower)                                     \
            : "memory");                                             \
    } while (0)

#define EDGEOPT_MVE_FIELDS_STEPS(pre, shift, count, x, z, w, a, b, c, d)     \
    do {                                                             \
        int8x16_t weights_, u_, v_;                                  \
        __asm__ volatile(                                            \
            "wls lr, %[n], 2f\n1:\n\t"                              \
            "vldrb.u8 %q[q], [%[p]], #16\n\t" pre                    \
            "vldrb.u8 %q[x0], [%[r0]], #16\n\t"                      \
            "vmladava.s8 %[s0], %q[x0], %q[q]\n\t"                   \
            "vldrb.u8 %q[x1], [%[r1]], #16\n\t"                      \
            "vmladava.s8 %[s2], %q[x1], %q[q]\n\t"                   \
            shift "\n\t"                                             \
            "vmladava.s8 %[s1], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s3], %q[x1], %q[q]\n\t"                   \
            "le lr, 1b\n2:"                                          \
            : [q] "=&t"(weights_), [x0] "=&t"(u_), [x1] "=&t"(v_), [p] "+r"(w), [r0] "+r"(x), \
              [r1] "+r"(z), [s0] "+&Te"(a), [s1] "+&Te"(b), [s2] "+&Te"(c), [s3] "+&Te"(d) \
            : [lower] "t"(lower), [n] "r"(count)                     \
            : "lr", "memory");                                       \
    } while (0)

/* Which fields: both of four bits, the lower two of two bits, the upper two. */
enum { EDGEOPT_FIELDS_W4, EDGEOPT_FIELDS_LOWER, EDGEOPT_FIELDS_UPPER };
#define EDGEOPT_MVE_LOWER "vand %q[q], %q[q], %q[lower]\n\t"
#define EDGEOPT_MVE_UPPER "vshr.u8 %q[q], %q[q], #4\n\t"
#define EDGEOPT_MVE_SECOND "vrshr.s8 %q[q], %q[q], #4"
#define EDGEOPT_MVE_NEIGHBOUR "vshr.u8 %q[q], %q[q], #2"
#define EDGEOPT_MVE_FIELDS(kind, how, ...)                                                  \
    do {                                                                                    \
        if ((kind) == EDGEOPT_FIELDS_W4) {                                                  \
            EDGEOPT_MVE_FIELDS_##how("", EDGEOPT_MVE_SECOND, __VA_ARGS__);                  \
        } else if ((kind) == EDGEOPT_FIELDS_LOWER) {                                        \
            EDGEOPT_MVE_FIELDS_##how(EDGEOPT_MVE_LOWER, EDGEOPT_MVE_NEIGHBOUR, __VA_ARGS__);\
        } else {                                                                            \
            EDGEOPT_MVE_FIELDS_##how(EDGEOPT_MVE_UPPER, EDGEOPT_MVE_NEIGHBOUR, __VA_ARGS__);\
        }                                                                                   \
    } while (0)

/* Both rows with two fields; those of up to 32 inputs are in registers. */
EDGEOPT_INLINE void edgeopt_mve_fields(
    int32_t kind, int32_t most, const int8_t *first, const int8_t *second, int32_t length,
    const int8x16_t rows[4], const uint8_t **weights, int32_t sums[4]) {
    const uint8_t *w = *weights;
    const uint8x16_t lower = vdupq_n_u8(15);
    const int8_t *x = first + 16;
    const int8_t *z = second + 16;
    int32_t a = 0, b = 0, c = 0, d = 0;
    if (most != 0) {
        EDGEOPT_MVE_FIELDS(kind, FIRST, rows[0], rows[1], w, a, b, c, d);
        if (most == 32) {
            EDGEOPT_MVE_FIELDS(kind, NEXT, rows[2], rows[3], w, a, b, c, d);
        }
    } else {
        const int8x16_t u = vldrbq_s8(first);
        const int8x16_t v = vldrbq_s8(second);
        EDGEOPT_MVE_FIELDS(kind, FIRST, u, v, w, a, b, c, d);
        if (__builtin_constant_p(length)) {
#pragma GCC unroll 8
            for (int32_t i = 32; i <= length; i += 16) {
                EDGEOPT_MVE_FIELDS(kind, STEP, x, z, w, a, b, c, d);
            }
        } else {
            EDGEOPT_MVE_FIELDS(kind, STEPS, length / 16 - 1, x, z, w, a, b, c, d);
        }
        if (length % 16 != 0) {
            x = first + length - 16;
            z = second + length - 16;
            EDGEOPT_MVE_FIELDS(kind, STEP, x, z, w, a, b, c, d);
        }
    }
    *weights = w;
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

/* As in mve.h, lanes 1 and 3 before 0 and 2. */
#define EDGEOPT_MVE_ODD_FIRST(v, a, b) \
    __asm__("vmov %q0[3], %q0[1], %1, %2" : "=t"(v) : "r"(a), "r"(b))
#define EDGEOPT_MVE_EVEN_THEN(v, a, b) \
    __asm__("vmov %q0[2], %q0[0], %1, %2" : "+t"(v) : "r"(a), "r"(b))

/* sum - upper * 2^bits */
EDGEOPT_INLINE int32_t edgeopt_mve_less(int32_t sum, int32_t upper, int32_t bits) {
    return (int32_t)((uint32_t)sum - ((uint32_t)upper << bits));
}

/* -3 times the sum of a row of `length`. */
EDGEOPT_INLINE int32_t edgeopt_mve_lack(const int8_t *x, int32_t length) {
    int32_t sum = 0;
    for (int32_t i = length / 16; i > 0; --i) {
        sum = vaddvaq_s8(sum, vldrbq_s8(x));
        x += 16;
    }
    if (length % 16 != 0) {
        sum = vaddvaq_s8(sum, vldrbq_z_s8(x, vctp8q((uint32_t)length % 16)));
    }
    return -3 * sum;
}

/* Two rows of `length` with all outputs. */
EDGEOPT_INLINE void edgeopt_mve_rows_packed(
    int32_t bits, int32_t most, const int8_t *first, const int8_t *second, int32_t length,
    int32_t outputs, const uint8_t *w, const int32_t *params, int8_t *y, int8_t *z) {
    const int32_t zero = params[EDGEOPT_ZERO_Y];
    const int32_t *block = params + EDGEOPT_CHANNELS;
    int8x16_t rows[4];
    rows[0] = edgeopt_mve_part(first, length);
    rows[1] = edgeopt_mve_part(second, length);
    rows[2] = most != 16 ? vldrbq_s8(first + length - 16) : rows[0];
    rows[3] = most != 16 ? vldrbq_s8(second + length - 16) : rows[1];
    const int32_t lack = bits == 2 ? edgeopt_mve_lack(first, length) : 0;
    const int32_t less = bits == 2 ? edgeopt_mve_lack(second, length) : 0;
    const int32x4_t twice = vdupq_n_s32(2);
    for (int32_t o = 0; o < outputs; o += 4) {
        int32x4_t m, n;
        int32_t s[4], t[4];
        if (bits == 4) {
            edgeopt_mve_fields(EDGEOPT_FIELDS_W4, most, first, second, length, rows, &w, s);
            EDGEOPT_MVE_EVEN(m, edgeopt_mve_less(s[0], s[1], 4), s[1]);
            EDGEOPT_MVE_EVEN(n, edgeopt_mve_less(s[2], s[3], 4), s[3]);
            edgeopt_mve_fields(EDGEOPT_FIELDS_W4, most, first, second, length, rows, &w, t);
            EDGEOPT_MVE_ODD(m, edgeopt_mve_less(t[0], t[1], 4), t[1]);
            EDGEOPT_MVE_ODD(n, edgeopt_mve_less(t[2], t[3], 4), t[3]);
        } else {
            const uint8_t *again = w;
            edgeopt_mve_fields(EDGEOPT_FIELDS_UPPER, most, first, second, length, rows, &again, t);
            EDGEOPT_MVE_ODD_FIRST(m, edgeopt_mve_less(t[0], t[1], 2), t[1]);
            EDGEOPT_MVE_ODD_FIRST(n, edgeopt_mve_less(t[2], t[3], 2), t[3]);
            edgeopt_mve_fields(EDGEOPT_FIELDS_LOWER, most, first, second, length, rows, &w, s);
            EDGEOPT_MVE_EVEN_THEN(m, edgeopt_mve_less(s[0], s[1], 2), s[1]);
            EDGEOPT_MVE_EVEN_THEN(n, edgeopt_mve_less(s[2], s[3], 2), s[3]);
            m = vmlasq_n_s32(m, twice, lack);
            n = vmlasq_n_s32(n, twice, less);
        }
        EDGEOPT_MVE_REQUANTIZE(m, n, block, zero);
        if (o + 4 <= outputs) {
            EDGEOPT_MVE_PUT(y, m);
            EDGEOPT_MVE_PUT(z, n);
        } else {
            const mve_pred16_t some = vctp32q((uint32_t)(outputs - o));
            vstrbq_p_s32(y, m, some);
            vstrbq_p_s32(z, n, some);
        }
    }
}

/* Pointwise convolution and linear layer, two pixels at a time; an odd one is computed twice. */
EDGEOPT_INLINE void edgeopt_mve_pixels_packed(
    int32_t bits, int32_t most, int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x,
    const uint8_t *w, const int32_t *params, int8_t *y) {
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        const int8_t *first = x + p * inputs;
        int8_t *to = y + p * outputs;
        edgeopt_mve_rows_packed(
            bits, most, first, first + other * inputs, inputs, outputs, w, params, to,
            to + other * outputs);
    }
    edgeopt_mve_clamped(y, pixels * outputs, params[EDGEOPT_LO], params[EDGEOPT_HI]);
}
