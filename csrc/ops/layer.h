/* What the operators share inside the core: the layer they make, and how they spread work. */
#ifndef EIE_LAYER_H
#define EIE_LAYER_H
#include <stdbool.h>

#include "eie.h"

typedef enum { EIE_LAYER_GEMM, EIE_LAYER_CONV, EIE_LAYER_RECURRENT, EIE_LAYER_GATHER } eie_layer_kind;

/* Every layer begins with this; operators embed it as their first member. */
struct eie_layer {
    eie_layer_kind kind;
    uint64_t bytes;      /* held by the packed form */
    uint64_t (*later)(const eie_layer *layer); /* bytes that calls have made it hold since; NULL: none */
    char kernel[64];
    void (*free)(eie_layer *layer); /* frees everything, the layer itself included */
};

/* a * b, and false where that does not fit size_t. */
static inline bool eie_multiply(size_t a, size_t b, size_t *product) {
    return !__builtin_mul_overflow(a, b, product);
}

/* Calls task for every index below count: on the pool, or on this thread where parallel is NULL or count is 1. */
static inline void eie_for(const eie_parallel *parallel, size_t count, eie_task task, void *context) {
    if (parallel != NULL && count > 1) {
        parallel->run(parallel->pool, task, context, count);
    } else {
        for (size_t i = 0; i < count; i++) task(context, i);
    }
}

/* Memory for one run, aligned to 64 bytes, its contents left over from others; NULL: none is left. Any thread may give it back. */
void *eie_scratch_take(size_t bytes);
void eie_scratch_give(void *buffer);

/* Kinds that are, operands where they are needed. */
bool eie_followers_check(const eie_follower *followers, uint64_t count);

/* Weight well-formed: rank and dims agree with nothing overflowing, codebook[0] == 0, every code below codebook_size. */
eie_status eie_weight_check(const eie_weight *weight, size_t *elements);

#endif
