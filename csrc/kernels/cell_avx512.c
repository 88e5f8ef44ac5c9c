/* kernels/cell.h for avx512. */
#include "kernels/kernels.h"

#ifdef EIE_X86
#define SUFFIXED(name) name##_avx512
#include "kernels/cell.h"
#endif
