/* Steps from the zero point as they are stored; clamped first, so that nothing wraps around. */
EDGEOPT_INLINE int8_t edgeopt_placed(int32_t steps, int32_t zero, int32_t lo, int32_t hi) {
    return (int8_t)(edgeopt_min(edgeopt_max(steps, lo - zero), hi - zero) + zero);
}
