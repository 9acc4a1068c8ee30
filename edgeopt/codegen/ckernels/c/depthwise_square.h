/* Depthwise kernels of 5 x 5 and 7 x 7: four outputs at a time, all products in a row.
 *
 * Sums r4-r7, weights r8 r9, inputs r2 r3 in turns, pointers r0 (inputs) r1 (weights) r11
 * (outputs), step r12, zero point lr; in the FPU twice the bias s10 s11, the end s12, multiplier
 * s13, the weights' begin s14. */
#if EDGEOPT_ASSEMBLY
#define EDGEOPT_SQUARE_BEGIN      \
    "push {r4-r11, lr}\n\t"       \
    "vmov s12, r2\n\t"            \
    "vmov s14, r1\n\t"            \
    "mov r11, r3\n\t"             \
    "ldrd r12, r2, [sp, #36]\n\t" \
    "ldr lr, [sp, #44]\n\t"       \
    "vldr s10, [r2]\n\t"          \
    "vldr s11, [r2]\n\t"          \
    "vldr s13, [r2, #4]\n"        \
    "1:\n\t"                      \
    "vmov r4, r5, s10, s11\n\t"   \
    "vmov r6, r7, s10, s11\n\t"   \
    "vmov r1, s14\n\t"
#define EDGEOPT_SQUARE_END(advance)                                              \
    "vmov s0, s1, r4, r5\n\t"                                                    \
    "vmov s2, s3, r6, r7\n\t"                                                    \
    EDGEOPT_SCALE("s0", "s13") EDGEOPT_SCALE("s1", "s13")                        \
    EDGEOPT_SCALE("s2", "s13") EDGEOPT_SCALE("s3", "s13")                        \
    "vmov r4, r5, s0, s1\n\t"                                                    \
    "vmov r6, r7, s2, s3\n\t"                                                    \
    EDGEOPT_BYTE("r4", "lr") EDGEOPT_BYTE("r5", "lr") EDGEOPT_BYTE("r6", "lr")   \
    EDGEOPT_BYTE("r7", "lr")                                                     \
    "strb r4, [r11]\n\t"                                                         \
    "strb r5, [r11, r12]\n\t"                                                    \
    "add r11, r11, r12, lsl #1\n\t"                                              \
    "strb r6, [r11]\n\t"                                                         \
    "strb r7, [r11, r12]\n\t"                                                    \
    "add r11, r11, r12, lsl #1\n\t"                                              \
    "add r0, r0, #" advance "\n\t"                                               \
    "vmov r2, s12\n\t"                                                           \
    "cmp r0, r2\n\t"                                                             \
    "bne 1b\n\t"                                                                 \
    "pop {r4-r11, pc}\n\t"

/* A stride of 1: a pair `here` and the one after it, with a pair of weights for outputs that begin
 * at the first of a pair and one for those that begin at the second. */
#define EDGEOPT_STEP(here, next, at)           \
    "ldrd r8, r9, [r1], #8\n\t"                \
    "ldr " next ", [r0, #(" at ")]\n\t"        \
    "smlad r4, " here ", r8, r4\n\t"           \
    "smlad r5, " here ", r9, r5\n\t"           \
    "smlad r6, " next ", r8, r6\n\t"           \
    "smlad r7, " next ", r9, r7\n\t"

/* A stride of 2: only the first kind of weights is used; `w` are theirs, from the last on where
 * the output before still takes part. */
#define EDGEOPT_INPUT(at) "ldr r2, [r0, #(" at ")]\n\t"
#define EDGEOPT_WEIGHT(to) "ldr " to ", [r1], #8\n\t"
#define EDGEOPT_ADD(sum, w) "smlad " sum ", r2, " w ", " sum "\n\t"

/* The weights, and then all lines but the last again: they are read from any line on. */
EDGEOPT_SHARED void edgeopt_widen_square(
    const edgeopt_lines *g, const int8_t *w, uint32_t *wide) {
    const int32_t line = (g->length / 2 + 1) * 2;
    edgeopt_widen_weights(g, w, wide);
    memcpy(wide + g->lines * line, wide, (size_t)((g->lines - 1) * line) * sizeof *wide);
}
#endif
