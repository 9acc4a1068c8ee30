/* A kernel of 5 x 5 with a stride of 2 along its lines. */
#if EDGEOPT_ASSEMBLY
#define EDGEOPT_LINE(line)                                                           \
    EDGEOPT_WEIGHT("r8") EDGEOPT_WEIGHT("r9") EDGEOPT_WEIGHT("r3")                   \
    EDGEOPT_INPUT("16*" line "+0") EDGEOPT_ADD("r4", "r8")                           \
    EDGEOPT_INPUT("16*" line "+80") EDGEOPT_ADD("r4", "r9") EDGEOPT_ADD("r5", "r8")  \
    EDGEOPT_INPUT("16*" line "+160") EDGEOPT_ADD("r4", "r3") EDGEOPT_ADD("r5", "r9") \
        EDGEOPT_ADD("r6", "r8")                                                      \
    EDGEOPT_INPUT("16*" line "+240") EDGEOPT_ADD("r5", "r3") EDGEOPT_ADD("r6", "r9") \
        EDGEOPT_ADD("r7", "r8")                                                      \
    EDGEOPT_INPUT("16*" line "+320") EDGEOPT_ADD("r6", "r3") EDGEOPT_ADD("r7", "r9") \
    EDGEOPT_INPUT("16*" line "+400") EDGEOPT_ADD("r7", "r3")
EDGEOPT_NAKED void edgeopt_asm_5_2(EDGEOPT_LINE_ARGUMENTS) {
    __asm__ volatile(
        EDGEOPT_SQUARE_BEGIN
        EDGEOPT_LINE("0") EDGEOPT_LINE("1") EDGEOPT_LINE("2") EDGEOPT_LINE("3")
        EDGEOPT_LINE("4")
        EDGEOPT_SQUARE_END("320"));
}
#undef EDGEOPT_LINE

EDGEOPT_SHARED void edgeopt_line_out_5_2(
    const edgeopt_lines *g, const uint32_t *ring, int32_t oldest, const uint32_t *wide,
    const int32_t *channel, int32_t zero, int8_t *y) {
    const int32_t blocks = g->out_length / 4;
    const uint32_t *const end = ring + 80 * blocks;
    wide += oldest ? 6 * (5 - oldest) : 0;
    if (blocks) {
        edgeopt_asm_5_2(ring, wide, end, y, g->out_step, channel, zero);
    }
    if (g->out_length & 3) { /* a last block, of which not all is wanted */
        int8_t found[4];
        edgeopt_asm_5_2(end, wide, end + 80, found, 1, channel, zero);
        for (int32_t i = 0; i < (g->out_length & 3); ++i) {
            y[(4 * blocks + i) * g->out_step] = found[i];
        }
    }
}
#endif

EDGEOPT_SHARED void edgeopt_depthwise_5_2(
    const edgeopt_lines *g, int32_t pairs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
#if EDGEOPT_ASSEMBLY
    edgeopt_all_lines(
        g, pairs, 54, edgeopt_widen_square, edgeopt_line_out_5_2, x, w, params, y, scratch);
#else
    edgeopt_depthwise(g, pairs, x, w, params, y, scratch);
#endif
}
