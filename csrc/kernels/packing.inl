// Weights into panels, rows of a panel back to floats, and activations to int8. docs/packing.md has the layouts.
//
// Quantisation is symmetric: x ~ scale * code. Every step is one IEEE operation, so the codes are the same on every
// instruction set. A channel, group or row that is zero, or below kLeast throughout, has scale 0; one that holds a NaN
// or an infinity has scale NaN and codes 0, which makes all it multiplies NaN.

constexpr float kLeast = 0x1p-100f;

INLINE Vf unless_tiny(Vf magnitude, Vf x) { return select(less(magnitude, set1(kLeast)), set1(0.0f), x); }

void pack_bfloat16(const float* columns, int64_t K, uint8_t* panel) {
  for (int64_t k = 0; k < K; ++k)
    for (int c = 0; c < kPanel / 2; c += kLanes) {
      const float* x = columns + k * kPanel + c;
      store_int(panel + k * 2 * kPanel + c * 4,
                paired(nearest_bfloat16(load(x)), nearest_bfloat16(load(x + kPanel / 2))));
    }
}

// Floats that float16 holds; of others the last bits are cut off.
void pack_float16(const float* columns, int64_t K, uint8_t* panel) {
  constexpr uint32_t infinite = 0x7f800000, normal = 113u << 23, bias = 112u << 10;  // normal: 2^-14
  uint16_t* out = reinterpret_cast<uint16_t*>(panel);
  for (int64_t i = 0; i < K * kPanel; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, &columns[i], sizeof bits);
    const uint32_t size = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    const uint32_t half = size >= infinite ? 0x7c00 | (size >> 13 & 0x3ff)
                          : size >= normal ? (size >> 13) - bias
                                           : static_cast<uint32_t>(__builtin_fabsf(columns[i]) * 0x1p24f);
    out[i] = static_cast<uint16_t>(half | sign);
  }
}

// x as words of two k of bfloat16, the even one in the high half.
void round_row(const float* x, int64_t K, void* row) {
  alignas(64) uint32_t bits[2 * kLanes], words[kLanes];
  uint8_t* out = static_cast<uint8_t*>(row);
  for (int64_t k = 0; k < rounded_bytes(K) / 2; k += 2 * kLanes, out += 4 * kLanes) {
    for (int i = 0; i < 2 * kLanes; i += kLanes)
      store_int(bits + i, nearest_bfloat16(load_up_to(x + k + i, maximum(0, K - k - i))));
    for (int i = 0; i < kLanes; ++i) words[i] = bits[2 * i] | bits[2 * i + 1] >> 16;
    __builtin_memcpy(out, words, sizeof words);
  }
}

// The codes of 4 k of kLanes columns, one word for each column.
INLINE Vi four_in_a_word(const Vi (&code)[4]) {
  const Vi low = or_int(code[0], shift_left<8>(code[1])), high = or_int(code[2], shift_left<8>(code[3]));
  return or_int(low, shift_left<16>(high));
}

void pack_int8(const float* columns, int64_t K, uint8_t* panel) {
  float* scales = reinterpret_cast<float*>(panel + quads(K) * 4 * kPanel);
  for (int c = 0; c < kPanel; c += kLanes) {
    Vf most = set1(0.0f), odd = set1(0.0f);
    for (int64_t k = 0; k < K; ++k) {
      const Vf x = load(columns + k * kPanel + c);
      most = max(abs(x), most);
      odd = odd + (x - x);  // NaN once there is a NaN or an infinity
    }
    const Vm bad = is_nan(odd);
    const Vf inverse = unless_tiny(most, set1(127.0f) / most);
    store(scales + c, select(bad, odd, unless_tiny(most, most / set1(127.0f))));
    for (int64_t quad = 0; quad < quads(K); ++quad) {
      Vi code[4];
      for (int i = 0; i < 4; ++i) {
        const int64_t k = quad * 4 + i;
        const Vf x = k < K ? load(columns + k * kPanel + c) * inverse : set1(0.0f);
        code[i] = add_int(to_int(select(bad, set1(0.0f), x)), set1_int(kInt8Zero));
      }
      store_int(panel + (quad * kPanel + c) * 4, four_in_a_word(code));
    }
  }
}

// How the scale of an int4 group is chosen: the element of largest magnitude becomes the code 1 / step, for the step
// that gives the least squared error; beyond [-8, 7] codes are cut off.
constexpr float kInt4Steps[] = {-8.0f, -7.5f, -8.5f, -9.0f, -7.0f, 7.0f, 7.5f, 8.0f};

INLINE Vi int4_code(Vf x, Vf inverse) { return to_int(max(set1(-8.0f), min(set1(7.0f), x * inverse))); }

// The scale of kLanes columns of a group, a bfloat16; x: (kGroup, kPanel).   1 / scale, or 0, in `inverse`
INLINE Vi int4_scale(const float* x, Vf& inverse) {
  Vf extreme = set1(0.0f), odd = set1(0.0f);
  for (int k = 0; k < kGroup; ++k) {
    const Vf w = load(x + k * kPanel);
    extreme = select(less(abs(extreme), abs(w)), w, extreme);
    odd = odd + (w - w);
  }
  const Vf magnitude = abs(extreme);
  Vf best = set1(0.0f), least = set1(kInfinity);
  for (const float step : kInt4Steps) {
    const Vf scale = as_float(nearest_bfloat16(unless_tiny(magnitude, extreme / set1(step))));
    const Vf one_over = unless_tiny(magnitude, set1(1.0f) / scale);
    Vf error = set1(0.0f);
    for (int k = 0; k < kGroup; ++k) {
      const Vf w = load(x + k * kPanel), d = w - to_float(int4_code(w, one_over)) * scale;
      error = error + d * d;
    }
    const Vm better = less(error, least);
    const bool first = step == kInt4Steps[0];  // it is taken in any case: errors of huge weights are infinite
    best = first ? scale : select(better, scale, best);
    inverse = first ? one_over : select(better, one_over, inverse);
    least = select(better, error, least);
  }
  const Vm bad = is_nan(odd);
  inverse = select(bad, set1(0.0f), inverse);
  return nearest_bfloat16(select(bad, odd, best));
}

void pack_int4_group(const float* x, uint8_t* group) {
  alignas(64) float inverse[kPanel];
  for (int c = 0; c < kPanel / 2; c += kLanes) {
    Vf low, high;
    const Vi a = int4_scale(x + c, low), b = int4_scale(x + kPanel / 2 + c, high);
    store_int(group + c * 4, paired(a, b));
    store(inverse + c, low), store(inverse + kPanel / 2 + c, high);
  }
  for (int i = 0; i < kGroup / 4; ++i)
    for (int c = 0; c < kPanel / 2; c += kLanes) {
      Vi code[2][4];
      for (int half = 0; half < 2; ++half)
        for (int j = 0; j < 4; ++j) {
          const int at = half * kPanel / 2 + c;
          const Vf scaled = load(inverse + at), w = load(x + (i * 4 + j) * kPanel + at);
          const Vi signed_code = int4_code(select(equal(scaled, set1(0.0f)), set1(0.0f), w), scaled);
          code[half][j] = add_int(signed_code, set1_int(kInt4Zero));
        }
      store_int(group + 2 * kPanel + i * 64 + c * 4,
                or_int(four_in_a_word(code[0]), shift_left<4>(four_in_a_word(code[1]))));
    }
}

void pack_int4(const float* columns, int64_t K, uint8_t* panel) {
  alignas(64) float last[kGroup * kPanel];
  for (int64_t g = 0; g < groups(K); ++g) {
    const float* x = columns + g * kGroup * kPanel;
    const int64_t there = minimum(kGroup, K - g * kGroup) * kPanel;
    if (there < kGroup * kPanel) {
      for (int64_t i = 0; i < kGroup * kPanel; i += kLanes) store(last + i, i < there ? load(x + i) : set1(0.0f));
      x = last;
    }
    pack_int4_group(x, panel + g * kGroupBytes);
  }
}

void pack_panel(DType type, const float* columns, int64_t K, void* panel) {
  uint8_t* out = static_cast<uint8_t*>(panel);
  switch (type) {
    case DType::float32: __builtin_memcpy(out, columns, static_cast<size_t>(K * kPanel) * sizeof(float)); break;
    case DType::bfloat16:
    case DType::narrow: pack_bfloat16(columns, K, out); break;
    case DType::float16: pack_float16(columns, K, out); break;
    case DType::int8: pack_int8(columns, K, out); break;
    case DType::int4: pack_int4(columns, K, out); break;
    case DType::rounded: break;  // no weight has it
  }
}

// A bfloat16 column of a row of words as paired() makes them.
INLINE float bfloat16_column(const uint8_t* words, int column) {
  uint32_t word;
  __builtin_memcpy(&word, words + column % (kPanel / 2) * 4, sizeof word);
  word = column < kPanel / 2 ? word << 16 : word & 0xffff0000u;
  float x;
  __builtin_memcpy(&x, &word, sizeof x);
  return x;
}

void unpack_row(DType type, const void* panel, int64_t K, int column, float* out) {
  const uint8_t* bytes = static_cast<const uint8_t*>(panel);
  switch (type) {
    case DType::float32: {
      const float* x = static_cast<const float*>(panel) + column;
      for (int64_t k = 0; k < K; ++k) out[k] = x[k * kPanel];
      break;
    }
    case DType::bfloat16:
    case DType::narrow:
      for (int64_t k = 0; k < K; ++k) out[k] = bfloat16_column(bytes + k * 2 * kPanel, column);
      break;
    case DType::float16:
      for (int64_t k = 0; k < K; ++k) {
        float row[kPanel];
        const Float16* step = static_cast<const Float16*>(panel) + k * kPanel;
        const int lane = column / kLanes * kLanes;
        store(row, load(step + lane));
        out[k] = row[column - lane];
      }
      break;
    case DType::int8: {
      const float scale = reinterpret_cast<const float*>(bytes + quads(K) * 4 * kPanel)[column];
      for (int64_t k = 0; k < K; ++k)
        out[k] = static_cast<float>(bytes[(k / 4 * kPanel + column) * 4 + k % 4] - kInt8Zero) * scale;
      break;
    }
    case DType::int4:
      for (int64_t k = 0; k < K; ++k) {
        const uint8_t* group = bytes + k / kGroup * kGroupBytes;
        const int64_t in_group = k % kGroup;
        const int line = group[2 * kPanel + in_group / 4 * 64 + column % (kPanel / 2) * 4 + in_group % 4];
        const int code = (column < kPanel / 2 ? line & 15 : line >> 4) - kInt4Zero;
        out[k] = static_cast<float>(code) * bfloat16_column(group, column);
      }
      break;
    case DType::rounded: break;
  }
}

void quantize_row(const float* x, int64_t K, void* row) {
  uint8_t* bytes = static_cast<uint8_t*>(row);
  Vf most = set1(0.0f), odd = set1(0.0f);
  for (int64_t k = 0; k < K; k += kLanes) {
    const Vf v = load_up_to(x + k, K - k);
    most = max(abs(v), most);
    odd = odd + (v - v);
  }
  const float absmax = maximum(most), bad = sum(odd);
  const bool finite = bad == 0.0f, zero = !finite || absmax < kLeast;
  const Vf inverse = set1(zero ? 0.0f : 127.0f / absmax);
  int8_t* codes = reinterpret_cast<int8_t*>(bytes + quantized_codes(K));
  int32_t* sums = reinterpret_cast<int32_t*>(bytes + kRowSums);
  int32_t total = 0;
  for (int64_t k = 0; k < round_up(K, 64); k += kGroup) {
    Vf group = set1(0.0f);
    for (int i = 0; i < kGroup; i += kLanes) {
      const int64_t left = K - k - i;
      const Vi code = left <= 0 || zero ? set1_int(0) : to_int(load_up_to(x + k + i, left) * inverse);
      group = group + to_float(code);  // integers: exact
      store_bytes(codes + k + i, code);
    }
    const int32_t s = static_cast<int32_t>(sum(group));
    total += s;
    if (k < K) sums[k / kGroup] = -kInt4Zero * s;
  }
  *reinterpret_cast<float*>(bytes) = finite ? (zero ? 0.0f : absmax / 127.0f) : bad;
  *reinterpret_cast<int32_t*>(bytes + 4) = total;
}
