/* A sum as it is stored. */
EDGEOPT_INLINE int8_t edgeopt_stored(int32_t sum, int32_t multiplier, const int32_t *params) {
    return edgeopt_placed(
        edgeopt_scaled(sum, multiplier), params[EDGEOPT_ZERO_Y], params[EDGEOPT_LO],
        params[EDGEOPT_HI]);
}

EDGEOPT_INLINE int32_t edgeopt_bias(const int32_t *params, int32_t channel) {
    return params[EDGEOPT_CHANNELS + 2 * channel];
}

EDGEOPT_INLINE int32_t edgeopt_multiplier(const int32_t *params, int32_t channel) {
    return params[EDGEOPT_CHANNELS + 2 * channel + 1];
}
