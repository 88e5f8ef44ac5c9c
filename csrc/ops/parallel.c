/* A pool of threads for callers without one: workers sleep until there is work, and the caller works too. */
#include <stdatomic.h>
#include <stdlib.h>

#include "eie.h"

#if defined(_WIN32)
/* No threads of our own there: work is done by the caller. */
static void run_here(void *pool, eie_task task, void *context, size_t count) {
    (void)pool;
    for (size_t i = 0; i < count; i++) task(context, i);
}

eie_status eie_pool_create(size_t threads, eie_parallel **parallel) {
    (void)threads;
    *parallel = calloc(1, sizeof **parallel);
    if (*parallel == NULL) return EIE_E_MEMORY;
    (*parallel)->run = run_here;
    return EIE_OK;
}

void eie_pool_free(eie_parallel *parallel) { free(parallel); }
#else
#include <pthread.h>
#include <stdbool.h>

enum { MOST_THREADS = 256 };

typedef struct {
    eie_parallel face;
    pthread_mutex_t callers; /* one call at a time */
    pthread_mutex_t lock;    /* guards what follows */
    pthread_cond_t wake, idle;
    uint64_t generation;     /* of calls: a worker joins each at most once */
    size_t busy, started;
    bool closing;
    eie_task task;
    void *context;
    size_t count;
    atomic_size_t next;
    pthread_t workers[MOST_THREADS];
} eie_pool;

static void work_off(eie_pool *p, eie_task task, void *context, size_t count) {
    for (size_t i; (i = atomic_fetch_add(&p->next, 1)) < count;) task(context, i);
}

static void *worker(void *argument) {
    eie_pool *p = argument;
    uint64_t seen = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->closing && (p->generation == seen || p->task == NULL)) pthread_cond_wait(&p->wake, &p->lock);
        if (p->closing) break;
        seen = p->generation;
        p->busy++;
        const eie_task task = p->task;
        void *context = p->context;
        const size_t count = p->count;
        pthread_mutex_unlock(&p->lock);
        work_off(p, task, context, count);
        pthread_mutex_lock(&p->lock);
        if (--p->busy == 0) pthread_cond_signal(&p->idle);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void pool_run(void *pool, eie_task task, void *context, size_t count) {
    eie_pool *p = pool;
    pthread_mutex_lock(&p->callers);
    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->context = context;
    p->count = count;
    atomic_store(&p->next, 0);
    p->generation++;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    work_off(p, task, context, count);
    pthread_mutex_lock(&p->lock);
    p->task = NULL; /* a worker that wakes now finds nothing to join */
    while (p->busy > 0) pthread_cond_wait(&p->idle, &p->lock);
    pthread_mutex_unlock(&p->lock);
    pthread_mutex_unlock(&p->callers);
}

eie_status eie_pool_create(size_t threads, eie_parallel **parallel) {
    *parallel = NULL;
    if (threads < 1 || threads > MOST_THREADS) return EIE_E_ARGUMENT;
    eie_pool *p = calloc(1, sizeof *p);
    if (p == NULL) return EIE_E_MEMORY;
    p->face.run = pool_run;
    p->face.pool = p;
    pthread_mutex_init(&p->callers, NULL);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->idle, NULL);
    while (p->started < threads - 1) { /* the caller is one of them */
        if (pthread_create(&p->workers[p->started], NULL, worker, p) != 0) break; /* fewer threads: slower, not wrong */
        p->started++;
    }
    *parallel = &p->face;
    return EIE_OK;
}

void eie_pool_free(eie_parallel *parallel) {
    if (parallel == NULL) return;
    eie_pool *p = parallel->pool;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->started; i++) pthread_join(p->workers[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->callers);
    free(p);
}
#endif
