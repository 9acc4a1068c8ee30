EDGEOPT_SHARED void edgeopt_pointwise_w2(
    int32_t pixels, int32_t inputs, int32_t outputs, int32_t row, const int8_t *x,
    const uint8_t *w, const int32_t *params, int8_t *y, uint32_t *starts) {
    edgeopt_packed_pointwise(
        edgeopt_widen_w2, edgeopt_block_w2, pixels, inputs, outputs, row, x, w, params, y, starts);
}
