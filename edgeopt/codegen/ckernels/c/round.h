/* The nearest integer, half to even; what leaves int32 saturates. */
EDGEOPT_INLINE int32_t edgeopt_round(float value) {
#if defined(__arm__) && defined(__ARM_FP)
    int32_t result;
    float steps;
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(steps) : "t"(value));
    memcpy(&result, &steps, sizeof result);
    return result;
#else
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
    const int32_t shift = 150 - (int32_t)((bits >> 23) & 255u);
    uint32_t steps = 0;
    if (shift < -7) {
        return bits >> 31 ? INT32_MIN : INT32_MAX;
    }
    if (shift <= 0) {
        steps = mantissa << (uint32_t)-shift;
    } else if (shift <= 24) {
        const uint32_t half = 1u << (uint32_t)(shift - 1);
        const uint32_t rest = mantissa & (2u * half - 1u);
        steps = mantissa >> (uint32_t)shift;
        steps += rest > half || (rest == half && (steps & 1u));
    }
    return bits >> 31 ? -(int32_t)steps : (int32_t)steps;
#endif
}

/* A product rounded on its own: compilers may not fuse it with a sum that follows. */
EDGEOPT_INLINE float edgeopt_product(float a, float b) {
#if defined(__arm__) && defined(__ARM_FP)
    float product = a * b;
    __asm__("" : "+t"(product));
    return product;
#else
    volatile float product = a * b;
    return product;
#endif
}
