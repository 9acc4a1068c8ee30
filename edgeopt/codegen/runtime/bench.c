/* bench: times whole runs of the network and prints one JSON object.
 *
 *     bench [--runs N] [--min-ms T] [--warmup N] [--warm-ms T] [--cpu C] [--samples] [--anchors]
 *           [--threads N]
 *
 * At least N runs and at least T milliseconds are measured, after N warm-up runs and 50 ms of
 * them, or --warm-ms. With --anchors a fixed piece of arithmetic is timed after every run: where it
 * takes longer than usual, the machine was disturbed. Threads are as many as the network was compiled for, unless --threads says otherwise; --cpu
 * pins the one that calls the network. Built with EDGEOPT_PROFILE it also times every kernel; its whole-run times then include
 * reading the clock between kernels.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgeopt_program.h"

#include <stdio.h>
#include <string.h>

#define MAX_SAMPLES 100000

#ifdef EDGEOPT_PROFILE
static uint64_t *marks; /* [kernel][sample] */
static uint64_t last_mark;
static size_t sample;

void edgeopt_profile_mark(int32_t kernel) {
    uint64_t now = edgeopt_now_ns();
    if (kernel >= 0) {
        marks[(size_t)kernel * MAX_SAMPLES + sample] = now - last_mark;
    }
    last_mark = edgeopt_now_ns();
}
#endif

static void run(const void *const *inputs, void *const *outputs) {
    int status = edgeopt_the_program.run(inputs, outputs);
    if (status != 0) {
        edgeopt_fail(1, "the network reports:", edgeopt_the_program.status_text(status));
    }
}

int main(int argc, char **argv) {
    const edgeopt_program *p = &edgeopt_the_program;
    long runs = 50, warmup = 5, min_ms = 200, warm_ms = 50;
    const char *threads = NULL, *cpu = NULL;
    int print_samples = 0, print_anchors = 0, arg;
    uint64_t seed = 0x9E3779B97F4A7C15u, begin, total_ns = 0;
    uint64_t *samples = (uint64_t *)edgeopt_alloc(MAX_SAMPLES * sizeof *samples, 64);
    uint64_t *anchors = (uint64_t *)edgeopt_alloc(MAX_SAMPLES * sizeof *anchors, 64);
    void *arena = edgeopt_alloc(p->arena_bytes, p->arena_alignment);
    void **inputs = (void **)edgeopt_alloc(p->input_count * sizeof *inputs, sizeof *inputs);
    void **outputs = (void **)edgeopt_alloc(p->output_count * sizeof *outputs, sizeof *outputs);
    size_t i, count = 0;
    long done;

    for (arg = 1; arg < argc; ++arg) {
        const char *value = arg + 1 < argc ? argv[arg + 1] : NULL;
        if (strcmp(argv[arg], "--samples") == 0) {
            print_samples = 1;
            continue;
        }
        if (strcmp(argv[arg], "--anchors") == 0) {
            print_anchors = 1;
            continue;
        }
        if (strcmp(argv[arg], "--runs") == 0) {
            runs = edgeopt_number("--runs", value, 1, MAX_SAMPLES);
        } else if (strcmp(argv[arg], "--min-ms") == 0) {
            min_ms = edgeopt_number("--min-ms", value, 0, 600000);
        } else if (strcmp(argv[arg], "--warmup") == 0) {
            warmup = edgeopt_number("--warmup", value, 0, 1000000);
        } else if (strcmp(argv[arg], "--warm-ms") == 0) {
            warm_ms = edgeopt_number("--warm-ms", value, 0, 600000);
        } else if (strcmp(argv[arg], "--cpu") == 0) {
            (void)edgeopt_number("--cpu", value, 0, 4096);
            cpu = value;
        } else if (strcmp(argv[arg], "--threads") == 0) {
            (void)edgeopt_number("--threads", value, 1, 16);
            threads = value;
        } else {
            edgeopt_fail(2, "usage: bench [--runs N] [--min-ms T] [--warmup N] [--warm-ms T]",
                         "[--cpu C] [--samples] [--anchors] [--threads N]");
        }
        ++arg;
    }
#ifdef EDGEOPT_PROFILE
    marks = (uint64_t *)edgeopt_alloc(p->kernel_count * MAX_SAMPLES * sizeof *marks, 64);
#endif
    for (i = 0; i < p->input_count; ++i) {
        inputs[i] = edgeopt_alloc(p->inputs[i].bytes, 64);
        edgeopt_fill(inputs[i], p->inputs[i].bytes, p->inputs[i].dtype, &seed);
    }
    for (i = 0; i < p->output_count; ++i) {
        outputs[i] = edgeopt_alloc(p->outputs[i].bytes, 64);
    }
    if (p->init(arena, p->arena_bytes) != 0) {
        edgeopt_fail(1, "the network refuses its arena", "");
    }
    edgeopt_start_threads(p, threads);
    if (cpu != NULL && edgeopt_pin(edgeopt_number("--cpu", cpu, 0, 4096)) != 0) {
        edgeopt_fail(2, "cannot pin to processor", cpu);
    }

    begin = edgeopt_now_ns();
    for (done = 0; done < warmup || edgeopt_now_ns() - begin < (uint64_t)warm_ms * 1000000u;
         ++done) {
        run((const void *const *)inputs, outputs);
    }
    while (count < MAX_SAMPLES &&
           (count < (size_t)runs || total_ns < (uint64_t)min_ms * 1000000u)) {
#ifdef EDGEOPT_PROFILE
        sample = count;
#endif
        begin = edgeopt_now_ns();
        run((const void *const *)inputs, outputs);
        samples[count] = edgeopt_now_ns() - begin;
        total_ns += samples[count];
        if (print_anchors) {
            anchors[count] = edgeopt_anchor_ns();
        }
        ++count;
    }

    (void)printf("{\"schema\": 1, \"name\": \"%s\", \"runs\": %lu", p->name, (unsigned long)count);
    if (print_samples) {
        (void)printf(", \"samples_ns\": [");
        for (i = 0; i < count; ++i) {
            (void)printf("%s%llu", i == 0 ? "" : ", ", (unsigned long long)samples[i]);
        }
        (void)printf("]");
    }
    if (print_anchors) {
        (void)printf(", \"anchors_ns\": [");
        for (i = 0; i < count; ++i) {
            (void)printf("%s%llu", i == 0 ? "" : ", ", (unsigned long long)anchors[i]);
        }
        (void)printf("]");
    }
    edgeopt_sort(samples, count);
    (void)printf(", \"median_ns\": %.1f, \"mean_ns\": %.1f, \"min_ns\": %.1f, \"p10_ns\": %.1f, "
                 "\"p90_ns\": %.1f, \"max_ns\": %.1f",
                 edgeopt_quantile(samples, count, 0.5), (double)total_ns / (double)count,
                 edgeopt_quantile(samples, count, 0.0), edgeopt_quantile(samples, count, 0.1),
                 edgeopt_quantile(samples, count, 0.9), edgeopt_quantile(samples, count, 1.0));
#ifdef EDGEOPT_PROFILE
    (void)printf(", \"kernels\": [");
    for (i = 0; i < p->kernel_count; ++i) {
        uint64_t *mine = marks + i * MAX_SAMPLES;
        edgeopt_sort(mine, count);
        (void)printf("%s{\"index\": %lu, \"key\": \"%s\", \"median_ns\": %.1f}",
                     i == 0 ? "" : ", ", (unsigned long)i, p->kernel_keys[i],
                     edgeopt_quantile(mine, count, 0.5));
    }
    (void)printf("]");
#endif
    (void)printf("}\n");
    return 0;
}
