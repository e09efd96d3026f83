// Where the rows of a step belong, and where its values lie.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "engine/plan.h"
#include "engine/program.h"

namespace fastattn {

class Layout {
 public:
  // Row counts and the maps between rows and sequences, into the frame; positions: tokens seen before, by sequence.
  template <class Positions>
  void set_rows(Frame& frame, const int64_t* lengths, int64_t batch, bool all_rows, Positions position) {
    frame.batch = batch;
    positions_.resize(static_cast<size_t>(batch));
    for (int64_t s = 0; s < batch; ++s) positions_[static_cast<size_t>(s)] = position(s);
    map_rows(frame, lengths, batch, all_rows);
  }

  // Gives every value its place in the arena, or, where it is private, one in that of each thread. Nothing moves while
  // neither the rows nor the plan change.
  void place(Frame& frame, const Program& program, const Plan& plan, int num_threads);
  int64_t bytes() const { return arena_.bytes() + private_.bytes(); }
  // The values as thread t sees them.
  float* const* values(int t) const { return values_.data() + static_cast<size_t>(t) * value_count_; }

 private:
  void map_rows(Frame& frame, const int64_t* lengths, int64_t batch, bool all_rows);
  int64_t offsets_of_slots(const Frame& frame, const Program& program, const Plan& plan, bool of_private);

  bool one_each_ = false, all_rows_ = false;  // of the rows laid out: one token a sequence
  Buffer<int64_t> offsets_, positions_, last_rows_, by_length_, row_sequence_;
  Buffer<int64_t> slots_;
  Buffer<float> arena_, private_;
  size_t value_count_ = 0;
  Buffer<float*> values_;
};

}  // namespace fastattn
