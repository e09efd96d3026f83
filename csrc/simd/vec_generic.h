// The vector contract (simd/vec.h) on the vector extensions of GCC and clang: 4 lanes on any CPU, no fused
// multiply-add.

constexpr int kLanes = 4;
constexpr int kRegisters = 16;
constexpr int kAccumulators = 12;
constexpr int kTileRows = 6;
constexpr bool kFused = false;

typedef float Vf __attribute__((vector_size(16)));
typedef int32_t Vi __attribute__((vector_size(16)));
struct Vm {
  Vi lanes;  // 0 or -1
};

INLINE Vi as_int(Vf x) { return reinterpret_cast<Vi>(x); }
INLINE Vf as_float(Vi x) { return reinterpret_cast<Vf>(x); }
INLINE Vm lanes_between(int a, int b) {
  const Vi lane = {0, 1, 2, 3};
  return {(lane >= a) & (lane < b)};
}

INLINE Vf load(const float* p) {
  Vf x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
INLINE Vf load_lanes(const float* p, int a, int b) {
  Vf x = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int i = 0; i < kLanes; ++i)
    if (i >= a && i < b) x[i] = p[i];
  return x;
}
INLINE Vf load_n(const float* p, int n) { return load_lanes(p, 0, n); }
INLINE void store(float* p, Vf x) { __builtin_memcpy(p, &x, sizeof x); }
INLINE void store_n(float* p, Vf x, int n) {
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = x[i];
}
INLINE Vf set1(float s) { return Vf{s, s, s, s}; }
INLINE float first(Vf x) { return x[0]; }

INLINE Vf select(Vm m, Vf a, Vf b) { return as_float((as_int(a) & m.lanes) | (as_int(b) & ~m.lanes)); }
INLINE Vf fma(Vf a, Vf b, Vf c) { return a * b + c; }
INLINE Vf min(Vf a, Vf b) { return select({a < b}, a, b); }
INLINE Vf max(Vf a, Vf b) { return select({a > b}, a, b); }
INLINE Vf abs(Vf x) { return as_float(as_int(x) & 0x7fffffff); }
INLINE Vf copysign(Vf x, Vf sign) { return as_float(as_int(abs(x)) | (as_int(sign) & ~0x7fffffff)); }

INLINE Vm less(Vf a, Vf b) { return {a < b}; }
INLINE Vm equal(Vf a, Vf b) { return {a == b}; }
INLINE Vm is_nan(Vf x) { return {x != x}; }
INLINE Vm either(Vm m, Vm n) { return {m.lanes | n.lanes}; }
INLINE unsigned bits(Vm m) {
  const Vi b = m.lanes & Vi{1, 2, 4, 8};
  return static_cast<unsigned>(b[0] | b[1] | b[2] | b[3]);
}
INLINE Vf scale_by_power(Vf x, Vf n) {  // adding 1.5 * 2^23 leaves the integer n in the low bits of the sum
  typedef uint32_t Vu __attribute__((vector_size(16)));  // NaN may wrap around
  const Vu exponent = reinterpret_cast<Vu>(n + 12582912.0f) << 23;
  return select(is_nan(x), x, reinterpret_cast<Vf>(reinterpret_cast<Vu>(x) + exponent));
}

INLINE float sum(Vf x) { return (x[0] + x[2]) + (x[1] + x[3]); }
INLINE float maximum(Vf x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
