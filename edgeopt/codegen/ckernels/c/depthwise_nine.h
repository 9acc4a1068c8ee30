#if EDGEOPT_ASSEMBLY
/* Three lines of three weights, as (w0, w1) (w1, w2) each; then the first two lines again, so that
 * they can be read from any line on. */
EDGEOPT_SHARED void edgeopt_widen_nine(
    EDGEOPT_UNUSED const edgeopt_lines *g, const int8_t *w, uint32_t *wide) {
    for (int32_t line = 0; line < 5; ++line) {
        const uint32_t word = edgeopt_load(w + (line < 3 ? line : line - 3) * 3);
        const uint32_t even = edgeopt_even(word); /* w0, w2 */
        const uint32_t odd = edgeopt_odd(word);   /* w1 and what comes after */
        wide[2 * line] = (even & 0xffffu) | (odd << 16);
        wide[2 * line + 1] = (odd & 0xffffu) | (even & 0xffff0000u);
    }
}

/* One channel of a line. Fourteen registers: x r0, sums r1 r2, y r3, pairs of weights r4-r9, pairs
 * of inputs r10-r12, step lr; in the FPU twice the bias s10 s11, the end s12, multiplier s13, zero
 * point s14. Two outputs at a time cost 36 instructions; the first half of what is read after a
 * step serves the output before, and all of it the next. */
#define EDGEOPT_BEGIN             \
    "push {r4-r11, lr}\n\t"       \
    "vmov s12, r2\n\t"            \
    "ldrd lr, r2, [sp, #36]\n\t"  \
    "vldr s14, [sp, #44]\n\t"     \
    "vldr s10, [r2]\n\t"          \
    "vldr s11, [r2]\n\t"          \
    "vldr s13, [r2, #4]\n\t"      \
    "ldm r1, {r4-r9}\n\t"         \
    "ldr r10, [r0]\n\t"           \
    "ldr r11, [r0, #16]\n\t"      \
    "ldr r12, [r0, #32]\n"        \
    "1:\n\t"

EDGEOPT_NAKED void edgeopt_asm_nine_by_two(EDGEOPT_LINE_ARGUMENTS) {
    __asm__ volatile(
        EDGEOPT_BEGIN
        "vmov r1, r2, s10, s11\n\t"
        "smlad r1, r10, r4, r1\n\t"
        "smlatb r2, r10, r4, r2\n\t"
        "ldr r10, [r0, #48]!\n\t"
        "smlad r1, r11, r6, r1\n\t"
        "smlatb r2, r11, r6, r2\n\t"
        "ldr r11, [r0, #16]\n\t"
        "smlad r1, r12, r8, r1\n\t"
        "smlatb r2, r12, r8, r2\n\t"
        "ldr r12, [r0, #32]\n\t"
        "smlabt r1, r10, r5, r1\n\t"
        "smlad r2, r10, r5, r2\n\t"
        "smlabt r1, r11, r7, r1\n\t"
        "smlad r2, r11, r7, r2\n\t"
        "smlabt r1, r12, r9, r1\n\t"
        "smlad r2, r12, r9, r2\n\t"
        "vmov s0, s1, r1, r2\n\t"
        EDGEOPT_SCALE("s0", "s13") EDGEOPT_SCALE("s1", "s13")
        "vmov r1, s0\n\t"
        "vmov r2, s14\n\t"
        EDGEOPT_BYTE("r1", "r2")
        "strb r1, [r3]\n\t"
        "vmov r1, s1\n\t"
        EDGEOPT_BYTE("r1", "r2")
        "strb r1, [r3, lr]\n\t"
        "add r3, r3, lr, lsl #1\n\t"
        "vmov r1, s12\n\t"
        "cmp r0, r1\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}

/* A stride of 2: one output at a time, 22 instructions. */
EDGEOPT_NAKED void edgeopt_asm_nine_by_one(EDGEOPT_LINE_ARGUMENTS) {
    __asm__ volatile(
        EDGEOPT_BEGIN
        "vmov r1, s10\n\t"
        "smlad r1, r10, r4, r1\n\t"
        "ldr r10, [r0, #48]!\n\t"
        "smlad r1, r11, r6, r1\n\t"
        "ldr r11, [r0, #16]\n\t"
        "smlad r1, r12, r8, r1\n\t"
        "ldr r12, [r0, #32]\n\t"
        "smlabt r1, r10, r5, r1\n\t"
        "smlabt r1, r11, r7, r1\n\t"
        "smlabt r1, r12, r9, r1\n\t"
        "vmov s0, r1\n\t"
        EDGEOPT_SCALE("s0", "s13")
        "vmov r2, s14\n\t"
        "vmov r1, s0\n\t"
        EDGEOPT_BYTE("r1", "r2")
        "strb r1, [r3]\n\t"
        "add r3, r3, lr\n\t"
        "vmov r1, s12\n\t"
        "cmp r0, r1\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}
#undef EDGEOPT_BEGIN

/* One channel of an output line of a kernel of 3 x 3. */
EDGEOPT_SHARED void edgeopt_line_out_nine(
    const edgeopt_lines *g, const uint32_t *ring, int32_t oldest, const uint32_t *wide,
    const int32_t *channel, int32_t zero, int8_t *y) {
    const int32_t count = g->stride == 1 ? g->out_length / 2 : g->out_length;
    const uint32_t *const end = ring + 12 * count;
    wide += oldest ? 2 * (3 - oldest) : 0;
    if (g->stride == 2) {
        edgeopt_asm_nine_by_one(ring, wide, end, y, g->out_step, channel, zero);
        return;
    }
    if (count) {
        edgeopt_asm_nine_by_two(ring, wide, end, y, g->out_step, channel, zero);
    }
    if (g->out_length & 1) {
        const uint32_t *x = end;
        int32_t sum = channel[0];
        for (int32_t line = 0; line < 3; ++line) {
            sum = edgeopt_dot(x[4 * line], wide[2 * line], sum);
            sum += (int16_t)(x[12 + 4 * line] & 0xffffu) * ((int32_t)wide[2 * line + 1] >> 16);
        }
        y += 2 * count * g->out_step;
        y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(sum, channel[1]), zero);
    }
}
#endif

/* A kernel of 3 x 3 with a stride of 1 or 2 along its lines. */
EDGEOPT_SHARED void edgeopt_depthwise_nine(
    const edgeopt_lines *g, int32_t pairs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
#if EDGEOPT_ASSEMBLY
    edgeopt_all_lines(
        g, pairs, 10, edgeopt_widen_nine, edgeopt_line_out_nine, x, w, params, y, scratch);
#else
    edgeopt_depthwise(g, pairs, x, w, params, y, scratch);
#endif
}
