/* kernels/follow.h for avx2. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#define SUFFIXED(name) name##_avx2
#include "kernels/follow.h"
#endif
