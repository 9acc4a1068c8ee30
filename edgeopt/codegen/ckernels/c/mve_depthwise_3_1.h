/* Windows of 3 by 3, side by side: one copy for all kernels. */
EDGEOPT_SHARED void edgeopt_mve_depthwise_3_1(
    const edgeopt_window *g, int32_t pitch, int32_t outside, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *woven) {
    edgeopt_window own = *g;
    own.height = 3;
    own.width = 3;
    own.stride_y = 1;
    own.stride_x = 1;
    edgeopt_mve_depthwise(&own, 4, pitch, outside, x, w, params, y, woven);
}
