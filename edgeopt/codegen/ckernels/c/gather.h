/* Blocks of neighbouring elements in the order of a table. */
EDGEOPT_ENTRY void edgeopt_gather(
    int32_t outer, int32_t length, int32_t block, int32_t count, const int8_t *x,
    const int32_t *index, int8_t *y) {
    for (int32_t o = 0; o < outer; ++o) {
        for (int32_t i = 0; i < count; ++i) {
            memcpy(y, x + (o * length + index[i]) * block, (size_t)block);
            y += block;
        }
    }
}
