// The vector contract. Each vec_<isa>.h defines, in the anonymous namespace and target region that kernels/compile.h
// opens, exactly these names; all kernels and simd/math.h are written over them and over nothing else.
//
//   kLanes                 float lanes of a vector, a divisor of kPage
//   kRegisters             vector registers
//   kAccumulators          accumulators that a register tile can hold beside its operands
//   kTileRows              rows of the register tile of linear_panel
//   kFused                 whether fma rounds once; where it does not, fma(a, b, c) is a * b, rounded, + c
//   Vf, Vm                 a vector of floats; a mask with one truth value per lane.  Vf has + - * / and unary -
//
//   load(p)  store(p, x)             any alignment
//                                    load also takes BFloat16, Float16 and int8_t, as floats
//   load_lanes(p, a, b)              lanes a <= i < b from p[i], others 0; touches no other memory; any ints a, b
//   load_n(p, n)  store_n(p, x, n)   the first n lanes, 0 <= n <= kLanes; touches no other memory
//   set1(s)  first(x)                all lanes = s; lane 0
//   fma(a, b, c)                     a * b + c
//   min(a, b)  max(a, b)             a < b ? a : b,  a > b ? a : b: b when either is NaN
//   abs(x)  copysign(x, sign)
//   scale_by_power(x, n)             x * 2^n for integral n where x in [0.5, 2] and x * 2^n is normal; NaN if x is
//   transpose(x)                     kLanes vectors: x[i][j] becomes x[j][i]
//   less(a, b) equal(a, b) is_nan(x) either(m, n) lanes_between(a, b) -> Vm; comparisons with NaN are false
//   select(m, a, b)                  m ? a : b
//   bits(m)                          lane i as bit i
//   sum(x)  maximum(x)               over the lanes, in one fixed order (maximum: no NaN among them)
//
//   Vi                               a vector of kLanes int32; its bytes and halves are named from the low end
//   load_int(p)  store_int(p, x)     any alignment
//   set1_int(s)                      all lanes = s
//   add_int(a, b)                    wraps around;   and_int(a, b)  or_int(a, b)
//   shift_left<N>(x)  shift_right<N>(x)      by bits, zeros come in
//   as_int(x)  as_float(x)           the same bits
//   to_float(x)  to_int(x)           conversion; to the nearest, ties to even, |x| < 2^22
//   store_bytes(p, x)                the low byte of each lane, kLanes bytes
//   dot_bytes(acc, u, s)             acc + the 4 products of the unsigned bytes of u and the signed ones of s, exact
//   kDotBytes                        whether there is an instruction for that, or it is made of the following
//   dot_bounded(acc, u, s)           the same where beyond_bounds(s) is 0
//   beyond_bounds(s)                 the lanes, as bits, where bytes 0 and 1, or 2 and 3, pass 128 or -128 together
//   kDotBounded                      whether dot_bounded is the faster of the two
//   even_unsigned(x) odd_unsigned(x) even_signed(x) odd_signed(x)      bytes 0 and 2, or 1 and 3, as int16
//   dot_pairs(acc, a, b)             acc + the 2 products of int16, exact
//   dot_nibbles(acc, u, s)           the same for bytes of u below 16, at most 8 times from an acc of set1_int(0);
//   finish_nibbles(acc)              then this gives the sum
//   kDotHalves                       whether there is an instruction for the next one, which else is not there
//   dot_halves(acc, a, b)            acc + the 2 products of bfloat16, the high halves first, rounded after each
//   round_pairs(a, b)                words of neighbours in a, then in b, to the nearest bfloat16, the first of two in
//                                    the high half; comes with dot_halves
//
// This file adds what can be said in those terms.

static_assert(kPage % kLanes == 0 && kPanel % kLanes == 0 && kBlock % kPage == 0,
              "pages and panels hold whole vectors");

constexpr float kInfinity = __builtin_inff();

INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }

// Vectors of the widest register tile of `rows` rows over at most `columns` columns; both divide by it evenly.
constexpr int widest(int rows, int columns) {
  int vectors = columns / kLanes;
  while (vectors > 1 && rows * vectors > kAccumulators) vectors /= 2;
  return vectors;
}

// Reads a vector for nothing but to have it in the cache.
INLINE void touch(const float* p) {
  typedef Vf Anywhere __attribute__((aligned(4), may_alias));
  (void)*reinterpret_cast<const volatile Anywhere*>(p);
}

// Reads a row in the order of memory before something crosses its lines: many misses at once, and prefetchers follow.
INLINE void touch_row(const float* p, int64_t n) {
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) touch(p + i);
}

// The partial forms, with the full vector as the fast path.
INLINE Vf load_up_to(const float* p, int64_t n) { return n >= kLanes ? load(p) : load_n(p, static_cast<int>(n)); }
INLINE void store_up_to(float* p, Vf x, int64_t n) {
  if (n >= kLanes) {
    store(p, x);
  } else {
    store_n(p, x, static_cast<int>(n));
  }
}

// The nearest bfloat16, ties to even, as a float; NaN stays NaN.
INLINE Vi nearest_bfloat16(Vf x) {
  const Vi b = as_int(x), odd = and_int(shift_right<16>(b), set1_int(1));
  const Vi rounded = add_int(b, add_int(set1_int(0x7fff), odd));
  const Vf quiet = as_float(or_int(b, set1_int(0x00400000)));
  return and_int(as_int(select(is_nan(x), quiet, as_float(rounded))), set1_int(static_cast<int32_t>(0xffff0000u)));
}

// Two vectors of bfloat16 as floats side by side, in the low and in the high halves of words.
INLINE Vi paired(Vi low, Vi high) { return or_int(shift_right<16>(low), high); }
