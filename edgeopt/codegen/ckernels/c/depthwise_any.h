/* One channel of an output line, for any kernel and stride. */
EDGEOPT_SHARED void edgeopt_line_out(
    const edgeopt_lines *g, const uint32_t *ring, int32_t oldest, const uint32_t *wide,
    const int32_t *channel, int32_t zero, int8_t *y) {
    const int32_t pairs = g->length / 2 + 1;
    const int32_t pitch = 4 * g->lines;
    int32_t i = 0;
    if (g->stride == 1) {
        for (; i + 4 <= g->out_length; i += 4) { /* four outputs share the loads of weights */
            int32_t a = channel[0], b = a, c = a, d = a;
            const uint32_t *w = wide;
            int32_t slot = oldest;
            for (int32_t line = 0; line < g->lines; ++line) {
                const uint32_t *x = ring + i / 2 * pitch + 4 * slot;
                uint32_t here = *x;
                for (int32_t j = 0; j < pairs; ++j) {
                    x += pitch;
                    const uint32_t next = *x;
                    a = edgeopt_dot(here, w[0], a);
                    b = edgeopt_dot(here, w[1], b);
                    c = edgeopt_dot(next, w[0], c);
                    d = edgeopt_dot(next, w[1], d);
                    here = next;
                    w += 2;
                }
                slot = slot + 1 == g->lines ? 0 : slot + 1;
            }
            y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(a, channel[1]), zero);
            y += g->out_step;
            y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(b, channel[1]), zero);
            y += g->out_step;
            y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(c, channel[1]), zero);
            y += g->out_step;
            y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(d, channel[1]), zero);
            y += g->out_step;
        }
    }
    for (; i < g->out_length; ++i) {
        const int32_t at = i * g->stride;
        const uint32_t *w = wide + (at & 1);
        int32_t slot = oldest;
        int32_t sum = channel[0];
        for (int32_t line = 0; line < g->lines; ++line) {
            const uint32_t *x = ring + at / 2 * pitch + 4 * slot;
            for (int32_t j = 0; j < pairs; ++j) {
                sum = edgeopt_dot(*x, *w, sum);
                x += pitch;
                w += 2;
            }
            slot = slot + 1 == g->lines ? 0 : slot + 1;
        }
        y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(sum, channel[1]), zero);
        y += g->out_step;
    }
}

EDGEOPT_SHARED void edgeopt_depthwise(
    const edgeopt_lines *g, int32_t pairs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
    edgeopt_all_lines(
        g, pairs, g->lines * (g->length / 2 + 1) * 2, edgeopt_widen_weights, edgeopt_line_out, x, w,
        params, y, scratch);
}
