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
