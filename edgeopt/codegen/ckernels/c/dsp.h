/* Pairs of 16-bit numbers in a word: one instruction each where the core has them. */
#if defined(__arm__) && defined(__ARM_FEATURE_DSP)
#define EDGEOPT_DSP 1
#else
#define EDGEOPT_DSP 0
#endif
/* Inner loops that need every register are functions in assembly where there is an FPU, whose
 * registers hold all else; where there is none, they are in C. */
#if EDGEOPT_DSP && defined(__ARM_FP)
#define EDGEOPT_ASSEMBLY 1
#if defined(__clang__)
#define EDGEOPT_NAKED __attribute__((naked, noinline, used)) static
#else
#define EDGEOPT_NAKED __attribute__((naked, noinline, noclone, used)) static
#endif
/* A sum in a register of the FPU times a multiplier, as the nearest integer. */
#define EDGEOPT_SCALE(at, by)             \
    "vcvt.f32.s32 " at ", " at "\n\t"     \
    "vmul.f32 " at ", " at ", " by "\n\t" \
    "vcvtr.s32.f32 " at ", " at "\n\t"
/* From there to int8. */
#define EDGEOPT_BYTE(sum, zero)                  \
    "qadd " sum ", " sum ", " zero "\n\t"        \
    "ssat " sum ", #8, " sum "\n\t"
#else
#define EDGEOPT_ASSEMBLY 0
#endif
#define EDGEOPT_UNUSED __attribute__((unused))

/* Bytes 0 and 2 with their signs. */
EDGEOPT_INLINE uint32_t edgeopt_even(uint32_t bytes) {
#if EDGEOPT_DSP
    uint32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(bytes));
    return pair;
#else
    const int32_t low = (int8_t)(bytes & 0xffu);
    const int32_t high = (int8_t)((bytes >> 16) & 0xffu);
    return ((uint32_t)low & 0xffffu) | ((uint32_t)high << 16);
#endif
}

/* Bytes 1 and 3 with their signs. */
EDGEOPT_INLINE uint32_t edgeopt_odd(uint32_t bytes) {
#if EDGEOPT_DSP
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(bytes));
    return pair;
#else
    return edgeopt_even(bytes >> 8);
#endif
}

/* sum + both products of the pairs */
EDGEOPT_INLINE int32_t edgeopt_dot(uint32_t a, uint32_t b, int32_t sum) {
#if EDGEOPT_DSP
    int32_t result;
    __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
#else
    const int32_t low = (int16_t)(a & 0xffffu) * (int16_t)(b & 0xffffu);
    const int32_t high = (int16_t)(a >> 16) * (int16_t)(b >> 16);
    return (int32_t)((uint32_t)sum + (uint32_t)low + (uint32_t)high);
#endif
}

/* value + zero as int8; what leaves it saturates. */
EDGEOPT_INLINE int32_t edgeopt_byte(int32_t value, int32_t zero) {
#if EDGEOPT_DSP
    int32_t result;
    __asm__("qadd %0, %1, %2\n\tssat %0, #8, %0" : "=r"(result) : "r"(value), "r"(zero));
    return result;
#else
    return edgeopt_placed(value, zero, -128, 127);
#endif
}

EDGEOPT_INLINE uint32_t edgeopt_load(const void *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

/* Clamps, where they are narrower than int8. */
EDGEOPT_SHARED void edgeopt_clamp_to(int8_t *y, int32_t count, int32_t lo, int32_t hi) {
    int32_t i = 0;
    if (lo <= INT8_MIN && hi >= INT8_MAX) {
        return;
    }
#if EDGEOPT_DSP
    const uint32_t low = (uint32_t)(lo & 0xff) * 0x01010101u;
    const uint32_t high = (uint32_t)(hi & 0xff) * 0x01010101u;
    for (; i + 4 <= count; i += 4) {
        uint32_t four = edgeopt_load(y + i);
        uint32_t lost;
        __asm__("ssub8 %1, %0, %2\n\tsel %0, %0, %2\n\tssub8 %1, %0, %3\n\tsel %0, %3, %0"
                : "+&r"(four), "=&r"(lost) : "r"(low), "r"(high));
        memcpy(y + i, &four, sizeof four);
    }
#endif
    for (; i < count; ++i) {
        y[i] = (int8_t)edgeopt_min(edgeopt_max(y[i], lo), hi);
    }
}

EDGEOPT_INLINE void edgeopt_clamp_all(int8_t *y, int32_t count, const int32_t *params) {
    edgeopt_clamp_to(y, count, params[EDGEOPT_LO], params[EDGEOPT_HI]);
}
