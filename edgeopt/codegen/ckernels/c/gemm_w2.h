/* Weights of two bits, as fields of half of what is 3 too large: a byte holds those of two channels
 * for an even input and the odd one behind it, from below. Bytes 0 and 2 of a word are one four of
 * inputs, 1 and 3 the next. Even inputs count 16 times, so that the sum of one channel's fields
 * counts 16 times wherever they stand, and that of its weights 8 times; those of the other count 64
 * and 32 times. */
#if EDGEOPT_ASSEMBLY
#define EDGEOPT_PAIR_W2(upper, lower)    \
    "and lr, r12, #" upper "\n\t"        \
    "and r12, r12, #" lower "\n\t"       \
    EDGEOPT_EIGHT_DOTS
#define EDGEOPT_PLACE_W2(p, q)           \
    "add " p ", r10, " p ", asr #3\n\t"  \
    "add " q ", r11, " q ", asr #5\n\t"

EDGEOPT_NAKED void edgeopt_four_pixels_w2(
    EDGEOPT_UNUSED const uint32_t *starts, EDGEOPT_UNUSED const uint8_t *w,
    EDGEOPT_UNUSED const int32_t *channel, EDGEOPT_UNUSED int8_t *y, EDGEOPT_UNUSED int32_t row,
    EDGEOPT_UNUSED int32_t outputs, EDGEOPT_UNUSED int32_t zero, EDGEOPT_UNUSED int32_t pairs) {
    __asm__ volatile(
        EDGEOPT_PACKED_ENTER
        "2:\n\t"
        "ldr r12, [r1]\n\t"
        EDGEOPT_PAIR_W2("0x000c000c", "0x00030003")
        "ldr r12, [r1]\n\t"
        EDGEOPT_PAIR_W2("0x00c000c0", "0x00300030")
        "ldr r12, [r1]\n\t"
        "uxtb16 r12, r12, ror #8\n\t"
        EDGEOPT_PAIR_W2("0x000c000c", "0x00030003")
        "ldr r12, [r1], #4\n\t"
        "uxtb16 r12, r12, ror #8\n\t"
        EDGEOPT_PAIR_W2("0x00c000c0", "0x00300030")
        EDGEOPT_PACKED_AGAIN
        EDGEOPT_PLACE_W2("r2", "r6") EDGEOPT_PLACE_W2("r3", "r7")
        EDGEOPT_PLACE_W2("r4", "r8") EDGEOPT_PLACE_W2("r5", "r9")
        EDGEOPT_PACKED_LEAVE);
}
#undef EDGEOPT_PAIR_W2
#undef EDGEOPT_PLACE_W2
#endif

/* `count` pixels, four at most, with two channels. */
EDGEOPT_INLINE void edgeopt_pixels_w2(
    int32_t count, const uint32_t *starts, const uint8_t *w, const int32_t *channel, int8_t *y,
    int32_t row, int32_t outputs, int32_t zero) {
    const uint32_t *x = starts + EDGEOPT_STARTS;
    const uint8_t *const end = w + row;
    int32_t p[4], q[4];
    for (int32_t i = 0; i < count; ++i) {
        p[i] = (int32_t)starts[i];
        q[i] = (int32_t)starts[4 + i];
    }
    while (w != end) {
        uint32_t word = edgeopt_load(w);
        for (int32_t part = 0; part < 2; ++part) {
            const uint32_t even = word & 0x00030003u;
            const uint32_t even_upper = word & 0x000c000cu;
            const uint32_t odd = word & 0x00300030u;
            const uint32_t odd_upper = word & 0x00c000c0u;
#pragma GCC unroll 4
            for (int32_t i = 0; i < count; ++i) {
                p[i] = edgeopt_dot(x[i], even, p[i]);
                q[i] = edgeopt_dot(x[i], even_upper, q[i]);
                p[i] = edgeopt_dot(x[4 + i], odd, p[i]);
                q[i] = edgeopt_dot(x[4 + i], odd_upper, q[i]);
            }
            x += 8;
            word >>= 8;
        }
        w += 4;
    }
    for (int32_t i = 0; i < count; ++i) {
        const int32_t lower = edgeopt_shifted(p[i], 3, channel[0]);
        const int32_t upper = edgeopt_shifted(q[i], 5, channel[2]);
        y[i * outputs] = (int8_t)edgeopt_byte(edgeopt_scaled(lower, channel[1]), zero);
        y[i * outputs + 1] = (int8_t)edgeopt_byte(edgeopt_scaled(upper, channel[3]), zero);
    }
}
