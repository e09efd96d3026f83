// The vector contract (simd/vec.h) on AVX-512 f, bw, dq, vl: 16 lanes, 32 registers, mask registers.

constexpr int kLanes = 16;
constexpr int kRegisters = 32;
constexpr int kAccumulators = 24;
constexpr int kTileRows = 12;
constexpr bool kFused = true;

using Vf = __m512;
typedef int32_t Vi __attribute__((vector_size(64)));  // with elements of __m512i, GCC 12 keeps arrays in memory
using Vm = __mmask16;

INLINE Vm first_lanes(int n) {  // the instruction looks at the low byte of n alone
  return static_cast<Vm>(_bzhi_u32(0xffff, static_cast<unsigned>(n < 0 ? 0 : n > kLanes ? kLanes : n)));
}
INLINE Vm lanes_between(int a, int b) { return static_cast<Vm>(first_lanes(b) & ~first_lanes(a)); }

INLINE Vf load(const float* p) { return _mm512_loadu_ps(p); }
INLINE Vf load(const BFloat16* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
INLINE Vf load(const Float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
INLINE Vf load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
INLINE Vf load_lanes(const float* p, int a, int b) { return _mm512_maskz_loadu_ps(lanes_between(a, b), p); }
INLINE Vf load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
INLINE void store(float* p, Vf x) { _mm512_storeu_ps(p, x); }
INLINE void store_n(float* p, Vf x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }
INLINE Vf set1(float s) { return _mm512_set1_ps(s); }
INLINE float first(Vf x) { return _mm512_cvtss_f32(x); }

INLINE Vf fma(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vf min(Vf a, Vf b) { return _mm512_min_ps(a, b); }
INLINE Vf max(Vf a, Vf b) { return _mm512_max_ps(a, b); }
INLINE Vf abs(Vf x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
INLINE Vf copysign(Vf x, Vf sign) {  // (sign bit of sign) or (other bits of x): truth table 0xd8
  const __m512i r = _mm512_ternarylogic_epi32(_mm512_castps_si512(x), _mm512_castps_si512(sign),
                                              _mm512_set1_epi32(static_cast<int>(0x80000000u)), 0xd8);
  return _mm512_castsi512_ps(r);
}
INLINE Vf scale_by_power(Vf x, Vf n) { return _mm512_scalef_ps(x, n); }

// Blocks of 4 x 4 inside each quarter, then the quarters.
INLINE void transpose(Vf (&x)[16]) {
  Vf y[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(x[i], x[i + 1])),
                  b = _mm512_castps_pd(_mm512_unpackhi_ps(x[i], x[i + 1])),
                  c = _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2], x[i + 3])),
                  d = _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2], x[i + 3]));
    y[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    y[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    y[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    y[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // y[4 r + i], quarter q: rows 4 r .. 4 r + 3 of column 4 q + i
    const Vf a = _mm512_shuffle_f32x4(y[i], y[4 + i], 0x88), b = _mm512_shuffle_f32x4(y[i], y[4 + i], 0xdd),
             c = _mm512_shuffle_f32x4(y[8 + i], y[12 + i], 0x88), d = _mm512_shuffle_f32x4(y[8 + i], y[12 + i], 0xdd);
    x[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    x[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
    x[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
    x[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

INLINE Vm less(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE Vm equal(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE Vm is_nan(Vf x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
INLINE Vm either(Vm m, Vm n) { return static_cast<Vm>(m | n); }
INLINE Vf select(Vm m, Vf a, Vf b) { return _mm512_mask_blend_ps(m, b, a); }
INLINE unsigned bits(Vm m) { return m; }

INLINE __m512i raw(Vi x) { return reinterpret_cast<__m512i>(x); }
INLINE Vi cooked(__m512i x) { return reinterpret_cast<Vi>(x); }
INLINE Vi load_int(const void* p) { return cooked(_mm512_loadu_si512(p)); }
INLINE void store_int(void* p, Vi x) { _mm512_storeu_si512(p, raw(x)); }
INLINE Vi set1_int(int32_t s) { return cooked(_mm512_set1_epi32(s)); }
INLINE Vi add_int(Vi a, Vi b) { return cooked(_mm512_add_epi32(raw(a), raw(b))); }
INLINE Vi and_int(Vi a, Vi b) { return a & b; }
INLINE Vi or_int(Vi a, Vi b) { return a | b; }
template <int N>
INLINE Vi shift_left(Vi x) {
  return cooked(_mm512_slli_epi32(raw(x), N));
}
template <int N>
INLINE Vi shift_right(Vi x) {
  return cooked(_mm512_srli_epi32(raw(x), N));
}
INLINE Vi as_int(Vf x) { return cooked(_mm512_castps_si512(x)); }
INLINE Vf as_float(Vi x) { return _mm512_castsi512_ps(raw(x)); }
INLINE Vf to_float(Vi x) { return _mm512_cvtepi32_ps(raw(x)); }
INLINE Vi to_int(Vf x) { return cooked(_mm512_cvtps_epi32(x)); }
INLINE void store_bytes(int8_t* p, Vi x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(raw(x)));
}
INLINE Vi even_unsigned(Vi x) { return x & 0x00ff00ff; }
INLINE Vi odd_unsigned(Vi x) { return cooked(_mm512_srli_epi16(raw(x), 8)); }
INLINE Vi even_signed(Vi x) { return cooked(_mm512_srai_epi16(_mm512_slli_epi16(raw(x), 8), 8)); }
INLINE Vi odd_signed(Vi x) { return cooked(_mm512_srai_epi16(raw(x), 8)); }
INLINE Vi dot_pairs(Vi acc, Vi a, Vi b) {
  return cooked(_mm512_add_epi32(raw(acc), _mm512_madd_epi16(raw(a), raw(b))));
}
#if defined(FASTATTN_VNNI)
constexpr bool kDotBytes = true, kDotBounded = false;
INLINE Vi dot_bytes(Vi acc, Vi u, Vi s) { return cooked(_mm512_dpbusd_epi32(raw(acc), raw(u), raw(s))); }
INLINE Vi dot_bounded(Vi acc, Vi u, Vi s) { return dot_bytes(acc, u, s); }
INLINE unsigned beyond_bounds(Vi) { return 0; }
INLINE Vi dot_nibbles(Vi acc, Vi u, Vi s) { return cooked(_mm512_dpbusd_epi32(raw(acc), raw(u), raw(s))); }
INLINE Vi finish_nibbles(Vi acc) { return acc; }
#else
constexpr bool kDotBytes = false, kDotBounded = true;  // maddubs saturates
INLINE Vi dot_bytes(Vi acc, Vi u, Vi s) {
  return dot_pairs(dot_pairs(acc, even_unsigned(u), even_signed(s)), odd_unsigned(u), odd_signed(s));
}
INLINE Vi dot_bounded(Vi acc, Vi u, Vi s) {
  return dot_pairs(acc, cooked(_mm512_maddubs_epi16(raw(u), raw(s))), cooked(_mm512_set1_epi16(1)));
}
INLINE unsigned beyond_bounds(Vi s) {
  const __m512i pairs = _mm512_abs_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), raw(s)));
  const __m512i beyond = _mm512_subs_epu16(pairs, _mm512_set1_epi16(128));
  return _mm512_test_epi32_mask(beyond, beyond);
}
// Sums of int16: 8 times 2 products of at most 15 * 127 are 30480.
INLINE Vi dot_nibbles(Vi acc, Vi u, Vi s) {
  return cooked(_mm512_add_epi16(raw(acc), _mm512_maddubs_epi16(raw(u), raw(s))));
}
INLINE Vi finish_nibbles(Vi acc) { return cooked(_mm512_madd_epi16(raw(acc), _mm512_set1_epi16(1))); }
#endif

#if defined(FASTATTN_BF16)
constexpr bool kDotHalves = true;
INLINE Vf dot_halves(Vf acc, Vi a, Vi b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(raw(a)), reinterpret_cast<__m512bh>(raw(b)));
}
INLINE Vi round_pairs(Vf a, Vf b) {
  return cooked(_mm512_rol_epi32(reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)), 16));
}
#else
constexpr bool kDotHalves = false;
#endif

INLINE float sum(Vf x) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float maximum(Vf x) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
