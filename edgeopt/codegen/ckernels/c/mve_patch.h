/* Copies and fills of any length; nothing past it is read or written. */
EDGEOPT_SHARED void edgeopt_mve_copy(int8_t *to, const int8_t *from, int32_t count) {
    for (int32_t i = 0; i < count; i += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)(count - i));
        vstrbq_p_s8(to + i, vldrbq_z_s8(from + i, some), some);
    }
}

EDGEOPT_SHARED void edgeopt_mve_fill(int8_t *to, int32_t value, int32_t count) {
    const int8x16_t values = vdupq_n_s8((int8_t)value);
    for (int32_t i = 0; i < count; i += 16) {
        vstrbq_p_s8(to + i, values, vctp8q((uint32_t)(count - i)));
    }
}

/* Rows of a window, each `span` bytes, `pitch` bytes apart, one after the other. Short ones are
 * copied as whole vectors: what is read and written past a row is overwritten by the next. */
EDGEOPT_INLINE void edgeopt_mve_inner(
    int8_t *to, const int8_t *from, int32_t rows, int32_t span, int32_t pitch) {
    for (int32_t i = 0; i < rows; ++i) {
        if (span == 1 || span == 2 || span == 4) {
            memcpy(to, from, (size_t)span);
        } else if (span <= 16) {
            vstrbq_s8(to, vldrbq_s8(from));
        } else {
#pragma GCC unroll 16
            for (int32_t j = 0; j <= span - 16; j += 16) {
                vstrbq_s8(to + j, vldrbq_s8(from + j));
            }
            if (span % 16 != 0) {
                vstrbq_s8(to + span - 16, vldrbq_s8(from + span - 16));
            }
        }
        to += span;
        from += pitch;
    }
}

/* The same where the window leaves the map, or is dilated: outside lies the zero point. */
EDGEOPT_SHARED void edgeopt_mve_edge(
    const edgeopt_window *g, const int8_t *x, int32_t y0, int32_t x0, int32_t zero, int8_t *to) {
    const int32_t channels = g->in_channels;
    const int32_t step = g->dilation_x;
    const int32_t first = x0 >= 0 ? 0 : (step - 1 - x0) / step;
    const int32_t inside = x0 < g->in_width ? (g->in_width - 1 - x0) / step + 1 : 0;
    const int32_t last = edgeopt_min(inside, g->width);
    edgeopt_mve_fill(to, zero, g->height * g->width * channels);
    for (int32_t i = 0; i < g->height; ++i) {
        const int32_t iy = y0 + i * g->dilation_y;
        const int8_t *from = x + (iy * g->in_width + x0 + first * step) * channels;
        if (iy >= 0 && iy < g->in_height && step == 1 && first < last) {
            edgeopt_mve_copy(to + first * channels, from, (last - first) * channels);
        } else if (iy >= 0 && iy < g->in_height) {
            for (int32_t j = first; j < last; ++j) {
                edgeopt_mve_copy(to + j * channels, from, channels);
                from += step * channels;
            }
        }
        to += g->width * channels;
    }
}

/* The inputs under the window of an output, one row of the window after the other. */
EDGEOPT_INLINE void edgeopt_mve_patch(
    const edgeopt_window *g, const int8_t *x, int32_t oy, int32_t ox, int32_t zero, int8_t *to) {
    const int32_t y0 = oy * g->stride_y - g->top;
    const int32_t x0 = ox * g->stride_x - g->left;
    const int32_t span = g->width * g->in_channels;
    const int32_t pitch = g->in_width * g->in_channels;
    const int32_t below = y0 + (g->height - 1) * g->dilation_y;
    const int32_t last = below * pitch + x0 * g->in_channels;
    if (g->dilation_x > 1 || x0 < 0 || x0 + g->width > g->in_width || y0 < 0 ||
        below >= g->in_height || (span < 16 && last + 16 > g->in_height * pitch)) {
        edgeopt_mve_edge(g, x, y0, x0, zero, to);
        return;
    }
    edgeopt_mve_inner(
        to, x + y0 * pitch + x0 * g->in_channels, g->height, span, g->dilation_y * pitch);
}
