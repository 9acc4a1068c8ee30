/* Constants of an accumulating kernel whose channels have one word each: those before the channels,
 * then a bias and a multiplier in turns, as kernels read them. A word holds the lowest bit of a
 * multiplier (bit 31), its exponent less 100 and nine bits of its mantissa (30 to 17; the next is
 * 1), and the bias in steps (15 to 0) that follow from the exponent, times eight with bit 16. */
EDGEOPT_SHARED const int32_t *edgeopt_widened(
    const int32_t *words, int32_t channels, int32_t *params) {
    int32_t *to = params + EDGEOPT_CHANNELS;
    const int32_t *from = words + EDGEOPT_CHANNELS;
    const int32_t *const end = from + channels;
    memcpy(params, words, EDGEOPT_CHANNELS * sizeof *params);
    while (from != end) {
        const uint32_t word = (uint32_t)*from++;
        const uint32_t upper = ((word & 0x7fff0000u) | 0x10000u) >> 3;
        const uint32_t multiplier = upper + 0x32000000u + (word >> 31);
        const int32_t finest = (word & 0x10000u) != 0 ? 123 : 120;
        const int32_t apart = finest - (int32_t)(multiplier >> 23);
        const int32_t shift = edgeopt_min(edgeopt_max(apart, 0), 7);
        const int32_t steps = (int32_t)((word & 0xffffu) ^ 0x8000u) - 0x8000;
        *to++ = steps * (int32_t)(1u << shift);
        *to++ = (int32_t)multiplier;
    }
    return params;
}
