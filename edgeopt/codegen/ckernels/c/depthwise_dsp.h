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
EDGEOPT_SHARED void edgeopt_widen_weights(
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

/* How weights are widened, and how one channel of an output line is made of them; `oldest` is
 * where the ring holds the kernel's first line. */
typedef void edgeopt_widen_function(const edgeopt_lines *g, const int8_t *w, uint32_t *wide);
typedef void edgeopt_line_function(
    const edgeopt_lines *g, const uint32_t *ring, int32_t oldest, const uint32_t *wide,
    const int32_t *channel, int32_t zero, int8_t *y);

/* All lines; `wide` words of widened weights a channel. The functions are constants: calls are
 * direct wherever this is made for them. */
EDGEOPT_INLINE void edgeopt_all_lines(
    const edgeopt_lines *g, int32_t pairs, int32_t wide, edgeopt_widen_function *widen,
    edgeopt_line_function *line_out, const int8_t *x, const int8_t *w, const int32_t *params,
    int8_t *y, uint32_t *scratch) {
    const uint32_t zeros = (uint32_t)(params[EDGEOPT_ZERO_X] & 0xff) * 0x01010101u;
    uint32_t *const ring = scratch + 4 * wide;
    for (int32_t c = 0; c < g->channels; c += 4) {
        const int32_t count = edgeopt_min(g->channels - c, 4);
        int32_t loaded = 0;
        int32_t slot = 0;
        for (int32_t k = 0; k < count; ++k) {
            widen(g, w, scratch + k * wide);
            w += g->lines * g->length;
        }
        for (int32_t line = 0; line < g->out_lines; ++line) {
            const int32_t *channel = params + EDGEOPT_CHANNELS + 2 * c;
            const uint32_t *weights = scratch;
            int8_t *to = y + c + line * g->out_line_step;
            while (loaded < line * g->stride_lines + g->lines) {
                const int32_t at = loaded - g->first_line;
                const int32_t inside = at >= 0 && at < g->in_lines;
                const int8_t *from = inside ? x + c + at * g->in_line_step : NULL;
                edgeopt_line_in(g, from, count, pairs, zeros, ring + 4 * slot);
                slot = slot + 1 == g->lines ? 0 : slot + 1;
                ++loaded;
            }
            for (int32_t k = 0; k < count; ++k) {
                line_out(g, ring + k, slot, weights, channel, params[EDGEOPT_ZERO_Y], to + k);
                weights += wide;
                channel += 2;
            }
        }
    }
    edgeopt_clamp_all(y, g->channels * g->out_lines * g->out_length, params);
}

#if EDGEOPT_ASSEMBLY
/* Of functions in assembly that make one channel of a line. */
#define EDGEOPT_LINE_ARGUMENTS                                                                 \
    EDGEOPT_UNUSED const uint32_t *x, EDGEOPT_UNUSED const uint32_t *wide,                     \
        EDGEOPT_UNUSED const uint32_t *end, EDGEOPT_UNUSED int8_t *y,                          \
        EDGEOPT_UNUSED int32_t step, EDGEOPT_UNUSED const int32_t *channel,                    \
        EDGEOPT_UNUSED int32_t zero
#endif
