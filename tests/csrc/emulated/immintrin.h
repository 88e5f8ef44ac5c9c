/* AVX-512 for machines that lack it: SIMDe's portable forms under the intrinsics' own names, and what its version 0.7.4 leaves out,
 * element by element as Intel's guide says. Masked loads and stores touch nothing whose bit is 0. */
#ifndef EIE_EMULATED_IMMINTRIN_H
#define EIE_EMULATED_IMMINTRIN_H
#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#include <stdint.h>
#include <string.h>

typedef simde__mmask16 __mmask16;
typedef simde__mmask64 __mmask64;
#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

#define LANES(i) for (int i = 0; i < 16; i++)
#define EMULATED static inline __attribute__((unused))

typedef union {
    simde__m512i v;
    simde__m512 f;
    int32_t i32[16];
    uint32_t u32[16];
    float f32[16];
    int16_t i16[32];
    int64_t i64[8];
} eie_emulated;

EMULATED __mmask64 _cvtu64_mask64(uint64_t k) { return k; }
EMULATED float _mm512_cvtss_f32(simde__m512 a) { return ((eie_emulated){.f = a}).f32[0]; }

EMULATED simde__m512i _mm512_mask_loadu_epi32(simde__m512i src, __mmask16 k, const void *from) {
    eie_emulated r = {.v = src};
    LANES(i) if (k >> i & 1) memcpy(&r.i32[i], (const char *)from + 4 * i, 4);
    return r.v;
}
EMULATED simde__m512i _mm512_maskz_loadu_epi32(__mmask16 k, const void *from) { return _mm512_mask_loadu_epi32(simde_mm512_setzero_si512(), k, from); }
EMULATED simde__m512 _mm512_maskz_loadu_ps(__mmask16 k, const void *from) { return simde_mm512_castsi512_ps(_mm512_maskz_loadu_epi32(k, from)); }
EMULATED void _mm512_mask_storeu_epi32(void *to, __mmask16 k, simde__m512i a) {
    const eie_emulated r = {.v = a};
    LANES(i) if (k >> i & 1) memcpy((char *)to + 4 * i, &r.i32[i], 4);
}
EMULATED void _mm512_mask_storeu_ps(void *to, __mmask16 k, simde__m512 a) { _mm512_mask_storeu_epi32(to, k, simde_mm512_castps_si512(a)); }

EMULATED simde__m512i _mm512_mask_i32gather_epi32(simde__m512i src, __mmask16 k, simde__m512i at, const void *from, int scale) {
    eie_emulated r = {.v = src};
    const eie_emulated index = {.v = at};
    LANES(i) if (k >> i & 1) memcpy(&r.i32[i], (const char *)from + (int64_t)index.i32[i] * scale, 4);
    return r.v;
}
EMULATED simde__m512 _mm512_mask_i32gather_ps(simde__m512 src, __mmask16 k, simde__m512i at, const void *from, int scale) {
    return simde_mm512_castsi512_ps(_mm512_mask_i32gather_epi32(simde_mm512_castps_si512(src), k, at, from, scale));
}
EMULATED void _mm512_mask_i32scatter_ps(void *to, __mmask16 k, simde__m512i at, simde__m512 a, int scale) {
    const eie_emulated r = {.f = a}, index = {.v = at};
    LANES(i) if (k >> i & 1) memcpy((char *)to + (int64_t)index.i32[i] * scale, &r.f32[i], 4);
}

EMULATED simde__m512i _mm512_cvtepi32_epi64(simde__m256i a) {
    eie_emulated r;
    int32_t from[8];
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 8; i++) r.i64[i] = from[i];
    return r.v;
}
EMULATED simde__m512 _mm512_cvtepi32_ps(simde__m512i a) {
    eie_emulated r = {.v = a};
    LANES(i) r.f32[i] = (float)r.i32[i];
    return r.f;
}
EMULATED simde__m512i _mm512_cvtepu8_epi16(simde__m256i a) {
    eie_emulated r;
    uint8_t from[32];
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 32; i++) r.i16[i] = from[i];
    return r.v;
}
EMULATED simde__m512i _mm512_cvtepu8_epi32(simde__m128i a) {
    eie_emulated r;
    uint8_t from[16];
    memcpy(from, &a, sizeof from);
    LANES(i) r.i32[i] = from[i];
    return r.v;
}
EMULATED simde__m512i _mm512_cvt_roundps_epi32(simde__m512 a, int how) {
    eie_emulated r = {.f = a};
    (void)how; /* to nearest, as the default is */
    LANES(i) r.i32[i] = r.f32[i] >= -2147483648.0f && r.f32[i] < 2147483648.0f ? (int32_t)lrintf(r.f32[i]) : INT32_MIN;
    return r.v;
}

EMULATED void eie_emulated_bytes(const simde__m512i a, uint8_t *to) {
    const eie_emulated r = {.v = a};
    LANES(i) to[i] = r.u32[i] > 255 ? 255 : (uint8_t)r.u32[i];
}
EMULATED void eie_emulated_words(const simde__m512i a, int16_t *to) {
    const eie_emulated r = {.v = a};
    LANES(i) to[i] = (int16_t)(r.i32[i] > INT16_MAX ? INT16_MAX : r.i32[i] < INT16_MIN ? INT16_MIN : r.i32[i]);
}
EMULATED simde__m128i _mm512_cvtusepi32_epi8(simde__m512i a) {
    simde__m128i r;
    uint8_t byte[16];
    eie_emulated_bytes(a, byte);
    memcpy(&r, byte, sizeof r);
    return r;
}
EMULATED void _mm512_mask_cvtusepi32_storeu_epi8(void *to, __mmask16 k, simde__m512i a) {
    uint8_t byte[16];
    eie_emulated_bytes(a, byte);
    LANES(i) if (k >> i & 1) ((uint8_t *)to)[i] = byte[i];
}
EMULATED void _mm512_mask_cvtsepi32_storeu_epi16(void *to, __mmask16 k, simde__m512i a) {
    int16_t word[16];
    eie_emulated_words(a, word);
    LANES(i) if (k >> i & 1) memcpy((char *)to + 2 * i, &word[i], 2);
}

EMULATED __mmask16 _mm512_mask_cmpneq_epi32_mask(__mmask16 k, simde__m512i a, simde__m512i b) {
    const eie_emulated x = {.v = a}, y = {.v = b};
    unsigned r = 0;
    LANES(i) r |= (unsigned)(x.i32[i] != y.i32[i]) << i;
    return (__mmask16)(r & k);
}
EMULATED __mmask16 _mm512_cmpgt_epu32_mask(simde__m512i a, simde__m512i b) {
    const eie_emulated x = {.v = a}, y = {.v = b};
    unsigned r = 0;
    LANES(i) r |= (unsigned)(x.u32[i] > y.u32[i]) << i;
    return (__mmask16)r;
}
EMULATED float _mm512_reduce_max_ps(simde__m512 a) {
    const eie_emulated r = {.f = a};
    float found = r.f32[0];
    LANES(i) found = r.f32[i] > found ? r.f32[i] : found;
    return found;
}
EMULATED float _mm512_reduce_min_ps(simde__m512 a) {
    const eie_emulated r = {.f = a};
    float found = r.f32[0];
    LANES(i) found = r.f32[i] < found ? r.f32[i] : found;
    return found;
}
#endif
