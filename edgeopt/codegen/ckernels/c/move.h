/* Copies a box of elements; steps say how far apart its neighbours lie along each axis. */
EDGEOPT_ENTRY void edgeopt_box(
    int32_t size0, int32_t size1, int32_t size2, const int8_t *x, int32_t x0, int32_t x1,
    int32_t x2, int8_t *y, int32_t y0, int32_t y1, int32_t y2) {
    for (int32_t i = 0; i < size0; ++i) {
        for (int32_t j = 0; j < size1; ++j) {
            const int8_t *from = x + i * x0 + j * x1;
            int8_t *to = y + i * y0 + j * y1;
            if (x2 == 1 && y2 == 1) {
                memcpy(to, from, (size_t)size2);
            } else {
                for (int32_t k = 0; k < size2; ++k) {
                    to[k * y2] = from[k * x2];
                }
            }
        }
    }
}
