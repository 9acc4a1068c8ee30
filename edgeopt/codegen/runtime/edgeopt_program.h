/* What the host programs (bench, infer, self_test) know of a generated network, and the helpers
 * they share. Not part of a deployment: firmware needs only include/ and src/.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEOPT_PROGRAM_H
#define EDGEOPT_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One input or output. `dtype` is "f32", "i8", "u8", "i32" or "i64". */
typedef struct {
    const char *name;
    const char *dtype;
    size_t bytes;
} edgeopt_tensor;

/* A generated network behind one interface; every function returns a status, 0 is success. */
typedef struct {
    const char *name;
    size_t arena_bytes;
    size_t arena_alignment;
    size_t input_count;
    size_t output_count;
    size_t kernel_count;
    const edgeopt_tensor *inputs;
    const edgeopt_tensor *outputs;
    const char *const *kernel_keys; /* digest of each kernel call's key, in execution order */
    int (*init)(void *arena, size_t arena_bytes);
    int (*run)(const void *const *inputs, void *const *outputs);
    int (*self_test)(void); /* NULL without embedded vectors */
    const char *(*status_text)(int status);
    int32_t threads;                     /* that the network was compiled for */
    int (*use_threads)(int32_t threads); /* after init, once; NULL where that is one thread */
} edgeopt_program;

/* Defined by the generated programs/<name>_program.c. */
extern const edgeopt_program edgeopt_the_program;

/* Called before the first kernel with -1 and after each kernel with its index, in programs built
 * with the network's _PROFILE macro. */
void edgeopt_profile_mark(int32_t kernel);

/* Monotonic clock, in nanoseconds. */
uint64_t edgeopt_now_ns(void);

/* Nanoseconds that a fixed piece of arithmetic takes now (a few microseconds, registers only): more
 * than usual while something else shares the processor or its clock is lower. */
uint64_t edgeopt_anchor_ns(void);

/* Pins the process to one processor; 0 on success. */
int edgeopt_pin(long cpu);

/* Memory aligned to `alignment` (a power of two), never freed: programs keep theirs to the end.
 * Exits with a message when there is none. */
void *edgeopt_alloc(size_t bytes, size_t alignment);

/* Fills a buffer with reproducible values: floats in [-1, 1), integers over their whole range
 * (i32 and i64: within +-1000). */
void edgeopt_fill(void *buffer, size_t bytes, const char *dtype, uint64_t *seed);

/* Next number of a xorshift generator; `seed` must not be 0. */
uint64_t edgeopt_random(uint64_t *seed);

/* Sorts, then the value at `fraction` (0..1) with linear interpolation; 0 when there are none. */
void edgeopt_sort(uint64_t *values, size_t count);
double edgeopt_quantile(const uint64_t *sorted, size_t count, double fraction);

/* Whole decimal number within [low, high]; exits with a message naming `option` otherwise. */
long edgeopt_number(const char *option, const char *text, long low, long high);

/* Starts the program's threads after init, as many as --threads says (`text`), or as the network
 * was compiled for where it is NULL. */
void edgeopt_start_threads(const edgeopt_program *program, const char *text);

/* Prints "program: message" on stderr and exits with `code`. */
void edgeopt_fail(int code, const char *message, const char *detail);

#ifdef __cplusplus
}
#endif
#endif
