/* Four products, scaled, and the output's zero point added before rounding. */
EDGEOPT_INLINE int32x4_t edgeopt_mve_product(int32x4_t a, int32x4_t b, const int32_t *params) {
    const int32x4_t product = vmulq_s32(vsubq_n_s32(a, params[0]), vsubq_n_s32(b, params[1]));
    float32x4_t scaled = vmulq_n_f32(vcvtq_f32_s32(product), edgeopt_float(params[4]));
    __asm__("" : "+t"(scaled)); /* rounded on its own */
    scaled = vaddq_n_f32(scaled, edgeopt_float(params[5]));
    return edgeopt_mve_placed(vcvtnq_s32_f32(scaled), -128);
}

/* Products of two maps; see mul_float.h for the second operand's steps and for params. */
EDGEOPT_ENTRY void edgeopt_mve_mul(
    int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step, const int8_t *a,
    const int8_t *b, const int32_t *params, int8_t *y) {
    int8_t *to = y;
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        const int32x4_t same = vdupq_n_s32(*other);
        int32_t c = 0;
        for (; c + 4 <= channels; c += 4) {
            const int32x4_t second = channel_step ? vldrbq_s32(other + c) : same;
            vstrbq_s32(to + c, edgeopt_mve_product(vldrbq_s32(a + c), second, params));
        }
        if (c < channels) {
            const mve_pred16_t some = vctp32q((uint32_t)(channels - c));
            const int32x4_t second = channel_step ? vldrbq_z_s32(other + c, some) : same;
            const int32x4_t first = vldrbq_z_s32(a + c, some);
            vstrbq_p_s32(to + c, edgeopt_mve_product(first, second, params), some);
        }
        a += channels;
        to += channels;
    }
    edgeopt_mve_clamped(y, rows * channels, params[2], params[3]);
}
