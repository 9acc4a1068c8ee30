/* The mean or sum of each channel of a map; 16-bit sums of at most 256 pixels are widened. */
EDGEOPT_ENTRY void edgeopt_mve_mean(
    int32_t pixels, int32_t channels, const int8_t *x, const int32_t *params, int8_t *y) {
    const float32x4_t factor = vdupq_n_f32(edgeopt_float(params[EDGEOPT_CHANNELS]));
    const int32_t offset = -params[EDGEOPT_ZERO_X] * pixels;
    for (int32_t c = 0; c < channels; c += 8) {
        const mve_pred16_t some = vctp16q((uint32_t)(channels - c));
        const int8_t *from = x + c;
        int32x4_t even = vdupq_n_s32(offset);
        int32x4_t odd = even;
        for (int32_t begin = 0; begin < pixels; begin += 256) {
            const int32_t end = edgeopt_min(begin + 256, pixels);
            int16x8_t sums = vdupq_n_s16(0);
            for (int32_t p = begin; p < end; ++p) {
                sums = vaddq_s16(sums, vldrbq_z_s16(from, some));
                from += channels;
            }
            even = vaddq_s32(even, vmovlbq_s16(sums));
            odd = vaddq_s32(odd, vmovltq_s16(sums));
        }
        even = edgeopt_mve_stored(even, factor, params[EDGEOPT_ZERO_Y]);
        odd = edgeopt_mve_stored(odd, factor, params[EDGEOPT_ZERO_Y]);
        /* lanes side by side again, a byte in 16 bits */
        const int16x8_t both = vreinterpretq_s16_s32(vsliq_n_s32(even, odd, 16));
        vstrbq_p_s16(y + c, both, some);
    }
    edgeopt_mve_clamped(y, channels, params[EDGEOPT_LO], params[EDGEOPT_HI]);
}
