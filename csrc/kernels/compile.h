// Compiles all kernels for one instruction set. An isa/<name>.cpp defines
//   FASTATTN_TABLE    the name of the KernelTable to export
//   FASTATTN_VEC      its vector header
//   FASTATTN_TARGET   the compiler's target string; undefined: the baseline
//   FASTATTN_BYTES_ONLY, FASTATTN_HALVES_ONLY
//                     one of them defined: only the BYTES_KERNELs, or the HALVES_KERNELs; dispatch takes the others
//                     from the next lower level
// and includes this file, once.
//
// Only the functions between the pragmas are compiled for the target. Everything from std and the intrinsics is
// included before, at the baseline: a std function that is inline and weak must not come out of this file with
// instructions that another CPU lacks, for the linker keeps one copy for the whole library. Kernels therefore call
// nothing from std.

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#  include <immintrin.h>
#elif defined(__aarch64__)
#  include <arm_neon.h>
#endif

#define FASTATTN_PRAGMA(text)        FASTATTN_PRAGMA_STRING(text)
#define FASTATTN_PRAGMA_STRING(text) _Pragma(#text)
#if defined(FASTATTN_TARGET) && defined(__clang__)
FASTATTN_PRAGMA(clang attribute push(__attribute__((target(FASTATTN_TARGET))), apply_to = function))
#elif defined(FASTATTN_TARGET)
#  pragma GCC push_options
FASTATTN_PRAGMA(GCC target(FASTATTN_TARGET))
#endif

#if defined(__GNUC__) && !defined(__clang__)
#  pragma GCC diagnostic push  // the undefined operands inside GCC 12's own AVX-512 intrinsics
#  pragma GCC diagnostic ignored "-Wuninitialized"
#  pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define INLINE inline __attribute__((always_inline))

namespace fastattn {
namespace {

// clang-format off: the order matters
#include FASTATTN_VEC
#include "simd/vec.h"
#include "simd/math.h"
#include "kernels/tile.inl"
#include "kernels/linear_walk.inl"
#if !defined(FASTATTN_BYTES_ONLY)
#include "kernels/linear_bfloat16.inl"
#endif
#if !defined(FASTATTN_HALVES_ONLY)
#include "kernels/linear_quantized.inl"
#endif
#if !defined(FASTATTN_BYTES_ONLY)
#include "kernels/attention_tile.inl"
#include "kernels/attention_scores.inl"
#include "kernels/attention_values.inl"
#include "kernels/attention.inl"
#include "kernels/attention_rounded.inl"
#endif
#if !defined(FASTATTN_BYTES_ONLY) && !defined(FASTATTN_HALVES_ONLY)
#include "kernels/linear.inl"
#include "kernels/linear_rows.inl"
#include "kernels/packing.inl"
#include "kernels/attention_cache.inl"
#include "kernels/scores.inl"
#include "kernels/softmax.inl"
#include "kernels/norm.inl"
#include "kernels/elementwise.inl"
#include "kernels/recurrent.inl"
#include "kernels/roofline.inl"
#endif
// clang-format on

}  // namespace

extern const KernelTable FASTATTN_TABLE;
const KernelTable FASTATTN_TABLE = {
#if defined(FASTATTN_BYTES_ONLY)
#  define KERNEL(name, result, arguments)       nullptr,
#  define BYTES_KERNEL(name, result, arguments) name,
#elif defined(FASTATTN_HALVES_ONLY)
#  define KERNEL(name, result, arguments)        nullptr,
#  define HALVES_KERNEL(name, result, arguments) name,
#else
#  define KERNEL(name, result, arguments) name,
#endif
#include "kernels/kernels.def"
#undef KERNEL
};

}  // namespace fastattn

#if defined(__GNUC__) && !defined(__clang__)
#  pragma GCC diagnostic pop
#endif
#if defined(FASTATTN_TARGET) && defined(__clang__)
#  pragma clang attribute pop
#elif defined(FASTATTN_TARGET)
#  pragma GCC pop_options
#endif
