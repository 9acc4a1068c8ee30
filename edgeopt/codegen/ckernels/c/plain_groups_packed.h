/* Convolutions of several groups with weights of four or two bits: fields that are 8 too large, or
 * half of what is 3 too large, in the order
 * [outputs][height][width][inputs of a group]; one product at a time. */
EDGEOPT_INLINE int32_t edgeopt_field(const uint8_t *w, int32_t at, int32_t bits) {
    const int32_t fields = 8 / bits;
    const int32_t field = (w[at / fields] >> (at % fields * bits)) & ((1 << bits) - 1);
    return bits == 2 ? 2 * field - 3 : field - 8;
}

EDGEOPT_INLINE void edgeopt_plain_groups_packed(
    int32_t bits, const edgeopt_window *g, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y) {
    const int32_t inputs = g->in_channels / g->groups;
    const int32_t outputs = g->out_channels / g->groups;
    const int32_t zero = params[EDGEOPT_ZERO_X];
    for (int32_t oy = 0; oy < g->out_height; ++oy) {
        for (int32_t ox = 0; ox < g->out_width; ++ox) {
            int32_t at = 0;
            for (int32_t o = 0; o < g->out_channels; ++o) {
                int32_t sum = edgeopt_bias(params, o);
                const int8_t *from = x + o / outputs * inputs;
                for (int32_t i = 0; i < g->height; ++i) {
                    const int32_t iy = oy * g->stride_y - g->top + i * g->dilation_y;
                    for (int32_t j = 0; j < g->width; ++j) {
                        const int32_t ix = ox * g->stride_x - g->left + j * g->dilation_x;
                        const int32_t in =
                            iy >= 0 && iy < g->in_height && ix >= 0 && ix < g->in_width;
                        const int8_t *pixel = from + (iy * g->in_width + ix) * g->in_channels;
                        for (int32_t c = 0; c < inputs; ++c) {
                            sum += (in ? pixel[c] : zero) * edgeopt_field(w, at, bits);
                            ++at;
                        }
                    }
                }
                *y++ = edgeopt_stored(sum, edgeopt_multiplier(params, o), params);
            }
        }
    }
}
