/* What blocks of either width have in common: BITS stands for 4 or 2. */
#if !EDGEOPT_ASSEMBLY
EDGEOPT_SHARED void edgeopt_four_pixels_wBITS(
    const uint32_t *starts, const uint8_t *w, const int32_t *channel, int8_t *y, int32_t row,
    int32_t outputs, int32_t zero, int32_t pairs) {
    for (int32_t i = 0; i < pairs; ++i) {
        edgeopt_pixels_wBITS(
            4, starts, w + i * row, channel + 4 * i, y + 2 * i, row, outputs, zero);
    }
}
#endif

EDGEOPT_SHARED void edgeopt_one_pixel_wBITS(
    const uint32_t *starts, const uint8_t *w, const int32_t *channel, int8_t *y, int32_t row,
    int32_t outputs, int32_t zero, int32_t pairs) {
    for (int32_t i = 0; i < pairs; ++i) {
        edgeopt_pixels_wBITS(
            1, starts, w + i * row, channel + 4 * i, y + 2 * i, row, outputs, zero);
    }
}

EDGEOPT_SHARED void edgeopt_widen_wBITS(
    const int8_t *x, int32_t stride, int32_t pixels, int32_t inputs, uint32_t *starts) {
    edgeopt_widen_sums(x, stride, pixels, inputs, BITS, starts);
}

EDGEOPT_SHARED void edgeopt_block_wBITS(
    const uint32_t *starts, const uint8_t *w, int32_t row, int32_t outputs, int32_t pixels,
    const int32_t *params, int8_t *y) {
    edgeopt_packed_block(
        edgeopt_four_pixels_wBITS, edgeopt_one_pixel_wBITS, starts, w, row, outputs, pixels, params, y);
}
