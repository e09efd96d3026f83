#include "engine/plan.h"

#include <algorithm>

namespace fastattn {
namespace {

// In flops. Below the first an op of single rows is done by each thread for itself, below the second any op by the
// first thread alone: a barrier costs as much as it would save. Below the third a step stays on its own thread: the
// others may be busy elsewhere.
constexpr double kEachOp = 1.2e4, kSerialOp = 5e4, kSerialStep = 1e6;

Touch touch(Who who) { return who == Who::first ? Touch::first : Touch::others; }

// Whether an op of `who` may not go on before what `by` did is done: the first thread never waits for itself.
bool clashes(Touch by, Who who) { return by == Touch::others || (by == Touch::first && who != Who::first); }

}  // namespace

bool Plan::update(const Program& program, const Frame& frame, int num_threads) {
  const Shape shape{&program,   frame.tokens, frame.batch,
                    frame.last, num_threads,  frame.select->k > 0 || frame.select->logits};
  const bool same = shape.program == shape_.program && shape.tokens == shape_.tokens && shape.batch == shape_.batch &&
                    shape.last == shape_.last && shape.threads == shape_.threads && shape.chooses == shape_.chooses &&
                    shape.tokens == shape.batch;  // else lengths may differ though their sum does not
  shape_ = shape;
  needs_.resize(program.nodes.size());
  shared = per_thread = 0;
  double flops = 0;
  for (size_t i = 0; i < needs_.size(); ++i) {
    const Node& node = program.nodes[i];
    // Needs of ops that pack for others depend on frame.kernel, too: those are `kept`.
    if (!same || node.op->reach == Reach::kept) needs_[i] = node.op->needs(node, frame);
    shared = std::max(shared, needs_[i].shared);
    per_thread = std::max(per_thread, whole_lines(needs_[i].per_thread));
    flops += needs_[i].flops;
  }
  single = num_threads == 1 || flops < kSerialStep;
  who_.swap(who_before_);
  share_out(program);
  if (same && who_ == who_before_) return false;
  find_barriers(program);
  return true;
}

void Plan::share_out(const Program& program) {
  who_.resize(needs_.size());
  for (size_t i = 0; i < needs_.size(); ++i) {
    const Node& node = program.nodes[i];
    if (single) {
      who_[i] = Who::first;
    } else if (node.op->reach == Reach::rows && node.outputs[0] != program.output) {
      who_[i] = needs_[i].flops < kEachOp ? Who::each : Who::all;
    } else {  // the logits, too, which are changed in place by all threads
      who_[i] = needs_[i].flops < kSerialOp ? Who::first : Who::all;
    }
  }
}

// A barrier stands where an op reads what other threads have written since the last one, or writes where they have read
// or written. What sessions keep, and the shared scratch, count as one place.
void Plan::find_barriers(const Program& program) {
  ops.assign(who_.size(), {});
  is_private.assign(program.values.size(), false);
  const size_t kept = static_cast<size_t>(program.slots);
  written_.assign(kept + 1, Touch::nobody);
  read_.assign(kept + 1, Touch::nobody);
  const auto slot_of = [&](int value) { return static_cast<size_t>(program.values[static_cast<size_t>(value)].slot); };
  const auto placed = [&](int value) {
    return program.values[static_cast<size_t>(value)].slot >= 0 && !is_private[static_cast<size_t>(value)];
  };
  for (size_t i = 0; i < ops.size(); ++i) {
    const Node& node = program.nodes[i];
    const Who who = who_[i];
    const bool keeps = node.op->reach == Reach::kept || needs_[i].shared > 0;
    bool barrier = keeps && clashes(written_[kept], who);
    for (const int v : node.inputs) barrier = barrier || (placed(v) && clashes(written_[slot_of(v)], who));
    for (const int v : node.outputs) {
      is_private[static_cast<size_t>(v)] = who == Who::each;
      barrier = barrier || (placed(v) && (clashes(written_[slot_of(v)], who) || clashes(read_[slot_of(v)], who)));
    }
    if (barrier) {
      std::fill(written_.begin(), written_.end(), Touch::nobody);
      std::fill(read_.begin(), read_.end(), Touch::nobody);
    }
    ops[i] = {who, barrier};
    const auto mark = [&](Touch& place) { place = std::max(place, touch(who)); };
    if (keeps) mark(written_[kept]);
    for (const int v : node.inputs)
      if (placed(v)) mark(read_[slot_of(v)]);
    for (const int v : node.outputs)
      if (placed(v)) mark(written_[slot_of(v)]);
  }
}

}  // namespace fastattn
