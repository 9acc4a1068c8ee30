/* Requantization in binary32: the sum, and its product with the multiplier, each rounded. */
EDGEOPT_INLINE int32_t edgeopt_scaled(int32_t sum, int32_t multiplier) {
    return edgeopt_round(edgeopt_product((float)sum, edgeopt_float(multiplier)));
}
