/* Windows of 7 by 7, two columns apart: one copy for all kernels. */
EDGEOPT_SHARED void edgeopt_mve_depthwise_7_2(
    const edgeopt_window *g, int32_t pitch, int32_t outside, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *woven) {
    edgeopt_window own = *g;
    own.height = 7;
    own.width = 7;
    own.stride_y = 2;
    own.stride_x = 2;
    edgeopt_mve_depthwise(&own, 8, pitch, outside, x, w, params, y, woven);
}
