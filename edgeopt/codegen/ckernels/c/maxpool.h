/* Maxima of windows; padding never wins. */
EDGEOPT_ENTRY void edgeopt_maxpool(const edgeopt_window *g, const int8_t *x, int8_t *y) {
    const int32_t channels = g->in_channels;
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        const int32_t y0 = oy * g->stride_y - g->top;
        const int32_t y1 = edgeopt_min(y0 + g->height, g->in_height);
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            const int32_t x0 = ox * g->stride_x - g->left;
            const int32_t x1 = edgeopt_min(x0 + g->width, g->in_width);
            for (int32_t c = 0; c < channels; ++c) {
                int32_t best = INT8_MIN;
                for (int32_t iy = edgeopt_max(y0, 0); iy < y1; ++iy) {
                    const int8_t *row = x + iy * g->in_width * channels + c;
                    for (int32_t ix = edgeopt_max(x0, 0); ix < x1; ++ix) {
                        best = edgeopt_max(best, row[ix * channels]);
                    }
                }
                *y++ = (int8_t)best;
            }
        }
    }
}
