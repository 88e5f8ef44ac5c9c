/* kernels/cell.h for neon. */
#include "kernels/kernels.h"

#ifdef EIE_ARM
#define SUFFIXED(name) name##_neon
#include "kernels/cell.h"
#endif
