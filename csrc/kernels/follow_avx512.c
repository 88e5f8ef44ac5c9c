/* kernels/follow.h for avx512. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#define SUFFIXED(name) name##_avx512
#include "kernels/follow.h"
#endif
