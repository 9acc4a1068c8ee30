EDGEOPT_ENTRY void edgeopt_plain_pointwise_wBITS(
    int32_t pixels, int32_t inputs, int32_t outputs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y) {
    edgeopt_plain_pointwise_packed(BITS, pixels, inputs, outputs, x, w, params, y);
}
