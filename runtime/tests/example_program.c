/* A network of two kernels written by hand: y = 2 x + 1 on four floats. */
#include "edgeopt_program.h"

#include <stdint.h>
#include <string.h>

static float *work;

static void mark(int32_t kernel) {
#ifdef EDGEOPT_PROFILE
    edgeopt_profile_mark(kernel);
#else
    (void)kernel;
#endif
}

static int init(void *arena, size_t arena_bytes) {
    if (arena_bytes < 4 * sizeof(float) || (uintptr_t)arena % 64 != 0) {
        return 1;
    }
    work = (float *)arena;
    return 0;
}

static int run(const void *const *inputs, void *const *outputs) {
    const float *x = (const float *)inputs[0];
    float *y = (float *)outputs[0];
    int i;
    mark(-1);
    for (i = 0; i < 4; ++i) {
        work[i] = 2.0f * x[i];
    }
    mark(0);
    for (i = 0; i < 4; ++i) {
        y[i] = work[i] + 1.0f;
    }
    mark(1);
    return 0;
}

static int self_test(void) {
    static const float x[4] = {0.0f, 1.0f, -2.0f, 0.25f};
    static const float expected[4] = {1.0f, 3.0f, -3.0f, 1.5f};
    float y[4];
    const void *in[1];
    void *out[1];
    in[0] = x;
    out[0] = y;
    return run(in, out) != 0 || memcmp(y, expected, sizeof y) != 0 ? 2 : 0;
}

static const char *status_text(int status) { return status == 0 ? "success" : "failure"; }

static const edgeopt_tensor tensors[] = {{"x", "f32", 16}, {"y", "f32", 16}};
static const char *const keys[] = {"double", "increment"};

const edgeopt_program edgeopt_the_program = {
    "example", 16, 64, 1, 1, 2, &tensors[0], &tensors[1], keys, init, run, self_test, status_text,
    1, NULL};
