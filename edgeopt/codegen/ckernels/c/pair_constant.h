/* The second operand is a constant real number; params and scales: of a and of the result. */
EDGEOPT_INLINE void edgeopt_pairs_constant(
    int32_t how, int32_t rows, int32_t channels, int32_t row_step, const int8_t *a,
    const float *b, const int32_t *params, const float *scales, int8_t *y) {
    for (int32_t r = 0; r < rows; ++r) {
        const float *other = b + r * row_step;
        for (int32_t c = 0; c < channels; ++c) {
            const float left = edgeopt_real(*a++, params[0], scales[0]);
            *y++ = edgeopt_quantized(edgeopt_pair(how, left, other[c]), scales[1], params[1]);
        }
    }
}
