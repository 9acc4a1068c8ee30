/* Windows of 5 by 5: one copy for all kernels. */
EDGEOPT_SHARED void edgeopt_plain_depthwise_5(
    const edgeopt_window *g, const int8_t *x, const int8_t *w, const int32_t *params, int8_t *y) {
    edgeopt_plain_windows(g, 5, 5, x, w, params, y);
}
