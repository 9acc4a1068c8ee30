/* What kernel_bench knows of the kernels linked into it; the tables are generated.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEOPT_KERNEL_BENCH_H
#define EDGEOPT_KERNEL_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* What a parameter is to a network: its own constants, or something that comes and goes. */
enum { EDGEOPT_BENCH_CONSTANT, EDGEOPT_BENCH_READ, EDGEOPT_BENCH_WRITTEN };

/* One pointer parameter: its size, and its content where it matters (tables, clamps) rather than
 * pseudo-random numbers of `dtype`. */
typedef struct {
    const char *dtype;
    size_t bytes;
    const void *data;
    int role;
} edgeopt_bench_arg;

typedef struct {
    const char *key; /* digest */
    int32_t (*call)(void *const *pointers);
    size_t arg_count;
    const edgeopt_bench_arg *args;
} edgeopt_bench_kernel;

extern const edgeopt_bench_kernel edgeopt_bench_kernels[];
extern const size_t edgeopt_bench_kernel_count;

#endif
