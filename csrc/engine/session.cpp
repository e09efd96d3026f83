#include "engine/session.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fastattn {
namespace {

// Below the first an op is done by one thread: a barrier costs as much as it would save. Below the second a step stays
// on its own thread: the others may be busy elsewhere.
constexpr double kSerialOpFlops = 1.5e5, kSerialStepFlops = 4e6;

std::vector<PagedLayer> layers_of(const std::map<int64_t, PagedLayer>& by_index, const char* what) {
  std::vector<PagedLayer> layers;
  for (const auto& [index, layer] : by_index) {
    if (index != static_cast<int64_t>(layers.size()))
      throw std::invalid_argument(std::string(what) + " layers must be numbered from 0 without gaps");
    layers.push_back(layer);
  }
  return layers;
}

[[noreturn]] void bad(const std::string& message) { throw std::invalid_argument(message); }

int64_t rounded(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace

Session::Session(std::shared_ptr<const Program> encoder, std::shared_ptr<const Program> decoder, int num_threads)
    : encoder_(std::move(encoder)), decoder_(std::move(decoder)), num_threads_(std::max(1, num_threads)) {
  state_.cache.set_layers(layers_of(decoder_->cache_layers, "cache"));
  if (encoder_) {
    state_.memory_pages.set_layers(layers_of(encoder_->memory_layers, "memory"));
    state_.row_widths = encoder_->memory_row_widths;
    state_.state_widths = encoder_->state_widths;
  }
  for (size_t i = 0; i < decoder_->state_widths.size(); ++i) {
    if (i >= state_.state_widths.size()) state_.state_widths.resize(i + 1, 0);
    if (state_.state_widths[i] && state_.state_widths[i] != decoder_->state_widths[i]) bad("a state has two widths");
    state_.state_widths[i] = decoder_->state_widths[i];
  }
  for (const int64_t width : state_.state_widths) {
    state_.state_offsets.push_back(state_.state_width);
    state_.state_width += width;
  }
  frame_.state = &state_;
}

void Session::start(int64_t batch) {
  if (batch < 1) bad("start takes a batch of at least one sequence: got " + std::to_string(batch));
  for (Sequence& sequence : state_.sequences) state_.release(sequence);
  if (static_cast<int64_t>(state_.sequences.size()) < batch) state_.sequences.resize(static_cast<size_t>(batch));
  state_.states.resize(static_cast<size_t>(batch * state_.state_width));
  state_.states.zero();
  batch_ = batch;
  encoded_ = encoder_ == nullptr;
}

void Session::check(const Program& program, const int32_t* ids, const int64_t* lengths, int64_t batch) const {
  const int64_t limit = program.max_positions;
  for (int64_t s = 0, row = 0; s < batch; ++s) {
    if (lengths[s] < 1) bad("sequence " + std::to_string(s) + " has no tokens: every sequence takes at least one");
    if (program.sequential && lengths[s] != 1)
      bad("a recurrent decoder takes one token per sequence and step, got " + std::to_string(lengths[s]));
    const int64_t before = &program == encoder_.get() ? 0 : length(s);
    if (limit && before + lengths[s] > limit)
      bad("position " + std::to_string(before + lengths[s] - 1) + " is past the table of " + std::to_string(limit) +
          " positions");
    for (const int64_t end = row + lengths[s]; row < end; ++row)
      if (program.vocabulary && (ids[row] < 0 || ids[row] >= program.vocabulary))
        bad("token id " + std::to_string(ids[row]) + " is outside the vocabulary of " +
            std::to_string(program.vocabulary));
  }
}

void Session::encode(const int32_t* ids, const int64_t* lengths, int64_t batch, bool capture) {
  const Clock::time_point begin = profiling_ ? Clock::now() : Clock::time_point{};
  if (!encoder_) bad("this model has no encoder: use start()");
  if (batch < 1) bad("encode takes at least one sequence: got " + std::to_string(batch));
  check(*encoder_, ids, lengths, batch);
  start(batch);
  for (int64_t s = 0; s < batch; ++s) {
    const int32_t id = state_.take_memory();
    state_.sequences[static_cast<size_t>(s)].memory = id;
    Memory& memory = state_.memories[static_cast<size_t>(id)];
    memory.length = lengths[s];
    if (state_.memory_pages.layer_count())
      for (int64_t t = 0; t < lengths[s]; t += kPage) memory.pages.push_back(state_.memory_pages.take());
    for (size_t slot = 0; slot < state_.row_widths.size(); ++slot)
      memory.rows[slot].resize(static_cast<size_t>(lengths[s] * state_.row_widths[slot]));
  }
  encoded_ = true;
  lay_out(*encoder_, ids, lengths, batch, false);
  copies_.clear();
  static const Select nothing;
  prepare_results(*encoder_, nothing);
  prepare_records(*encoder_, capture);
  execute(*encoder_);
  if (profiling_) account(*encoder_, seconds_between(begin, Clock::now()));
}

void Session::step(const int32_t* ids, const int64_t* lengths, int64_t batch, const Select& select, bool all_rows,
                   bool capture) {
  const Clock::time_point begin = profiling_ ? Clock::now() : Clock::time_point{};
  if (!encoded_) bad("step before encode: this model's decoder attends to an encoded input");
  if (batch != batch_)
    bad("step takes one token array per sequence: got " + std::to_string(batch) + " for a batch of " +
        std::to_string(batch_));
  check(*decoder_, ids, lengths, batch);
  lay_out(*decoder_, ids, lengths, batch, all_rows);
  prepare_results(*decoder_, select);  // the last that may throw: pages are not yet exchanged
  reserve_pages();
  prepare_records(*decoder_, capture);
  execute(*decoder_);
  if (profiling_) account(*decoder_, seconds_between(begin, Clock::now()));
  for (int64_t s = 0; s < batch; ++s) state_.sequences[static_cast<size_t>(s)].length += lengths[s];
}

void Session::reorder(const int32_t* parents, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (parents[i] < 0 || parents[i] >= batch_)
      bad("parents[" + std::to_string(i) + "] = " + std::to_string(parents[i]) + " is outside the batch of " +
          std::to_string(batch_));
  state_.reorder(parents, n);
  batch_ = n;
}

// Row counts and the maps between rows and sequences.
void Session::lay_out(const Program& program, const int32_t* ids, const int64_t* lengths, int64_t batch,
                      bool all_rows) {
  Frame& f = frame_;
  const size_t B = static_cast<size_t>(batch);
  f.batch = batch;
  f.ids = ids;
  f.offsets.resize(B + 1);
  f.positions.resize(B);
  f.by_length.resize(B);
  f.offsets[0] = 0;
  for (size_t s = 0; s < B; ++s) {
    f.offsets[s + 1] = f.offsets[s] + lengths[s];
    f.positions[s] = &program == encoder_.get() ? 0 : state_.sequences[s].length;
    f.by_length[s] = static_cast<int64_t>(s);
  }
  f.tokens = f.offsets[B];
  if (f.tokens != batch)
    std::sort(f.by_length.data(), f.by_length.data() + B,
              [&](int64_t a, int64_t b) { return f.length(a) != f.length(b) ? f.length(a) > f.length(b) : a < b; });
  f.last = all_rows ? f.tokens : batch;
  f.last_rows.resize(static_cast<size_t>(f.last));
  f.row_sequence.resize(static_cast<size_t>(f.tokens));
  for (size_t s = 0; s < B; ++s) {
    for (int64_t r = f.offsets[s]; r < f.offsets[s + 1]; ++r)
      f.row_sequence[static_cast<size_t>(r)] = static_cast<int64_t>(s);
    f.last_rows[all_rows ? 0 : s] = f.offsets[s + 1] - 1;
  }
  if (all_rows)
    for (int64_t r = 0; r < f.tokens; ++r) f.last_rows[static_cast<size_t>(r)] = r;
  place(program);
}

// Gives every value its rows in the arena.
void Session::place(const Program& program) {
  Frame& f = frame_;
  f.infos = program.values.data();
  slot_sizes_.resize(static_cast<size_t>(program.slots) + 1);
  slot_sizes_.zero();
  for (const ValueInfo& value : program.values)
    if (value.slot >= 0) slot_sizes_[static_cast<size_t>(value.slot)] = rounded(f.rows(value.rows) * value.cols);
  int64_t total = 0;
  for (size_t slot = 0; slot <= static_cast<size_t>(program.slots); ++slot)
    total += std::exchange(slot_sizes_[slot], total);
  arena_.resize(static_cast<size_t>(total));
  f.values.resize(program.values.size());
  for (size_t v = 0; v < program.values.size(); ++v)
    f.values[v] =
        program.values[v].slot < 0 ? nullptr : arena_.data() + slot_sizes_[static_cast<size_t>(program.values[v].slot)];
}

// Pages for the tokens of this step. A page that others hold too is copied before it is written.
void Session::reserve_pages() {
  copies_.clear();
  if (!state_.cache.layer_count()) return;
  for (int64_t s = 0; s < batch_; ++s) {
    Sequence& sequence = state_.sequences[static_cast<size_t>(s)];
    if (sequence.length % kPage && state_.cache.references(sequence.pages.back()) > 1) {
      const int32_t shared = sequence.pages.back();
      sequence.pages.back() = state_.cache.take();
      copies_.emplace_back(shared, sequence.pages.back());
      state_.cache.release(shared);
    }
    const int64_t needed = (sequence.length + frame_.length(s) + kPage - 1) / kPage;
    while (static_cast<int64_t>(sequence.pages.size()) < needed) sequence.pages.push_back(state_.cache.take());
  }
}

void Session::copy_pages(const Team& team) {
  const int64_t floats = state_.cache.page_floats();
  const Range mine = team.split(floats / 16);
  for (const auto& [from, to] : copies_)
    std::memcpy(state_.cache.data(to) + mine.begin * 16, state_.cache.data(from) + mine.begin * 16,
                static_cast<size_t>(mine.end - mine.begin) * 16 * sizeof(float));
}

void Session::prepare_results(const Program& program, const Select& select) {
  Results& results = frame_.results;
  frame_.select = &select;
  results.vocabulary = program.output < 0 ? 0 : program.values[static_cast<size_t>(program.output)].cols;
  if (select.k < 0 || select.k > results.vocabulary)
    bad("k = " + std::to_string(select.k) + " best tokens of a vocabulary of " + std::to_string(results.vocabulary));
  if (select.logits && program.output < 0)
    bad("logits were asked for, but the graph " + program.name + " has no output");
  const size_t rows = static_cast<size_t>(frame_.last);
  results.scores.resize(rows * static_cast<size_t>(select.k));
  results.tokens.resize(rows * static_cast<size_t>(select.k));
  results.log_sum_exp.resize(select.k || select.logits ? rows : 0);
  results.logits = select.logits ? frame_.values[static_cast<size_t>(program.output)] : nullptr;
}

void Session::prepare_records(const Program& program, bool capture) {
  frame_.capture = capture;
  if (!capture) return;
  if (frame_.records.size() < program.records.size()) frame_.records.resize(program.records.size());
  int64_t own = 0, memory = 0;
  for (int64_t s = 0; s < frame_.batch; ++s) {
    own = std::max(own, frame_.positions[static_cast<size_t>(s)] + frame_.length(s));
    if (encoder_) memory = std::max(memory, frame_.memory(s).length);
  }
  for (size_t i = 0; i < program.records.size(); ++i) {
    Record& record = frame_.records[i];
    record.kind = program.records[i].kind, record.layer = program.records[i].layer,
    record.heads = program.records[i].heads;
    record.rows = frame_.tokens;
    record.span = record.kind == Kind::cross ? memory : own;
    record.weights.resize(static_cast<size_t>(record.rows * record.heads * record.span));
    record.weights.zero();
    record.scores.resize(program.records[i].keeps_scores ? record.weights.size() : 0);
    record.scores.zero();
  }
}

// The threads walk the ops together. A cheap op is done by the first thread alone, and there is a barrier only where
// the work of several threads meets.
template <class Follower>
void Session::walk(const Program& program, Team& team, Follower follower) {
  bool apart = !copies_.empty();  // several threads have worked since the last barrier
  copy_pages(team);
  for (size_t i = 0; i < program.nodes.size(); ++i) {
    const Node& node = program.nodes[i];
    const bool serial = serial_[i];
    if (apart || (!serial && i > 0)) {
      team.barrier();
      follower.waited(i);
    }
    if (!serial) {
      node.op->run(node, frame_, team);
    } else if (team.ith == 0) {
      Team alone{0, 1, nullptr};
      node.op->run(node, frame_, alone);
    }
    follower.ran(i);
    apart = !serial;
  }
}

void Session::execute(const Program& program) {
  const size_t count = program.nodes.size();
  Needs most;
  serial_.resize(count);
  double flops = static_cast<double>(copies_.size()) * static_cast<double>(state_.cache.page_floats()) * 4;
  for (size_t i = 0; i < count; ++i) {
    const Needs needs = program.nodes[i].op->needs(program.nodes[i], frame_);
    most.shared = std::max(most.shared, needs.shared);
    most.per_thread = std::max(most.per_thread, rounded(needs.per_thread));
    serial_[i] = needs.flops < kSerialOpFlops;
    flops += needs.flops;
  }
  shared_.resize(static_cast<size_t>(most.shared));
  scratch_.resize(static_cast<size_t>(most.per_thread * num_threads_));
  frame_.shared = shared_.data();
  frame_.scratch.resize(static_cast<size_t>(num_threads_));
  for (int t = 0; t < num_threads_; ++t) frame_.scratch[static_cast<size_t>(t)] = scratch_.data() + t * most.per_thread;
  last_program_ = &program;
  Profile& profile = profiles_[&program == encoder_.get() ? 0 : 1];
  parallel(flops < kSerialStepFlops ? 1 : num_threads_, [&](Team& team) {
    if (profiling_ && team.ith == 0) {
      walk(program, team, Watch{profile.ops});
    } else {
      walk(program, team, Unwatched{});
    }
  });
}

void Session::profile(bool on) {
  profiling_ = on;
  for (int i = 0; i < 2; ++i) {
    const Program* program = (i == 0 ? encoder_ : decoder_).get();
    profiles_[i] = {};
    profiles_[i].ops.resize(program ? program->nodes.size() : 0);
  }
}

// After a step that was profiled: what it did, beside the times that the walk took.
void Session::account(const Program& program, double seconds) {
  Profile& profile = profiles_[&program == encoder_.get() ? 0 : 1];
  ++profile.steps;
  profile.rows += frame_.tokens;
  profile.seconds += seconds;
  for (size_t i = 0; i < program.nodes.size(); ++i)
    add_work(program.nodes[i], frame_, program.nodes[i].op->needs(program.nodes[i], frame_), profile.ops[i]);
}

}  // namespace fastattn
