/* A pixel whose window leaves the map, where the inputs are the zero point; the first corner of the
 * window is (y0, x0). */
EDGEOPT_SHARED void edgeopt_plain_edge(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int32_t y0,
    int32_t x0, int8_t *y) {
    const int32_t channels = g->in_channels;
    const int32_t zero = params[EDGEOPT_ZERO_X];
    const int32_t pace = g->dilation_x * channels;
    for (int32_t c = 0; c < channels; ++c) {
        const int8_t *weights = w + c;
        int32_t sum = edgeopt_bias(params, c);
        for (int32_t i = 0; i < g->height; ++i) {
            const int32_t iy = y0 + i * g->dilation_y;
            const int32_t wide = iy >= 0 && iy < g->in_height ? g->in_width : 0;
            const int8_t *from = x + (iy * g->in_width + x0) * channels + c;
            int32_t ix = x0;
            for (int32_t j = 0; j < g->width; ++j) {
                /* negative columns are large ones */
                sum += ((uint32_t)ix < (uint32_t)wide ? *from : zero) * *weights;
                ix += g->dilation_x;
                from += pace;
                weights += channels;
            }
        }
        y[c] = edgeopt_stored(sum, edgeopt_multiplier(params, c), params);
    }
}

/* Depthwise convolution; weights [height][width][channels]. */
EDGEOPT_INLINE void edgeopt_plain_windows(
    const edgeopt_window *g, int32_t height, int32_t width, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    const int32_t channels = g->in_channels;
    const int32_t pitch = g->dilation_y * g->in_width * channels;
    const int32_t pace = g->dilation_x * channels;
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        const int32_t y0 = oy * g->stride_y - g->top;
        const int32_t inside = y0 >= 0 && y0 + (height - 1) * g->dilation_y < g->in_height;
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            const int32_t x0 = ox * g->stride_x - g->left;
            if (!inside || x0 < 0 || x0 + (width - 1) * g->dilation_x >= g->in_width) {
                edgeopt_plain_edge(g, x, w, params, y0, x0, y);
            } else {
                const int8_t *corner = x + (y0 * g->in_width + x0) * channels;
                for (int32_t c = 0; c < channels; ++c) {
                    const int8_t *from = corner + c;
                    const int8_t *weights = w + c;
                    int32_t sum = edgeopt_bias(params, c);
#pragma GCC unroll 3
                    for (int32_t i = 0; i < height; ++i) {
#pragma GCC unroll 8
                        for (int32_t j = 0; j < width; ++j) {
                            sum += from[j * pace] * weights[j * channels];
                        }
                        from += pitch;
                        weights += width * channels;
                    }
                    y[c] = edgeopt_stored(sum, edgeopt_multiplier(params, c), params);
                }
            }
            y += channels;
        }
    }
}

EDGEOPT_INLINE void edgeopt_plain_depthwise(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y) {
    edgeopt_plain_windows(g, g->height, g->width, x, w, params, y);
}
