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

#if EDGEOPT_ASSEMBLY
/* Two inputs of four pixels, with two channels: thirteen instructions for sixteen products. */
#define EDGEOPT_TWO_INPUTS            \
    "ldr r12, [r1], #4\n\t"           \
    "ldrd r10, r11, [r0], #8\n\t"     \
    "sxtb16 lr, r12, ror #8\n\t"      \
    "sxtb16 r12, r12\n\t"             \
    "smlad r2, r10, r12, r2\n\t"      \
    "smlad r6, r10, lr, r6\n\t"       \
    "smlad r3, r11, r12, r3\n\t"      \
    "smlad r7, r11, lr, r7\n\t"       \
    "ldrd r10, r11, [r0], #8\n\t"     \
    "smlad r4, r10, r12, r4\n\t"      \
    "smlad r8, r10, lr, r8\n\t"       \
    "smlad r5, r11, r12, r5\n\t"      \
    "smlad r9, r11, lr, r9\n\t"

/* `pairs` of channels of four pixels. Compilers do not manage with fourteen registers what fits
 * exactly: sums r2-r5 of channel a and r6-r9 of b, inputs r10 r11, weights r12 lr, pointers r0 r1.
 * All else waits in the FPU: s8 inputs, s9 channels, s10 outputs, s11 bytes of weights of two
 * channels, s12 output channels, s13 zero point, s14 pairs left, s15 the weights' end. */
EDGEOPT_NAKED void edgeopt_asm_four_pixels(
    EDGEOPT_UNUSED const uint32_t *wide, EDGEOPT_UNUSED const int8_t *w,
    EDGEOPT_UNUSED const int32_t *channel, EDGEOPT_UNUSED int8_t *y,
    EDGEOPT_UNUSED int32_t fours, EDGEOPT_UNUSED int32_t outputs, EDGEOPT_UNUSED int32_t zero,
    EDGEOPT_UNUSED int32_t pairs) {
    __asm__ volatile(
        "push {r4-r11, lr}\n\t"
        "vmov s8, r0\n\t"
        "vmov s9, r2\n\t"
        "vmov s10, r3\n\t"
        "ldr r4, [sp, #36]\n\t"
        "lsl r4, r4, #3\n\t"
        "vmov s11, r4\n\t"
        "vldr s12, [sp, #40]\n\t"
        "vldr s13, [sp, #44]\n\t"
        "vldr s14, [sp, #48]\n"
        "1:\n\t"
        "vmov r12, s9\n\t"
        "vmov r10, s11\n\t"
        "ldr r2, [r12]\n\t"
        "ldr r6, [r12, #8]\n\t"
        "add r11, r1, r10\n\t"
        "vmov s15, r11\n\t"
        "vmov r0, s8\n\t"
        "mov r3, r2\n\t"
        "mov r4, r2\n\t"
        "mov r5, r2\n\t"
        "mov r7, r6\n\t"
        "mov r8, r6\n\t"
        "mov r9, r6\n\t"
        "tst r10, #8\n\t" /* an odd number of fours begins in the middle */
        "bne 3f\n"
        "2:\n\t" EDGEOPT_TWO_INPUTS EDGEOPT_TWO_INPUTS
        "3:\n\t" EDGEOPT_TWO_INPUTS EDGEOPT_TWO_INPUTS
        "vmov r10, s15\n\t"
        "cmp r1, r10\n\t"
        "bne 2b\n\t"
        "vmov r12, s9\n\t"
        "vmov s0, s1, r2, r3\n\t"
        "vmov s2, s3, r4, r5\n\t"
        "vmov s4, s5, r6, r7\n\t"
        "vmov s6, s7, r8, r9\n\t"
        "vldr s15, [r12, #4]\n\t"
        EDGEOPT_SCALE("s0", "s15") EDGEOPT_SCALE("s1", "s15")
        EDGEOPT_SCALE("s2", "s15") EDGEOPT_SCALE("s3", "s15")
        "vldr s15, [r12, #12]\n\t"
        EDGEOPT_SCALE("s4", "s15") EDGEOPT_SCALE("s5", "s15")
        EDGEOPT_SCALE("s6", "s15") EDGEOPT_SCALE("s7", "s15")
        "add r12, r12, #16\n\t"
        "vmov s9, r12\n\t"
        "vmov r12, s13\n\t"
        "vmov r2, r3, s0, s1\n\t"
        "vmov r4, r5, s2, s3\n\t"
        "vmov r6, r7, s4, s5\n\t"
        "vmov r8, r9, s6, s7\n\t"
        EDGEOPT_BYTE("r2", "r12") EDGEOPT_BYTE("r3", "r12") EDGEOPT_BYTE("r4", "r12")
        EDGEOPT_BYTE("r5", "r12") EDGEOPT_BYTE("r6", "r12") EDGEOPT_BYTE("r7", "r12")
        EDGEOPT_BYTE("r8", "r12") EDGEOPT_BYTE("r9", "r12")
        "vmov r10, s10\n\t"
        "vmov r11, s12\n\t"
        "strb r2, [r10]\n\t"
        "strb r6, [r10, #1]\n\t"
        "add r12, r10, r11\n\t"
        "strb r3, [r12]\n\t"
        "strb r7, [r12, #1]\n\t"
        "add r12, r12, r11\n\t"
        "strb r4, [r12]\n\t"
        "strb r8, [r12, #1]\n\t"
        "add r12, r12, r11\n\t"
        "strb r5, [r12]\n\t"
        "strb r9, [r12, #1]\n\t"
        "add r10, r10, #2\n\t"
        "vmov s10, r10\n\t"
        "vmov r12, s14\n\t"
        "subs r12, r12, #1\n\t"
        "vmov s14, r12\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}
#undef EDGEOPT_TWO_INPUTS
#else
EDGEOPT_SHARED void edgeopt_asm_four_pixels(
    const uint32_t *wide, const int8_t *w, const int32_t *channel, int8_t *y, int32_t fours,
    int32_t outputs, int32_t zero, int32_t pairs) {
    for (; pairs > 0; --pairs) {
        const uint32_t *x = wide;
        int32_t a0 = channel[0], a1 = a0, a2 = a0, a3 = a0;
        int32_t b0 = channel[2], b1 = b0, b2 = b0, b3 = b0;
        for (int32_t i = 0; i < 2 * fours; ++i) {
            const uint32_t both = edgeopt_load(w);
            const uint32_t wa = edgeopt_even(both);
            const uint32_t wb = edgeopt_odd(both);
            a0 = edgeopt_dot(x[0], wa, a0);
            b0 = edgeopt_dot(x[0], wb, b0);
            a1 = edgeopt_dot(x[1], wa, a1);
            b1 = edgeopt_dot(x[1], wb, b1);
            a2 = edgeopt_dot(x[2], wa, a2);
            b2 = edgeopt_dot(x[2], wb, b2);
            a3 = edgeopt_dot(x[3], wa, a3);
            b3 = edgeopt_dot(x[3], wb, b3);
            x += 4;
            w += 4;
        }
        y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(a0, channel[1]), zero);
        y[1] = (int8_t)edgeopt_byte(edgeopt_scaled(b0, channel[3]), zero);
        y[outputs] = (int8_t)edgeopt_byte(edgeopt_scaled(a1, channel[1]), zero);
        y[outputs + 1] = (int8_t)edgeopt_byte(edgeopt_scaled(b1, channel[3]), zero);
        y[2 * outputs] = (int8_t)edgeopt_byte(edgeopt_scaled(a2, channel[1]), zero);
        y[2 * outputs + 1] = (int8_t)edgeopt_byte(edgeopt_scaled(b2, channel[3]), zero);
        y[3 * outputs] = (int8_t)edgeopt_byte(edgeopt_scaled(a3, channel[1]), zero);
        y[3 * outputs + 1] = (int8_t)edgeopt_byte(edgeopt_scaled(b3, channel[3]), zero);
        y += 2;
        channel += 4;
    }
}
#endif

/* One pixel. */
EDGEOPT_SHARED void edgeopt_one_pixel(
    const uint32_t *wide, const int8_t *w, const int32_t *channel, int8_t *y, int32_t fours,
    int32_t outputs, int32_t zero) {
    for (int32_t o = 0; o < outputs; o += 2) {
        const uint32_t *x = wide;
        const int8_t *const end = w + 8 * fours;
        int32_t a = channel[0];
        int32_t b = channel[2];
        while (w != end) {
            const uint32_t first = edgeopt_load(w);
            const uint32_t second = edgeopt_load(w + 4);
            const uint32_t even = x[0];
            const uint32_t odd = x[4];
            a = edgeopt_dot(even, edgeopt_even(first), a);
            b = edgeopt_dot(even, edgeopt_odd(first), b);
            a = edgeopt_dot(odd, edgeopt_even(second), a);
            b = edgeopt_dot(odd, edgeopt_odd(second), b);
            x += 8;
            w += 8;
        }
        y[o] = (int8_t)edgeopt_byte(edgeopt_scaled(a, channel[1]), zero);
        if (o + 1 < outputs) {
            y[o + 1] = (int8_t)edgeopt_byte(edgeopt_scaled(b, channel[3]), zero);
        }
        channel += 4;
    }
}

/* All channels of `pixels` (at most four) from inputs that are widened already. */
EDGEOPT_SHARED void edgeopt_block(
    const uint32_t *wide, const int8_t *w, int32_t fours, int32_t outputs, int32_t pixels,
    const int32_t *params, int8_t *y) {
    const int32_t zero = params[EDGEOPT_ZERO_Y];
    const int32_t *channel = params + EDGEOPT_CHANNELS;
    int32_t o = 0;
    if (pixels == 1) {
        edgeopt_one_pixel(wide, w, channel, y, fours, outputs, zero);
        return;
    }
    if (pixels == 4 && outputs > 1) {
        edgeopt_asm_four_pixels(wide, w, channel, y, fours, outputs, zero, outputs / 2);
        o = outputs & ~1;
    }
    for (; o < outputs; o += 2) { /* what would be written past the pixels or the channels */
        int8_t found[8];
        edgeopt_asm_four_pixels(
            wide, w + o * 4 * fours, channel + 2 * o, found, fours, 2, zero, 1);
        for (int32_t p = 0; p < pixels; ++p) {
            memcpy(y + p * outputs + o, found + 2 * p, o + 1 < outputs ? 2u : 1u);
        }
    }
}
