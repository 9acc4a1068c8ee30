/* The maximum (sign 1) or minimum (sign -1) of each channel. */
EDGEOPT_ENTRY void edgeopt_extreme(
    int32_t pixels, int32_t channels, int32_t sign, const int8_t *x, int8_t *y) {
    for (int32_t c = 0; c < channels; ++c) {
        int32_t best = sign * x[c];
        for (int32_t p = 1; p < pixels; ++p) {
            best = edgeopt_max(best, sign * x[p * channels + c]);
        }
        y[c] = (int8_t)(sign * best);
    }
}
