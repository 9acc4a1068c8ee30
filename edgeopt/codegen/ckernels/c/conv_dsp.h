/* Convolution by blocks of four output pixels, whose windows are gathered and widened. */

/* A window whose rows are not whole fours, into bytes that lie next to each other. */
EDGEOPT_INLINE void edgeopt_gather_window(
    const edgeopt_window *g, int32_t oy, int32_t ox, const int8_t *x, int32_t zero, int8_t *to) {
    const int32_t channels = g->in_channels;
    const int32_t x0 = ox * g->stride_x - g->left;
    int32_t iy = oy * g->stride_y - g->top;
    const int32_t inside = x0 >= 0 && x0 + g->width <= g->in_width;
    for (int32_t i = 0; i < g->height; ++i) {
        const int8_t *from = x + (iy * g->in_width + x0) * channels;
        if (iy < 0 || iy >= g->in_height) {
            memset(to, zero, (size_t)(g->width * channels));
        } else if (inside) {
            memcpy(to, from, (size_t)(g->width * channels));
        } else {
            for (int32_t j = 0; j < g->width; ++j) {
                if (x0 + j >= 0 && x0 + j < g->in_width) {
                    memcpy(to + j * channels, from + j * channels, (size_t)channels);
                } else {
                    memset(to + j * channels, zero, (size_t)channels);
                }
            }
        }
        to += g->width * channels;
        iy += g->dilation_y;
    }
}

/* `taps` is the length of a window rounded up to whole fours. */
EDGEOPT_INLINE void edgeopt_conv2d_gathered(
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
