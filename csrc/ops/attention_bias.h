// Biases of attention that depend on the distance between key and query alone: T5's table and ALiBi's slopes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "ops/weight.h"

namespace fastattn {

// Where a bias comes from. Layers that share a tensor share its values.
struct BiasSource {
  const Weight* table = nullptr;   // [buckets, H], or null
  const Weight* slopes = nullptr;  // [H], or null
  int64_t heads = 0, max_distance = 0;
  bool bidirectional = false, causal = false;

  bool operator==(const BiasSource& other) const {
    return table == other.table && slopes == other.slopes && heads == other.heads &&
           max_distance == other.max_distance && bidirectional == other.bidirectional && causal == other.causal;
  }
};

// T5's bucket of a distance, key position - query position (Raffel et al. 2020): exact up to half the buckets (of a
// side), then logarithmic up to max_distance, in float32 as transformers computes it.
int64_t relative_bucket(int64_t distance, int64_t buckets, int64_t max_distance, bool bidirectional);

// One vector per head over the distances 1 - length .. length - 1 (up to 0 if causal): the bias of a query at position
// p for key j stands at row(h, p)[j], so rows are slides into the vector and nothing is copied.
class DistanceBias {
 public:
  explicit DistanceBias(const BiasSource& source) : source_(source) {}
  const BiasSource& source() const { return source_; }

  // Makes room for sequences of `length` tokens; grows by doubling.
  void reserve(int64_t length);
  const float* row(int64_t head, int64_t position) const {
    return values_.data() + head * stride_ + length_ - 1 - position;
  }

 private:
  BiasSource source_;
  Buffer<float> values_;
  int64_t length_ = 0, stride_ = 0;
};

// Those of a session. Calls of `of` come from one thread, between regions.
class DistanceBiases {
 public:
  DistanceBias& of(const BiasSource& source);
  const DistanceBias* find(const BiasSource& source) const;

 private:
  std::vector<std::unique_ptr<DistanceBias>> biases_;
};

}  // namespace fastattn
