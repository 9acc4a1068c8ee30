/* Depthwise convolution; weights [height][width][channels]. */
EDGEOPT_INLINE void edgeopt_plain_depthwise(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y) {
    const int32_t channels = g->in_channels;
    const int32_t zero = params[EDGEOPT_ZERO_X];
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            const int32_t y0 = oy * g->stride_y - g->top;
            const int32_t x0 = ox * g->stride_x - g->left;
            for (int32_t c = 0; c < channels; ++c) {
                int32_t sum = edgeopt_bias(params, c);
                const int8_t *weights = w + c;
                for (int32_t i = 0; i < g->height; ++i) {
                    const int32_t iy = y0 + i * g->dilation_y;
                    for (int32_t j = 0; j < g->width; ++j) {
                        const int32_t ix = x0 + j * g->dilation_x;
                        int32_t value = zero;
                        if (iy >= 0 && iy < g->in_height && ix >= 0 && ix < g->in_width) {
                            value = x[(iy * g->in_width + ix) * channels + c];
                        }
                        sum += value * *weights;
                        weights += channels;
                    }
                }
                *y++ = edgeopt_stored(sum, edgeopt_multiplier(params, c), params);
            }
        }
    }
}
