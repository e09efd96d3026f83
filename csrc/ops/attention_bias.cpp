#include "ops/attention_bias.h"

#include <algorithm>
#include <cmath>

namespace fastattn {

int64_t relative_bucket(int64_t distance, int64_t buckets, int64_t max_distance, bool bidirectional) {
  int64_t first = 0, n = -distance;
  if (bidirectional) {
    buckets /= 2;
    if (distance > 0) first = buckets, n = distance;
  }
  n = std::max<int64_t>(n, 0);
  const int64_t exact = buckets / 2;
  if (n < exact) return first + n;
  // Logarithms by way of double: rounded correctly, whatever the C library's float one does.
  const float ratio = static_cast<float>(n) / static_cast<float>(exact);
  const float span = static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const float steps =
      static_cast<float>(std::log(static_cast<double>(ratio))) / span * static_cast<float>(buckets - exact);
  return first + std::min(exact + static_cast<int64_t>(steps), buckets - 1);
}

void DistanceBias::reserve(int64_t length) {
  if (length <= length_) return;
  const int64_t longest = std::max<int64_t>({length, 2 * length_, 64});
  const int64_t count = source_.causal ? longest : 2 * longest - 1, stride = whole_lines(count);
  values_.resize(static_cast<size_t>(source_.heads * stride));
  length_ = longest, stride_ = stride;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t distance = i - (length_ - 1);
    int64_t bucket = 0;
    if (source_.table)
      bucket = relative_bucket(distance, source_.table->rows, source_.max_distance, source_.bidirectional);
    for (int64_t h = 0; h < source_.heads; ++h)
      values_[static_cast<size_t>(h * stride_ + i)] =
          source_.table ? source_.table->plain[static_cast<size_t>(bucket * source_.heads + h)]
                        : source_.slopes->plain[static_cast<size_t>(h)] * static_cast<float>(distance);
  }
}

const DistanceBias* DistanceBiases::find(const BiasSource& source) const {
  for (const auto& bias : biases_)
    if (bias->source() == source) return bias.get();
  return nullptr;
}

DistanceBias& DistanceBiases::of(const BiasSource& source) {
  for (const auto& bias : biases_)
    if (bias->source() == source) return *bias;
  biases_.push_back(std::make_unique<DistanceBias>(source));
  return *biases_.back();
}

}  // namespace fastattn
