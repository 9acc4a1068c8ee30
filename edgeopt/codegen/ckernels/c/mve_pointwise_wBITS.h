/* Inputs up to 16, up to 32, and more. */
EDGEOPT_ENTRY void edgeopt_mve_pointwise_wBITS_16(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_mve_pixels_packed(BITS, 16, pixels, inputs, outputs, x, w, params, y);
}

EDGEOPT_ENTRY void edgeopt_mve_pointwise_wBITS_32(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_mve_pixels_packed(BITS, 32, pixels, inputs, outputs, x, w, params, y);
}

EDGEOPT_ENTRY void edgeopt_mve_pointwise_wBITS_0(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_mve_pixels_packed(BITS, 0, pixels, inputs, outputs, x, w, params, y);
}
