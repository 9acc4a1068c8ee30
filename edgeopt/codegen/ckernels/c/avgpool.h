/* Averages of windows. There are `counts` multipliers: one, or one for each number of elements
 * that a window may be divided by; with `include` padding counts, but not what hangs over it. */
EDGEOPT_ENTRY void edgeopt_avgpool(
    const edgeopt_window *g, int32_t bottom, int32_t right, int32_t counts, int32_t include,
    const int8_t *x, const int32_t *params, int8_t *y) {
    const int32_t channels = g->in_channels;
    const int32_t *multipliers = params + EDGEOPT_CHANNELS;
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        const int32_t y0 = oy * g->stride_y - g->top;
        const int32_t first_y = edgeopt_max(y0, 0);
        const int32_t end_y = edgeopt_min(y0 + g->height, g->in_height);
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            const int32_t x0 = ox * g->stride_x - g->left;
            const int32_t first_x = edgeopt_max(x0, 0);
            const int32_t end_x = edgeopt_min(x0 + g->width, g->in_width);
            const int32_t inside = (end_y - first_y) * (end_x - first_x);
            int32_t multiplier = multipliers[0];
            if (counts > 1) {
                int32_t count = inside;
                if (include) {
                    count = (edgeopt_min(y0 + g->height, g->in_height + bottom) - y0) *
                            (edgeopt_min(x0 + g->width, g->in_width + right) - x0);
                }
                multiplier = multipliers[count - 1];
            }
            for (int32_t c = 0; c < channels; ++c) {
                int32_t sum = -params[EDGEOPT_ZERO_X] * inside;
                for (int32_t iy = first_y; iy < end_y; ++iy) {
                    const int8_t *row = x + (iy * g->in_width + first_x) * channels + c;
                    for (int32_t ix = first_x; ix < end_x; ++ix) {
                        sum += *row;
                        row += channels;
                    }
                }
                *y++ = edgeopt_stored(sum, multiplier, params);
            }
        }
    }
}
