/* The mean or sum of each channel of a map. */
EDGEOPT_ENTRY void edgeopt_mean(
    int32_t pixels, int32_t channels, const int8_t *x, const int32_t *params, int8_t *y) {
    for (int32_t c = 0; c < channels; ++c) {
        int32_t sum = -params[EDGEOPT_ZERO_X] * pixels;
        for (int32_t p = 0; p < pixels; ++p) {
            sum += x[p * channels + c];
        }
        y[c] = edgeopt_stored(sum, params[EDGEOPT_CHANNELS], params);
    }
}
