/* Rows of another quantization put next to each other. */
EDGEOPT_ENTRY void edgeopt_requantize(
    int32_t rows, int32_t count, const int8_t *x, int32_t zero_x, int32_t multiplier,
    int32_t zero_y, int8_t *y, int32_t row) {
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < count; ++i) {
            const int32_t steps = edgeopt_scaled(*x++ - zero_x, multiplier);
            y[r * row + i] = edgeopt_placed(steps, zero_y, -128, 127);
        }
    }
}
