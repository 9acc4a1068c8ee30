/* kernel_bench: times single kernels in interleaved passes; one JSON object a line.
 *
 *     kernel_bench [--passes N] [--samples N] [--min-us T] [--flush-bytes B] [--chain N]
 *                  [--cpu C] [--seed S] [KEY...]
 *
 * Every pass visits the kernels (all, or the KEYs given: digests or indices) in a new random
 * order. A visit warms up, then takes the samples, each the mean of enough calls to last T
 * microseconds. With --flush-bytes a buffer of that size is read before every call and calls are
 * timed one by one: the state of the caches in the middle of a large network.
 *
 * With --cpu the program binds itself to that processor where it may; "cpu" says where it is bound,
 * -1 if nowhere.
 *
 *     {"bench": 1, "kernels": 12, "clock_ns": 25, "cpu": -1}
 *     {"key": "0123456789ab", "pass": 0, "calls": 40, "ns": [1510.2, 1509.9]}
 *     {"done": true}
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kernel_bench.h"

#include "edgeopt_program.h"

#include <stdio.h>
#include <string.h>

#define MAX_VISIT_SAMPLES 1000
#define MAX_COLD_CALLS 8u
#define WARM_UP_NS 200000u
#define MAX_CHAIN 1024
#define PATTERN_BYTES 4096u

static volatile unsigned char sink;

static void flush(const unsigned char *buffer, size_t bytes) {
    size_t i;
    unsigned char sum = 0;
    for (i = 0; i < bytes; i += 64) {
        sum = (unsigned char)(sum + buffer[i]);
    }
    sink = sum;
}

static void call(const edgeopt_bench_kernel *kernel, void *const *pointers) {
    if (kernel->call(pointers) != 0) {
        edgeopt_fail(1, "kernel reports a failure:", kernel->key);
    }
}

static void prepare(const edgeopt_bench_kernel *kernel, void **pointers, uint64_t *seed) {
    size_t i;
    for (i = 0; i < kernel->arg_count; ++i) {
        const edgeopt_bench_arg *arg = &kernel->args[i];
        size_t bytes = arg->bytes == 0 ? 64 : arg->bytes;
        pointers[i] = edgeopt_alloc(bytes, 64);
        if (arg->data != NULL) {
            memcpy(pointers[i], arg->data, arg->bytes);
        } else {
            memset(pointers[i], 0, bytes);
            edgeopt_fill(pointers[i], arg->bytes, arg->dtype, seed);
        }
    }
}

static uint64_t clock_step(void) {
    uint64_t best = UINT64_MAX;
    int i;
    for (i = 0; i < 1000; ++i) {
        uint64_t begin = edgeopt_now_ns();
        uint64_t step = edgeopt_now_ns() - begin;
        best = step < best ? step : best;
    }
    return best;
}

/* Mean time of `calls` calls, in nanoseconds. */
static double take(const edgeopt_bench_kernel *kernel, void *const *pointers, uint64_t calls,
                   const unsigned char *cold, size_t cold_bytes) {
    uint64_t i, begin, total = 0;
    if (cold_bytes == 0) {
        begin = edgeopt_now_ns();
        for (i = 0; i < calls; ++i) {
            call(kernel, pointers);
        }
        total = edgeopt_now_ns() - begin;
    } else {
        for (i = 0; i < calls; ++i) {
            flush(cold, cold_bytes);
            begin = edgeopt_now_ns();
            call(kernel, pointers);
            total += edgeopt_now_ns() - begin;
        }
    }
    return (double)total / (double)calls;
}

static void visit(const edgeopt_bench_kernel *kernel, void *const *pointers, long pass,
                  long samples, uint64_t min_ns, const unsigned char *cold, size_t cold_bytes) {
    uint64_t begin = edgeopt_now_ns(), spent = 0, warm = 0, each, calls;
    long i;
    while (warm < 2 || (spent < WARM_UP_NS && warm < 1000)) {
        call(kernel, pointers);
        ++warm;
        spent = edgeopt_now_ns() - begin;
    }
    each = spent / warm;
    calls = min_ns / (each == 0 ? 1 : each) + 1;
    if (cold_bytes > 0 && calls > MAX_COLD_CALLS) {
        calls = MAX_COLD_CALLS; /* reading the buffer takes far longer than the kernel */
    }
    (void)printf("{\"key\": \"%s\", \"pass\": %ld, \"calls\": %llu, \"ns\": [", kernel->key, pass,
                 (unsigned long long)calls);
    for (i = 0; i < samples; ++i) {
        (void)printf("%s%.2f", i == 0 ? "" : ", ",
                     take(kernel, pointers, calls, cold, cold_bytes));
    }
    (void)printf("]}\n");
    (void)fflush(stdout);
}

/* --- kernels in turn, as in a network ----------------------------------------------------------*/

static size_t rounded(size_t bytes) { return (bytes + 127u) / 64u * 64u; }

static size_t arena_bytes(const edgeopt_bench_kernel *kernel) {
    size_t i, bytes = 0;
    for (i = 0; i < kernel->arg_count; ++i) {
        if (kernel->args[i].role != EDGEOPT_BENCH_CONSTANT) {
            bytes += rounded(kernel->args[i].bytes);
        }
    }
    return bytes;
}

/* What a kernel is called with in a chain: constants of its own, the rest in the arena. */
static void place(const edgeopt_bench_kernel *kernel, void *const *own, void **pointers,
                  unsigned char *arena) {
    size_t i;
    for (i = 0; i < kernel->arg_count; ++i) {
        pointers[i] = own[i];
        if (kernel->args[i].role != EDGEOPT_BENCH_CONSTANT) {
            pointers[i] = arena;
            arena += rounded(kernel->args[i].bytes);
        }
    }
}

/* Writes a kernel's inputs: ordinary numbers, few enough to come from the nearest cache. */
static void produce(const edgeopt_bench_kernel *kernel, void *const *pointers,
                    const unsigned char *pattern) {
    size_t i, done;
    for (i = 0; i < kernel->arg_count; ++i) {
        const edgeopt_bench_arg *arg = &kernel->args[i];
        for (done = 0; arg->role == EDGEOPT_BENCH_READ && done < arg->bytes;
             done += PATTERN_BYTES) {
            size_t left = arg->bytes - done;
            memcpy((unsigned char *)pointers[i] + done,
                   pattern + (strcmp(arg->dtype, "f32") == 0 ? PATTERN_BYTES : 0u),
                   left < PATTERN_BYTES ? left : PATTERN_BYTES);
        }
    }
}

static void visit_chain(const size_t *chosen, void ***own, size_t count,
                        const unsigned char *asked, long pass, long samples, unsigned char *arena,
                        const unsigned char *pattern, uint64_t step) {
    void **pointers[MAX_CHAIN];
    double *times = (double *)edgeopt_alloc(count * (size_t)samples * sizeof *times, 64);
    uint64_t *anchors = (uint64_t *)edgeopt_alloc(count * (size_t)samples * sizeof *anchors, 64);
    uint64_t before = edgeopt_anchor_ns();
    size_t i;
    long round;
    for (i = 0; i < count; ++i) {
        const edgeopt_bench_kernel *kernel = &edgeopt_bench_kernels[chosen[i]];
        pointers[i] =
            (void **)edgeopt_alloc((kernel->arg_count + 1) * sizeof **pointers, sizeof(void *));
        place(kernel, own[i], pointers[i], arena);
    }
    for (round = -2; round < samples; ++round) {
        for (i = 0; i < count; ++i) {
            const edgeopt_bench_kernel *kernel = &edgeopt_bench_kernels[chosen[i]];
            uint64_t begin, spent, after;
            produce(kernel, pointers[i], pattern);
            begin = edgeopt_now_ns();
            call(kernel, pointers[i]);
            spent = edgeopt_now_ns() - begin;
            after = edgeopt_anchor_ns();
            if (round >= 0) {
                size_t at = i * (size_t)samples + (size_t)round;
                times[at] = spent > step ? (double)(spent - step) : 0.0;
                anchors[at] = after > before ? after : before;
            }
            before = after;
        }
    }
    for (i = 0; i < count; ++i) {
        if (!asked[chosen[i]]) {
            continue;
        }
        (void)printf("{\"key\": \"%s\", \"pass\": %ld, \"calls\": 1, \"ns\": [",
                     edgeopt_bench_kernels[chosen[i]].key, pass);
        for (round = 0; round < samples; ++round) {
            (void)printf("%s%.0f", round == 0 ? "" : ", ",
                         times[i * (size_t)samples + (size_t)round]);
        }
        (void)printf("], \"anchors\": [");
        for (round = 0; round < samples; ++round) {
            (void)printf("%s%llu", round == 0 ? "" : ", ",
                         (unsigned long long)anchors[i * (size_t)samples + (size_t)round]);
        }
        (void)printf("]}\n");
    }
    (void)fflush(stdout);
}

static size_t find(const char *text) {
    size_t i;
    for (i = 0; i < edgeopt_bench_kernel_count; ++i) {
        if (strcmp(edgeopt_bench_kernels[i].key, text) == 0) {
            return i;
        }
    }
    if (edgeopt_bench_kernel_count == 0) {
        edgeopt_fail(2, "unknown kernel", text);
    }
    return (size_t)edgeopt_number(text, text, 0, (long)edgeopt_bench_kernel_count - 1);
}

int main(int argc, char **argv) {
    long passes = 3, samples = 5, min_us = 200, cold_bytes = 0, chain = 0, cpu = -1, pass;
    uint64_t seed = 1, step;
    unsigned char *arena = NULL, *pattern = NULL;
    unsigned char *asked = (unsigned char *)edgeopt_alloc(edgeopt_bench_kernel_count + 1, 64);
    size_t *chosen =
        (size_t *)edgeopt_alloc((edgeopt_bench_kernel_count + (size_t)argc) * sizeof *chosen, 64);
    void ***pointers = (void ***)edgeopt_alloc(
        (edgeopt_bench_kernel_count + (size_t)argc) * sizeof *pointers, 64);
    unsigned char *cold = NULL;
    size_t count = 0, i;
    int arg;

    for (arg = 1; arg < argc; ++arg) {
        const char *value = arg + 1 < argc ? argv[arg + 1] : NULL;
        if (strncmp(argv[arg], "--", 2) != 0) {
            chosen[count++] = find(argv[arg]);
            continue;
        }
        if (strcmp(argv[arg], "--passes") == 0) {
            passes = edgeopt_number("--passes", value, 1, 100000);
        } else if (strcmp(argv[arg], "--samples") == 0) {
            samples = edgeopt_number("--samples", value, 1, MAX_VISIT_SAMPLES);
        } else if (strcmp(argv[arg], "--min-us") == 0) {
            min_us = edgeopt_number("--min-us", value, 0, 60000000);
        } else if (strcmp(argv[arg], "--flush-bytes") == 0) {
            cold_bytes = edgeopt_number("--flush-bytes", value, 0, 1L << 30);
        } else if (strcmp(argv[arg], "--chain") == 0) {
            chain = edgeopt_number("--chain", value, 1, MAX_CHAIN);
        } else if (strcmp(argv[arg], "--seed") == 0) {
            seed = (uint64_t)edgeopt_number("--seed", value, 0, 2147483646) + 1;
        } else if (strcmp(argv[arg], "--cpu") == 0) {
            cpu = edgeopt_number("--cpu", value, 0, 4096);
            cpu = edgeopt_pin(cpu) == 0 ? cpu : -1;
        } else {
            edgeopt_fail(2, "unknown option", argv[arg]);
        }
        ++arg;
    }
    if (count == 0) {
        for (count = 0; count < edgeopt_bench_kernel_count; ++count) {
            chosen[count] = count;
        }
    }
    if (cold_bytes > 0) {
        cold = (unsigned char *)edgeopt_alloc((size_t)cold_bytes, 64);
        memset(cold, 1, (size_t)cold_bytes); /* own pages: untouched ones share one page of zeros */
    }
    step = clock_step();
    (void)printf("{\"bench\": 1, \"kernels\": %lu, \"clock_ns\": %llu, \"cpu\": %ld}\n",
                 (unsigned long)count, (unsigned long long)step, cpu);
    if (chain > 0) {
        size_t largest = 64, at = 0;
        memset(asked, 0, edgeopt_bench_kernel_count);
        for (i = 0; i < count; ++i) {
            asked[chosen[i]] = 1;
        }
        if (edgeopt_bench_kernel_count > 0) {
            at = (size_t)(edgeopt_random(&seed) % edgeopt_bench_kernel_count);
        }
        for (i = 0; i < edgeopt_bench_kernel_count && count < (size_t)chain; ++i) {
            if (!asked[(at + i) % edgeopt_bench_kernel_count]) {
                chosen[count++] = (at + i) % edgeopt_bench_kernel_count;
            }
        }
        for (i = 0; i < count; ++i) {
            size_t bytes = arena_bytes(&edgeopt_bench_kernels[chosen[i]]);
            largest = bytes > largest ? bytes : largest;
        }
        arena = (unsigned char *)edgeopt_alloc(largest, 64);
        memset(arena, 0, largest);
        pattern = (unsigned char *)edgeopt_alloc(2 * PATTERN_BYTES, 64);
        edgeopt_fill(pattern, PATTERN_BYTES, "i8", &seed);
        edgeopt_fill(pattern + PATTERN_BYTES, PATTERN_BYTES, "f32", &seed);
    }
    for (i = 0; i < count; ++i) {
        const edgeopt_bench_kernel *kernel = &edgeopt_bench_kernels[chosen[i]];
        pointers[i] =
            (void **)edgeopt_alloc((kernel->arg_count + 1) * sizeof **pointers, sizeof(void *));
        prepare(kernel, pointers[i], &seed);
    }
    for (pass = 0; pass < passes; ++pass) {
        for (i = count; i > 1; --i) { /* Fisher and Yates */
            size_t j = (size_t)(edgeopt_random(&seed) % i);
            size_t index = chosen[i - 1];
            void **mine = pointers[i - 1];
            chosen[i - 1] = chosen[j];
            pointers[i - 1] = pointers[j];
            chosen[j] = index;
            pointers[j] = mine;
        }
        for (i = 0; chain > 0 && i < count;) {
            /* Chains of like length: the last would else be short, and its caches warm. */
            size_t chains = (count - i + (size_t)chain - 1) / (size_t)chain;
            size_t length = (count - i + chains - 1) / chains;
            visit_chain(chosen + i, pointers + i, length, asked, pass, samples, arena, pattern,
                        step);
            i += length;
        }
        for (i = 0; chain == 0 && i < count; ++i) {
            visit(&edgeopt_bench_kernels[chosen[i]], pointers[i], pass, samples,
                  (uint64_t)min_us * 1000u, cold, (size_t)cold_bytes);
        }
    }
    (void)printf("{\"done\": true}\n");
    return 0;
}
