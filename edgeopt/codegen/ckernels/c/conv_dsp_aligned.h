/* Convolution by blocks of four output pixels, where input channels are whole fours: windows are
 * widened where they lie. */

/* A run of whole fours of one pixel; without inputs, padding. */
EDGEOPT_INLINE void edgeopt_widen_run(
    const int8_t *x, int32_t count, uint32_t zeros, uint32_t *wide) {
    for (int32_t i = 0; i < count; i += 4) {
        const uint32_t four = x == NULL ? zeros : edgeopt_load(x + i);
        wide[0] = edgeopt_even(four);
        wide[4] = edgeopt_odd(four);
        wide += 8;
    }
}

EDGEOPT_SHARED void edgeopt_conv2d_aligned(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y,
    uint32_t *wide) {
    const int32_t channels = g->in_channels;
    const int32_t run = g->width * channels;
    const int32_t pixels = g->out_height * g->out_width;
    const uint32_t zeros = (uint32_t)(params[EDGEOPT_ZERO_X] & 0xff) * 0x01010101u;
    int32_t oy = 0;
    int32_t ox = 0;
    int8_t *to = y;
    for (int32_t p = 0; p < pixels; p += 4) {
        const int32_t now = edgeopt_min(pixels - p, 4);
        const int32_t first = ox * g->stride_x - g->left;
        const int32_t last = first + 3 * g->stride_x + g->width;
        const int32_t together =
            now == 4 && ox + 4 <= g->out_width && first >= 0 && last <= g->in_width;
        for (int32_t k = 0; k < now; ++k) {
            const int32_t x0 = ox * g->stride_x - g->left;
            uint32_t *at = wide + k;
            int32_t iy = oy * g->stride_y - g->top;
            for (int32_t i = 0; i < g->height && !(together && k > 0); ++i) {
                const int8_t *from = x + (iy * g->in_width + x0) * channels;
                const int32_t inside = iy >= 0 && iy < g->in_height;
                if (together && inside) {
                    edgeopt_widen(from, g->stride_x * channels, 4, run, at);
                } else if (together) {
                    for (int32_t other = 0; other < 4; ++other) {
                        edgeopt_widen_run(NULL, run, zeros, at + other);
                    }
                } else {
                    for (int32_t j = 0; j < g->width; ++j) {
                        const int32_t in = inside && x0 + j >= 0 && x0 + j < g->in_width;
                        edgeopt_widen_run(
                            in ? from + j * channels : NULL, channels, zeros,
                            at + 2 * j * channels);
                    }
                }
                at += 2 * run;
                iy += g->dilation_y;
            }
            if (++ox == g->out_width) {
                ox = 0;
                ++oy;
            }
        }
        edgeopt_block(
            wide, w, g->height * run / 4, g->out_channels, now, params, to);
        to += 4 * g->out_channels;
    }
    edgeopt_clamp_all(y, pixels * g->out_channels, params);
}
