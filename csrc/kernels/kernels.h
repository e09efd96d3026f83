// The kernels as the rest of the library sees them: argument structs and the table of function pointers.
// A baseline header: no intrinsics, nothing that depends on an instruction set.
//
// Kernels are single-threaded, allocate nothing and throw nothing; shapes are checked by the callers in ops/.
// Pointers need the alignment of a float, panels and pages 64 bytes. No kernel reads or writes beyond the extents
// given.
#pragma once

#include <cstdint>

namespace fastattn {

constexpr int kPanel = 32;  // columns of a packed weight panel: panel p holds weight rows 32p.. as [K][32], zero padded
constexpr int kPage = 16;   // tokens of a KV page: keys [D][16] (transposed), values [16][ldv]
constexpr int kBlock = 128;  // keys per softmax block (8 pages), counted from key 0: fixed order of accumulation
constexpr int kMaxRows = 6;  // query rows that share one walk over the keys

enum class Activation : int { none, tanh, sigmoid, relu, gelu, gelu_tanh, silu, exp, erf };

// What follows a matrix product: y = act(x W^T + bias) + residual. bias and residual may be null; residual may be y.
struct Epilogue {
  const float* bias;
  Activation activation;
  const float* residual;
  int64_t ld_residual;
};

// Query rows that share one key/value head. Row r sees keys lo[r] <= j < hi[r]; lo >= hi means nothing, which gives
// zeros. The result of a row depends on that row alone: not on `rows`, nor on keys and values outside [lo, hi) or
// masked by a bias of -inf, which may be garbage. Pages from the smallest lo to the largest hi of the call must exist;
// others may be null.
struct AttentionArgs {
  int rows;
  int64_t D, Dv;
  const float* const* q;        // [rows] -> D floats
  const float* const* k_pages;  // page p: [D][16], keys 16p..16p+15
  const float* const* v_pages;  // page p: [16][ldv]
  int64_t ldv;
  const int64_t* lo;
  const int64_t* hi;
  const float* const* bias;  // null, or [rows] -> floats by absolute key j (or null), added after scale and softcap
  float scale, softcap;      // s = scale * (q . k); softcap > 0: s = softcap * tanh(s / softcap)
  float* const* out;         // [rows] -> Dv floats
  float* const* weights;  // null, or [rows] -> floats (or null) by absolute key j in [0, max hi): zero where not seen
};

// Floats of the partial results of `blocks` blocks: {m, l, o[Dv]} for each block and row.
constexpr int64_t partial_floats(int64_t blocks, int64_t rows, int64_t Dv) { return blocks * rows * (Dv + 2); }

struct KernelTable {
#define KERNEL(name, result, arguments) result(*name) arguments;
#include "kernels/kernels.def"
#undef KERNEL
};

}  // namespace fastattn
