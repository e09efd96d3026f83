// The kernels as the rest of the library sees them: argument structs and the table of function pointers.
// A baseline header: no intrinsics, nothing that depends on an instruction set.
//
// Kernels are single-threaded, allocate nothing and throw nothing; shapes are checked by the callers in ops/.
// Pointers need the alignment of a float; panels and pages stand faster at 64 bytes. No kernel reads or writes beyond
// the extents given; of a row of values that is up to ldv.
#pragma once

#include <cstdint>

namespace fastattn {

constexpr int kPanel = 32;   // columns of a packed weight panel: panel p holds the weight's rows 32p.., zero padded
constexpr int kPage = 16;    // tokens of a KV page: keys [D][16] (transposed), values [16][ldv]
constexpr int kBlock = 256;  // keys per softmax block (16 pages), counted from key 0: fixed order of accumulation
constexpr int kTilePowers = 12 * kBlock;  // of the rows of a register tile, or of a run of blocks of fewer
constexpr int kRowsAtOnce = 192;  // query rows that ops hand to one call of attention: they share the reads of a block
// Query rows of a head from which on ops copy values that stand apart: at a stride of kilobytes they share few sets of
// a cache.
constexpr int64_t kRowsForCopy = 256;

enum class Activation : int { none, tanh, sigmoid, relu, gelu, gelu_tanh, silu, exp, erf };

// What follows a matrix product: y = act(x W^T + bias) * multiply + residual. Each may be null; multiply and residual
// may be y.
struct Epilogue {
  const float* bias;
  Activation activation;
  const float* residual;
  int64_t ld_residual;
  const float* multiply;
  int64_t ld_multiply;
};

// How a packed weight is stored; docs/packing.md has the layouts. narrow and float16: float32 that bfloat16, or
// float16, holds exactly, stored so; rows that it multiplies stay float32. rounded: of pages alone, for
// attention_rounded.
enum class DType : int { float32, bfloat16, int8, int4, narrow, float16, rounded };

constexpr int kLayout = 1;                     // of packed panels in files: another number once any of it changes
constexpr int kGroup = 32;                     // k that share a scale in int4
constexpr int64_t kInt8MaxK = 64 * 1024;       // sums of 255 * 127 stay below 2^31
constexpr int kInt8Zero = 128, kInt4Zero = 8;  // what is added to a signed code in a panel

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
constexpr int64_t whole_lines(int64_t floats) { return round_up(floats, 16); }  // of the cache
constexpr int64_t quads(int64_t K) { return (K + 3) / 4; }
constexpr int64_t groups(int64_t K) { return (K + kGroup - 1) / kGroup; }

// Bytes of an int4 group: a scale for each column, then the codes.
constexpr int64_t kGroupBytes = kPanel * 2 + kPanel * kGroup / 2;

// Bytes of a panel, a multiple of 64.
constexpr int64_t panel_bytes(DType type, int64_t K) {
  return type == DType::float32 ? K * kPanel * 4
         : type == DType::int8  ? quads(K) * 4 * kPanel + kPanel * 4
         : type == DType::int4  ? groups(K) * kGroupBytes
                                : K * kPanel * 2;
}

// Whether the products of a type take rows that quantize_row has made.
constexpr bool is_quantized(DType type) { return type == DType::int8 || type == DType::int4; }

// A quantised row: float scale, int32 sum of all codes; from kRowSums on, -8 times the sum of the codes of each group,
// int32; from quantized_codes on the codes, int8, with zeros up to a multiple of 64.
constexpr int64_t kRowSums = 64;
constexpr int64_t quantized_codes(int64_t K) { return kRowSums + round_up(groups(K) * 4, 64); }
constexpr int64_t quantized_bytes(int64_t K) { return quantized_codes(K) + round_up(K, 64); }

// A row of bfloat16, as round_row makes it: words of two k, the even one in the high half, with zeros up to a multiple
// of 64 bytes.
constexpr int64_t rounded_bytes(int64_t K) { return round_up(K * 2, 64); }

// Several rows of x lie in chunks for the products, [chunk][row][kLinearChunk bytes]: a chunk of k of the panel stays
// in the first-level cache while all rows pass over it, and the rows of a tile stand a constant distance apart.
constexpr int64_t kLinearChunk = 512;

constexpr int64_t chunks(int64_t row_bytes) { return (row_bytes + kLinearChunk - 1) / kLinearChunk; }

// What quads of codes lack that split_codes has halved, in a row's chunk.
constexpr int kMostRests = 31;
struct Rests {
  int32_t count, whole;  // whole: there would be too many, and nothing is halved
  struct {
    int32_t quad, codes;
  } of[kMostRests];  // zeros behind the last
};

constexpr int kMostUnpackedRows = 8;  // that are multiplied by weights as they lie

// A product with consecutive panels.
struct PanelArgs {
  const void* x;         // float32, rounded rows, or the codes of quantised rows: one row as it is, several in chunks
  int64_t ld_chunk;      // bytes from chunk to chunk
  const uint8_t* heads;  // int8, int4: rows of quantize_row, for their scales and sums
  int64_t ld_heads;      // bytes from row to row
  const Rests* rests;    // int8, of several rows: what split_codes has made, [chunk][row]
  int64_t rows, K;
  const void* panels;
  float* y;  // (rows, cols)
  int64_t ldy, cols;
  Epilogue epilogue;
  int64_t ld_weights = 0;  // of weights that are not packed
};

// Keys and values are float32, bfloat16 or int8. A page of int8 ends with kPage floats, the scale of each token: what a
// code c stands for is c * scale.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {  // IEEE 754 binary16
  uint16_t bits;
};
// Of rounded pages KernelTable::rounded_page_bytes tells.
constexpr int64_t page_bytes(DType type, int64_t width) {
  return round_up(type == DType::float32    ? kPage * width * 4
                  : type == DType::bfloat16 ? kPage * width * 2
                                            : kPage * width + kPage * 4,
                  64);
}
constexpr int64_t page_scales(int64_t width) { return kPage * width; }  // of an int8 page: where its scales are

// Query rows that share one key/value head. Row r sees keys lo[r] <= j < hi[r]; lo >= hi means nothing, which gives
// zeros. The result of a row depends on that row alone: not on `rows`, nor on keys and values outside [lo, hi) or
// masked by a bias of -inf, which may be garbage (but for rounded pages: all their values are to be finite). Pages from
// the smallest lo to the largest hi of the call must exist; others may be null.
struct AttentionArgs {
  int rows;
  int64_t D, Dv;
  const float* const* q;       // [rows] -> D floats
  const void* const* k_pages;  // page p: keys 16p..16p+15, [D][16], or [16][ldk] where ldk is given
  const void* const* v_pages;  // page p: [16][ldv]
  int64_t ldv;
  const int64_t* lo;
  const int64_t* hi;
  const float* const* bias;  // null, or [rows] -> floats by absolute key j (or null), added after scale and softcap
  float scale, softcap;      // s = scale * (q . k); softcap > 0: s = softcap * tanh(s / softcap)
  float* const* out;         // [rows] -> Dv floats
  float* const* weights;  // null, or [rows] -> floats (or null) by absolute key j in [0, max hi): zero where not seen
  float* scratch;         // attention_scratch(rows, D) floats
  DType type = DType::float32;  // of the pages; bfloat16 and int8: ldv = Dv, rounded: whole kPage; all: ldk = 0
  int64_t ldk = 0;
  bool near = false;  // what is read next is prefetched into the first-level cache: see prefetches_lead()
  const void* const* later = nullptr;  // pages that the same thread reads after this call, in that order; ldk = 0
  int64_t later_pages = 0;
};

// A part of a walk over the blocks: [first, last) of them, as far as the rows see any. Rows go on from where the part
// before left them, which gives the bits of one walk: `state` holds {M, L} of each row, `out` what there is so far.
struct AttentionPart {
  int64_t first, last;
  float* state;       // [rows][2]
  bool begins, ends;  // the first part, the last part
};

// The queries, and the powers of a run.
constexpr int64_t attention_scratch(int64_t rows, int64_t D) { return rows * round_up(D, 16) + kTilePowers; }

// Floats of the partial results of `blocks` blocks: {m, l, o[Dv]} for each block and row.
constexpr int64_t partial_floats(int64_t blocks, int64_t rows, int64_t Dv) { return blocks * rows * (Dv + 2); }

struct KernelTable {
#define KERNEL(name, result, arguments) result(*name) arguments;
#include "kernels/kernels.def"
#undef KERNEL
};

}  // namespace fastattn
