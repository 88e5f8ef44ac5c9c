/* kernels/follow.h for neon. */
#include "kernels/kernels.h"

#ifdef EIE_ARM
#define SUFFIXED(name) name##_neon
#include "kernels/follow.h"
#endif
