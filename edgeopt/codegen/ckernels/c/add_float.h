EDGEOPT_INLINE float edgeopt_fused(float a, float b, float addend) {
#if defined(__arm__) && defined(__ARM_FEATURE_FMA)
    __asm__("vfma.f32 %0, %1, %2" : "+t"(addend) : "t"(a), "t"(b));
    return addend;
#else
    return __builtin_fmaf(a, b, addend);
#endif
}

/* Sums: two fused multiply-adds on values shifted by 128, as the reference rounds. The second
 * operand moves on by a step from row to row and by another from channel to channel.
 * params: lo, hi, then bits of the factor of a, of b, and of the offset. */
EDGEOPT_ENTRY void edgeopt_add(
    int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step, const int8_t *a,
    const int8_t *b, const int32_t *params, int8_t *y) {
    const float left = edgeopt_float(params[2]);
    const float right = edgeopt_float(params[3]);
    const float offset = edgeopt_float(params[4]);
    int8_t *to = y;
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        for (int32_t c = 0; c < channels; ++c) {
            const float term = edgeopt_fused((float)(*other + 128), right, offset);
            const float sum = edgeopt_fused((float)(*a++ + 128), left, term);
#ifdef EDGEOPT_DSP /* int8 saturates in one instruction; narrower clamps come at the end */
            *to++ = (int8_t)edgeopt_byte(edgeopt_round(sum), -128);
#else
            *to++ = edgeopt_placed(edgeopt_round(sum), -128, params[0], params[1]);
#endif
            other += channel_step;
        }
    }
#ifdef EDGEOPT_DSP
    edgeopt_clamp_to(y, rows * channels, params[0], params[1]);
#endif
}
