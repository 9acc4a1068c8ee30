/* Windows of 7 by 7: one copy for all kernels. */
EDGEOPT_SHARED void edgeopt_plain_depthwise_7(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y) {
    edgeopt_plain_windows(g, 7, 7, x, w, params, y);
}
