/* The upper 32 bits of a product; b is not negative. */
EDGEOPT_INLINE int32_t edgeopt_high(int32_t a, int32_t b) {
#if defined(__ARM_ARCH_6M__)
    /* multiplies 32 bits to 32 bits: in halves */
    const uint32_t low = (uint32_t)a & 0xffffu;
    const uint32_t lower = (uint32_t)b & 0xffffu;
    const int32_t top = a >> 16;
    const uint32_t upper = (uint32_t)b >> 16;
    const int32_t middle = top * (int32_t)lower + (int32_t)((low * lower) >> 16);
    const uint32_t rest = low * upper + ((uint32_t)middle & 0xffffu);
    return top * (int32_t)upper + (middle >> 16) + (int32_t)(rest >> 16);
#else
    return (int32_t)(((int64_t)a * b) >> 32);
#endif
}

/* Multipliers of a quarter and more: all 64 bits, and what leaves int32 saturates. */
EDGEOPT_SHARED int32_t edgeopt_scaled_up(int32_t sum, int32_t mantissa, int32_t shift) {
    const int64_t product = (int64_t)sum * mantissa + ((int64_t)1 << (shift - 1));
    const int64_t steps = product >> shift;
    return steps > INT32_MAX ? INT32_MAX : steps < INT32_MIN ? INT32_MIN : (int32_t)steps;
}

/* Requantization without floating point. A multiplier is the same binary32 number as elsewhere;
 * its 24 bits of mantissa take part in one exact 64-bit product, rounded once, half up. Seven bits
 * further up, halves lie in the product's upper word, and the lower one does not matter. Shifts
 * beyond 56 round every sum to 0, as that does. */
EDGEOPT_INLINE int32_t edgeopt_scaled(int32_t sum, int32_t multiplier) {
    const int32_t mantissa = ((multiplier & 0x7fffff) | 0x800000) << 7;
    const int32_t shift = edgeopt_min(157 - (multiplier >> 23), 63);
    if (shift <= 32) {
        return edgeopt_scaled_up(sum, mantissa, shift);
    }
    return (edgeopt_high(sum, mantissa) + (1 << (shift - 33))) >> (shift - 32);
}
