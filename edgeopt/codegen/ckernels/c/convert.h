EDGEOPT_ENTRY void edgeopt_quantize(
    int32_t count, const float *x, const float *scale, const int32_t *params, int8_t *y) {
    for (int32_t i = 0; i < count; ++i) {
        y[i] = edgeopt_placed(edgeopt_round(x[i] / scale[0]), params[0], -128, 127);
    }
}

EDGEOPT_ENTRY void edgeopt_dequantize(
    int32_t count, const int8_t *x, const float *scale, const int32_t *params, float *y) {
    for (int32_t i = 0; i < count; ++i) {
        y[i] = (float)(x[i] - params[0]) * scale[0];
    }
}
