/* Two numbers combined in binary32: both dequantized, the result quantized, each step rounded. */
enum { EDGEOPT_SUB, EDGEOPT_DIV, EDGEOPT_MAX, EDGEOPT_MIN, EDGEOPT_PRELU };

EDGEOPT_INLINE float edgeopt_real(int32_t value, int32_t zero, float scale) {
    return edgeopt_product((float)(value - zero), scale);
}

EDGEOPT_INLINE float edgeopt_pair(int32_t how, float a, float b) {
    switch (how) {
    case EDGEOPT_SUB:
        return a - b;
    case EDGEOPT_DIV:
        return a / b;
    case EDGEOPT_MAX:
        return a > b ? a : b;
    case EDGEOPT_MIN:
        return a < b ? a : b;
    default:
        return a < 0.0f ? edgeopt_product(a, b) : a;
    }
}

/* Not a number counts as nothing, as where the reference divides zero by zero. */
EDGEOPT_INLINE int8_t edgeopt_quantized(float value, float scale, int32_t zero) {
    const float steps = value / scale;
    return edgeopt_placed(edgeopt_round(steps), zero, -128, 127);
}
