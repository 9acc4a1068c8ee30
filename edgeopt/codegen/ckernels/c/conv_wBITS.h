EDGEOPT_INLINE void edgeopt_conv2d_wBITS(
    const edgeopt_window *g, int32_t taps, int32_t row, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y, uint32_t *starts) {
    edgeopt_packed_conv2d(
        edgeopt_widen_wBITS, edgeopt_block_wBITS, g, taps, row, x, w, params, y, starts);
}
