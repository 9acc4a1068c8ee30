#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Written once and made for each kernel: what is constant in the call is constant in the code. */
#define EDGEOPT_INLINE static inline __attribute__((always_inline, unused))
/* One copy for all kernels that call it. */
#define EDGEOPT_SHARED static __attribute__((noinline, unused))
/* All that a kernel does: made for each, or one copy for all where flash is short. */
#ifdef EDGEOPT_FEW_BYTES
#define EDGEOPT_ENTRY EDGEOPT_SHARED
#else
#define EDGEOPT_ENTRY EDGEOPT_INLINE
#endif

/* Behind a kernel's constants: zero point of the input, of the output, and the clamps; then for
 * each channel the bias, with the input's zero point folded in, and the bits of the multiplier. */
enum { EDGEOPT_ZERO_X, EDGEOPT_ZERO_Y, EDGEOPT_LO, EDGEOPT_HI, EDGEOPT_CHANNELS };

/* A window over a map, NHWC. */
typedef struct {
    int32_t in_height, in_width, in_channels;
    int32_t out_height, out_width, out_channels;
    int32_t height, width;                       /* of the window */
    int32_t stride_y, stride_x, dilation_y, dilation_x;
    int32_t top, left;                           /* padding */
    int32_t groups;
} edgeopt_window;

EDGEOPT_INLINE float edgeopt_float(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

EDGEOPT_INLINE int32_t edgeopt_min(int32_t a, int32_t b) {
    return a < b ? a : b;
}

EDGEOPT_INLINE int32_t edgeopt_max(int32_t a, int32_t b) {
    return a > b ? a : b;
}

/* Evaluates an activation by its table, in place; entry q + 128 belongs to q. */
EDGEOPT_SHARED void edgeopt_look_up(int8_t *y, int32_t count, const int8_t *table) {
    for (int32_t i = 0; i < count; ++i) {
        y[i] = table[y[i] + 128];
    }
}
