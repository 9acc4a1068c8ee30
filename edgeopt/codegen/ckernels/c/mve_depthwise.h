/* Depthwise convolution with the window across lanes: four rows of the map (or eight) are woven
 * together, so that all inputs under a window lie one after the other, channel by channel, and one
 * multiply-accumulate takes 16 of them. Four rows serve as many rows of outputs as windows fit:
 * two of 3 x 3.
 *
 * Woven: [channel][column][row], channels in groups of 16, columns with the padding to either side.
 * Weights: [channel][column][row], channels to whole fours, the rest to whole 16 with zeros. */

/* Stores words at addresses that are moved on first. */
#define EDGEOPT_MVE_SCATTER(at, pace, words) \
    __asm__ volatile("vstrw.32 %q1, [%q0, %2]!" : "+t"(at) : "t"(words), "i"(pace) : "memory")

/* Weaves four rows of at most 16 channels at all columns, a column `pace` bytes from the next and a
 * channel `pitch` bytes. */
EDGEOPT_INLINE void edgeopt_mve_weave(
    const int8_t *const from[4], const int32_t step[4], int32_t columns, int32_t channels,
    int32_t pitch, int32_t pace, int8_t *to) {
    __attribute__((aligned(16))) int8_t staged[64];
    const mve_pred16_t some = vctp8q((uint32_t)channels);
    const int32_t *words = (const int32_t *)(const void *)staged;
    const int8_t *a = from[0];
    const int8_t *b = from[1];
    const int8_t *c = from[2];
    const int8_t *d = from[3];
    /* addresses are written back before they are used */
    uint32x4_t at0 = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)pitch);
    at0 = vaddq_n_u32(at0, (uint32_t)(uintptr_t)to - (uint32_t)pace);
    uint32x4_t at1 = vaddq_n_u32(at0, (uint32_t)(4 * pitch));
    uint32x4_t at2 = vaddq_n_u32(at1, (uint32_t)(4 * pitch));
    uint32x4_t at3 = vaddq_n_u32(at2, (uint32_t)(4 * pitch));
    for (int32_t i = 0; i < columns; ++i) {
        int8x16x4_t rows;
        rows.val[0] = channels < 16 ? vldrbq_z_s8(a, some) : vldrbq_s8(a);
        rows.val[1] = channels < 16 ? vldrbq_z_s8(b, some) : vldrbq_s8(b);
        rows.val[2] = channels < 16 ? vldrbq_z_s8(c, some) : vldrbq_s8(c);
        rows.val[3] = channels < 16 ? vldrbq_z_s8(d, some) : vldrbq_s8(d);
        vst4q_s8(staged, rows);
        EDGEOPT_MVE_SCATTER(at0, pace, vldrwq_s32(words));
        if (channels > 4) {
            EDGEOPT_MVE_SCATTER(at1, pace, vldrwq_s32(words + 4));
        }
        if (channels > 8) {
            EDGEOPT_MVE_SCATTER(at2, pace, vldrwq_s32(words + 8));
        }
        if (channels > 12) {
            EDGEOPT_MVE_SCATTER(at3, pace, vldrwq_s32(words + 12));
        }
        a += step[0];
        b += step[1];
        c += step[2];
        d += step[3];
    }
}

/* Weights for windows that begin some rows (of 8 bits each) lower in what is woven by four. */
EDGEOPT_INLINE int8x16_t edgeopt_mve_lowered(const int8_t *w, int32_t shift) {
    const int32x4_t words = vreinterpretq_s32_s8(vldrbq_s8(w));
    return vreinterpretq_s8_s32(vshlq_r_s32(words, shift));
}

/* A row of outputs of four channels; windows of at most 16 are multiplied in one step. */
EDGEOPT_INLINE void edgeopt_mve_columns(
    const int8_t *woven, int32_t pitch, int32_t pace, int32_t taps, int32_t columns,
    const int8_t *w, int32_t shift, const int32_t *params, int32_t zero, int32_t channels,
    int32_t pixel, int8_t *y) {
    const int8_t *x0 = woven;
    const int8_t *x1 = woven + pitch;
    const int8_t *x2 = woven + 2 * pitch;
    const int8_t *x3 = woven + 3 * pitch;
    const int32x4_t bias = vldrwq_s32(params);
    const float32x4_t factors = vreinterpretq_f32_s32(vldrwq_s32(params + 4));
    if (taps == 16) {
        const int8x16_t w0 = edgeopt_mve_lowered(w, shift);
        const int8x16_t w1 = edgeopt_mve_lowered(w + 16, shift);
        const int8x16_t w2 = edgeopt_mve_lowered(w + 32, shift);
        const int8x16_t w3 = edgeopt_mve_lowered(w + 48, shift);
        for (int32_t i = 0; i < columns; ++i) {
            int32x4_t sums;
            int8x16_t u;
            int32_t a, b, c, d;
            __asm__ volatile(
                "vldrb.u8 %q[u], [%[x0]], %[pace]\n\t"
                "vmladav.s8 %[a], %q[u], %q[w0]\n\t"
                "vldrb.u8 %q[u], [%[x1]], %[pace]\n\t"
                "vmladav.s8 %[b], %q[u], %q[w1]\n\t"
                "vldrb.u8 %q[u], [%[x2]], %[pace]\n\t"
                "vmladav.s8 %[c], %q[u], %q[w2]\n\t"
                "vldrb.u8 %q[u], [%[x3]], %[pace]\n\t"
                "vmladav.s8 %[d], %q[u], %q[w3]\n\t"
                "vmov %q[s][2], %q[s][0], %[a], %[c]\n\t"
                "vmov %q[s][3], %q[s][1], %[b], %[d]"
                : [u] "=&t"(u), [s] "=&t"(sums), [a] "=&Te"(a), [b] "=&Te"(b), [c] "=&Te"(c),
                  [d] "=&Te"(d), [x0] "+r"(x0), [x1] "+r"(x1), [x2] "+r"(x2), [x3] "+r"(x3)
                : [w0] "t"(w0), [w1] "t"(w1), [w2] "t"(w2), [w3] "t"(w3), [pace] "i"(pace)
                : "memory");
            sums = edgeopt_mve_stored(vaddq_s32(sums, bias), factors, zero);
            if (channels >= 4) {
                vstrbq_s32(y, sums);
            } else {
                vstrbq_p_s32(y, sums, vctp32q((uint32_t)channels));
            }
            y += pixel;
        }
        return;
    }
    for (int32_t i = 0; i < columns; ++i) {
        int32_t a = 0, b = 0, c = 0, d = 0;
        int32x4_t sums;
        for (int32_t t = 0; t < taps; t += 16) {
            a = vmladavaq_s8(a, vldrbq_s8(x0 + t), edgeopt_mve_lowered(w + t, shift));
            b = vmladavaq_s8(b, vldrbq_s8(x1 + t), edgeopt_mve_lowered(w + t + taps, shift));
            c = vmladavaq_s8(c, vldrbq_s8(x2 + t), edgeopt_mve_lowered(w + t + 2 * taps, shift));
            d = vmladavaq_s8(d, vldrbq_s8(x3 + t), edgeopt_mve_lowered(w + t + 3 * taps, shift));
        }
        EDGEOPT_MVE_EVEN(sums, a, c);
        EDGEOPT_MVE_ODD(sums, b, d);
        sums = edgeopt_mve_stored(vaddq_s32(sums, bias), factors, zero);
        if (channels >= 4) {
            vstrbq_s32(y, sums);
        } else {
            vstrbq_p_s32(y, sums, vctp32q((uint32_t)channels));
        }
        x0 += pace;
        x1 += pace;
        x2 += pace;
        x3 += pace;
        y += pixel;
    }
}

/* A weave of some channels from c on, and the rows of outputs that it serves. */
EDGEOPT_INLINE void edgeopt_mve_group(
    const edgeopt_window *g, int32_t rows, int32_t lines, int32_t taps, int32_t pitch,
    const int8_t *x, const int8_t *w, const int32_t *params, int32_t oy, int32_t c,
    int32_t channels, const int8_t *zeros, int8_t *y, int8_t *woven) {
    const int32_t top = oy * g->stride_y - g->top;
    const int32_t used = (lines - 1) * g->stride_y + g->height;
    for (int32_t half = 0; half < rows; half += 4) {
        const int8_t *from[4];
        int32_t step[4];
#pragma GCC unroll 4
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t iy = top + half + i;
            const int32_t inside = half + i < used && iy >= 0 && iy < g->in_height;
            from[i] = inside ? x + iy * g->in_width * g->in_channels + c : zeros;
            step[i] = inside ? g->in_channels : 0;
        }
        edgeopt_mve_weave(
            from, step, g->in_width, channels, pitch, rows, woven + g->left * rows + half);
    }
    for (int32_t line = 0; line < lines && oy + line < g->out_height; ++line) {
        int8_t *to = y + (oy + line) * g->out_width * g->in_channels + c;
        for (int32_t block = 0; block < channels; block += 4) {
            edgeopt_mve_columns(
                woven + block * pitch, pitch, g->stride_x * rows, taps, g->out_width,
                w + (c + block) * taps, 8 * line * g->stride_y,
                params + EDGEOPT_CHANNELS + (c + block) / 4 * EDGEOPT_MVE_BLOCK,
                params[EDGEOPT_ZERO_Y], channels - block, g->in_channels, to + block);
        }
    }
}

EDGEOPT_INLINE void edgeopt_mve_depthwise(
    const edgeopt_window *g, int32_t rows, int32_t pitch, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, int8_t *woven) {
    const int32_t lines = rows == 4 ? (4 - g->height) / g->stride_y + 1 : 1;
    const int32_t taps = (g->width * rows + 15) / 16 * 16;
    const int32_t rest = g->in_channels % 16;
    const int32_t deep = g->in_channels < 16 ? (g->in_channels + 3) / 4 * 4 : 16;
    int8_t zeros[16];
    vstrbq_s8(zeros, vdupq_n_s8((int8_t)params[EDGEOPT_ZERO_X]));
    edgeopt_mve_fill(woven, params[EDGEOPT_ZERO_X], deep * pitch);
    for (int32_t oy = 0; oy < g->out_height; oy += lines) {
        for (int32_t c = 0; c + 16 <= g->in_channels; c += 16) {
            edgeopt_mve_group(
                g, rows, lines, taps, pitch, x, w, params, oy, c, 16, zeros, y, woven);
        }
        if (rest != 0) {
            edgeopt_mve_group(
                g, rows, lines, taps, pitch, x, w, params, oy, g->in_channels - rest, rest, zeros,
                y, woven);
        }
    }
    edgeopt_mve_clamped(
        y, g->out_height * g->out_width * g->in_channels, params[EDGEOPT_LO],
        params[EDGEOPT_HI]);
}
