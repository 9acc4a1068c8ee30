/* Windows of 3 by 3: one copy for all kernels. */
EDGEOPT_SHARED void edgeopt_plain_depthwise_3(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y) {
    edgeopt_plain_windows(g, 3, 3, x, w, params, y);
}
