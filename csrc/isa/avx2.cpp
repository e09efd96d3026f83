// x86-64 with AVX2: Haswell (2013), Zen (2017) and later.
#if defined(__x86_64__)
#  define FASTATTN_TABLE  kernels_avx2
#  define FASTATTN_VEC    "simd/vec_avx2.h"
#  define FASTATTN_TARGET "avx2,fma,f16c,bmi,bmi2"
#  include "kernels/compile.h"
#endif
