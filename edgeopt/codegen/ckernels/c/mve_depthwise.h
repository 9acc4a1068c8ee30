/* Depthwise convolution with the window across lanes: four rows of the map (or eight) are woven
 * together, so that all inputs under a window lie one after the other, channel by channel, and one
 * multiply-accumulate takes 16 of them. Four rows serve as many rows of outputs as windows fit:
 * two of 3 x 3.
 *
 * Woven: [channel][column][row], channels in groups of 16, columns with the padding to either side.
 * Weights: [channel][column][row], channels to whole fours, the rest to whole 16 with zeros. */

/* Weaves columns of four rows: bytes row by row within a channel, in 64 bytes on the stack; from
 * there words to where their channels belong, at addresses that are moved on first. Registers are
 * scarce: behind those 64 bytes lie the number of columns, that of channels, and room to keep the
 * compiler's predicate while some channels are loaded. */
enum { EDGEOPT_MVE_COLUMNS = 16, EDGEOPT_MVE_SOME, EDGEOPT_MVE_KEPT, EDGEOPT_MVE_STAGED };

#define EDGEOPT_MVE_WORDS(at, offset) \
    "vldrw.u32 q0, [%[t], #" offset "]\n\tvstrw.32 q0, [%q[" at "], %[pace]]!\n\t"
#define EDGEOPT_MVE_WORDS_4 EDGEOPT_MVE_WORDS("at0", "0")
#define EDGEOPT_MVE_WORDS_8 EDGEOPT_MVE_WORDS_4 EDGEOPT_MVE_WORDS("at1", "16")
#define EDGEOPT_MVE_WORDS_12 EDGEOPT_MVE_WORDS_8 EDGEOPT_MVE_WORDS("at2", "32")
#define EDGEOPT_MVE_WORDS_16 EDGEOPT_MVE_WORDS_12 EDGEOPT_MVE_WORDS("at3", "48")
#define EDGEOPT_MVE_WEAVE(BEFORE, PREDICATE, LOAD, NEAR, FAR, STEP, WORDS, AFTER)  \
    __asm__ volatile(                                                              \
        BEFORE "ldr lr, [%[t], #64]\n\tdls lr, lr\n"                               \
        "1:\n\t" PREDICATE                                                         \
        LOAD " q0, [%[a]]" NEAR "\n\t" LOAD " q1, [%[b]]" NEAR "\n\t"              \
        LOAD " q2, [%[c]]" NEAR "\n\t" LOAD " q3, [%[d]]" NEAR "\n\t"              \
        "vst40.8 {q0, q1, q2, q3}, [%[t]]\n\t"                                     \
        "vst41.8 {q0, q1, q2, q3}, [%[t]]\n\t"                                     \
        "vst42.8 {q0, q1, q2, q3}, [%[t]]\n\t"                                     \
        "vst43.8 {q0, q1, q2, q3}, [%[t]]\n\t" FAR WORDS "le lr, 1b\n\t" AFTER     \
        : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [at0] "+t"(at0),     \
          [at1] "+t"(at1), [at2] "+t"(at2), [at3] "+t"(at3)                        \
        : [t] "r"(staged), [pace] "i"(pace), [step] STEP(step)                     \
        : "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "lr", "memory")
/* The next column, by the load itself if it is near enough. */
#define EDGEOPT_MVE_NEAR ", %[step]"
#define EDGEOPT_MVE_FAR                                                            \
    "add %[a], %[a], %[step]\n\tadd %[b], %[b], %[step]\n\t"                       \
    "add %[c], %[c], %[step]\n\tadd %[d], %[d], %[step]\n\t"
#define EDGEOPT_MVE_WEAVE_ALL(NEAR, FAR, STEP) \
    EDGEOPT_MVE_WEAVE("", "", "vldrb.u8", NEAR, FAR, STEP, EDGEOPT_MVE_WORDS_16, "")
#define EDGEOPT_MVE_WEAVE_SOME(WORDS)                                              \
    EDGEOPT_MVE_WEAVE(                                                             \
        "vmrs lr, p0\n\tstr lr, [%[t], #72]\n\tldr lr, [%[t], #68]\n\tvctp.8 lr\n\t", \
        "vpstttt\n\t", "vldrbt.u8", "", EDGEOPT_MVE_FAR, "ri", WORDS,              \
        "ldr lr, [%[t], #72]\n\tvmsr p0, lr")

/* Four rows of at most 16 channels at all columns; a column is `step` bytes from the next, and
 * `pace` bytes where it is woven, where a channel is `pitch` bytes from the next. */
EDGEOPT_INLINE void edgeopt_mve_weave(
    const int8_t *const from[4], int32_t step, int32_t columns, int32_t channels, int32_t pitch,
    int32_t pace, int8_t *to) {
    int32_t staged[EDGEOPT_MVE_STAGED];
    const int8_t *a = from[0];
    const int8_t *b = from[1];
    const int8_t *c = from[2];
    const int8_t *d = from[3];
    /* not VIDUP: gcc 12 forgets that it moves its start on */
    const uint32_t wide = (uint32_t)pitch;
    const uint32_t lanes[4] = {0, wide, 2 * wide, 3 * wide};
    uint32x4_t at0 = vaddq_n_u32(vldrwq_u32(lanes), (uint32_t)(uintptr_t)to - (uint32_t)pace);
    uint32x4_t at1 = vaddq_n_u32(at0, (uint32_t)(4 * pitch));
    uint32x4_t at2 = vaddq_n_u32(at1, (uint32_t)(4 * pitch));
    uint32x4_t at3 = vaddq_n_u32(at2, (uint32_t)(4 * pitch));
    staged[EDGEOPT_MVE_COLUMNS] = columns;
    staged[EDGEOPT_MVE_SOME] = channels;
    const int any = !__builtin_constant_p(step) || !__builtin_constant_p(channels);
    if (channels == 16 && __builtin_constant_p(step) && step < 128) {
        EDGEOPT_MVE_WEAVE_ALL(EDGEOPT_MVE_NEAR, "", "i");
    } else if (channels == 16) {
        EDGEOPT_MVE_WEAVE_ALL("", EDGEOPT_MVE_FAR, "ri");
    } else if (channels > 12 || any) {
        EDGEOPT_MVE_WEAVE_SOME(EDGEOPT_MVE_WORDS_16);
    } else if (channels > 8) {
        EDGEOPT_MVE_WEAVE_SOME(EDGEOPT_MVE_WORDS_12);
    } else if (channels > 4) {
        EDGEOPT_MVE_WEAVE_SOME(EDGEOPT_MVE_WORDS_8);
    } else {
        EDGEOPT_MVE_WEAVE_SOME(EDGEOPT_MVE_WORDS_4);
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
#pragma GCC unroll 4
        for (int32_t i = 0; i < 4; ++i) {
            /* rows that no window reaches are multiplied with zero, whatever they are */
            const int32_t iy = top + edgeopt_min(half + i, used - 1);
            const int32_t inside = iy >= 0 && iy < g->in_height;
            from[i] = inside ? x + iy * g->in_width * g->in_channels + c : zeros;
        }
        edgeopt_mve_weave(
            from, g->in_channels, g->in_width, channels, pitch, rows,
            woven + g->left * rows + half);
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

/* Scratch: what is woven, and `outside` bytes of a row above or below the map, if there is one. */
EDGEOPT_INLINE void edgeopt_mve_depthwise(
    const edgeopt_window *g, int32_t rows, int32_t pitch, int32_t outside, const int8_t *x,
    const int8_t *w, const int32_t *params, int8_t *y, int8_t *woven) {
    const int32_t lines = rows == 4 ? (4 - g->height) / g->stride_y + 1 : 1;
    const int32_t taps = (g->width * rows + 15) / 16 * 16;
    const int32_t rest = g->in_channels % 16;
    const int32_t deep = g->in_channels < 16 ? (g->in_channels + 3) / 4 * 4 : 16;
    int8_t *zeros = woven + deep * pitch;
    edgeopt_mve_fill(woven, params[EDGEOPT_ZERO_X], deep * pitch + outside);
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
