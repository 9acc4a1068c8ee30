/* Requantization without floating point. A multiplier is the same binary32 number as elsewhere;
 * its 24 bits of mantissa take part in one exact 64-bit product, rounded once, half up. */
EDGEOPT_INLINE int32_t edgeopt_scaled(int32_t sum, int32_t multiplier) {
    const int32_t mantissa = (multiplier & 0x7fffff) | 0x800000;
    const int32_t shift = edgeopt_min(150 - (multiplier >> 23), 62);
    const int64_t product = (int64_t)sum * mantissa + ((int64_t)1 << (shift - 1));
    /* what leaves int32 saturates */
    const int64_t steps = product >> shift;
    return steps > INT32_MAX ? INT32_MAX : steps < INT32_MIN ? INT32_MIN : (int32_t)steps;
}
