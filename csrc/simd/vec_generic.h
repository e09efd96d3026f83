// The vector contract (simd/vec.h) on the vector extensions of GCC and clang: 4 lanes on any CPU, no fused
// multiply-add.

constexpr int kLanes = 4;
constexpr int kRegisters = 16;
constexpr int kAccumulators = 12;
constexpr int kTileRows = 6;
constexpr bool kFused = false;

typedef float Vf __attribute__((vector_size(16)));
typedef int32_t Vi __attribute__((vector_size(16)));
typedef uint32_t Vu __attribute__((vector_size(16)));
typedef int16_t Vh __attribute__((vector_size(16)));
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
INLINE Vf load(const BFloat16* p) {
  typedef uint32_t Vu __attribute__((vector_size(16)));
  return reinterpret_cast<Vf>(Vu{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16);
}
// The product makes up for the exponent's bias, and makes subnormal numbers right; what was infinite or NaN gets all of
// the exponent's bits.
INLINE Vf load(const Float16* p) {
  const Vi half = {p[0].bits, p[1].bits, p[2].bits, p[3].bits}, rest = half & 0x7fff;
  const Vi number = as_int(as_float(rest << 13) * 0x1p112f), special = (rest >= 0x7c00) & 0x7f800000;
  return as_float(number | special | (half & 0x8000) << 16);
}
INLINE Vf load(const int8_t* p) {
  return Vf{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
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
  const Vu exponent = reinterpret_cast<Vu>(n + 12582912.0f) << 23;  // NaN may wrap around
  return select(is_nan(x), x, reinterpret_cast<Vf>(reinterpret_cast<Vu>(x) + exponent));
}
template <int i, int j, int k, int l>
INLINE Vf shuffle(Vf a, Vf b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, i, j, k, l);
#else
  return __builtin_shuffle(a, b, Vi{i, j, k, l});
#endif
}
INLINE void transpose(Vf (&x)[4]) {
  const Vf a = shuffle<0, 4, 1, 5>(x[0], x[1]), b = shuffle<0, 4, 1, 5>(x[2], x[3]);
  const Vf c = shuffle<2, 6, 3, 7>(x[0], x[1]), d = shuffle<2, 6, 3, 7>(x[2], x[3]);
  x[0] = shuffle<0, 1, 4, 5>(a, b);
  x[1] = shuffle<2, 3, 6, 7>(a, b);
  x[2] = shuffle<0, 1, 4, 5>(c, d);
  x[3] = shuffle<2, 3, 6, 7>(c, d);
}

INLINE Vi load_int(const void* p) {
  Vi x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
INLINE void store_int(void* p, Vi x) { __builtin_memcpy(p, &x, sizeof x); }
INLINE Vi set1_int(int32_t s) { return Vi{s, s, s, s}; }
INLINE Vi add_int(Vi a, Vi b) { return reinterpret_cast<Vi>(reinterpret_cast<Vu>(a) + reinterpret_cast<Vu>(b)); }
INLINE Vi and_int(Vi a, Vi b) { return a & b; }
INLINE Vi or_int(Vi a, Vi b) { return a | b; }
template <int N>
INLINE Vi shift_left(Vi x) {
  return reinterpret_cast<Vi>(reinterpret_cast<Vu>(x) << N);
}
template <int N>
INLINE Vi shift_right(Vi x) {
  return reinterpret_cast<Vi>(reinterpret_cast<Vu>(x) >> N);
}
INLINE Vf to_float(Vi x) { return __builtin_convertvector(x, Vf); }
INLINE Vi to_int(Vf x) { return as_int(x + 12582912.0f) - as_int(set1(12582912.0f)); }  // 1.5 * 2^23
INLINE void store_bytes(int8_t* p, Vi x) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(x[i]);
}
// low * low + high * high of the int16 in each lane
INLINE Vi multiply_pairs(Vi a, Vi b) {
#if defined(__SSE2__)
  return reinterpret_cast<Vi>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
INLINE Vi even_unsigned(Vi x) { return x & 0x00ff00ff; }
INLINE Vi odd_unsigned(Vi x) { return shift_right<8>(x) & 0x00ff00ff; }
INLINE Vi even_signed(Vi x) { return reinterpret_cast<Vi>((reinterpret_cast<Vh>(x) << 8) >> 8); }
INLINE Vi odd_signed(Vi x) { return reinterpret_cast<Vi>(reinterpret_cast<Vh>(x) >> 8); }
INLINE Vi dot_pairs(Vi acc, Vi a, Vi b) { return add_int(acc, multiply_pairs(a, b)); }
constexpr bool kDotHalves = false;
constexpr bool kDotBytes = false, kDotBounded = false;
INLINE Vi dot_bytes(Vi acc, Vi u, Vi s) {
  return dot_pairs(dot_pairs(acc, even_unsigned(u), even_signed(s)), odd_unsigned(u), odd_signed(s));
}
INLINE Vi dot_bounded(Vi acc, Vi u, Vi s) { return dot_bytes(acc, u, s); }
INLINE unsigned beyond_bounds(Vi) { return 0; }
INLINE Vi dot_nibbles(Vi acc, Vi u, Vi s) { return dot_bytes(acc, u, s); }
INLINE Vi finish_nibbles(Vi acc) { return acc; }

INLINE float sum(Vf x) { return (x[0] + x[2]) + (x[1] + x[3]); }
INLINE float maximum(Vf x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
