#include <arm_mve.h>

#if !defined(__OPTIMIZE__)
#error "vector kernels need optimization, -O1 or more: their assembly takes constants in place"
#endif

/* Kernels for Cortex-M55 and other cores with vectors (MVE). A product of 16 pairs of int8 is added
 * up into one general register, so sums are moved into lanes before they are requantized, four at a
 * time. Inner loops are assembly: what compilers make of the intrinsics is half as long again, for
 * want of post-increment and of free registers.
 *
 * Constants of an accumulating kernel: the four of base.h, then for each four channels (the last
 * are padded with zeros) four biases and the bits of four multipliers. */
enum { EDGEOPT_MVE_BLOCK = 8 };

/* Lanes 0 and 2, or 1 and 3, of a vector; the first register goes to the lower lane. */
#define EDGEOPT_MVE_EVEN(v, a, b) __asm__("vmov %q0[2], %q0[0], %1, %2" : "=t"(v) : "r"(a), "r"(b))
#define EDGEOPT_MVE_ODD(v, a, b) __asm__("vmov %q0[3], %q0[1], %1, %2" : "+t"(v) : "r"(a), "r"(b))

/* Steps from the zero point to int8, in the lowest byte of each lane; narrowing saturates. Tighter
 * clamps are applied to the whole output afterwards. */
EDGEOPT_INLINE int32x4_t edgeopt_mve_placed(int32x4_t steps, int32_t zero) {
    __asm__("vqmovnb.s32 %q0, %q0\n\t"
            "vqadd.s16 %q0, %q0, %1\n\t"
            "vqmovnb.s16 %q0, %q0"
            : "+t"(steps)
            : "r"(zero));
    return steps;
}

/* Sums with their biases likewise: in binary32, rounded half to even, each step on its own. */
EDGEOPT_INLINE int32x4_t edgeopt_mve_stored(int32x4_t sums, float32x4_t multipliers, int32_t zero) {
    const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sums), multipliers);
    return edgeopt_mve_placed(vcvtnq_s32_f32(scaled), zero);
}

/* Clamps that are tighter than int8. */
EDGEOPT_SHARED void edgeopt_mve_clamp(int8_t *y, int32_t count, int32_t lo, int32_t hi) {
    const int8x16_t low = vdupq_n_s8((int8_t)lo);
    const int8x16_t high = vdupq_n_s8((int8_t)hi);
    for (int32_t i = 0; i < count; i += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)(count - i));
        const int8x16_t values = vldrbq_z_s8(y + i, some);
        vstrbq_p_s8(y + i, vminq_s8(vmaxq_s8(values, low), high), some);
    }
}

EDGEOPT_INLINE void edgeopt_mve_clamped(int8_t *y, int32_t count, int32_t lo, int32_t hi) {
    if (lo > INT8_MIN || hi < INT8_MAX) {
        edgeopt_mve_clamp(y, count, lo, hi);
    }
}
