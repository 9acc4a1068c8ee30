/* Pointwise convolution and linear layer, two pixels at a time; an odd one is computed twice. */
EDGEOPT_INLINE void edgeopt_mve_pixels(
    int32_t most, int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x,
    const int8_t *w, const int32_t *params, int8_t *y) {
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        const int8_t *first = x + p * inputs;
        int8_t *to = y + p * outputs;
        edgeopt_mve_rows(
            most, first, first + other * inputs, inputs, outputs, w, params, to,
            to + other * outputs);
    }
    edgeopt_mve_clamped(y, pixels * outputs, params[EDGEOPT_LO], params[EDGEOPT_HI]);
}

/* Inputs up to 16, up to 32, and more. */
EDGEOPT_ENTRY void edgeopt_mve_pointwise_16(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_mve_pixels(16, pixels, inputs, outputs, x, w, params, y);
}

EDGEOPT_ENTRY void edgeopt_mve_pointwise_32(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_mve_pixels(32, pixels, inputs, outputs, x, w, params, y);
}

EDGEOPT_ENTRY void edgeopt_mve_pointwise_0(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_mve_pixels(0, pixels, inputs, outputs, x, w, params, y);
}
