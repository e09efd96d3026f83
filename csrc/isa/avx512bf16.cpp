// x86-64 with AVX-512, VNNI and BF16: Cooper Lake (2020), Sapphire Rapids, Zen 4 (2022) and later.
#if defined(__x86_64__)
#  define FASTATTN_TABLE       kernels_avx512bf16
#  define FASTATTN_VEC         "simd/vec_avx512.h"
#  define FASTATTN_BF16        1
#  define FASTATTN_HALVES_ONLY 1
#  define FASTATTN_TARGET      "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#  include "kernels/compile.h"
#endif
