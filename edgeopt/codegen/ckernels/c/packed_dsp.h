/* Blocks of four pixels and two channels (as in gemm_dsp.h) with weights of four or two bits.
 *
 * Fields of the two channels share a byte, the sums of both are made of what one or two ANDs leave
 * of a word: no weight is ever moved to the bottom of a register. Fields that stand higher count
 * 4, 16 or 64 times as much, and their sums are shifted back; those of fields that are biased
 * start below zero by the bias times the sum of the inputs, which is taken once for all channels,
 * while the inputs are widened. Sums are modulo 2^32, so only what is shifted back must fit: so it
 * does up to EDGEOPT_PACKED_INPUTS.
 *
 * In front of the widened inputs lies where sums start: of the four pixels with the first channel,
 * then with the second. */
enum { EDGEOPT_STARTS = 8, EDGEOPT_PACKED_INPUTS = 131071 };

#if EDGEOPT_ASSEMBLY
/* A pair of inputs of four pixels with a pair of weights of two channels. */
#define EDGEOPT_EIGHT_DOTS            \
    "ldrd r10, r11, [r0], #8\n\t"     \
    "smlad r2, r10, r12, r2\n\t"      \
    "smlad r6, r10, lr, r6\n\t"       \
    "smlad r3, r11, r12, r3\n\t"      \
    "smlad r7, r11, lr, r7\n\t"       \
    "ldrd r10, r11, [r0], #8\n\t"     \
    "smlad r4, r10, r12, r4\n\t"      \
    "smlad r8, r10, lr, r8\n\t"       \
    "smlad r5, r11, r12, r5\n\t"      \
    "smlad r9, r11, lr, r9\n\t"

/* Registers as in gemm_dsp.h: sums r2-r5 of one channel and r6-r9 of the other, inputs r10 r11,
 * weights r12 lr, pointers r0 r1; s8 starts, s9 channels, s10 outputs, s11 bytes of weights of two
 * channels, s12 output channels, s13 zero point, s14 pairs left, s15 the weights' end. */
#define EDGEOPT_PACKED_ENTER          \
    "push {r4-r11, lr}\n\t"           \
    "vmov s8, r0\n\t"                 \
    "vmov s9, r2\n\t"                 \
    "vmov s10, r3\n\t"                \
    "vldr s11, [sp, #36]\n\t"         \
    "vldr s12, [sp, #40]\n\t"         \
    "vldr s13, [sp, #44]\n\t"         \
    "vldr s14, [sp, #48]\n"           \
    "1:\n\t"                          \
    "vmov r0, s8\n\t"                 \
    "vmov r10, s11\n\t"               \
    "ldm r0!, {r2-r9}\n\t"            \
    "add r11, r1, r10\n\t"            \
    "vmov s15, r11\n\t"

#define EDGEOPT_PACKED_AGAIN          \
    "vmov r10, s15\n\t"               \
    "cmp r1, r10\n\t"                 \
    "bne 2b\n\t"                      \
    "vmov r12, s9\n\t"                \
    "ldr r10, [r12]\n\t"              \
    "ldr r11, [r12, #8]\n\t"

/* Multipliers, rounding, narrowing, and the next two channels. */
#define EDGEOPT_PACKED_LEAVE                              \
    "vmov s0, s1, r2, r3\n\t"                             \
    "vmov s2, s3, r4, r5\n\t"                             \
    "vmov s4, s5, r6, r7\n\t"                             \
    "vmov s6, s7, r8, r9\n\t"                             \
    "vldr s15, [r12, #4]\n\t"                             \
    EDGEOPT_SCALE("s0", "s15") EDGEOPT_SCALE("s1", "s15") \
    EDGEOPT_SCALE("s2", "s15") EDGEOPT_SCALE("s3", "s15") \
    "vldr s15, [r12, #12]\n\t"                            \
    EDGEOPT_SCALE("s4", "s15") EDGEOPT_SCALE("s5", "s15") \
    EDGEOPT_SCALE("s6", "s15") EDGEOPT_SCALE("s7", "s15") \
    "add r12, r12, #16\n\t"                               \
    "vmov s9, r12\n\t"                                    \
    "vmov r12, s13\n\t"                                   \
    "vmov r2, r3, s0, s1\n\t"                             \
    "vmov r4, r5, s2, s3\n\t"                             \
    "vmov r6, r7, s4, s5\n\t"                             \
    "vmov r8, r9, s6, s7\n\t"                             \
    EDGEOPT_BYTE("r2", "r12") EDGEOPT_BYTE("r3", "r12")   \
    EDGEOPT_BYTE("r4", "r12") EDGEOPT_BYTE("r5", "r12")   \
    EDGEOPT_BYTE("r6", "r12") EDGEOPT_BYTE("r7", "r12")   \
    EDGEOPT_BYTE("r8", "r12") EDGEOPT_BYTE("r9", "r12")   \
    "vmov r10, s10\n\t"                                   \
    "vmov r11, s12\n\t"                                   \
    "strb r2, [r10]\n\t"                                  \
    "strb r6, [r10, #1]\n\t"                              \
    "add r12, r10, r11\n\t"                               \
    "strb r3, [r12]\n\t"                                  \
    "strb r7, [r12, #1]\n\t"                              \
    "add r12, r12, r11\n\t"                               \
    "strb r4, [r12]\n\t"                                  \
    "strb r8, [r12, #1]\n\t"                              \
    "add r12, r12, r11\n\t"                               \
    "strb r5, [r12]\n\t"                                  \
    "strb r9, [r12, #1]\n\t"                              \
    "add r10, r10, #2\n\t"                                \
    "vmov s10, r10\n\t"                                   \
    "vmov r12, s14\n\t"                                   \
    "subs r12, r12, #1\n\t"                               \
    "vmov s14, r12\n\t"                                   \
    "bne 1b\n\t"                                          \
    "pop {r4-r11, pc}\n\t"
#endif

/* The 16-bit halves of a word 16 times; they have 12 bits. */
EDGEOPT_INLINE uint32_t edgeopt_sixteenfold(uint32_t pair) {
    return (pair << 4) & 0xfff0ffffu;
}

/* Four inputs of a pixel; adds them up. Weights of two bits meet even inputs 16 times. */
EDGEOPT_INLINE int32_t edgeopt_widen_four(
    uint32_t four, int32_t bits, uint32_t *wide, int32_t sum) {
    const uint32_t ones = 0x00010001u;
    const uint32_t even = edgeopt_even(four);
    const uint32_t odd = edgeopt_odd(four);
    wide[0] = bits == 2 ? edgeopt_sixteenfold(even) : even;
    wide[4] = odd;
    return edgeopt_dot(odd, ones, edgeopt_dot(even, ones, sum));
}

/* Widens the inputs of some pixels, at most four; others are like the first. For weights of two
 * bits there are fours of inputs two by two. */
EDGEOPT_INLINE void edgeopt_widen_sums(
    const int8_t *x, int32_t stride, int32_t pixels, int32_t inputs, int32_t bits,
    uint32_t *starts) {
    for (int32_t p = 0; p < 4; ++p) {
        const int8_t *from = p < pixels ? x + p * stride : x;
        const int8_t *const end = from + (inputs & ~7);
        uint32_t *wide = starts + EDGEOPT_STARTS + p;
        int32_t sum = 0;
        while (from != end) {
            sum = edgeopt_widen_four(edgeopt_load(from), bits, wide, sum);
            sum = edgeopt_widen_four(edgeopt_load(from + 4), bits, wide + 8, sum);
            from += 8;
            wide += 16;
        }
        if (inputs & 4) {
            sum = edgeopt_widen_four(edgeopt_load(from), bits, wide, sum);
            from += 4;
            wide += 8;
        }
        if (inputs & 3) {
            uint32_t rest = 0;
            memcpy(&rest, from, (size_t)(inputs & 3));
            sum = edgeopt_widen_four(rest, bits, wide, sum);
            wide += 8;
        }
        if (bits == 2 && ((inputs + 3) & 4)) {
            wide[0] = 0;
            wide[4] = 0;
        }
        starts[p] = (uint32_t)sum * (bits == 2 ? 0u - 24u : 0u - 8u);
        starts[4 + p] = bits == 2 ? (uint32_t)sum * (0u - 96u) : 0u;
    }
}

/* Sums of a channel as they are without packing: `sum` counts 2^shift times. */
EDGEOPT_INLINE int32_t edgeopt_shifted(int32_t sum, int32_t shift, int32_t bias) {
    return (int32_t)((uint32_t)bias + (uint32_t)(sum >> shift));
}

/* All channels of `pixels`, at most four, by a function for four and one for a single one; `row`
 * is the bytes of weights of two channels. */
typedef void edgeopt_pixels(
    const uint32_t *starts, const uint8_t *w, const int32_t *channel, int8_t *y, int32_t row,
    int32_t outputs, int32_t zero, int32_t pairs);

EDGEOPT_INLINE void edgeopt_packed_block(
    edgeopt_pixels *four, edgeopt_pixels *one, const uint32_t *starts, const uint8_t *w,
    int32_t row, int32_t outputs, int32_t pixels, const int32_t *params, int8_t *y) {
    const int32_t zero = params[EDGEOPT_ZERO_Y];
    const int32_t *channel = params + EDGEOPT_CHANNELS;
    int32_t o = 0;
    if (outputs > 1 && pixels == 4) {
        four(starts, w, channel, y, row, outputs, zero, outputs / 2);
        o = outputs & ~1;
    } else if (outputs > 1 && pixels == 1) {
        one(starts, w, channel, y, row, outputs, zero, outputs / 2);
        o = outputs & ~1;
    }
    for (; o < outputs; o += 2) { /* what would be written past the pixels or the channels */
        int8_t found[8];
        four(starts, w + o / 2 * row, channel + 2 * o, found, row, 2, zero, 1);
        for (int32_t p = 0; p < pixels; ++p) {
            memcpy(y + p * outputs + o, found + 2 * p, o + 1 < outputs ? 2u : 1u);
        }
    }
}

/* What goes before the loops of a width. */
typedef void edgeopt_widener(
    const int8_t *x, int32_t stride, int32_t pixels, int32_t inputs, uint32_t *starts);
typedef void edgeopt_blocks(
    const uint32_t *starts, const uint8_t *w, int32_t row, int32_t outputs, int32_t pixels,
    const int32_t *params, int8_t *y);

/* Pointwise convolution. A block's inputs are read before its outputs are written. */
EDGEOPT_INLINE void edgeopt_packed_pointwise(
    edgeopt_widener *widen, edgeopt_blocks *block, int32_t pixels, int32_t inputs, int32_t outputs,
    int32_t row, const int8_t *x, const uint8_t *w, const int32_t *params, int8_t *y,
    uint32_t *starts) {
    for (int32_t p = 0; p < pixels; p += 4) {
        const int32_t now = edgeopt_min(pixels - p, 4);
        widen(x + p * inputs, inputs, now, inputs, starts);
        block(starts, w, row, outputs, now, params, y + p * outputs);
    }
    edgeopt_clamp_all(y, pixels * outputs, params);
}
