/* Four sums: two fused multiply-adds on values shifted by 128, as the reference rounds. */
EDGEOPT_INLINE int32x4_t edgeopt_mve_sum(
    int32x4_t a, int32x4_t b, const int32_t *params, float32x4_t right) {
    const float32x4_t first = vcvtq_f32_s32(vaddq_n_s32(a, 128));
    const float32x4_t second = vcvtq_f32_s32(vaddq_n_s32(b, 128));
    const float32x4_t term = vfmasq_n_f32(second, right, edgeopt_float(params[4]));
    const float32x4_t sum = vfmaq_n_f32(term, first, edgeopt_float(params[2]));
    return edgeopt_mve_placed(vcvtnq_s32_f32(sum), -128);
}

/* Sums of two maps; see add_float.h for the second operand's steps and for params. */
EDGEOPT_ENTRY void edgeopt_mve_add(
    int32_t rows, int32_t channels, int32_t row_step, int32_t channel_step, const int8_t *a,
    const int8_t *b, const int32_t *params, int8_t *y) {
    const float32x4_t right = vdupq_n_f32(edgeopt_float(params[3]));
    int8_t *to = y;
    for (int32_t r = 0; r < rows; ++r) {
        const int8_t *other = b + r * row_step;
        const int32x4_t same = vdupq_n_s32(*other);
        int32_t c = 0;
        for (; c + 4 <= channels; c += 4) {
            const int32x4_t second = channel_step ? vldrbq_s32(other + c) : same;
            vstrbq_s32(to + c, edgeopt_mve_sum(vldrbq_s32(a + c), second, params, right));
        }
        if (c < channels) {
            const mve_pred16_t some = vctp32q((uint32_t)(channels - c));
            const int32x4_t second = channel_step ? vldrbq_z_s32(other + c, some) : same;
            const int32x4_t first = vldrbq_z_s32(a + c, some);
            vstrbq_p_s32(to + c, edgeopt_mve_sum(first, second, params, right), some);
        }
        a += channels;
        to += channels;
    }
    edgeopt_mve_clamped(y, rows * channels, params[0], params[1]);
}
