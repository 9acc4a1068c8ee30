/* Copies and fills of any length; nothing past it is read or written. */
EDGEOPT_SHARED void edgeopt_mve_copy(int8_t *to, const int8_t *from, int32_t count) {
    for (int32_t i = 0; i < count; i += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)(count - i));
        vstrbq_p_s8(to + i, vldrbq_z_s8(from + i, some), some);
    }
}

EDGEOPT_SHARED void edgeopt_mve_fill(int8_t *to, int32_t value, int32_t count) {
    const int8x16_t values = vdupq_n_s8((int8_t)value);
    for (int32_t i = 0; i < count; i += 16) {
        vstrbq_p_s8(to + i, values, vctp8q((uint32_t)(count - i)));
    }
}

/* A copy whose length is a constant. */
EDGEOPT_INLINE void edgeopt_mve_span(int8_t *to, const int8_t *from, int32_t count) {
    if (count < 16) {
        memcpy(to, from, (size_t)count);
        return;
    }
#pragma GCC unroll 4
    for (int32_t i = 0; i <= count - 16; i += 16) {
        vstrbq_s8(to + i, vldrbq_s8(from + i));
    }
    if (count % 16 != 0) {
        vstrbq_s8(to + count - 16, vldrbq_s8(from + count - 16));
    }
}

/* The inputs under a window whose first corner is (y0, x0), one row of the window after the other;
 * outside of the map they are the zero point. */
EDGEOPT_SHARED void edgeopt_mve_edge(
    const edgeopt_window *g, const int8_t *x, int32_t y0, int32_t x0, int32_t zero, int8_t *to) {
    for (int32_t i = 0; i < g->height; ++i) {
        const int32_t iy = y0 + i * g->dilation_y;
        for (int32_t j = 0; j < g->width; ++j) {
            const int32_t ix = x0 + j * g->dilation_x;
            if (iy < 0 || iy >= g->in_height || ix < 0 || ix >= g->in_width) {
                edgeopt_mve_fill(to, zero, g->in_channels);
            } else {
                const int8_t *from = x + (iy * g->in_width + ix) * g->in_channels;
                edgeopt_mve_copy(to, from, g->in_channels);
            }
            to += g->in_channels;
        }
    }
}

EDGEOPT_INLINE void edgeopt_mve_patch(
    const edgeopt_window *g, const int8_t *x, int32_t oy, int32_t ox, int32_t zero, int8_t *to) {
    const int32_t y0 = oy * g->stride_y - g->top;
    const int32_t x0 = ox * g->stride_x - g->left;
    const int32_t span = g->width * g->in_channels;
    if (g->dilation_x > 1 || x0 < 0 || x0 + g->width > g->in_width || y0 < 0 ||
        y0 + (g->height - 1) * g->dilation_y >= g->in_height) {
        edgeopt_mve_edge(g, x, y0, x0, zero, to);
        return;
    }
    const int8_t *from = x + (y0 * g->in_width + x0) * g->in_channels;
    for (int32_t i = 0; i < g->height; ++i) {
        edgeopt_mve_span(to, from, span);
        to += span;
        from += g->dilation_y * g->in_width * g->in_channels;
    }
}
