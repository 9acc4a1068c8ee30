/* Pointwise convolution. A block's inputs are read before its outputs are written. */
EDGEOPT_SHARED void edgeopt_pointwise(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *wide) {
    const int32_t fours = (inputs + 3) / 4;
    const int32_t count = pixels * outputs;
    int8_t *to = y;
    while (pixels > 0) {
        const int32_t now = edgeopt_min(pixels, 4);
        edgeopt_widen(x, inputs, now, inputs, wide);
        edgeopt_block(wide, w, fours, outputs, now, params, to);
        x += 4 * inputs;
        to += 4 * outputs;
        pixels -= 4;
    }
    edgeopt_clamp_all(y, count, params);
}
