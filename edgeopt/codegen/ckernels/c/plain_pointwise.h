/* Pointwise convolution and linear layer, two pixels at a time; an odd one is computed twice. */
EDGEOPT_ENTRY void edgeopt_plain_pointwise(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    for (int32_t p = 0; p < pixels; p += 2) {
        const int32_t other = p + 1 < pixels ? 1 : 0;
        edgeopt_plain_rows(
            x, x + other * inputs, inputs, outputs, w, params, y, y + other * outputs);
        x += 2 * inputs;
        y += 2 * outputs;
    }
}
