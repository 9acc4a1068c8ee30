/* Any convolution; weights [outputs][height][width][inputs of a group]. */
EDGEOPT_ENTRY void edgeopt_plain_conv(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y) {
    const int32_t inputs = g->in_channels / g->groups;
    const int32_t outputs = g->out_channels / g->groups;
    const int32_t zero = params[EDGEOPT_ZERO_X];
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            const int8_t *weights = w;
            for (int32_t o = 0; o < g->out_channels; ++o) {
                int32_t sum = edgeopt_bias(params, o);
                const int8_t *from = x + o / outputs * inputs;
                for (int32_t i = 0; i < g->height; ++i) {
                    const int32_t iy = oy * g->stride_y - g->top + i * g->dilation_y;
                    for (int32_t j = 0; j < g->width; ++j) {
                        const int32_t ix = ox * g->stride_x - g->left + j * g->dilation_x;
                        if (iy < 0 || iy >= g->in_height || ix < 0 || ix >= g->in_width) {
                            int32_t total = 0; /* padding is the zero point */
                            for (int32_t c = 0; c < inputs; ++c) {
                                total += weights[c];
                            }
                            sum += zero * total;
                        } else {
                            const int8_t *pixel =
                                from + (iy * g->in_width + ix) * g->in_channels;
                            for (int32_t c = 0; c < inputs; ++c) {
                                sum += pixel[c] * weights[c];
                            }
                        }
                        weights += inputs;
                    }
                }
                *y++ = edgeopt_stored(sum, edgeopt_multiplier(params, o), params);
            }
        }
    }
}
