// x86-64 with AVX-512 and VNNI: Cascade Lake (2019), Ice Lake, Zen 4 (2022) and later.
#if defined(__x86_64__)
#  define FASTATTN_TABLE      kernels_avx512vnni
#  define FASTATTN_VEC        "simd/vec_avx512.h"
#  define FASTATTN_VNNI       1
#  define FASTATTN_BYTES_ONLY 1
#  define FASTATTN_TARGET     "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
#  include "kernels/compile.h"
#endif
