/* Pointwise convolution and linear layer; weights [outputs][inputs], rows padded to whole fours.
 * Two pixels and two channels at a time share their loads. */
EDGEOPT_INLINE void edgeopt_plain_pointwise(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    for (int32_t p = 0; p < pixels; p += 2) {
        const int8_t *first = x + p * inputs;
        const int8_t *second = p + 1 < pixels ? first + inputs : first;
        int8_t *to = y + p * outputs;
        for (int32_t o = 0; o < outputs; o += 2) {
            const int32_t other = o + 1 < outputs ? o + 1 : o;
            const int8_t *upper = w + o * inputs;
            const int8_t *lower = w + other * inputs;
            int32_t a = edgeopt_bias(params, o);
            int32_t b = edgeopt_bias(params, other);
            int32_t c = a;
            int32_t d = b;
            for (int32_t i = 0; i < inputs; ++i) {
                a += first[i] * upper[i];
                b += first[i] * lower[i];
                c += second[i] * upper[i];
                d += second[i] * lower[i];
            }
            to[o] = edgeopt_stored(a, edgeopt_multiplier(params, o), params);
            to[other] = edgeopt_stored(b, edgeopt_multiplier(params, other), params);
            if (p + 1 < pixels) {
                to[outputs + o] = edgeopt_stored(c, edgeopt_multiplier(params, o), params);
                to[outputs + other] = edgeopt_stored(d, edgeopt_multiplier(params, other), params);
            }
        }
    }
}
