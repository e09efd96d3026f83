// Any CPU that the compiler targets by default.
#define FASTATTN_TABLE kernels_generic
#define FASTATTN_VEC   "simd/vec_generic.h"
#include "kernels/compile.h"
