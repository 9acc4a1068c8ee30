/* Blocks of four pixels and two channels.
 *
 * Inputs of four pixels are widened to 16 bits once, for all channels. Four neighbouring inputs
 * i..i+3 of pixels 0..3 become eight words: (i, i+2) of each pixel, then (i+1, i+3) of each.
 * Weights stay bytes: four inputs of channels a and b are two words, a[i] b[i] a[i+2] b[i+2] and
 * a[i+1] b[i+1] a[i+3] b[i+3], so that two sign extensions give a pair of either channel. */

/* Widens the inputs of some pixels, at most four; others are like the first. */
EDGEOPT_SHARED void edgeopt_widen(
    const int8_t *x, int32_t stride, int32_t pixels, int32_t inputs, uint32_t *wide) {
    const int8_t *second = pixels > 1 ? x + stride : x;
    const int8_t *third = pixels > 2 ? x + 2 * stride : x;
    const int8_t *fourth = pixels > 3 ? x + 3 * stride : x;
    const int8_t *end = x + (inputs & ~3);
    while (x != end) {
        const uint32_t a = edgeopt_load(x);
        const uint32_t b = edgeopt_load(second);
        const uint32_t c = edgeopt_load(third);
        const uint32_t d = edgeopt_load(fourth);
        wide[0] = edgeopt_even(a);
        wide[1] = edgeopt_even(b);
        wide[2] = edgeopt_even(c);
        wide[3] = edgeopt_even(d);
        wide[4] = edgeopt_odd(a);
        wide[5] = edgeopt_odd(b);
        wide[6] = edgeopt_odd(c);
        wide[7] = edgeopt_odd(d);
        x += 4;
        second += 4;
        third += 4;
        fourth += 4;
        wide += 8;
    }
    if (inputs & 3) {
        const int8_t *const rows[4] = {x, second, third, fourth};
        for (int32_t pixel = 0; pixel < 4; ++pixel) {
            uint32_t rest = 0;
            memcpy(&rest, rows[pixel], (size_t)(inputs & 3));
            wide[pixel] = edgeopt_even(rest);
            wide[4 + pixel] = edgeopt_odd(rest);
        }
    }
}

/* Results of a block: channels a and b of pixels 0..3. */
typedef struct {
    int32_t a0, a1, a2, a3, b0, b1, b2, b3;
} edgeopt_eight;

#if EDGEOPT_ASSEMBLY
/* Compilers do not manage with fourteen registers what fits exactly: eight sums, two widened
 * inputs, a pair of weights of either channel, and two pointers. All else waits in the FPU. */
#define EDGEOPT_PAIR                       \
    "ldr %[wa], [%[w]], #4\n\t"            \
    "ldrd %[x0], %[x1], [%[x]], #8\n\t"    \
    "sxtb16 %[wb], %[wa], ror #8\n\t"      \
    "sxtb16 %[wa], %[wa]\n\t"              \
    "smlad %[a0], %[x0], %[wa], %[a0]\n\t" \
    "smlad %[b0], %[x0], %[wb], %[b0]\n\t" \
    "smlad %[a1], %[x1], %[wa], %[a1]\n\t" \
    "smlad %[b1], %[x1], %[wb], %[b1]\n\t" \
    "ldrd %[x0], %[x1], [%[x]], #8\n\t"    \
    "smlad %[a2], %[x0], %[wa], %[a2]\n\t" \
    "smlad %[b2], %[x0], %[wb], %[b2]\n\t" \
    "smlad %[a3], %[x1], %[wa], %[a3]\n\t" \
    "smlad %[b3], %[x1], %[wb], %[b3]\n\t"
#define EDGEOPT_SCALE(at, by)            \
    "vcvt.f32.s32 " at ", " at "\n\t"    \
    "vmul.f32 " at ", " at ", " by "\n\t" \
    "vcvtr.s32.f32 " at ", " at "\n\t"
#define EDGEOPT_BYTE(sum)                        \
    "qadd " sum ", " sum ", %[wa]\n\t"           \
    "ssat " sum ", #8, " sum "\n\t"

EDGEOPT_INLINE const int8_t *edgeopt_sums(
    const uint32_t *wide, const int8_t *w, int32_t fours, const int32_t *channel, int32_t zero,
    edgeopt_eight *y) {
    const int8_t *const end = w + 8 * fours;
    uint32_t x0, x1, wa, wb;
    float last, params, offset;
    memcpy(&last, &end, sizeof last);
    memcpy(&params, &channel, sizeof params);
    memcpy(&offset, &zero, sizeof offset);
    __asm__ volatile(
        "vmov %[wa], %[params]\n\t"
        "ldr %[a0], [%[wa]]\n\t"
        "ldr %[b0], [%[wa], #8]\n\t"
        "vmov %[x0], %[last]\n\t"
        "mov %[a1], %[a0]\n\t"
        "mov %[a2], %[a0]\n\t"
        "mov %[a3], %[a0]\n\t"
        "mov %[b1], %[b0]\n\t"
        "mov %[b2], %[b0]\n\t"
        "mov %[b3], %[b0]\n\t"
        "subs %[x0], %[x0], %[w]\n\t"
        "tst %[x0], #8\n\t" /* an odd number of fours begins in the middle */
        "bne 2f\n"
        "1:\n\t" EDGEOPT_PAIR EDGEOPT_PAIR
        "2:\n\t" EDGEOPT_PAIR EDGEOPT_PAIR
        "vmov %[x0], %[last]\n\t"
        "cmp %[w], %[x0]\n\t"
        "bne 1b\n\t"
        "vmov %[wa], %[params]\n\t"
        "vldr s8, [%[wa], #4]\n\t"
        "vldr s9, [%[wa], #12]\n\t"
        "vmov s0, s1, %[a0], %[a1]\n\t"
        "vmov s2, s3, %[a2], %[a3]\n\t"
        "vmov s4, s5, %[b0], %[b1]\n\t"
        "vmov s6, s7, %[b2], %[b3]\n\t"
        EDGEOPT_SCALE("s0", "s8") EDGEOPT_SCALE("s1", "s8")
        EDGEOPT_SCALE("s2", "s8") EDGEOPT_SCALE("s3", "s8")
        EDGEOPT_SCALE("s4", "s9") EDGEOPT_SCALE("s5", "s9")
        EDGEOPT_SCALE("s6", "s9") EDGEOPT_SCALE("s7", "s9")
        "vmov %[wa], %[offset]\n\t"
        "vmov %[a0], %[a1], s0, s1\n\t"
        "vmov %[a2], %[a3], s2, s3\n\t"
        "vmov %[b0], %[b1], s4, s5\n\t"
        "vmov %[b2], %[b3], s6, s7\n\t"
        EDGEOPT_BYTE("%[a0]") EDGEOPT_BYTE("%[a1]") EDGEOPT_BYTE("%[a2]") EDGEOPT_BYTE("%[a3]")
        EDGEOPT_BYTE("%[b0]") EDGEOPT_BYTE("%[b1]") EDGEOPT_BYTE("%[b2]") EDGEOPT_BYTE("%[b3]")
        : [a0] "=&r"(y->a0), [a1] "=&r"(y->a1), [a2] "=&r"(y->a2), [a3] "=&r"(y->a3),
          [b0] "=&r"(y->b0), [b1] "=&r"(y->b1), [b2] "=&r"(y->b2), [b3] "=&r"(y->b3),
          [x] "+r"(wide), [w] "+r"(w), [x0] "=&r"(x0), [x1] "=&r"(x1), [wa] "=&r"(wa),
          [wb] "=&r"(wb)
        : [last] "t"(last), [params] "t"(params), [offset] "t"(offset)
        : "cc", "memory", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9");
    return w;
}
#undef EDGEOPT_PAIR
#undef EDGEOPT_SCALE
#undef EDGEOPT_BYTE
#else
EDGEOPT_INLINE const int8_t *edgeopt_sums(
    const uint32_t *wide, const int8_t *w, int32_t fours, const int32_t *channel, int32_t zero,
    edgeopt_eight *y) {
    int32_t a0 = channel[0], a1 = a0, a2 = a0, a3 = a0;
    int32_t b0 = channel[2], b1 = b0, b2 = b0, b3 = b0;
    for (int32_t i = 0; i < 2 * fours; ++i) {
        const uint32_t both = edgeopt_load(w);
        const uint32_t wa = edgeopt_even(both);
        const uint32_t wb = edgeopt_odd(both);
        a0 = edgeopt_dot(wide[0], wa, a0);
        b0 = edgeopt_dot(wide[0], wb, b0);
        a1 = edgeopt_dot(wide[1], wa, a1);
        b1 = edgeopt_dot(wide[1], wb, b1);
        a2 = edgeopt_dot(wide[2], wa, a2);
        b2 = edgeopt_dot(wide[2], wb, b2);
        a3 = edgeopt_dot(wide[3], wa, a3);
        b3 = edgeopt_dot(wide[3], wb, b3);
        wide += 4;
        w += 4;
    }
    y->a0 = edgeopt_byte(edgeopt_scaled(a0, channel[1]), zero);
    y->a1 = edgeopt_byte(edgeopt_scaled(a1, channel[1]), zero);
    y->a2 = edgeopt_byte(edgeopt_scaled(a2, channel[1]), zero);
    y->a3 = edgeopt_byte(edgeopt_scaled(a3, channel[1]), zero);
    y->b0 = edgeopt_byte(edgeopt_scaled(b0, channel[3]), zero);
    y->b1 = edgeopt_byte(edgeopt_scaled(b1, channel[3]), zero);
    y->b2 = edgeopt_byte(edgeopt_scaled(b2, channel[3]), zero);
    y->b3 = edgeopt_byte(edgeopt_scaled(b3, channel[3]), zero);
    return w;
}
#endif

/* All channels of `pixels` (at most four) from inputs that are widened already. */
EDGEOPT_SHARED void edgeopt_block(
    const uint32_t *wide, const int8_t *w, int32_t fours, int32_t outputs, int32_t pixels,
    const int32_t *params, int8_t *y) {
    const int32_t *channel = params + EDGEOPT_CHANNELS;
    const int8_t *const end = y + outputs;
    edgeopt_eight found;
    if (pixels == 4 && outputs % 2 == 0) {
        while (y != end) {
            int8_t *to = y;
            w = edgeopt_sums(wide, w, fours, channel, params[EDGEOPT_ZERO_Y], &found);
            to[0] = (int8_t)found.a0;
            to[1] = (int8_t)found.b0;
            to += outputs;
            to[0] = (int8_t)found.a1;
            to[1] = (int8_t)found.b1;
            to += outputs;
            to[0] = (int8_t)found.a2;
            to[1] = (int8_t)found.b2;
            to += outputs;
            to[0] = (int8_t)found.a3;
            to[1] = (int8_t)found.b3;
            y += 2;
            channel += 4;
        }
        return;
    }
    for (int32_t o = 0; o < outputs; o += 2) {
        int8_t *to = y + o;
        w = edgeopt_sums(wide, w, fours, channel, params[EDGEOPT_ZERO_Y], &found);
        const int32_t a[4] = {found.a0, found.a1, found.a2, found.a3};
        const int32_t b[4] = {found.b0, found.b1, found.b2, found.b3};
        for (int32_t p = 0; p < pixels; ++p) {
            to[0] = (int8_t)a[p];
            if (o + 1 < outputs) {
                to[1] = (int8_t)b[p];
            }
            to += outputs;
        }
        channel += 4;
    }
}
