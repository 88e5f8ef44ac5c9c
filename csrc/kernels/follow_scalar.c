/* kernels/follow.h for scalar. */
#include "kernels/kernels.h"

#define SUFFIXED(name) name##_scalar
#include "kernels/follow.h"
