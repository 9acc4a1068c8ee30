/* Convolution by blocks of four output pixels, whose windows are gathered and widened; `taps` is
 * the length of a window rounded up as widened inputs are. */
EDGEOPT_INLINE void edgeopt_packed_conv2d(
    edgeopt_widener *widen, edgeopt_blocks *block, const edgeopt_window *g, int32_t taps,
    int32_t row, const int8_t *x, const uint8_t *w, const int32_t *params, int8_t *y,
    uint32_t *starts) {
    int8_t *const patches = (int8_t *)(starts + EDGEOPT_STARTS + 2 * taps);
    const int32_t length = g->height * g->width * g->in_channels;
    const int32_t pixels = g->out_height * g->out_width;
    int32_t oy = 0;
    int32_t ox = 0;
    for (int32_t k = 0; k < 4; ++k) { /* weights of two bits that are not there are not zero */
        memset(patches + k * taps + length, 0, (size_t)(taps - length));
    }
    for (int32_t p = 0; p < pixels; p += 4) {
        const int32_t now = edgeopt_min(pixels - p, 4);
        for (int32_t k = 0; k < now; ++k) {
            edgeopt_gather_window(g, oy, ox, x, params[EDGEOPT_ZERO_X], patches + k * taps);
            if (++ox == g->out_width) {
                ox = 0;
                ++oy;
            }
        }
        widen(patches, taps, now, taps, starts);
        block(starts, w, row, g->out_channels, now, params, y + p * g->out_channels);
    }
    edgeopt_clamp_all(y, pixels * g->out_channels, params);
}
