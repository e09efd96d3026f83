// x86-64 with AVX-512: Skylake-SP (2017), Zen 4 (2022) and later.
#if defined(__x86_64__)
#  define FASTATTN_TABLE  kernels_avx512
#  define FASTATTN_VEC    "simd/vec_avx512.h"
#  define FASTATTN_TARGET "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl"
#  include "kernels/compile.h"
#endif
