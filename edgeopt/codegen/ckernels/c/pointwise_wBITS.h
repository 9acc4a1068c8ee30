EDGEOPT_SHARED void edgeopt_pointwise_wBITS(
    int32_t pixels, int32_t inputs, int32_t outputs, int32_t row, const int8_t *x,
    const uint8_t *w, const int32_t *params, int8_t *y, uint32_t *starts) {
    edgeopt_packed_pointwise(
        edgeopt_widen_wBITS, edgeopt_block_wBITS, pixels, inputs, outputs, row, x, w, params, y, starts);
}
