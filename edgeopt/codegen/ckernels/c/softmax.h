/* Softmax along an axis of `length`; before it there are `outer` steps, behind it `inner`.
 * The exponentials are fractions in int32, added up exactly. */
EDGEOPT_ENTRY void edgeopt_softmax(
    int32_t outer, int32_t length, int32_t inner, const int8_t *x, const int32_t *table,
    const float *scale, const int32_t *params, int8_t *y) {
    for (int32_t o = 0; o < outer; ++o) {
        for (int32_t i = 0; i < inner; ++i) {
            const int8_t *from = x + o * length * inner + i;
            int8_t *to = y + o * length * inner + i;
            int32_t best = from[0];
            int32_t total = 0;
            for (int32_t k = 1; k < length; ++k) {
                best = edgeopt_max(best, from[k * inner]);
            }
            for (int32_t k = 0; k < length; ++k) {
                total += table[best - from[k * inner]];
            }
            const float share = 1.0f / ((float)total * scale[0]);
            for (int32_t k = 0; k < length; ++k) {
                const float part = edgeopt_product((float)table[best - from[k * inner]], share);
                to[k * inner] = edgeopt_placed(edgeopt_round(part), params[0], -128, 127);
            }
        }
    }
}
