/* A kernel of 7 x 7 with a stride of 1 along its lines. */
#if EDGEOPT_ASSEMBLY
#define EDGEOPT_LINE(line)                      \
    "ldr r2, [r0, #(16*" line ")]\n\t"          \
    EDGEOPT_STEP("r2", "r3", "16*" line "+112") \
    EDGEOPT_STEP("r3", "r2", "16*" line "+224") \
    EDGEOPT_STEP("r2", "r3", "16*" line "+336") \
    EDGEOPT_STEP("r3", "r2", "16*" line "+448")
EDGEOPT_NAKED void edgeopt_asm_7_1(EDGEOPT_LINE_ARGUMENTS) {
    __asm__ volatile(
        EDGEOPT_SQUARE_BEGIN
        EDGEOPT_LINE("0") EDGEOPT_LINE("1") EDGEOPT_LINE("2") EDGEOPT_LINE("3"));
    __asm__ volatile( /* C99 bounds the length of a literal */
        EDGEOPT_LINE("4") EDGEOPT_LINE("5") EDGEOPT_LINE("6")
        EDGEOPT_SQUARE_END("224"));
}
#undef EDGEOPT_LINE

EDGEOPT_SHARED void edgeopt_line_out_7_1(
    const edgeopt_lines *g, const uint32_t *ring, int32_t oldest, const uint32_t *wide,
    const int32_t *channel, int32_t zero, int8_t *y) {
    const int32_t blocks = g->out_length / 4;
    const uint32_t *const end = ring + 56 * blocks;
    wide += oldest ? 8 * (7 - oldest) : 0;
    if (blocks) {
        edgeopt_asm_7_1(ring, wide, end, y, g->out_step, channel, zero);
    }
    if (g->out_length & 3) { /* a last block, of which not all is wanted */
        int8_t found[4];
        edgeopt_asm_7_1(end, wide, end + 56, found, 1, channel, zero);
        for (int32_t i = 0; i < (g->out_length & 3); ++i) {
            y[(4 * blocks + i) * g->out_step] = found[i];
        }
    }
}
#endif

EDGEOPT_SHARED void edgeopt_depthwise_7_1(
    const edgeopt_lines *g, int32_t pairs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
#if EDGEOPT_ASSEMBLY
    edgeopt_all_lines(
        g, pairs, 104, edgeopt_widen_square, edgeopt_line_out_7_1, x, w, params, y, scratch);
#else
    edgeopt_depthwise(g, pairs, x, w, params, y, scratch);
#endif
}
