// AArch64: Advanced SIMD is part of every ARMv8-A CPU, so there is no target region.
#if defined(__aarch64__)
#  define FASTATTN_TABLE kernels_neon
#  define FASTATTN_VEC   "simd/vec_neon.h"
#  include "kernels/compile.h"
#endif
