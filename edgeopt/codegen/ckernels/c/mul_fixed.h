/* Products in fixed point. The second operand moves on by a step from row to row and by another
 * from channel to channel. params: zero points of a and b, lo, hi, bits of the factor, zero point
 * of the result. */
EDGEOPT_ENTRY void edgeopt_mul(
    int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step, const int8_t *a,
    const int8_t *b, const int32_t *params, int8_t *y) {
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        for (int32_t c = 0; c < channels; ++c) {
            const int32_t product = (*a++ - params[0]) * (*other - params[1]);
            const int32_t steps = edgeopt_scaled(product, params[4]);
            *y++ = edgeopt_placed(steps, params[5], params[2], params[3]);
            other += channel_step;
        }
    }
}
