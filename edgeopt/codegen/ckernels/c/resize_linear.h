/* Four neighbours weighted and added up, each step rounded. index, share: of the rows above and
 * below, then of the columns left and right. params, scales: of the input and of the result. */
EDGEOPT_ENTRY void edgeopt_bilinear(
    int32_t in_width, int32_t channels, int32_t height, int32_t width, const int8_t *x,
    const int32_t *index, const float *share, const int32_t *params, const float *scales,
    int8_t *y) {
    for (int32_t i = 0; i < height; ++i) {
        const int8_t *up = x + index[i] * in_width * channels;
        const int8_t *down = x + index[height + i] * in_width * channels;
        for (int32_t j = 0; j < width; ++j) {
            const int32_t left = index[2 * height + j] * channels;
            const int32_t right = index[2 * height + width + j] * channels;
            const float here = share[2 * height + j];
            const float beside = share[2 * height + width + j];
            const float weights[4] = {
                edgeopt_product(here, share[i]), edgeopt_product(beside, share[i]),
                edgeopt_product(here, share[height + i]),
                edgeopt_product(beside, share[height + i])};
            for (int32_t c = 0; c < channels; ++c) {
                const float near[4] = {
                    edgeopt_real(up[left + c], params[0], scales[0]),
                    edgeopt_real(up[right + c], params[0], scales[0]),
                    edgeopt_real(down[left + c], params[0], scales[0]),
                    edgeopt_real(down[right + c], params[0], scales[0])};
                float total = edgeopt_product(weights[0], near[0]);
                for (int32_t k = 1; k < 4; ++k) {
                    total = total + edgeopt_product(weights[k], near[k]);
                }
                *y++ = edgeopt_quantized(total, scales[1], params[1]);
            }
        }
    }
}
