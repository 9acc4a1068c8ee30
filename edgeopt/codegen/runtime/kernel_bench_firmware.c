/* Bench firmware of single kernels (see kernel_bench.h), for machines without an operating system.
 *
 * Without BENCH_LINE every kernel runs once, between marks that an emulator counts by, and its key is
 * printed. With it the firmware answers requests (see edgeopt_line.h): `info`, and `visit KEY...
 * [--samples N]` with the cycles of each call.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "kernel_bench.h"

#include <string.h>

#ifndef BENCH_POOL_BYTES
#error "how much memory may the kernels' arguments take?"
#endif
#define MAX_ARGUMENTS 16u
#define ALIGNMENT 64u

static union {
    uint64_t words[(BENCH_POOL_BYTES) / 8u];
    unsigned char bytes[BENCH_POOL_BYTES];
} pool __attribute__((aligned(ALIGNMENT)));

static uint32_t next(uint32_t *seed) {
    *seed ^= *seed << 13; /* xorshift32, Marsaglia 2003 */
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Pseudo-random content of the type the kernel reads; floats in [-1, 1). */
static void fill(unsigned char *to, size_t bytes, const char *dtype, uint32_t *seed) {
    size_t i;
    if (dtype[0] == 'f') {
        for (i = 0; i + sizeof(float) <= bytes; i += sizeof(float)) {
            float value = (float)((int32_t)(next(seed) >> 8) - 0x800000) / 8388608.0f;
            memcpy(to + i, &value, sizeof value);
        }
        return;
    }
    if (dtype[0] == 'i' && (dtype[1] == '3' || dtype[1] == '6')) { /* i32, i64: small */
        memset(to, 0, bytes);
        for (i = 0; i + 4u <= bytes; i += dtype[1] == '3' ? 4u : 8u) {
            int32_t value = (int32_t)(next(seed) % 2001u) - 1000;
            memcpy(to + i, &value, sizeof value);
        }
        return;
    }
    for (i = 0; i < bytes; ++i) {
        to[i] = (unsigned char)(next(seed) >> 24);
    }
}

/* Gives a kernel its arguments; 0 if they fit. */
static int prepare(const edgeopt_bench_kernel *kernel, void **pointers) {
    uint32_t seed = 2463534242u;
    size_t used = 0, i;
    if (kernel->arg_count > MAX_ARGUMENTS) {
        return -1;
    }
    for (i = 0; i < kernel->arg_count; ++i) {
        const edgeopt_bench_arg *arg = &kernel->args[i];
        size_t bytes = arg->bytes == 0 ? ALIGNMENT : arg->bytes;
        size_t room = (bytes + ALIGNMENT - 1u) / ALIGNMENT * ALIGNMENT;
        if (arg->data != NULL) { /* constants stay where they are: in flash, as deployed */
            union {
                const void *from;
                void *to;
            } place;
            place.from = arg->data;
            pointers[i] = place.to;
            continue;
        }
        if (room > sizeof pool.bytes - used) {
            return -1;
        }
        pointers[i] = pool.bytes + used;
        fill(pool.bytes + used, bytes, arg->dtype, &seed);
        used += room;
    }
    return 0;
}

#ifndef BENCH_LINE

int main(void) {
    size_t i;
    for (i = 0; i < edgeopt_bench_kernel_count; ++i) {
        const edgeopt_bench_kernel *kernel = &edgeopt_bench_kernels[i];
        void *pointers[MAX_ARGUMENTS];
        int32_t status;
        if (prepare(kernel, pointers) != 0) {
            board_print("too large ");
        } else {
            board_count_begin();
            status = kernel->call(pointers);
            board_count_end();
            board_print(status == 0 ? "counted " : "failed ");
        }
        board_print(kernel->key);
        board_print("\n");
    }
    board_print("done\n");
    return 0;
}

#else

#include "edgeopt_counter.h"
#include "edgeopt_line.h"

#define MAX_SAMPLES 16u

static edgeopt_line line;
static edgeopt_counter counter;

static int take(void *context) {
    int byte;
    (void)context;
    do {
        byte = board_read();
    } while (byte < 0);
    return byte;
}

static void give(void *context, unsigned char byte) {
    char text[1];
    (void)context;
    text[0] = (char)byte;
    board_write(text, 1);
}

static edgeopt_line_status visit_one(const edgeopt_bench_kernel *kernel, uint32_t samples) {
    void *pointers[MAX_ARGUMENTS];
    uint32_t cycles[MAX_SAMPLES], i;
    if (prepare(kernel, pointers) != 0) {
        return edgeopt_line_error(&line, "the kernel's arguments do not fit the memory");
    }
    if (kernel->call(pointers) != 0) { /* once to warm caches */
        return edgeopt_line_error(&line, "the kernel failed");
    }
    for (i = 0; i < samples; ++i) {
        uint32_t begin = edgeopt_counter_now(&counter);
        (void)kernel->call(pointers);
        cycles[i] = edgeopt_counter_between(&counter, begin, edgeopt_counter_now(&counter));
    }
    edgeopt_line_begin(&line);
    edgeopt_line_text(&line, "{\"key\": ");
    edgeopt_line_string(&line, kernel->key);
    edgeopt_line_text(&line, ", \"pass\": 0, \"calls\": 1, \"cycles\": [");
    for (i = 0; i < samples; ++i) {
        edgeopt_line_text(&line, i == 0 ? "" : ", ");
        edgeopt_line_unsigned(&line, cycles[i]);
    }
    edgeopt_line_text(&line, "]}");
    return edgeopt_line_finish(&line);
}

static void visit(char *rest) {
    const char *keys[64];
    size_t count = 0, i, k;
    uint32_t samples = 3;
    const char *word;
    while (*(word = edgeopt_line_word(&rest)) != '\0') {
        if (strcmp(word, "--samples") == 0) {
            if (edgeopt_line_number(edgeopt_line_word(&rest), MAX_SAMPLES, &samples) != 0 || samples == 0) {
                (void)edgeopt_line_error(&line, "--samples needs a number from 1 to 16");
                return;
            }
        } else if (count < sizeof keys / sizeof *keys) {
            keys[count++] = word;
        }
    }
    for (k = 0; k < count; ++k) {
        for (i = 0; i < edgeopt_bench_kernel_count; ++i) {
            if (strcmp(edgeopt_bench_kernels[i].key, keys[k]) == 0) {
                break;
            }
        }
        if (i == edgeopt_bench_kernel_count) {
            (void)edgeopt_line_error(&line, "no such kernel");
            return;
        }
        if (visit_one(&edgeopt_bench_kernels[i], samples) != EDGEOPT_LINE_OK) {
            return;
        }
    }
    (void)edgeopt_line_done(&line);
}

int main(void) {
    char *request;
    counter = edgeopt_counter_open();
    edgeopt_line_init(&line, take, give, NULL);
    for (;;) {
        const char *verb;
        if (edgeopt_line_receive(&line, &request) != EDGEOPT_LINE_OK) {
            continue;
        }
        verb = edgeopt_line_word(&request);
        if (strcmp(verb, "info") == 0) {
            edgeopt_line_begin(&line);
            edgeopt_line_text(&line, "{\"bench\": 1, \"set\": ");
            edgeopt_line_string(&line, BENCH_SET);
            edgeopt_line_text(&line, ", \"kernels\": ");
            edgeopt_line_unsigned(&line, (uint64_t)edgeopt_bench_kernel_count);
            edgeopt_line_text(&line, ", \"counter\": ");
            edgeopt_line_string(&line, counter.name);
            edgeopt_line_text(&line, "}");
            if (edgeopt_line_finish(&line) == EDGEOPT_LINE_OK) {
                (void)edgeopt_line_done(&line);
            }
        } else if (strcmp(verb, "visit") == 0) {
            visit(request);
        } else {
            (void)edgeopt_line_error(&line, "unknown request");
        }
    }
}

#endif
