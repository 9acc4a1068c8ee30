/* Constants whose channels have one word each, whole fours of them: those before the channels, and
 * four biases and four multipliers in turns. Of words see `edgeopt.core.narrow`: the lowest bit of
 * a multiplier (bit 31), its exponent less 100 and nine bits of its mantissa (30 to 17; the next is
 * 1), and the bias in steps (15 to 0) that follow from the exponent, times eight with bit 16. */
EDGEOPT_SHARED const int32_t *edgeopt_mve_widened(
    const int32_t *words, int32_t channels, int32_t *params) {
    int32_t *to = params + EDGEOPT_CHANNELS;
    vstrwq_s32(params, vldrwq_s32(words));
    words += EDGEOPT_CHANNELS;
    for (int32_t c = 0; c < channels; c += 4) {
        const uint32x4_t word = vreinterpretq_u32_s32(vldrwq_s32(words + c));
        const uint32x4_t coarse = vandq_u32(vshrq_n_u32(word, 16), vdupq_n_u32(1));
        const uint32x4_t kept = vandq_u32(word, vdupq_n_u32(0x7fff0000u));
        const uint32x4_t upper = vshrq_n_u32(vorrq_u32(kept, vdupq_n_u32(0x10000u)), 3);
        const uint32x4_t whole = vaddq_n_u32(vaddq_u32(upper, vshrq_n_u32(word, 31)), 0x32000000u);
        const uint32x4_t finest = vaddq_n_u32(vaddq_u32(coarse, vshlq_n_u32(coarse, 1)), 120u);
        const int32x4_t apart =
            vreinterpretq_s32_u32(vsubq_u32(finest, vshrq_n_u32(whole, 23)));
        const int32x4_t shift = vminq_s32(vmaxq_s32(apart, vdupq_n_s32(0)), vdupq_n_s32(7));
        const int32x4_t steps = vshrq_n_s32(vreinterpretq_s32_u32(vshlq_n_u32(word, 16)), 16);
        vstrwq_s32(to, vshlq_s32(steps, shift));
        vstrwq_s32(to + 4, vreinterpretq_s32_u32(whole));
        to += EDGEOPT_MVE_BLOCK;
    }
    return params;
}
