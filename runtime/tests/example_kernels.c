/* Kernels written by hand for the program that times kernels. */
#include "kernel_bench.h"

#include <string.h>

static int32_t copy(void *const *p) {
    memcpy(p[1], p[0], 256);
    return 0;
}

/* Fails unless its table arrives as it was given. */
static int32_t look_up(void *const *p) {
    const unsigned char *table = (const unsigned char *)p[0];
    return table[0] == 3 && table[1] == 1 && table[2] == 2 ? 0 : 1;
}

static int32_t fail(void *const *p) {
    (void)p;
    return -1;
}

static const unsigned char table[3] = {3, 1, 2};
static const edgeopt_bench_arg copy_args[] = {
    {"f32", 256, NULL, EDGEOPT_BENCH_READ}, {"f32", 256, NULL, EDGEOPT_BENCH_WRITTEN}};
static const edgeopt_bench_arg table_args[] = {
    {"i8", 3, table, EDGEOPT_BENCH_CONSTANT}};
static const edgeopt_bench_arg none[] = {{"u8", 0, NULL, EDGEOPT_BENCH_READ}};

const edgeopt_bench_kernel edgeopt_bench_kernels[] = {
    {"a", copy, 2, copy_args}, {"b", look_up, 1, table_args}, {"bad", fail, 1, none}};

const size_t edgeopt_bench_kernel_count = 3;
