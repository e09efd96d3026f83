#include "engine/layout.h"

#include <algorithm>
#include <utility>

namespace fastattn {
namespace {

// Attention over values that no cache keeps starts inside their rows, head by head, and may read from there up to the
// distance of rows, in whole vectors: beyond the last row, less than one.
constexpr size_t kSlack = 16;

}  // namespace

void Layout::map_rows(Frame& f, const int64_t* lengths, int64_t batch, bool all_rows) {
  const size_t B = static_cast<size_t>(batch);
  const bool one_each = std::all_of(lengths, lengths + batch, [](int64_t length) { return length == 1; });
  const bool same = one_each && one_each_ && offsets_.size() == B + 1 && all_rows == all_rows_;
  one_each_ = one_each, all_rows_ = all_rows;
  if (!same) {
    offsets_.resize(B + 1);
    by_length_.resize(B);
    offsets_[0] = 0;
    for (size_t s = 0; s < B; ++s) {
      offsets_[s + 1] = offsets_[s] + lengths[s];
      by_length_[s] = static_cast<int64_t>(s);
    }
  }
  f.offsets = offsets_.data(), f.positions = positions_.data(), f.by_length = by_length_.data();
  f.tokens = offsets_[B];
  f.last = all_rows ? f.tokens : batch;
  if (!same) {
    if (!one_each)
      std::sort(by_length_.data(), by_length_.data() + B,
                [&](int64_t a, int64_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
    last_rows_.resize(static_cast<size_t>(f.last));
    row_sequence_.resize(static_cast<size_t>(f.tokens));
    for (size_t s = 0; s < B; ++s) {
      for (int64_t r = offsets_[s]; r < offsets_[s + 1]; ++r) {
        row_sequence_[static_cast<size_t>(r)] = static_cast<int64_t>(s);
        if (all_rows) last_rows_[static_cast<size_t>(r)] = r;
      }
      if (!all_rows) last_rows_[s] = offsets_[s + 1] - 1;
    }
  }
  f.last_rows = last_rows_.data(), f.row_sequence = row_sequence_.data();
}

// Into slots_: where each slot of shared, or of private values begins. Returns how many floats they take.
int64_t Layout::offsets_of_slots(const Frame& frame, const Program& program, const Plan& plan, bool of_private) {
  slots_.resize(static_cast<size_t>(program.slots) + 1);
  slots_.zero();
  for (size_t v = 0; v < program.values.size(); ++v) {
    const ValueInfo& value = program.values[v];
    if (value.slot >= 0 && plan.is_private[v] == of_private)
      slots_[static_cast<size_t>(value.slot)] = whole_lines(frame.rows(value.rows) * value.cols);
  }
  int64_t total = 0;
  for (int64_t& slot : slots_) total += std::exchange(slot, total);
  return total;
}

void Layout::place(Frame& frame, const Program& program, const Plan& plan, int num_threads) {
  value_count_ = program.values.size();
  values_.resize(value_count_ * static_cast<size_t>(num_threads));
  for (const bool of_private : {false, true}) {
    const int64_t floats = offsets_of_slots(frame, program, plan, of_private);
    Buffer<float>& arena = of_private ? private_ : arena_;
    arena.resize(static_cast<size_t>(of_private ? floats * num_threads : floats) + kSlack);
    for (size_t v = 0; v < value_count_; ++v) {
      const int slot = program.values[v].slot;
      if (slot >= 0 && plan.is_private[v] != of_private) continue;
      for (int t = 0; t < num_threads; ++t)
        values_[static_cast<size_t>(t) * value_count_ + v] =
            slot < 0 ? nullptr : arena.data() + (of_private ? floats * t : 0) + slots_[static_cast<size_t>(slot)];
    }
  }
  frame.values = values_.data();
}

}  // namespace fastattn
