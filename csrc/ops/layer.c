#include "ops/layer.h"

void eie_layer_free(eie_layer *layer) {
    if (layer != NULL) layer->free(layer);
}

uint64_t eie_layer_bytes(const eie_layer *layer) { return layer->bytes + (layer->later != NULL ? layer->later(layer) : 0); }

const char *eie_layer_kernel(const eie_layer *layer) { return layer->kernel; }

eie_status eie_weight_check(const eie_weight *weight, size_t *elements) {
    if (weight == NULL || weight->rank > 8 || weight->codebook_size < 1 || weight->codebook_size > 256 || weight->codebook == NULL ||
        weight->codebook[0] != 0 || (weight->rank > 0 && weight->dims == NULL)) {
        return EIE_E_ARGUMENT;
    }
    size_t count = 1;
    for (uint32_t i = 0; i < weight->rank; i++) {
        if (weight->dims[i] > SIZE_MAX || !eie_multiply(count, (size_t)weight->dims[i], &count)) return EIE_E_SHAPE;
    }
    if (count > 0 && weight->codes == NULL) return EIE_E_ARGUMENT;
    if (weight->codebook_size < 256) {
        for (size_t i = 0; i < count; i++) {
            if (weight->codes[i] >= weight->codebook_size) return EIE_E_CORRUPT;
        }
    }
    *elements = count;
    return EIE_OK;
}

bool eie_followers_check(const eie_follower *followers, uint64_t count) {
    if (count > 0 && followers == NULL) return false;
    for (uint64_t i = 0; i < count; i++) {
        const int32_t kind = followers[i].kind;
        if (kind < EIE_FOLLOW_ADD || kind > EIE_FOLLOW_LEAKY || (kind <= EIE_FOLLOW_ADD_CHANNEL && followers[i].operand == NULL)) return false;
    }
    return true;
}
