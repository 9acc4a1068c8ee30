/* Products. The second operand moves on by a step from row to row and by another from channel to
 * channel. params: zero points of a and b, lo, hi, then bits of the factor and of the offset. */
EDGEOPT_ENTRY void edgeopt_mul(
    int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step, const int8_t *a,
    const int8_t *b, const int32_t *params, int8_t *y) {
    const float factor = edgeopt_float(params[4]);
    const float offset = edgeopt_float(params[5]);
    const int32_t zero_a = params[0];
    const int32_t zero_b = params[1];
    int8_t *to = y;
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        for (int32_t c = 0; c < channels; ++c) {
            const int32_t product = (*a++ - zero_a) * (*other - zero_b);
            const int32_t steps = edgeopt_round(edgeopt_product((float)product, factor) + offset);
#ifdef EDGEOPT_DSP /* int8 saturates in one instruction; narrower clamps come at the end */
            *to++ = (int8_t)edgeopt_byte(steps, -128);
#else
            *to++ = edgeopt_placed(steps, -128, params[2], params[3]);
#endif
            other += channel_step;
        }
    }
#ifdef EDGEOPT_DSP
    edgeopt_clamp_to(y, rows * channels, params[2], params[3]);
#endif
}
