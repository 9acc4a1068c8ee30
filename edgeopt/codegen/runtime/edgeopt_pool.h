/* A small pool of threads that share the work of one inference.
 *
 *     static edgeopt_pool pool;                     (or set it to zero)
 *     edgeopt_pool_start(&pool, 2);                 once: the caller and one more thread
 *     net_set_pool(&ctx, &pool);                    net_run then uses it
 *     edgeopt_pool_stop(&pool);                     at the end
 *
 * The pool is the caller's memory and nothing else is written: no heap, no global variables. A pool
 * may serve any number of networks and instances; a run that finds it busy or not started does all
 * work on the thread that called it. So does, for a while, a network that the threads have made
 * slower: other programs have the processors then. The results are the same bits in every case.
 *
 * Needs POSIX threads and the atomic operations of GCC or Clang. A process that forks must start
 * its pools afterwards.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEOPT_POOL_H
#define EDGEOPT_POOL_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Threads of a pool at most, the caller among them. */
#define EDGEOPT_POOL_MAX_THREADS 16

/* What different threads write lies in different cache lines. */
#define EDGEOPT_POOL_LINE __attribute__((aligned(64)))

typedef enum {
    EDGEOPT_POOL_OK = 0,
    EDGEOPT_POOL_ERROR_NULL = 1,    /* the pool is null */
    EDGEOPT_POOL_ERROR_THREADS = 2, /* fewer than 1 or more than EDGEOPT_POOL_MAX_THREADS */
    EDGEOPT_POOL_ERROR_STATE = 3,   /* started already, not started, or a run is using it */
    EDGEOPT_POOL_ERROR_SYSTEM = 4   /* the operating system gives no more threads */
} edgeopt_pool_status;

/* What a generated network hands to the pool: `kernel` computes one part of one kernel. */
typedef struct {
    int32_t (*kernel)(const void *run, int32_t kernel, int32_t part);
    void (*mark)(int32_t kernel); /* told of the start (-1) and of every kernel's end, or null */
    const unsigned char *parts;   /* of each kernel */
    int32_t kernels;
} edgeopt_pool_work;

struct edgeopt_pool;

typedef struct {
    struct edgeopt_pool *pool;
    pthread_t thread;
    uint32_t index;
} edgeopt_pool_worker;

typedef struct {
    EDGEOPT_POOL_LINE uint32_t kernel;
} edgeopt_pool_claim;

/* What runs of one network took, and how many of the next are to do without the threads. */
typedef struct {
    const edgeopt_pool_work *work;
    uint64_t alone_ns; /* on the caller alone; 0 while unknown */
    uint32_t runs;
    uint32_t late;  /* runs in a row that the threads made slower */
    uint32_t rest;  /* runs still to do alone */
    uint32_t pause; /* runs to do alone the next time */
} edgeopt_pool_record;

#define EDGEOPT_POOL_RECORDS 4

/* Members are private. */
typedef struct edgeopt_pool {
    uint32_t state;
    uint32_t threads;
    uint32_t spins;
    const edgeopt_pool_work *work;
    const void *run;
    pthread_mutex_t mutex;
    pthread_cond_t opened;
    pthread_cond_t advanced;
    edgeopt_pool_worker workers[EDGEOPT_POOL_MAX_THREADS];
    EDGEOPT_POOL_LINE uint32_t owned;
    EDGEOPT_POOL_LINE uint32_t gate;
    EDGEOPT_POOL_LINE uint32_t done;
    EDGEOPT_POOL_LINE uint32_t sleepers;
    uint32_t waiters;
    uint32_t stopping;
    int32_t failed;
    int32_t always;
    uint32_t next_record;
    edgeopt_pool_record records[EDGEOPT_POOL_RECORDS];
    edgeopt_pool_claim claims[EDGEOPT_POOL_MAX_THREADS];
} edgeopt_pool;

/* Starts `threads` - 1 threads, which help whoever runs a network with this pool. More threads than
 * the network was compiled for find nothing to do. */
edgeopt_pool_status edgeopt_pool_start(edgeopt_pool *pool, int32_t threads);

/* Ends the threads. Runs that follow do their work alone. */
edgeopt_pool_status edgeopt_pool_stop(edgeopt_pool *pool);

/* With `always` not 0, the threads help in every run, even if they are seen to make it slower; 0, as
 * a pool starts, lets them pause. Not while a run uses the pool. */
edgeopt_pool_status edgeopt_pool_insist(edgeopt_pool *pool, int32_t always);

/* Threads of the pool, the caller among them; 1 where it is null or not started. */
int32_t edgeopt_pool_threads(const edgeopt_pool *pool);

/* A status in words, never NULL. */
const char *edgeopt_pool_status_text(edgeopt_pool_status status);

/* For generated code: runs all kernels in order, the parts of each at the same time; 0 on success.
 * `pool` may be null. */
int edgeopt_pool_run(edgeopt_pool *pool, const edgeopt_pool_work *work, const void *run);

#ifdef __cplusplus
}
#endif
#endif
