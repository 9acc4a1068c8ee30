/* Nearest neighbours by whole factors. */
EDGEOPT_ENTRY void edgeopt_repeat(
    int32_t height, int32_t width, int32_t channels, int32_t factor_y, int32_t factor_x,
    const int8_t *x, int8_t *y) {
    for (int32_t i = 0; i < height * factor_y; ++i) {
        for (int32_t j = 0; j < width * factor_x; ++j) {
            const int32_t at = (i / factor_y * width + j / factor_x) * channels;
            memcpy(y, x + at, (size_t)channels);
            y += channels;
        }
    }
}

/* Nearest neighbours by a table of rows, then of columns. */
EDGEOPT_ENTRY void edgeopt_nearest(
    int32_t in_width, int32_t channels, int32_t height, int32_t width, const int8_t *x,
    const int32_t *index, int8_t *y) {
    for (int32_t i = 0; i < height; ++i) {
        for (int32_t j = 0; j < width; ++j) {
            memcpy(y, x + (index[i] * in_width + index[height + j]) * channels, (size_t)channels);
            y += channels;
        }
    }
}
