// The vector contract (simd/vec.h) on AVX2 with FMA: 8 lanes, 16 registers, masks are vectors of all-ones lanes.

constexpr int kLanes = 8;
constexpr int kRegisters = 16;
constexpr int kAccumulators = 12;
constexpr int kTileRows = 6;
constexpr bool kFused = true;

using Vf = __m256;
typedef int32_t Vi __attribute__((vector_size(32)));  // with elements of __m256i, GCC 12 keeps arrays in memory
struct Vm {
  __m256 lanes;
};

INLINE __m256i lane_mask(int a, int b) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(a), lane),
                             _mm256_cmpgt_epi32(_mm256_set1_epi32(b), lane));
}
INLINE Vm lanes_between(int a, int b) { return {_mm256_castsi256_ps(lane_mask(a, b))}; }

INLINE Vf load(const float* p) { return _mm256_loadu_ps(p); }
INLINE Vf load(const BFloat16* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
INLINE Vf load(const Float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
INLINE Vf load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
INLINE Vf load_lanes(const float* p, int a, int b) { return _mm256_maskload_ps(p, lane_mask(a, b)); }
INLINE Vf load_n(const float* p, int n) { return _mm256_maskload_ps(p, lane_mask(0, n)); }
INLINE void store(float* p, Vf x) { _mm256_storeu_ps(p, x); }
INLINE void store_n(float* p, Vf x, int n) { _mm256_maskstore_ps(p, lane_mask(0, n), x); }
INLINE Vf set1(float s) { return _mm256_set1_ps(s); }
INLINE float first(Vf x) { return _mm256_cvtss_f32(x); }

INLINE Vf fma(Vf a, Vf b, Vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vf min(Vf a, Vf b) { return _mm256_min_ps(a, b); }
INLINE Vf max(Vf a, Vf b) { return _mm256_max_ps(a, b); }
INLINE Vf abs(Vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE Vf copysign(Vf x, Vf sign) { return _mm256_or_ps(abs(x), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign)); }
INLINE Vf scale_by_power(Vf x, Vf n) {  // NaN converts to 0x80000000, which the shift clears: x keeps its NaN
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}

// Blocks of 4 x 4 inside each half, then the halves.
INLINE void transpose(Vf (&x)[8]) {
  Vf y[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(x[i], x[i + 1])),
                  b = _mm256_castps_pd(_mm256_unpackhi_ps(x[i], x[i + 1])),
                  c = _mm256_castps_pd(_mm256_unpacklo_ps(x[i + 2], x[i + 3])),
                  d = _mm256_castps_pd(_mm256_unpackhi_ps(x[i + 2], x[i + 3]));
    y[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    y[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    y[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    y[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2f128_ps(y[i], y[4 + i], 0x20);
    x[4 + i] = _mm256_permute2f128_ps(y[i], y[4 + i], 0x31);
  }
}

INLINE Vm less(Vf a, Vf b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
INLINE Vm equal(Vf a, Vf b) { return {_mm256_cmp_ps(a, b, _CMP_EQ_OQ)}; }
INLINE Vm is_nan(Vf x) { return {_mm256_cmp_ps(x, x, _CMP_UNORD_Q)}; }
INLINE Vm either(Vm m, Vm n) { return {_mm256_or_ps(m.lanes, n.lanes)}; }
INLINE Vf select(Vm m, Vf a, Vf b) { return _mm256_blendv_ps(b, a, m.lanes); }
INLINE unsigned bits(Vm m) { return static_cast<unsigned>(_mm256_movemask_ps(m.lanes)); }

INLINE __m256i raw(Vi x) { return reinterpret_cast<__m256i>(x); }
INLINE Vi cooked(__m256i x) { return reinterpret_cast<Vi>(x); }
INLINE Vi load_int(const void* p) { return cooked(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
INLINE void store_int(void* p, Vi x) { _mm256_storeu_si256(static_cast<__m256i*>(p), raw(x)); }
INLINE Vi set1_int(int32_t s) { return cooked(_mm256_set1_epi32(s)); }
INLINE Vi add_int(Vi a, Vi b) { return cooked(_mm256_add_epi32(raw(a), raw(b))); }
INLINE Vi and_int(Vi a, Vi b) { return a & b; }
INLINE Vi or_int(Vi a, Vi b) { return a | b; }
template <int N>
INLINE Vi shift_left(Vi x) {
  return cooked(_mm256_slli_epi32(raw(x), N));
}
template <int N>
INLINE Vi shift_right(Vi x) {
  return cooked(_mm256_srli_epi32(raw(x), N));
}
INLINE Vi as_int(Vf x) { return cooked(_mm256_castps_si256(x)); }
INLINE Vf as_float(Vi x) { return _mm256_castsi256_ps(raw(x)); }
INLINE Vf to_float(Vi x) { return _mm256_cvtepi32_ps(raw(x)); }
INLINE Vi to_int(Vf x) { return cooked(_mm256_cvtps_epi32(x)); }
INLINE void store_bytes(int8_t* p, Vi x) {
  const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(raw(x)), _mm256_extracti128_si256(raw(x), 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(h, h));
}
INLINE Vi even_unsigned(Vi x) { return x & 0x00ff00ff; }
INLINE Vi odd_unsigned(Vi x) { return cooked(_mm256_srli_epi16(raw(x), 8)); }
INLINE Vi even_signed(Vi x) { return cooked(_mm256_srai_epi16(_mm256_slli_epi16(raw(x), 8), 8)); }
INLINE Vi odd_signed(Vi x) { return cooked(_mm256_srai_epi16(raw(x), 8)); }
INLINE Vi dot_pairs(Vi acc, Vi a, Vi b) {
  return cooked(_mm256_add_epi32(raw(acc), _mm256_madd_epi16(raw(a), raw(b))));
}
constexpr bool kDotHalves = false;
constexpr bool kDotBytes = false, kDotBounded = true;  // maddubs saturates
INLINE Vi dot_bytes(Vi acc, Vi u, Vi s) {
  return dot_pairs(dot_pairs(acc, even_unsigned(u), even_signed(s)), odd_unsigned(u), odd_signed(s));
}
INLINE Vi dot_bounded(Vi acc, Vi u, Vi s) {
  return dot_pairs(acc, cooked(_mm256_maddubs_epi16(raw(u), raw(s))), cooked(_mm256_set1_epi16(1)));
}
INLINE unsigned beyond_bounds(Vi s) {
  const __m256i pairs = _mm256_abs_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), raw(s)));
  const __m256i beyond = _mm256_subs_epu16(pairs, _mm256_set1_epi16(128));
  return bits({_mm256_castsi256_ps(_mm256_cmpgt_epi32(beyond, _mm256_setzero_si256()))});
}
// Sums of int16: 8 times 2 products of at most 15 * 127 are 30480.
INLINE Vi dot_nibbles(Vi acc, Vi u, Vi s) {
  return cooked(_mm256_add_epi16(raw(acc), _mm256_maddubs_epi16(raw(u), raw(s))));
}
INLINE Vi finish_nibbles(Vi acc) { return cooked(_mm256_madd_epi16(raw(acc), _mm256_set1_epi16(1))); }

INLINE float sum(Vf x) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float maximum(Vf x) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
