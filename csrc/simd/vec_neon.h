// The vector contract (simd/vec.h) on AArch64 Advanced SIMD: 4 lanes, 32 registers, fused multiply-add.

constexpr int kLanes = 4;
constexpr int kRegisters = 32;
constexpr int kAccumulators = 24;
constexpr int kTileRows = 6;
constexpr bool kFused = true;

using Vf = float32x4_t;
using Vi = int32x4_t;
using Vm = uint32x4_t;

INLINE Vm lanes_between(int a, int b) {
  const int32x4_t lane = {0, 1, 2, 3};
  return vandq_u32(vcgeq_s32(lane, vdupq_n_s32(a)), vcltq_s32(lane, vdupq_n_s32(b)));
}

INLINE Vf load(const float* p) { return vld1q_f32(p); }
INLINE Vf load(const BFloat16* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16));
}
INLINE Vf load(const Float16* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
}
INLINE Vf load(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
INLINE Vf load_lanes(const float* p, int a, int b) {
  float x[kLanes] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int i = 0; i < kLanes; ++i)
    if (i >= a && i < b) x[i] = p[i];
  return vld1q_f32(x);
}
INLINE Vf load_n(const float* p, int n) { return load_lanes(p, 0, n); }
INLINE void store(float* p, Vf x) { vst1q_f32(p, x); }
INLINE void store_n(float* p, Vf x, int n) {
  float lanes[kLanes];
  vst1q_f32(lanes, x);
  for (int i = 0; i < kLanes; ++i)
    if (i < n) p[i] = lanes[i];
}
INLINE Vf set1(float s) { return vdupq_n_f32(s); }
INLINE float first(Vf x) { return vgetq_lane_f32(x, 0); }

INLINE Vf select(Vm m, Vf a, Vf b) { return vbslq_f32(m, a, b); }
INLINE Vf fma(Vf a, Vf b, Vf c) { return vfmaq_f32(c, a, b); }
INLINE Vf min(Vf a, Vf b) { return select(vcltq_f32(a, b), a, b); }
INLINE Vf max(Vf a, Vf b) { return select(vcgtq_f32(a, b), a, b); }
INLINE Vf abs(Vf x) { return vabsq_f32(x); }
INLINE Vf copysign(Vf x, Vf sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, x); }
INLINE Vf scale_by_power(Vf x, Vf n) {  // NaN converts to 0: x keeps its NaN
  const int32x4_t exponent = vshlq_n_s32(vcvtnq_s32_f32(n), 23);
  return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), exponent));
}

INLINE void transpose(Vf (&x)[4]) {
  const float32x4x2_t a = vtrnq_f32(x[0], x[1]), b = vtrnq_f32(x[2], x[3]);
  x[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  x[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  x[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  x[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

INLINE Vm less(Vf a, Vf b) { return vcltq_f32(a, b); }
INLINE Vm equal(Vf a, Vf b) { return vceqq_f32(a, b); }
INLINE Vm is_nan(Vf x) { return vmvnq_u32(vceqq_f32(x, x)); }
INLINE Vm either(Vm m, Vm n) { return vorrq_u32(m, n); }
INLINE unsigned bits(Vm m) {
  const uint32x4_t weight = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, weight));
}

INLINE Vi load_int(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
INLINE void store_int(void* p, Vi x) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(x)); }
INLINE Vi set1_int(int32_t s) { return vdupq_n_s32(s); }
INLINE Vi add_int(Vi a, Vi b) { return vaddq_s32(a, b); }
INLINE Vi and_int(Vi a, Vi b) { return vandq_s32(a, b); }
INLINE Vi or_int(Vi a, Vi b) { return vorrq_s32(a, b); }
template <int N>
INLINE Vi shift_left(Vi x) {
  return vshlq_n_s32(x, N);
}
template <int N>
INLINE Vi shift_right(Vi x) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), N));
}
INLINE Vi as_int(Vf x) { return vreinterpretq_s32_f32(x); }
INLINE Vf as_float(Vi x) { return vreinterpretq_f32_s32(x); }
INLINE Vf to_float(Vi x) { return vcvtq_f32_s32(x); }
INLINE Vi to_int(Vf x) { return vcvtnq_s32_f32(x); }
INLINE void store_bytes(int8_t* p, Vi x) {
  const int16x4_t h = vmovn_s32(x);
  const int8x8_t b = vmovn_s16(vcombine_s16(h, h));
  vst1_lane_u32(reinterpret_cast<uint32_t*>(p), vreinterpret_u32_s8(b), 0);
}
INLINE Vi even_unsigned(Vi x) { return vandq_s32(x, vdupq_n_s32(0x00ff00ff)); }
INLINE Vi odd_unsigned(Vi x) { return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(x), 8)); }
INLINE Vi even_signed(Vi x) { return vreinterpretq_s32_s16(vshrq_n_s16(vshlq_n_s16(vreinterpretq_s16_s32(x), 8), 8)); }
INLINE Vi odd_signed(Vi x) { return vreinterpretq_s32_s16(vshrq_n_s16(vreinterpretq_s16_s32(x), 8)); }
INLINE Vi dot_pairs(Vi acc, Vi a, Vi b) {
  const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
  return vaddq_s32(acc, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
constexpr bool kDotHalves = false;
constexpr bool kDotBytes = false, kDotBounded = false;
INLINE Vi dot_bytes(Vi acc, Vi u, Vi s) {
  return dot_pairs(dot_pairs(acc, even_unsigned(u), even_signed(s)), odd_unsigned(u), odd_signed(s));
}
INLINE Vi dot_bounded(Vi acc, Vi u, Vi s) { return dot_bytes(acc, u, s); }
INLINE unsigned beyond_bounds(Vi) { return 0; }
// Sums of int16, as 8 times 2 products of at most 15 * 127 are 30480.
INLINE Vi dot_nibbles(Vi acc, Vi u, Vi s) {
  const int8x16_t a = vreinterpretq_s8_s32(u), b = vreinterpretq_s8_s32(s);
  const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
  return vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(acc), pairs));
}
INLINE Vi finish_nibbles(Vi acc) { return vpaddlq_s16(vreinterpretq_s16_s32(acc)); }

INLINE float sum(Vf x) {
  const float32x2_t h = vadd_f32(vget_low_f32(x), vget_high_f32(x));
  return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
INLINE float maximum(Vf x) { return vmaxvq_f32(x); }
