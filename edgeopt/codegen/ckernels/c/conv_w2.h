EDGEOPT_INLINE void edgeopt_conv2d_w2(
    const edgeopt_window *g, int32_t taps, int32_t row, const int8_t *x, const uint8_t *w,
    const int32_t *params, int8_t *y, uint32_t *starts) {
    edgeopt_packed_conv2d(
        edgeopt_widen_w2, edgeopt_block_w2, g, taps, row, x, w, params, y, starts);
}
