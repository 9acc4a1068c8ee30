/* params: zero points of a, b and the result; scales: likewise. */
EDGEOPT_INLINE void edgeopt_pairs(
    int32_t how, int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step,
    const int8_t *a, const int8_t *b, const int32_t *params, const float *scales, int8_t *y) {
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        for (int32_t c = 0; c < channels; ++c) {
            const float left = edgeopt_real(*a++, params[0], scales[0]);
            const float right = edgeopt_real(*other, params[1], scales[1]);
            *y++ = edgeopt_quantized(edgeopt_pair(how, left, right), scales[2], params[2]);
            other += channel_step;
        }
    }
}
