/* Memory that a run needs and gives back, kept for the next one. The system's allocator hands buffers of this size back to the kernel,
 * and a fault for each of their pages, every time, costs a small convolution a quarter of its time. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "ops/layer.h"

enum { SLOTS = 32, HEADER = 64 }; /* threads that run at once find one each; of a buffer: its size */
#define MOST ((size_t)8 << 20)    /* larger ones are not worth holding: faults are few beside what is computed */

#define KEEP 1
#if defined(__SANITIZE_ADDRESS__) /* gcc: every buffer has just the size that was asked for, so that what is beyond it is found */
#undef KEEP
#define KEEP 0
#elif defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer)
#undef KEEP
#define KEEP 0
#endif
#endif

static _Atomic(void *) slots[SLOTS];

void *eie_scratch_take(size_t bytes) {
    for (int i = 0; KEEP && i < SLOTS && bytes <= MOST; i++) {
        if (atomic_load_explicit(&slots[i], memory_order_relaxed) == NULL) continue;
        uint8_t *held = atomic_exchange(&slots[i], NULL);
        if (held == NULL) continue;
        if (*(const size_t *)(const void *)held >= bytes) return held + HEADER;
        free(*(void **)(void *)(held + sizeof(size_t))); /* it grows: small ones die out */
    }
    if (bytes > SIZE_MAX - 2 * HEADER) return NULL;
    void *memory = malloc(bytes + 2 * HEADER);
    if (memory == NULL) return NULL;
    uint8_t *aligned = (uint8_t *)(((uintptr_t)memory + HEADER - 1) & ~(uintptr_t)(HEADER - 1));
    *(size_t *)(void *)aligned = bytes;
    *(void **)(void *)(aligned + sizeof(size_t)) = memory;
    return aligned + HEADER;
}

void eie_scratch_give(void *buffer) {
    if (buffer == NULL) return;
    uint8_t *held = (uint8_t *)buffer - HEADER;
    const size_t bytes = *(const size_t *)(const void *)held;
    for (int i = 0; KEEP && i < SLOTS && bytes <= MOST; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&slots[i], &none, held)) return;
    }
    free(*(void **)(void *)(held + sizeof(size_t)));
}
