/* Convolution by blocks of four output pixels, whose windows are gathered and widened. */

/* `taps` is the length of a window rounded up to whole fours. */
EDGEOPT_ENTRY void edgeopt_conv2d_gathered(
    const edgeopt_window *g, int32_t taps, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *wide) {
    int8_t *const patches = (int8_t *)(wide + 2 * taps);
    const int32_t pixels = g->out_height * g->out_width;
    int32_t oy = 0;
    int32_t ox = 0;
    int8_t *to = y;
    for (int32_t p = 0; p < pixels; p += 4) {
        const int32_t now = edgeopt_min(pixels - p, 4);
        for (int32_t k = 0; k < now; ++k) {
            edgeopt_gather_window(g, oy, ox, x, params[EDGEOPT_ZERO_X], patches + k * taps);
            if (++ox == g->out_width) {
                ox = 0;
                ++oy;
            }
        }
        edgeopt_widen(patches, taps, now, taps, wide);
        edgeopt_block(wide, w, taps / 4, g->out_channels, now, params, to);
        to += 4 * g->out_channels;
    }
    edgeopt_clamp_all(y, pixels * g->out_channels, params);
}
