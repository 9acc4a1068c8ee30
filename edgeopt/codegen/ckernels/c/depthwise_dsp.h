/* Depthwise convolution, four channels at a time, line after line.
 *
 * A line is a row of the map, or a column where that is longer. The lines under the kernel are
 * kept in a ring, widened to 16 bits, one channel's neighbours in pairs: position t of the ring
 * holds, for each line and each of the four channels, the pair (2t, 2t + 1) of that line, the
 * padding counted. Weights are widened to pairs too, once for all lines. An output line is
 * written after the input lines it needs, and the one of its own number, are in the ring. */
typedef struct {
    int32_t channels;
    int32_t in_lines, in_length, in_line_step, in_step;     /* steps in bytes */
    int32_t out_lines, out_length, out_line_step, out_step;
    int32_t lines, length;                                  /* of the kernel */
    int32_t stride_lines, stride, first_line, first;        /* padding before a line, before it */
} edgeopt_lines;

/* Stores a pair of each of four channels. */
EDGEOPT_INLINE void edgeopt_pairs_of(uint32_t a, uint32_t b, uint32_t *to) {
    const uint32_t even_a = edgeopt_even(a);
    const uint32_t even_b = edgeopt_even(b);
    const uint32_t odd_a = edgeopt_odd(a);
    const uint32_t odd_b = edgeopt_odd(b);
    to[0] = (even_a & 0xffffu) | (even_b << 16);
    to[1] = (odd_a & 0xffffu) | (odd_b << 16);
    to[2] = (even_a >> 16) | (even_b & 0xffff0000u);
    to[3] = (odd_a >> 16) | (odd_b & 0xffff0000u);
}

/* One line of at most four channels into the ring; without a line, padding. */
EDGEOPT_SHARED void edgeopt_line_in(
    const edgeopt_lines *g, const int8_t *x, int32_t count, int32_t pairs, uint32_t zeros,
    uint32_t *to) {
    const int32_t step = g->in_step;
    const int32_t pitch = 4 * g->lines;
    for (int32_t t = 0; t < pairs;) {
        const int32_t at = 2 * t - g->first;
        uint32_t a = zeros;
        uint32_t b = zeros;
        if (x != NULL && count == 4 && at >= 0 && at + 1 < g->in_length) {
            const int32_t whole = edgeopt_min((g->in_length - at) / 2, pairs - t);
            const int8_t *from = x + at * step;
            const uint32_t *end = to + whole * pitch;
            do {
                edgeopt_pairs_of(edgeopt_load(from), edgeopt_load(from + step), to);
                from += 2 * step;
                to += pitch;
            } while (to != end);
            t += whole;
            continue;
        }
        if (x != NULL && at >= 0 && at < g->in_length) {
            memcpy(&a, x + at * step, (size_t)count);
        }
        if (x != NULL && at + 1 >= 0 && at + 1 < g->in_length) {
            memcpy(&b, x + (at + 1) * step, (size_t)count);
        }
        edgeopt_pairs_of(a, b, to);
        to += pitch;
        ++t;
    }
}

/* The weights of a channel as pairs, for outputs that begin at the first of a pair and at the
 * second: (w0, w1) (w2, 0) and (0, w0) (w1, w2), one next to the other. */
EDGEOPT_INLINE void edgeopt_widen_weights(
    const edgeopt_lines *g, const int8_t *w, uint32_t *wide) {
    for (int32_t line = 0; line < g->lines; ++line) {
        int32_t before = 0;
        for (int32_t j = 0; j <= g->length; j += 2) {
            const int32_t here = j < g->length ? w[j] : 0;
            const int32_t next = j + 1 < g->length ? w[j + 1] : 0;
            *wide++ = ((uint32_t)here & 0xffffu) | ((uint32_t)next << 16);
            *wide++ = ((uint32_t)before & 0xffffu) | ((uint32_t)here << 16);
            before = next;
        }
        w += g->length;
    }
}

/* One channel of an output line. `oldest` is where the ring holds the kernel's first line. */
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

#if EDGEOPT_ASSEMBLY
/* Three lines of three weights, as (w0, w1) (w1, w2) each; then the first two lines again, so that
 * they can be read from any line on. */
EDGEOPT_INLINE void edgeopt_widen_nine(const int8_t *w, uint32_t *wide) {
    for (int32_t line = 0; line < 5; ++line) {
        const uint32_t word = edgeopt_load(w + (line < 3 ? line : line - 3) * 3);
        const uint32_t even = edgeopt_even(word); /* w0, w2 */
        const uint32_t odd = edgeopt_odd(word);   /* w1 and what comes after */
        wide[2 * line] = (even & 0xffffu) | (odd << 16);
        wide[2 * line + 1] = (odd & 0xffffu) | (even & 0xffff0000u);
    }
}

/* One channel of a line. Fourteen registers: x r0, sums r1 r2, y r3, pairs of weights r4-r9, pairs
 * of inputs r10-r12, step lr; in the FPU twice the bias s10 s11, the end s12, multiplier s13, zero
 * point s14. Two outputs at a time cost 36 instructions; the first half of what is read after a
 * step serves the output before, and all of it the next. */
#define EDGEOPT_ARGUMENTS                                                                      \
    EDGEOPT_UNUSED const uint32_t *x, EDGEOPT_UNUSED const uint32_t *wide,                      \
        EDGEOPT_UNUSED const uint32_t *end, EDGEOPT_UNUSED int8_t *y,                           \
        EDGEOPT_UNUSED int32_t step, EDGEOPT_UNUSED const int32_t *channel,                     \
        EDGEOPT_UNUSED int32_t zero
#define EDGEOPT_BEGIN             \
    "push {r4-r11, lr}\n\t"       \
    "vmov s12, r2\n\t"            \
    "ldrd lr, r2, [sp, #36]\n\t"  \
    "vldr s14, [sp, #44]\n\t"     \
    "vldr s10, [r2]\n\t"          \
    "vldr s11, [r2]\n\t"          \
    "vldr s13, [r2, #4]\n\t"      \
    "ldm r1, {r4-r9}\n\t"         \
    "ldr r10, [r0]\n\t"           \
    "ldr r11, [r0, #16]\n\t"      \
    "ldr r12, [r0, #32]\n"        \
    "1:\n\t"

EDGEOPT_NAKED void edgeopt_asm_nine_by_two(EDGEOPT_ARGUMENTS) {
    __asm__ volatile(
        EDGEOPT_BEGIN
        "vmov r1, r2, s10, s11\n\t"
        "smlad r1, r10, r4, r1\n\t"
        "smlatb r2, r10, r4, r2\n\t"
        "ldr r10, [r0, #48]!\n\t"
        "smlad r1, r11, r6, r1\n\t"
        "smlatb r2, r11, r6, r2\n\t"
        "ldr r11, [r0, #16]\n\t"
        "smlad r1, r12, r8, r1\n\t"
        "smlatb r2, r12, r8, r2\n\t"
        "ldr r12, [r0, #32]\n\t"
        "smlabt r1, r10, r5, r1\n\t"
        "smlad r2, r10, r5, r2\n\t"
        "smlabt r1, r11, r7, r1\n\t"
        "smlad r2, r11, r7, r2\n\t"
        "smlabt r1, r12, r9, r1\n\t"
        "smlad r2, r12, r9, r2\n\t"
        "vmov s0, s1, r1, r2\n\t"
        EDGEOPT_SCALE("s0", "s13") EDGEOPT_SCALE("s1", "s13")
        "vmov r1, s0\n\t"
        "vmov r2, s14\n\t"
        EDGEOPT_BYTE("r1", "r2")
        "strb r1, [r3]\n\t"
        "vmov r1, s1\n\t"
        EDGEOPT_BYTE("r1", "r2")
        "strb r1, [r3, lr]\n\t"
        "add r3, r3, lr, lsl #1\n\t"
        "vmov r1, s12\n\t"
        "cmp r0, r1\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}

/* A stride of 2: one output at a time, 22 instructions. */
EDGEOPT_NAKED void edgeopt_asm_nine_by_one(EDGEOPT_ARGUMENTS) {
    __asm__ volatile(
        EDGEOPT_BEGIN
        "vmov r1, s10\n\t"
        "smlad r1, r10, r4, r1\n\t"
        "ldr r10, [r0, #48]!\n\t"
        "smlad r1, r11, r6, r1\n\t"
        "ldr r11, [r0, #16]\n\t"
        "smlad r1, r12, r8, r1\n\t"
        "ldr r12, [r0, #32]\n\t"
        "smlabt r1, r10, r5, r1\n\t"
        "smlabt r1, r11, r7, r1\n\t"
        "smlabt r1, r12, r9, r1\n\t"
        "vmov s0, r1\n\t"
        EDGEOPT_SCALE("s0", "s13")
        "vmov r2, s14\n\t"
        "vmov r1, s0\n\t"
        EDGEOPT_BYTE("r1", "r2")
        "strb r1, [r3]\n\t"
        "add r3, r3, lr\n\t"
        "vmov r1, s12\n\t"
        "cmp r0, r1\n\t"
        "bne 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}
#undef EDGEOPT_BEGIN
#undef EDGEOPT_ARGUMENTS

/* One channel of an output line of a kernel of 3 x 3. */
EDGEOPT_SHARED void edgeopt_line_out_nine(
    const edgeopt_lines *g, const uint32_t *ring, int32_t oldest, const uint32_t *wide,
    const int32_t *channel, int32_t zero, int8_t *y) {
    const int32_t count = g->stride == 1 ? g->out_length / 2 : g->out_length;
    const uint32_t *const end = ring + 12 * count;
    wide += oldest ? 2 * (3 - oldest) : 0;
    if (g->stride == 2) {
        edgeopt_asm_nine_by_one(ring, wide, end, y, g->out_step, channel, zero);
        return;
    }
    if (count) {
        edgeopt_asm_nine_by_two(ring, wide, end, y, g->out_step, channel, zero);
    }
    if (g->out_length & 1) {
        const uint32_t *x = end;
        int32_t sum = channel[0];
        for (int32_t line = 0; line < 3; ++line) {
            sum = edgeopt_dot(x[4 * line], wide[2 * line], sum);
            sum += (int16_t)(x[12 + 4 * line] & 0xffffu) * ((int32_t)wide[2 * line + 1] >> 16);
        }
        y += 2 * count * g->out_step;
        y[0] = (int8_t)edgeopt_byte(edgeopt_scaled(sum, channel[1]), zero);
    }
}
#endif

EDGEOPT_INLINE void edgeopt_all_lines(
    const edgeopt_lines *g, int32_t pairs, int32_t nine, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
    const int32_t wide = nine ? 10 : g->lines * (g->length / 2 + 1) * 2;
    const uint32_t zeros = (uint32_t)(params[EDGEOPT_ZERO_X] & 0xff) * 0x01010101u;
    uint32_t *const ring = scratch + 4 * wide;
    for (int32_t c = 0; c < g->channels; c += 4) {
        const int32_t count = edgeopt_min(g->channels - c, 4);
        int32_t loaded = 0;
        int32_t slot = 0;
        for (int32_t k = 0; k < count; ++k) {
            uint32_t *to = scratch + k * wide;
#if EDGEOPT_ASSEMBLY
            if (nine) {
                edgeopt_widen_nine(w, to);
            }
#endif
            if (!nine) {
                edgeopt_widen_weights(g, w, to);
            }
            w += g->lines * g->length;
        }
        for (int32_t line = 0; line < g->out_lines; ++line) {
            while (loaded < line * g->stride_lines + g->lines) {
                const int32_t at = loaded - g->first_line;
                const int8_t *from = at >= 0 && at < g->in_lines ? x + c + at * g->in_line_step : NULL;
                edgeopt_line_in(g, from, count, pairs, zeros, ring + 4 * slot);
                slot = slot + 1 == g->lines ? 0 : slot + 1;
                ++loaded;
            }
            for (int32_t k = 0; k < count; ++k) {
                const uint32_t *weights = scratch + k * wide;
                const int32_t *channel = params + EDGEOPT_CHANNELS + 2 * (c + k);
                int8_t *to = y + c + k + line * g->out_line_step;
#if EDGEOPT_ASSEMBLY
                if (nine) {
                    edgeopt_line_out_nine(
                        g, ring + k, slot, weights, channel, params[EDGEOPT_ZERO_Y], to);
                }
#endif
                if (!nine) {
                    edgeopt_line_out(
                        g, ring + k, slot, weights, channel, params[EDGEOPT_ZERO_Y], to);
                }
            }
        }
    }
    edgeopt_clamp_all(y, g->channels * g->out_lines * g->out_length, params);
}

EDGEOPT_SHARED void edgeopt_depthwise(
    const edgeopt_lines *g, int32_t pairs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
    edgeopt_all_lines(g, pairs, 0, x, w, params, y, scratch);
}

/* A kernel of 3 x 3 with a stride of 1 or 2 along its lines. */
EDGEOPT_SHARED void edgeopt_depthwise_nine(
    const edgeopt_lines *g, int32_t pairs, const int8_t *x, const int8_t *w,
    const int32_t *params, int8_t *y, uint32_t *scratch) {
    edgeopt_all_lines(g, pairs, EDGEOPT_ASSEMBLY, x, w, params, y, scratch);
}
