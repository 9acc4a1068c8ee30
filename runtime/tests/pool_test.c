/* Tests of the pool of threads: every part once and in order, whatever the threads do. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "edgeopt_pool.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define KERNELS 40
#define CELLS 16

static int failures;

static void check(int holds, const char *what) {
    if (!holds) {
        (void)printf("failed: %s\n", what);
        (void)__atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
    }
}

/* A network whose kernels each compute CELLS cells, divided between the parts, from all cells of
 * the kernel before: a part that runs twice, too early or not at all changes the result. The cells
 * are plain memory, so that a missing barrier is a data race. */
typedef struct {
    unsigned char parts[KERNELS];
    uint32_t cells[2][CELLS];
    uint32_t seed;
} network;

static int32_t compute(const void *run, int32_t kernel, int32_t part) {
    network *net = *(network *const *)run;
    const uint32_t *from = net->cells[kernel % 2];
    uint32_t *to = net->cells[(kernel + 1) % 2];
    uint32_t parts = net->parts[kernel], i, j;
    for (i = CELLS * (uint32_t)part / parts; i < CELLS * ((uint32_t)part + 1) / parts; ++i) {
        uint32_t sum = net->seed + (uint32_t)kernel;
        for (j = 0; j < CELLS; ++j) {
            sum = sum * 31u + from[j];
        }
        to[i] = sum ^ (i * 0x9E3779B9u);
    }
    return 0;
}

static void prepare(network *net, uint32_t seed, uint32_t at_most) {
    uint32_t i, state = seed * 2654435761u + 1u;
    memset(net, 0, sizeof *net);
    net->seed = seed;
    for (i = 0; i < KERNELS; ++i) {
        state = state * 1664525u + 1013904223u;
        net->parts[i] = (unsigned char)((state >> 24) % 3u == 0 ? 1u : 1u + (state >> 16) % at_most);
    }
}

static uint32_t run(edgeopt_pool *pool, network *net) {
    edgeopt_pool_work work = {compute, NULL, NULL, KERNELS};
    network *pointer = net;
    uint32_t sum = 0, i;
    work.parts = net->parts;
    memset(net->cells, 0, sizeof net->cells);
    check(edgeopt_pool_run(pool, &work, &pointer) == 0, "a run succeeds");
    for (i = 0; i < CELLS; ++i) {
        sum = sum * 31u + net->cells[KERNELS % 2][i];
    }
    return sum;
}

static void rest(long nanoseconds) {
    struct timespec time;
    time.tv_sec = 0;
    time.tv_nsec = nanoseconds;
    (void)nanosleep(&time, NULL);
}

/* As many runs as the program is told to, some after pauses in which the threads fall asleep. */
static void stress(int32_t threads, uint32_t runs) {
    static edgeopt_pool pool;
    network net;
    uint32_t i;
    check(edgeopt_pool_start(&pool, threads) == EDGEOPT_POOL_OK, "start");
    check(edgeopt_pool_threads(&pool) == threads, "as many threads as asked for");
    check(edgeopt_pool_insist(&pool, 1) == EDGEOPT_POOL_OK, "threads in every run");
    for (i = 0; i < runs; ++i) {
        uint32_t alone;
        prepare(&net, i, 5);
        alone = run(NULL, &net);
        check(run(&pool, &net) == alone, "the same result with threads");
        if (i % 64 == 63) {
            rest(2000000);
        }
    }
    check(edgeopt_pool_stop(&pool) == EDGEOPT_POOL_OK, "stop");
    check(edgeopt_pool_threads(&pool) == 1, "stopped");
    prepare(&net, 7, 5);
    check(run(&pool, &net) == run(NULL, &net), "a stopped pool runs on the caller alone");
}

/* Two callers share one pool; whoever finds it busy computes alone. */
typedef struct {
    edgeopt_pool *pool;
    uint32_t runs, seed;
} caller;

static void *call(void *argument) {
    const caller *mine = (const caller *)argument;
    network net;
    uint32_t i;
    for (i = 0; i < mine->runs; ++i) {
        uint32_t alone;
        prepare(&net, mine->seed + i, 4);
        alone = run(NULL, &net);
        check(run(mine->pool, &net) == alone, "the same result on a shared pool");
    }
    return NULL;
}

static void shared(uint32_t runs) {
    static edgeopt_pool pool;
    caller callers[2];
    pthread_t other;
    uint32_t i;
    for (i = 0; i < 2; ++i) {
        callers[i].pool = &pool;
        callers[i].runs = runs;
        callers[i].seed = 1000u * i;
    }
    check(edgeopt_pool_start(&pool, 2) == EDGEOPT_POOL_OK, "start a shared pool");
    check(edgeopt_pool_insist(&pool, 1) == EDGEOPT_POOL_OK, "threads in every shared run");
    check(pthread_create(&other, NULL, call, &callers[1]) == 0, "a second caller");
    (void)call(&callers[0]);
    (void)pthread_join(other, NULL);
    check(edgeopt_pool_stop(&pool) == EDGEOPT_POOL_OK, "stop a shared pool");
}

static int32_t ran;

static int32_t fail_third(const void *unused, int32_t kernel, int32_t part) {
    (void)unused;
    (void)part;
    (void)__atomic_add_fetch(&ran, 1, __ATOMIC_RELAXED);
    return kernel == 2 ? -1 : 0;
}

static int32_t marked[16], marks;

static void mark(int32_t kernel) { marked[marks++] = kernel; }

static int32_t stop_inside(const void *pool, int32_t kernel, int32_t part) {
    (void)kernel;
    (void)part;
    check(edgeopt_pool_stop(*(edgeopt_pool *const *)pool) == EDGEOPT_POOL_ERROR_STATE,
          "a pool in use is not stopped");
    return 0;
}

static void misuse(void) {
    static const unsigned char parts[5] = {1, 2, 2, 1, 2};
    static edgeopt_pool pool;
    edgeopt_pool *pointer = &pool;
    edgeopt_pool_work work = {fail_third, mark, parts, 5};
    int32_t i;
    check(edgeopt_pool_start(NULL, 2) == EDGEOPT_POOL_ERROR_NULL, "no pool to start");
    check(edgeopt_pool_stop(NULL) == EDGEOPT_POOL_ERROR_NULL, "no pool to stop");
    check(edgeopt_pool_threads(NULL) == 1, "no pool is the caller alone");
    check(edgeopt_pool_start(&pool, 0) == EDGEOPT_POOL_ERROR_THREADS, "no threads");
    check(edgeopt_pool_start(&pool, EDGEOPT_POOL_MAX_THREADS + 1) == EDGEOPT_POOL_ERROR_THREADS,
          "too many threads");
    check(edgeopt_pool_stop(&pool) == EDGEOPT_POOL_ERROR_STATE, "not started");
    check(edgeopt_pool_start(&pool, 2) == EDGEOPT_POOL_OK, "started");
    check(edgeopt_pool_start(&pool, 2) == EDGEOPT_POOL_ERROR_STATE, "started twice");
    check(edgeopt_pool_insist(NULL, 1) == EDGEOPT_POOL_ERROR_NULL, "no pool to insist");
    check(edgeopt_pool_run(&pool, &work, NULL) != 0, "a failing kernel fails the run");
    check(ran <= 5, "kernels after one that failed are left out");
    check(marks == 6, "every kernel is marked");
    for (i = 0; i < 6; ++i) {
        check(marked[i] == i - 1, "marks are in order");
    }
    check(edgeopt_pool_run(NULL, &work, NULL) != 0, "a failing kernel fails without a pool");
    work.kernel = stop_inside;
    work.mark = NULL;
    check(edgeopt_pool_run(&pool, &work, &pointer) == 0, "a run after a failed one");
    check(edgeopt_pool_stop(&pool) == EDGEOPT_POOL_OK, "stopped at last");
    for (i = 0; i <= 4; ++i) {
        const char *text = edgeopt_pool_status_text((edgeopt_pool_status)i);
        check(strlen(text) > 5 && strcmp(text, "unknown status") != 0, "every status has a text");
    }
    check(strcmp(edgeopt_pool_status_text((edgeopt_pool_status)99), "unknown status") == 0,
          "an unknown status");
}

/* Threads that make a run slower: the part of a thread that is not the caller takes long while
 * `hinders` is set, every part of the caller does while it is not. */
typedef struct {
    pthread_t caller;
    int32_t hinders;
    uint32_t helped; /* parts that another thread computed */
} company;

static int32_t keep_company(const void *run, int32_t kernel, int32_t part) {
    company *with = *(company *const *)run;
    int other = pthread_equal(with->caller, pthread_self()) == 0;
    (void)kernel;
    (void)part;
    if (other) {
        (void)__atomic_add_fetch(&with->helped, 1, __ATOMIC_RELAXED);
    }
    rest(other == with->hinders ? 400000 : 100000);
    return 0;
}

/* How many of so many runs had help. */
static uint32_t helped(edgeopt_pool *pool, company *with, uint32_t runs) {
    static const unsigned char parts[1] = {2};
    static const edgeopt_pool_work work = {keep_company, NULL, parts, 1};
    uint32_t i;
    with->helped = 0;
    for (i = 0; i < runs; ++i) {
        check(edgeopt_pool_run(pool, &work, &with) == 0, "a run in company");
    }
    return with->helped;
}

/* Whether so many of the runs have help, sooner or later: a busy machine stretches rests, so that
 * for a while threads seem to help, or to hinder, where they do not. */
static int settles(edgeopt_pool *pool, company *with, uint32_t runs, uint32_t least,
                   uint32_t most) {
    int attempt;
    for (attempt = 0; attempt < 10; ++attempt) {
        uint32_t count = helped(pool, with, runs);
        if (count >= least && count <= most) {
            return 1;
        }
    }
    return 0;
}

static void pauses(void) {
    static edgeopt_pool pool;
    company with;
    uint32_t always;
    with.caller = pthread_self();
    with.hinders = 1;
    check(edgeopt_pool_start(&pool, 2) == EDGEOPT_POOL_OK, "start a pool that pauses");
    check(settles(&pool, &with, 200, 0, 99), "threads that make runs slower pause");
    with.hinders = 0;
    (void)helped(&pool, &with, 300);
    check(settles(&pool, &with, 100, 51, 100), "threads that help come back");
    with.hinders = 1;
    check(edgeopt_pool_insist(&pool, 1) == EDGEOPT_POOL_OK, "insist");
    always = helped(&pool, &with, 50);
    check(always > 25, "threads that must help do, however slow");
    check(edgeopt_pool_stop(&pool) == EDGEOPT_POOL_OK, "stop a pool that pauses");
    check(edgeopt_pool_insist(&pool, 0) == EDGEOPT_POOL_ERROR_STATE, "insist on a stopped pool");
}

int main(int argc, char **argv) {
    uint32_t runs = argc > 1 && strcmp(argv[1], "--long") == 0 ? 20000u : 1000u;
    misuse();
    pauses();
    stress(1, 100);
    stress(2, runs);
    stress(3, runs / 2);
    stress(8, runs / 10);
    stress(EDGEOPT_POOL_MAX_THREADS, runs / 20);
    shared(runs);
    return failures == 0 ? 0 : 1;
}
