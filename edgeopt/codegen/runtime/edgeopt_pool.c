/* The pool of threads behind networks that were compiled for several.
 *
 * Each kernel is divided into parts when the network is compiled. Every thread walks through the
 * kernels in order, takes the part of its own number if nobody has it yet, then what is left, and
 * goes on when all parts are done. So the caller never waits for a thread that has not woken up: it
 * does that thread's parts itself. Which thread computes a part changes nothing in its result.
 *
 * All shared words are atomic:
 *   gate    bit 0: a run is open; bits 1-7: twice the threads that are in it; above: its number.
 *           Threads enter and leave by it, so that none touches a run that has ended.
 *   claims  for each part number, the kernel (from 1) whose part was taken last
 *   done    parts done in this run; compared with the sum of parts of the kernels before
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "edgeopt_pool.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

/* Every network for several threads brings this file; a program of two of them links one copy. */
#pragma weak edgeopt_pool_start
#pragma weak edgeopt_pool_stop
#pragma weak edgeopt_pool_threads
#pragma weak edgeopt_pool_insist
#pragma weak edgeopt_pool_status_text
#pragma weak edgeopt_pool_run

#define READY UINT32_C(0x706f6f6c)
#define OPEN 1u
#define ENTERED 2u
#define INSIDE 0xfeu
#define NUMBER 0x100u

/* A network's runs are compared with what it takes alone. So many are slower in a row before the
 * threads pause, for so many runs at first and at most; now and then a run shows the time alone. */
#define LATE 2u
#define WORTH 16u /* a run with threads is late if it gains less than this part of the time */
#define PAUSE_FIRST 8u
#define PAUSE_MOST 256u
#define TRY_ALONE 128u
#define FIRST_ALONE 4u

/* How long a thread looks for news before it sleeps: some tens of microseconds. */
#ifndef EDGEOPT_POOL_SPINS
#if defined(__x86_64__) || defined(__i386__)
#define EDGEOPT_POOL_SPINS 2000u
#else
#define EDGEOPT_POOL_SPINS 20000u
#endif
#endif

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__) || defined(__arm__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

static uint32_t load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

static void store(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static uint32_t add(uint32_t *word, uint32_t value) {
    return __atomic_add_fetch(word, value, __ATOMIC_SEQ_CST);
}

static int exchange(uint32_t *word, uint32_t from, uint32_t to) {
    return __atomic_compare_exchange_n(word, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Wakes those who wait for progress. Whoever waits first counts itself, then looks again. */
static void tell(edgeopt_pool *pool) {
    if (load(&pool->waiters) != 0) {
        (void)pthread_mutex_lock(&pool->mutex);
        (void)pthread_cond_broadcast(&pool->advanced);
        (void)pthread_mutex_unlock(&pool->mutex);
    }
}

static int all_done(const edgeopt_pool *pool, uint32_t target) {
    return load(&pool->done) >= target;
}

static int all_left(const edgeopt_pool *pool, uint32_t unused) {
    (void)unused;
    return (load(&pool->gate) & INSIDE) == 0;
}

static void wait_until(edgeopt_pool *pool, int (*holds)(const edgeopt_pool *, uint32_t),
                       uint32_t target) {
    uint32_t spin;
    for (spin = 0; spin < pool->spins; ++spin) {
        if (holds(pool, target)) {
            return;
        }
        PAUSE();
    }
    (void)pthread_mutex_lock(&pool->mutex);
    (void)add(&pool->waiters, 1);
    while (!holds(pool, target)) {
        (void)pthread_cond_wait(&pool->advanced, &pool->mutex);
    }
    (void)add(&pool->waiters, UINT32_MAX);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static int claim(edgeopt_pool *pool, uint32_t part, int32_t kernel) {
    uint32_t *last = &pool->claims[part].kernel;
    uint32_t before = load(last);
    return before <= (uint32_t)kernel && exchange(last, before, (uint32_t)kernel + 1);
}

static void compute(edgeopt_pool *pool, int32_t kernel, uint32_t part) {
    if (__atomic_load_n(&pool->failed, __ATOMIC_RELAXED) == 0 &&
        pool->work->kernel(pool->run, kernel, (int32_t)part) != 0) {
        __atomic_store_n(&pool->failed, 1, __ATOMIC_RELAXED);
    }
}

static void finish(edgeopt_pool *pool, uint32_t parts) {
    (void)add(&pool->done, parts);
    tell(pool);
}

/* One thread's way through the kernels; the caller is thread 0. */
static void walk(edgeopt_pool *pool, uint32_t me) {
    const edgeopt_pool_work *work = pool->work;
    uint32_t before = 0, mine = 0, i;
    int32_t kernel;
    for (kernel = 0; kernel < work->kernels; ++kernel) {
        uint32_t parts = work->parts[kernel];
        if (parts == 1) {
            if (me == 0) {
                if (mine == 0) {
                    wait_until(pool, all_done, before);
                }
                compute(pool, kernel, 0);
                ++mine; /* told of when somebody may need it */
            }
        } else {
            if (mine != 0) {
                finish(pool, mine);
                mine = 0;
            }
            wait_until(pool, all_done, before);
            for (i = 0; i < parts; ++i) {
                uint32_t part = (me + i) % parts;
                if (claim(pool, part, kernel)) {
                    compute(pool, kernel, part);
                    finish(pool, 1);
                }
            }
        }
        before += parts;
        if (me == 0 && work->mark != NULL) {
            wait_until(pool, all_done, before - mine);
            work->mark(kernel);
        }
    }
    if (me == 0) {
        wait_until(pool, all_done, before - mine);
    }
}

static int can_enter(const edgeopt_pool *pool, uint32_t seen) {
    uint32_t gate = load(&pool->gate);
    return load(&pool->stopping) != 0 || ((gate & OPEN) != 0 && gate / NUMBER != seen);
}

static void await_run(edgeopt_pool *pool, uint32_t seen) {
    uint32_t spin;
    for (spin = 0; spin < pool->spins; ++spin) {
        if (can_enter(pool, seen)) {
            return;
        }
        PAUSE();
    }
    (void)pthread_mutex_lock(&pool->mutex);
    (void)add(&pool->sleepers, 1);
    while (!can_enter(pool, seen)) {
        (void)pthread_cond_wait(&pool->opened, &pool->mutex);
    }
    (void)add(&pool->sleepers, UINT32_MAX);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void *work_on(void *argument) {
    edgeopt_pool_worker *worker = (edgeopt_pool_worker *)argument;
    edgeopt_pool *pool = worker->pool;
    uint32_t seen = UINT32_MAX;
    for (;;) {
        uint32_t gate;
        await_run(pool, seen);
        if (load(&pool->stopping) != 0) {
            return NULL;
        }
        gate = load(&pool->gate);
        if ((gate & OPEN) != 0 && exchange(&pool->gate, gate, gate + ENTERED)) {
            seen = gate / NUMBER;
            walk(pool, worker->index);
            (void)add(&pool->gate, 0u - ENTERED);
            tell(pool);
        }
    }
}

static void wake_all(edgeopt_pool *pool) {
    if (load(&pool->sleepers) != 0) {
        (void)pthread_mutex_lock(&pool->mutex);
        (void)pthread_cond_broadcast(&pool->opened);
        (void)pthread_mutex_unlock(&pool->mutex);
    }
}

static int run_alone(const edgeopt_pool_work *work, const void *run) {
    int32_t kernel, part;
    for (kernel = 0; kernel < work->kernels; ++kernel) {
        for (part = 0; part < work->parts[kernel]; ++part) {
            if (work->kernel(run, kernel, part) != 0) {
                return -1;
            }
        }
        if (work->mark != NULL) {
            work->mark(kernel);
        }
    }
    return 0;
}

static uint64_t now_ns(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

/* What is known of a network; the oldest record makes room for a new one. */
static edgeopt_pool_record *record_of(edgeopt_pool *pool, const edgeopt_pool_work *work) {
    edgeopt_pool_record *found;
    uint32_t i;
    for (i = 0; i < EDGEOPT_POOL_RECORDS; ++i) {
        if (pool->records[i].work == work) {
            return &pool->records[i];
        }
    }
    found = &pool->records[pool->next_record++ % EDGEOPT_POOL_RECORDS];
    memset(found, 0, sizeof *found);
    found->work = work;
    found->pause = PAUSE_FIRST;
    return found;
}

/* Whether the next run is the caller's alone: a pause, or to learn what that takes. */
static int goes_alone(edgeopt_pool_record *record) {
    uint32_t number = record->runs++;
    if (record->rest != 0) {
        --record->rest;
        return 1;
    }
    return number == FIRST_ALONE || number % TRY_ALONE == TRY_ALONE - 1;
}

/* A moving mean; one long interruption counts no more than twice the mean. */
static void learn_alone(edgeopt_pool_record *record, uint64_t took_ns) {
    uint64_t known = record->alone_ns;
    if (known == 0) {
        record->alone_ns = took_ns;
    } else {
        took_ns = took_ns > 2 * known ? 2 * known : took_ns;
        record->alone_ns = known - known / 4 + took_ns / 4;
    }
}

static void learn_together(edgeopt_pool_record *record, uint64_t took_ns) {
    if (record->alone_ns == 0 || took_ns <= record->alone_ns - record->alone_ns / WORTH) {
        record->late = 0;
        record->pause = PAUSE_FIRST;
    } else if (++record->late >= LATE) {
        record->late = LATE - 1; /* after the pause, one slower run is enough */
        record->rest = record->pause;
        record->pause = record->pause >= PAUSE_MOST ? PAUSE_MOST : 2 * record->pause;
    }
}

static int run_together(edgeopt_pool *pool, const edgeopt_pool_work *work, const void *run);

int edgeopt_pool_run(edgeopt_pool *pool, const edgeopt_pool_work *work, const void *run) {
    edgeopt_pool_record *record;
    uint64_t began_ns;
    int failed;
    if (work->mark != NULL) {
        work->mark(-1);
    }
    if (pool == NULL || load(&pool->state) != READY || !exchange(&pool->owned, 0, 1)) {
        return run_alone(work, run);
    }
    if (load(&pool->state) != READY || pool->threads == 1) {
        failed = run_alone(work, run);
    } else if (pool->always != 0) {
        failed = run_together(pool, work, run);
    } else {
        record = record_of(pool, work);
        began_ns = now_ns();
        if (goes_alone(record)) {
            failed = run_alone(work, run);
            learn_alone(record, now_ns() - began_ns);
        } else {
            failed = run_together(pool, work, run);
            learn_together(record, now_ns() - began_ns);
        }
    }
    store(&pool->owned, 0);
    return failed;
}

static int run_together(edgeopt_pool *pool, const edgeopt_pool_work *work, const void *run) {
    uint32_t part;
    pool->work = work;
    pool->run = run;
    pool->failed = 0;
    store(&pool->done, 0);
    for (part = 0; part < EDGEOPT_POOL_MAX_THREADS; ++part) {
        store(&pool->claims[part].kernel, 0);
    }
    (void)add(&pool->gate, NUMBER + OPEN);
    wake_all(pool);
    walk(pool, 0);
    (void)add(&pool->gate, 0u - OPEN);
    wait_until(pool, all_left, 0);
    return pool->failed == 0 ? 0 : -1;
}

static void end_threads(edgeopt_pool *pool, uint32_t threads) {
    uint32_t i;
    (void)pthread_mutex_lock(&pool->mutex);
    store(&pool->stopping, 1);
    (void)pthread_cond_broadcast(&pool->opened);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (i = 1; i < threads; ++i) {
        (void)pthread_join(pool->workers[i].thread, NULL);
    }
    (void)pthread_cond_destroy(&pool->advanced);
    (void)pthread_cond_destroy(&pool->opened);
    (void)pthread_mutex_destroy(&pool->mutex);
}

static int make_locks(edgeopt_pool *pool) {
    if (pthread_mutex_init(&pool->mutex, NULL) != 0) {
        return -1;
    }
    if (pthread_cond_init(&pool->opened, NULL) != 0) {
        (void)pthread_mutex_destroy(&pool->mutex);
        return -1;
    }
    if (pthread_cond_init(&pool->advanced, NULL) != 0) {
        (void)pthread_cond_destroy(&pool->opened);
        (void)pthread_mutex_destroy(&pool->mutex);
        return -1;
    }
    return 0;
}

edgeopt_pool_status edgeopt_pool_start(edgeopt_pool *pool, int32_t threads) {
    uint32_t i;
    if (pool == NULL) {
        return EDGEOPT_POOL_ERROR_NULL;
    }
    if (threads < 1 || threads > EDGEOPT_POOL_MAX_THREADS) {
        return EDGEOPT_POOL_ERROR_THREADS;
    }
    if (load(&pool->state) == READY) {
        return EDGEOPT_POOL_ERROR_STATE;
    }
    if (make_locks(pool) != 0) {
        return EDGEOPT_POOL_ERROR_SYSTEM;
    }
    pool->threads = (uint32_t)threads;
    pool->always = 0;
    pool->next_record = 0;
    memset(pool->records, 0, sizeof pool->records);
    /* Whoever spins where threads take turns on one processor keeps it from the one awaited. */
    pool->spins = sysconf(_SC_NPROCESSORS_ONLN) < threads ? 1u : EDGEOPT_POOL_SPINS;
    store(&pool->owned, 0);
    store(&pool->gate, 0);
    store(&pool->sleepers, 0);
    store(&pool->waiters, 0);
    store(&pool->stopping, 0);
    for (i = 1; i < (uint32_t)threads; ++i) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i;
        if (pthread_create(&pool->workers[i].thread, NULL, work_on, &pool->workers[i]) != 0) {
            end_threads(pool, i);
            return EDGEOPT_POOL_ERROR_SYSTEM;
        }
    }
    store(&pool->state, READY);
    return EDGEOPT_POOL_OK;
}

edgeopt_pool_status edgeopt_pool_stop(edgeopt_pool *pool) {
    if (pool == NULL) {
        return EDGEOPT_POOL_ERROR_NULL;
    }
    if (load(&pool->state) != READY || !exchange(&pool->owned, 0, 1)) {
        return EDGEOPT_POOL_ERROR_STATE;
    }
    store(&pool->state, 0);
    end_threads(pool, pool->threads);
    store(&pool->owned, 0);
    return EDGEOPT_POOL_OK;
}

edgeopt_pool_status edgeopt_pool_insist(edgeopt_pool *pool, int32_t always) {
    if (pool == NULL) {
        return EDGEOPT_POOL_ERROR_NULL;
    }
    if (load(&pool->state) != READY || !exchange(&pool->owned, 0, 1)) {
        return EDGEOPT_POOL_ERROR_STATE;
    }
    pool->always = always;
    store(&pool->owned, 0);
    return EDGEOPT_POOL_OK;
}

int32_t edgeopt_pool_threads(const edgeopt_pool *pool) {
    return pool != NULL && load(&pool->state) == READY ? (int32_t)pool->threads : 1;
}

const char *edgeopt_pool_status_text(edgeopt_pool_status status) {
    switch (status) {
    case EDGEOPT_POOL_OK:
        return "success";
    case EDGEOPT_POOL_ERROR_NULL:
        return "the pool is null";
    case EDGEOPT_POOL_ERROR_THREADS:
        return "the number of threads is out of range";
    case EDGEOPT_POOL_ERROR_STATE:
        return "the pool is started already, not started, or in use";
    case EDGEOPT_POOL_ERROR_SYSTEM:
        return "the operating system gives no more threads";
    default:
        return "unknown status";
    }
}
