#if defined(__clang__) && defined(__ARM_ARCH_6M__)
/* clang loses upper registers that it has to spill: what the loop below leaves in them, or finds
 * there, is in lower ones before and behind it. */
#define EDGEOPT_PLAIN_LOWER(a, b, c, d) \
    __asm__ volatile("" : "+l"(a), "+l"(b), "+l"(c), "+l"(d))
#else
#define EDGEOPT_PLAIN_LOWER(a, b, c, d) ((void)0)
#endif

/* Products of two rows of inputs with two of weights, so that loads are shared. */
EDGEOPT_INLINE void edgeopt_plain_block(
    int32_t length, const int8_t *first, const int8_t *second, const int8_t *upper,
    const int8_t *lower, int32_t sums[4]) {
    int32_t a = sums[0];
    int32_t b = sums[1];
    int32_t c = sums[2];
    int32_t d = sums[3];
#if defined(__ARM_ARCH_6M__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
    /* sums in the upper registers, which -Os forgoes, and one index for all rows */
    int32_t i = -length, t, u;
    EDGEOPT_PLAIN_LOWER(a, b, c, d);
    __asm__ volatile(
        ".syntax unified\n"
        "1:\n\t"
        "ldrsb %[t], [%[first], %[i]]\n\t"
        "ldrsb %[u], [%[upper], %[i]]\n\t"
        "muls %[u], %[t], %[u]\n\t"
        "add %[a], %[u]\n\t"
        "ldrsb %[u], [%[lower], %[i]]\n\t"
        "muls %[t], %[u], %[t]\n\t"
        "add %[b], %[t]\n\t"
        "ldrsb %[t], [%[second], %[i]]\n\t"
        "muls %[u], %[t], %[u]\n\t"
        "add %[d], %[u]\n\t"
        "ldrsb %[u], [%[upper], %[i]]\n\t"
        "muls %[u], %[t], %[u]\n\t"
        "add %[c], %[u]\n\t"
        "adds %[i], #1\n\t"
        "bne 1b"
        : [i] "+l"(i), [t] "=&l"(t), [u] "=&l"(u), [a] "+h"(a), [b] "+h"(b), [c] "+h"(c),
          [d] "+h"(d)
        : [first] "l"(first + length), [second] "l"(second + length), [upper] "l"(upper + length),
          [lower] "l"(lower + length)
        : "cc", "memory");
    EDGEOPT_PLAIN_LOWER(a, b, c, d);
#else
    /* pointers that compilers do not know to be related each stay in a register */
    __asm__("" : "+r"(second), "+r"(upper), "+r"(lower));
    for (int32_t i = length / 4; i > 0; --i) {
#pragma GCC unroll 4
        for (int32_t j = 0; j < 4; ++j) {
            a += first[j] * upper[j];
            b += first[j] * lower[j];
            c += second[j] * upper[j];
            d += second[j] * lower[j];
        }
        first += 4;
        second += 4;
        upper += 4;
        lower += 4;
    }
    for (int32_t j = 0; j < length % 4; ++j) {
        a += first[j] * upper[j];
        b += first[j] * lower[j];
        c += second[j] * upper[j];
        d += second[j] * lower[j];
    }
#endif
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
}

/* Two rows of inputs with all rows of weights; weights [outputs][length]. The second row and its
 * outputs may be the first's. */
EDGEOPT_INLINE void edgeopt_plain_rows(
    const int8_t *first, const int8_t *second, int32_t length, int32_t outputs, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *z) {
    for (int32_t o = 0; o < outputs; o += 2) {
        const int32_t other = o + 1 < outputs ? o + 1 : o;
        const int32_t one = edgeopt_bias(params, o);
        const int32_t two = edgeopt_bias(params, other);
        int32_t sums[4] = {one, two, one, two};
        edgeopt_plain_block(length, first, second, w + o * length, w + other * length, sums);
        y[o] = edgeopt_stored(sums[0], edgeopt_multiplier(params, o), params);
        y[other] = edgeopt_stored(sums[1], edgeopt_multiplier(params, other), params);
        z[o] = edgeopt_stored(sums[2], edgeopt_multiplier(params, o), params);
        z[other] = edgeopt_stored(sums[3], edgeopt_multiplier(params, other), params);
    }
}
