/* Sums in fixed point, rounded once, half up. The second operand moves on by a step from row to
 * row and by another from channel to channel.
 * params: lo, hi, factor of a, of b, what is added to both, shift, zero point. */
EDGEOPT_ENTRY void edgeopt_add(
    int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step, const int8_t *a,
    const int8_t *b, const int32_t *params, int8_t *y) {
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        for (int32_t c = 0; c < channels; ++c) {
            const int32_t sum = *a++ * params[2] + *other * params[3] + params[4];
            *y++ = edgeopt_placed(sum >> params[5], params[6], params[0], params[1]);
            other += channel_step;
        }
    }
}
