/* Weights of four bits: a byte holds an input's, of one channel in its lower half, 8 too large, of
 * the other in its upper half with its sign. A pair of bytes as it is gives the sum P of both
 * channels, the second 16 times, and without the lower halves the sum Q of the second 16 times:
 * the first is P - Q. */
#if EDGEOPT_ASSEMBLY
#define EDGEOPT_FOUR_W4                  \
    "ldr r12, [r1]\n\t"                  \
    "sxtb16 r12, r12\n\t"                \
    "bic lr, r12, #0x000f000f\n\t"       \
    EDGEOPT_EIGHT_DOTS                   \
    "ldr r12, [r1], #4\n\t"              \
    "sxtb16 r12, r12, ror #8\n\t"        \
    "bic lr, r12, #0x000f000f\n\t"       \
    EDGEOPT_EIGHT_DOTS
/* The first channel's sum with its bias, then the second's. */
#define EDGEOPT_PLACE_W4(p, q)           \
    "sub " p ", " p ", " q "\n\t"        \
    "add " p ", " p ", r10\n\t"          \
    "add " q ", r11, " q ", asr #4\n\t"

EDGEOPT_NAKED void edgeopt_four_pixels_w4(
    EDGEOPT_UNUSED const uint32_t *starts, EDGEOPT_UNUSED const uint8_t *w,
    EDGEOPT_UNUSED const int32_t *channel, EDGEOPT_UNUSED int8_t *y, EDGEOPT_UNUSED int32_t row,
    EDGEOPT_UNUSED int32_t outputs, EDGEOPT_UNUSED int32_t zero, EDGEOPT_UNUSED int32_t pairs) {
    __asm__ volatile(
        EDGEOPT_PACKED_ENTER
        "tst r10, #4\n\t" /* an odd number of fours begins in the middle */
        "bne 3f\n"
        "2:\n\t" EDGEOPT_FOUR_W4
        "3:\n\t" EDGEOPT_FOUR_W4
        EDGEOPT_PACKED_AGAIN
        EDGEOPT_PLACE_W4("r2", "r6") EDGEOPT_PLACE_W4("r3", "r7")
        EDGEOPT_PLACE_W4("r4", "r8") EDGEOPT_PLACE_W4("r5", "r9")
        EDGEOPT_PACKED_LEAVE);
}
#undef EDGEOPT_FOUR_W4
#undef EDGEOPT_PLACE_W4
#endif

/* `count` pixels, four at most, with two channels. */
EDGEOPT_INLINE void edgeopt_pixels_w4(
    int32_t count, const uint32_t *starts, const uint8_t *w, const int32_t *channel, int8_t *y,
    int32_t row, int32_t outputs, int32_t zero) {
    const uint32_t *x = starts + EDGEOPT_STARTS;
    const uint8_t *const end = w + row;
    int32_t p[4], q[4];
    for (int32_t i = 0; i < count; ++i) {
        p[i] = (int32_t)starts[i];
        q[i] = 0;
    }
    while (w != end) {
        const uint32_t word = edgeopt_load(w);
        const uint32_t even = edgeopt_even(word);
        const uint32_t odd = edgeopt_odd(word);
        const uint32_t even_upper = even & ~0x000f000fu;
        const uint32_t odd_upper = odd & ~0x000f000fu;
#pragma GCC unroll 4
        for (int32_t i = 0; i < count; ++i) {
            p[i] = edgeopt_dot(x[i], even, p[i]);
            q[i] = edgeopt_dot(x[i], even_upper, q[i]);
            p[i] = edgeopt_dot(x[4 + i], odd, p[i]);
            q[i] = edgeopt_dot(x[4 + i], odd_upper, q[i]);
        }
        x += 8;
        w += 4;
    }
    for (int32_t i = 0; i < count; ++i) {
        const int32_t lower = (int32_t)((uint32_t)p[i] - (uint32_t)q[i] + (uint32_t)channel[0]);
        const int32_t upper = edgeopt_shifted(q[i], 4, channel[2]);
        y[i * outputs] = (int8_t)edgeopt_byte(edgeopt_scaled(lower, channel[1]), zero);
        y[i * outputs + 1] = (int8_t)edgeopt_byte(edgeopt_scaled(upper, channel[3]), zero);
    }
}
