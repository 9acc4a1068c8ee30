/* Any convolution of one group, as in mve_conv.h. */
EDGEOPT_INLINE void edgeopt_mve_conv2d_packed(
    int32_t bits, const edgeopt_window *g, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y, int8_t *scratch) {
    const int32_t length = g->height * g->width * g->in_channels;
    const int32_t zero = params[EDGEOPT_ZERO_X];
    const int32_t outputs = g->out_channels;
    const int32_t pixels = g->out_height * g->out_width;
    int32_t oy = 0;
    int32_t ox = 0;
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        int8_t *to = y + p * outputs;
        for (int32_t i = 0; i <= other; ++i) {
            edgeopt_mve_patch(g, x, oy, ox, zero, scratch + i * length);
            ++ox;
            if (ox == g->out_width) {
                ox = 0;
                ++oy;
            }
        }
        edgeopt_mve_rows_packed(
            bits, edgeopt_mve_most(length), scratch, scratch + other * length, length, outputs, w,
            params, to, to + other * outputs);
    }
    edgeopt_mve_clamped(y, pixels * outputs, params[EDGEOPT_LO], params[EDGEOPT_HI]);
}
