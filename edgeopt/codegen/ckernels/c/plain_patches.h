/* The inputs under a window whose first corner is (y0, x0), one row of the window after the other;
 * outside of the map they are the zero point. */
EDGEOPT_SHARED void edgeopt_plain_patch(
    const edgeopt_window *g, const int8_t *x, int32_t y0, int32_t x0, int32_t zero, int8_t *to) {
    const int32_t channels = g->in_channels;
    for (int32_t i = 0; i < g->height; ++i) {
        const int32_t iy = y0 + i * g->dilation_y;
        const int8_t *from = x + (iy * g->in_width + x0) * channels;
        if (iy >= 0 && iy < g->in_height && g->dilation_x == 1 && x0 >= 0 &&
            x0 + g->width <= g->in_width) {
            memcpy(to, from, (size_t)(g->width * channels));
            to += g->width * channels;
            continue;
        }
        for (int32_t j = 0; j < g->width; ++j) {
            const int32_t ix = x0 + j * g->dilation_x;
            if (iy < 0 || iy >= g->in_height || ix < 0 || ix >= g->in_width) {
                memset(to, zero, (size_t)channels);
            } else {
                memcpy(to, x + (iy * g->in_width + ix) * channels, (size_t)channels);
            }
            to += channels;
        }
    }
}

/* Any convolution of one group, two pixels at a time: what lies under both windows is copied into
 * rows. */
EDGEOPT_ENTRY void edgeopt_plain_patches(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y,
    int8_t *scratch) {
    const int32_t length = g->height * g->width * g->in_channels;
    const int32_t pixels = g->out_height * g->out_width;
    int32_t y0 = -g->top;
    int32_t x0 = -g->left;
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        for (int32_t i = 0; i <= other; ++i) {
            edgeopt_plain_patch(g, x, y0, x0, params[EDGEOPT_ZERO_X], scratch + i * length);
            x0 += g->stride_x;
            if (x0 == g->out_width * g->stride_x - g->left) {
                x0 = -g->left;
                y0 += g->stride_y;
            }
        }
        edgeopt_plain_rows(
            scratch, scratch + other * length, length, g->out_channels, w, params, y,
            y + other * g->out_channels);
        y += 2 * g->out_channels;
    }
}
