/* Products of two rows of inputs with all rows of weights: pointwise convolutions have pixels as
 * rows, others copies of windows.
 *
 * Rows are read 16 bytes at a time; the last 16 end with the row, and weights are zero where they
 * overlap those before. Only a row shorter than that is read in part. Weights: for each four
 * outputs, the 16 of output 0 and of output 2 for each step, then those of 1 and 3. */

/* The first 16 of both rows, in registers, with two outputs; then further ones. */
#define EDGEOPT_MVE_FIRST(u, v, w, a, b, c, d)                       \
    do {                                                             \
        int8x16_t weights_;                                          \
        __asm__ volatile(                                            \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vmladav.s8 %[s0], %q[x0], %q[q]\n\t"                    \
            "vmladav.s8 %[s2], %q[x1], %q[q]\n\t"                    \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vmladav.s8 %[s1], %q[x0], %q[q]\n\t"                    \
            "vmladav.s8 %[s3], %q[x1], %q[q]"                        \
            : [q] "=&t"(weights_), [p] "+r"(w), [s0] "=&Te"(a), [s1] "=&Te"(b), [s2] "=&Te"(c), \
              [s3] "=&Te"(d)                                         \
            : [x0] "t"(u), [x1] "t"(v)                               \
            : "memory");                                             \
    } while (0)

#define EDGEOPT_MVE_NEXT(u, v, w, a, b, c, d)                        \
    do {                                                             \
        int8x16_t weights_;                                          \
        __asm__ volatile(                                            \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vmladava.s8 %[s0], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s2], %q[x1], %q[q]\n\t"                   \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vmladava.s8 %[s1], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s3], %q[x1], %q[q]"                       \
            : [q] "=&t"(weights_), [p] "+r"(w), [s0] "+&Te"(a), [s1] "+&Te"(b), [s2] "+&Te"(c), \
              [s3] "+&Te"(d)                                         \
            : [x0] "t"(u), [x1] "t"(v)                               \
            : "memory");                                             \
    } while (0)

/* The next 16 of both rows, read from memory. */
#define EDGEOPT_MVE_STEP(x, z, w, a, b, c, d)                        \
    do {                                                             \
        int8x16_t weights_, u_, v_;                                  \
        __asm__ volatile(                                            \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vldrb.u8 %q[x0], [%[r0]], #16\n\t"                      \
            "vmladava.s8 %[s0], %q[x0], %q[q]\n\t"                   \
            "vldrb.u8 %q[x1], [%[r1]], #16\n\t"                      \
            "vmladava.s8 %[s2], %q[x1], %q[q]\n\t"                   \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vmladava.s8 %[s1], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s3], %q[x1], %q[q]"                       \
            : [q] "=&t"(weights_), [x0] "=&t"(u_), [x1] "=&t"(v_), [p] "+r"(w), [r0] "+r"(x), \
              [r1] "+r"(z), [s0] "+&Te"(a), [s1] "+&Te"(b), [s2] "+&Te"(c), [s3] "+&Te"(d) \
            :                                                        \
            : "memory");                                             \
    } while (0)

/* The same `count` times, which the compiler does not know. */
#define EDGEOPT_MVE_STEPS(count, x, z, w, a, b, c, d)                \
    do {                                                             \
        int8x16_t weights_, u_, v_;                                  \
        __asm__ volatile(                                            \
            "wls lr, %[n], 2f\n"                                     \
            "1:\n\t"                                                 \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vldrb.u8 %q[x0], [%[r0]], #16\n\t"                      \
            "vmladava.s8 %[s0], %q[x0], %q[q]\n\t"                   \
            "vldrb.u8 %q[x1], [%[r1]], #16\n\t"                      \
            "vmladava.s8 %[s2], %q[x1], %q[q]\n\t"                   \
            "vldrb.u8 %q[q], [%[p]], #16\n\t"                        \
            "vmladava.s8 %[s1], %q[x0], %q[q]\n\t"                   \
            "vmladava.s8 %[s3], %q[x1], %q[q]\n\t"                   \
            "le lr, 1b\n"                                            \
            "2:"                                                     \
            : [q] "=&t"(weights_), [x0] "=&t"(u_), [x1] "=&t"(v_), [p] "+r"(w), [r0] "+r"(x), \
              [r1] "+r"(z), [s0] "+&Te"(a), [s1] "+&Te"(b), [s2] "+&Te"(c), [s3] "+&Te"(d) \
            : [n] "r"(count)                                         \
            : "lr", "memory");                                       \
    } while (0)

/* Four outputs of two rows: biases, multipliers, rounding, narrowing. */
#define EDGEOPT_MVE_REQUANTIZE(m, n, params, zero)                   \
    do {                                                             \
        int32x4_t t_;                                                \
        __asm__ volatile(                                            \
            "vldrw.u32 %q[t], [%[p]], #16\n\t"                       \
            "vadd.i32 %q[s], %q[s], %q[t]\n\t"                       \
            "vadd.i32 %q[r], %q[r], %q[t]\n\t"                       \
            "vldrw.u32 %q[t], [%[p]], #16\n\t"                       \
            "vcvt.f32.s32 %q[s], %q[s]\n\t"                          \
            "vcvt.f32.s32 %q[r], %q[r]\n\t"                          \
            "vmul.f32 %q[s], %q[s], %q[t]\n\t"                       \
            "vmul.f32 %q[r], %q[r], %q[t]\n\t"                       \
            "vcvtn.s32.f32 %q[s], %q[s]\n\t"                         \
            "vcvtn.s32.f32 %q[r], %q[r]\n\t"                         \
            "vqmovnb.s32 %q[s], %q[s]\n\t"                           \
            "vqmovnb.s32 %q[r], %q[r]\n\t"                           \
            "vqadd.s16 %q[s], %q[s], %[z]\n\t"                       \
            "vqadd.s16 %q[r], %q[r], %[z]\n\t"                       \
            "vqmovnb.s16 %q[s], %q[s]\n\t"                           \
            "vqmovnb.s16 %q[r], %q[r]"                               \
            : [t] "=&t"(t_), [s] "+&t"(m), [r] "+&t"(n), [p] "+r"(params) \
            : [z] "r"(zero)                                          \
            : "memory");                                             \
    } while (0)

#define EDGEOPT_MVE_PUT(y, v) \
    __asm__ volatile("vstrb.32 %q[s], [%[t]], #4" : [t] "+l"(y) : [s] "t"(v) : "memory")

EDGEOPT_INLINE int8x16_t edgeopt_mve_part(const int8_t *x, int32_t count) {
    if (__builtin_constant_p(count) && count >= 16) {
        return vldrbq_s8(x);
    }
    return vldrbq_z_s8(x, vctp8q((uint32_t)count));
}

/* Inputs, if they are in registers, at most: 16, 32 or, if they are not, 0. */
EDGEOPT_INLINE int32_t edgeopt_mve_most(int32_t length) {
    return length <= 16 ? 16 : length <= 32 ? 32 : 0;
}

/* Both rows with two outputs. */
EDGEOPT_INLINE void edgeopt_mve_pair(
    const int8_t *first, const int8_t *second, int32_t length, const int8_t **weights,
    int32_t sums[4]) {
    const int8_t *w = *weights;
    const int8x16_t u = vldrbq_s8(first);
    const int8x16_t v = vldrbq_s8(second);
    const int8_t *x = first + 16;
    const int8_t *z = second + 16;
    int32_t a, b, c, d;
    EDGEOPT_MVE_FIRST(u, v, w, a, b, c, d);
    if (__builtin_constant_p(length)) {
#pragma GCC unroll 8
        for (int32_t i = 32; i <= length; i += 16) {
            EDGEOPT_MVE_STEP(x, z, w, a, b, c, d);
        }
    } else {
        EDGEOPT_MVE_STEPS(length / 16 - 1, x, z, w, a, b, c, d);
    }
    if (length % 16 != 0) {
        x = first + length - 16;
        z = second + length - 16;
        EDGEOPT_MVE_STEP(x, z, w, a, b, c, d);
    }
    *weights = w;
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

/* Two rows of `length` with all outputs, the rows in registers if they are short. */
EDGEOPT_INLINE void edgeopt_mve_rows(
    int32_t most, const int8_t *first, const int8_t *second, int32_t length, int32_t outputs,
    const int8_t *w, const int32_t *params, int8_t *y, int8_t *z) {
    const int32_t zero = params[EDGEOPT_ZERO_Y];
    const int32_t *block = params + EDGEOPT_CHANNELS;
    const int8x16_t u = edgeopt_mve_part(first, length);
    const int8x16_t v = edgeopt_mve_part(second, length);
    const int8x16_t u1 = most != 16 ? vldrbq_s8(first + length - 16) : u;
    const int8x16_t v1 = most != 16 ? vldrbq_s8(second + length - 16) : v;
    for (int32_t o = 0; o < outputs; o += 4) {
        int32x4_t m, n;
        int32_t s[4];
        if (most != 0) {
            EDGEOPT_MVE_FIRST(u, v, w, s[0], s[1], s[2], s[3]);
            if (most == 32) {
                EDGEOPT_MVE_NEXT(u1, v1, w, s[0], s[1], s[2], s[3]);
            }
            EDGEOPT_MVE_EVEN(m, s[0], s[1]);
            EDGEOPT_MVE_EVEN(n, s[2], s[3]);
            EDGEOPT_MVE_FIRST(u, v, w, s[0], s[1], s[2], s[3]);
            if (most == 32) {
                EDGEOPT_MVE_NEXT(u1, v1, w, s[0], s[1], s[2], s[3]);
            }
        } else {
            edgeopt_mve_pair(first, second, length, &w, s);
            EDGEOPT_MVE_EVEN(m, s[0], s[1]);
            EDGEOPT_MVE_EVEN(n, s[2], s[3]);
            edgeopt_mve_pair(first, second, length, &w, s);
        }
        EDGEOPT_MVE_ODD(m, s[0], s[1]);
        EDGEOPT_MVE_ODD(n, s[2], s[3]);
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
