/* Maxima of windows, 16 channels at a time; padding never wins. */
EDGEOPT_ENTRY void edgeopt_mve_maxpool(const edgeopt_window *g, const int8_t *x, int8_t *y) {
    const int32_t channels = g->in_channels;
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        const int32_t y0 = oy * g->stride_y - g->top;
        const int32_t y1 = edgeopt_min(y0 + g->height, g->in_height);
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            const int32_t x0 = ox * g->stride_x - g->left;
            const int32_t x1 = edgeopt_min(x0 + g->width, g->in_width);
            for (int32_t c = 0; c < channels; c += 16) {
                const mve_pred16_t some = vctp8q((uint32_t)(channels - c));
                int8x16_t best = vdupq_n_s8(INT8_MIN);
                for (int32_t iy = edgeopt_max(y0, 0); iy < y1; ++iy) {
                    const int32_t first = edgeopt_max(x0, 0);
                    const int8_t *from = x + (iy * g->in_width + first) * channels + c;
                    for (int32_t ix = first; ix < x1; ++ix) {
                        best = vmaxq_s8(best, vldrbq_z_s8(from, some));
                        from += channels;
                    }
                }
                vstrbq_p_s8(y + c, best, some);
            }
            y += channels;
        }
    }
}
