// The vector contract (simd/vec.h) on AVX-512 f, bw, dq, vl: 16 lanes, 32 registers, mask registers.

constexpr int kLanes = 16;
constexpr int kRegisters = 32;
constexpr int kAccumulators = 24;
constexpr int kTileRows = 12;
constexpr bool kFused = true;

using Vf = __m512;
using Vm = __mmask16;

INLINE Vm first_lanes(int n) { return static_cast<Vm>(_bzhi_u32(0xffff, n < 0 ? 0u : static_cast<unsigned>(n))); }
INLINE Vm lanes_between(int a, int b) { return static_cast<Vm>(first_lanes(b) & ~first_lanes(a)); }

INLINE Vf load(const float* p) { return _mm512_loadu_ps(p); }
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

INLINE Vm less(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE Vm equal(Vf a, Vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE Vm is_nan(Vf x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
INLINE Vm either(Vm m, Vm n) { return static_cast<Vm>(m | n); }
INLINE Vf select(Vm m, Vf a, Vf b) { return _mm512_mask_blend_ps(m, b, a); }
INLINE unsigned bits(Vm m) { return m; }

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
