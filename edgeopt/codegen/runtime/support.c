/* Helpers of the host programs: clock, statistics, allocation, pseudo-random data.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_setaffinity; implies POSIX for clock_gettime */
#endif
#include "edgeopt_program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <sched.h>
#endif

uint64_t edgeopt_now_ns(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        edgeopt_fail(1, "no monotonic clock", "");
    }
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int edgeopt_pin(long cpu) {
#if defined(__linux__)
    cpu_set_t set;
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
        return -1;
    }
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
#else
    (void)cpu;
    return -1;
#endif
}

/* Every block starts with the address of the one before, so that leak checkers see them all. */
static void *last_block;

void *edgeopt_alloc(size_t bytes, size_t alignment) {
    unsigned char *block = NULL;
    unsigned char *usable;
    if (bytes <= SIZE_MAX - alignment - sizeof last_block) {
        block = (unsigned char *)malloc(bytes + alignment + sizeof last_block);
    }
    if (block == NULL) {
        edgeopt_fail(1, "out of memory", "");
        return NULL;
    }
    memcpy(block, &last_block, sizeof last_block);
    last_block = block;
    usable = block + sizeof last_block;
    return usable + (alignment - (uintptr_t)usable % alignment) % alignment;
}

uint64_t edgeopt_random(uint64_t *seed) {
    uint64_t x = *seed; /* xorshift64*, Vigna 2016 */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *seed = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

void edgeopt_fill(void *buffer, size_t bytes, const char *dtype, uint64_t *seed) {
    size_t i;
    if (strcmp(dtype, "f32") == 0) {
        float *values = (float *)buffer;
        for (i = 0; i < bytes / sizeof *values; ++i) {
            int32_t step = (int32_t)(edgeopt_random(seed) >> 40) - 0x800000;
            values[i] = (float)step / 8388608.0f;
        }
    } else if (strcmp(dtype, "i32") == 0) {
        int32_t *values = (int32_t *)buffer;
        for (i = 0; i < bytes / sizeof *values; ++i) {
            values[i] = (int32_t)(edgeopt_random(seed) % 2001u) - 1000;
        }
    } else if (strcmp(dtype, "i64") == 0) {
        int64_t *values = (int64_t *)buffer;
        for (i = 0; i < bytes / sizeof *values; ++i) {
            values[i] = (int64_t)(edgeopt_random(seed) % 2001u) - 1000;
        }
    } else {
        unsigned char *values = (unsigned char *)buffer;
        for (i = 0; i < bytes; ++i) {
            values[i] = (unsigned char)(edgeopt_random(seed) >> 56);
        }
    }
}

static volatile uint64_t anchor_result; /* so that the arithmetic is not left out */

uint64_t edgeopt_anchor_ns(void) {
    uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, begin = edgeopt_now_ns();
    int i;
    for (i = 0; i < 3000; ++i) { /* several independent chains: they fill a processor's units */
        a += (a << 3) ^ (uint64_t)i;
        b += (b << 5) ^ (uint64_t)i;
        c += (c << 7) ^ (uint64_t)i;
        d += (d << 9) ^ (uint64_t)i;
        e += (e << 11) ^ (uint64_t)i;
        f += (f << 13) ^ (uint64_t)i;
    }
    anchor_result = a ^ b ^ c ^ d ^ e ^ f;
    return edgeopt_now_ns() - begin;
}

static int compare(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

void edgeopt_sort(uint64_t *values, size_t count) { qsort(values, count, sizeof *values, compare); }

double edgeopt_quantile(const uint64_t *sorted, size_t count, double fraction) {
    double position;
    size_t below;
    if (count == 0) {
        return 0.0;
    }
    position = fraction * (double)(count - 1);
    below = (size_t)position;
    if (below + 1 >= count) {
        return (double)sorted[count - 1];
    }
    return (double)sorted[below] +
           (position - (double)below) * ((double)sorted[below + 1] - (double)sorted[below]);
}

long edgeopt_number(const char *option, const char *text, long low, long high) {
    char *end = NULL;
    long value;
    errno = 0;
    value = text == NULL ? 0 : strtol(text, &end, 10);
    if (text == NULL || errno != 0 || end == text || *end != '\0' || value < low || value > high) {
        edgeopt_fail(2, "option needs a whole number in range:", option);
    }
    return value;
}

void edgeopt_start_threads(const edgeopt_program *p, const char *text) {
    long threads = text == NULL ? p->threads : edgeopt_number("--threads", text, 1, 16);
    if (threads > 1 && p->use_threads == NULL) {
        edgeopt_fail(2, "the network was compiled for one thread, not", text);
    }
    if (threads > 1 && p->use_threads((int32_t)threads) != 0) {
        edgeopt_fail(1, "the threads cannot be started", "");
    }
}

void edgeopt_fail(int code, const char *message, const char *detail) {
    (void)fprintf(stderr, "error: %s %s\n", message, detail);
    exit(code);
}
