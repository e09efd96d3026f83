// The vector contract (simd/vec.h) on AVX2 with FMA: 8 lanes, 16 registers, masks are vectors of all-ones lanes.

constexpr int kLanes = 8;
constexpr int kRegisters = 16;
constexpr int kAccumulators = 12;
constexpr int kTileRows = 6;
constexpr bool kFused = true;

using Vf = __m256;
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

INLINE Vm less(Vf a, Vf b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
INLINE Vm equal(Vf a, Vf b) { return {_mm256_cmp_ps(a, b, _CMP_EQ_OQ)}; }
INLINE Vm is_nan(Vf x) { return {_mm256_cmp_ps(x, x, _CMP_UNORD_Q)}; }
INLINE Vm either(Vm m, Vm n) { return {_mm256_or_ps(m.lanes, n.lanes)}; }
INLINE Vf select(Vm m, Vf a, Vf b) { return _mm256_blendv_ps(b, a, m.lanes); }
INLINE unsigned bits(Vm m) { return static_cast<unsigned>(_mm256_movemask_ps(m.lanes)); }

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
