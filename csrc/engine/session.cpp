#include "engine/session.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "dispatch/dispatch.h"

namespace fastattn {
namespace {

std::vector<PagedLayer> layers_of(const std::map<int64_t, PagedLayer>& by_index, const char* what) {
  std::vector<PagedLayer> layers;
  for (const auto& [index, layer] : by_index) {
    if (index != static_cast<int64_t>(layers.size()))
      throw std::invalid_argument(std::string(what) + " layers must be numbered from 0 without gaps");
    layers.push_back(layer);
  }
  return layers;
}

// Seconds after which greedy() returns to its caller, who may have been interrupted.
constexpr double kPatience = 0.1;

const Select kNothing;

// Rows fed at a time: the values between ops, which may be many times as wide as what the cache keeps of a token, take
// memory for these alone.
constexpr int64_t kRowsFed = 1024;

// Pieces of a step that wants its last rows only; each has tokens of every sequence.
int64_t pieces_of(const int64_t* lengths, int64_t batch) {
  if (batch == 0) return 1;
  const int64_t rows = std::accumulate(lengths, lengths + batch, int64_t{0});
  return std::min((rows + kRowsFed - 1) / kRowsFed, *std::min_element(lengths, lengths + batch));
}

[[noreturn]] void bad(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace

Session::Session(std::shared_ptr<const Program> encoder, std::shared_ptr<const Program> decoder, int num_threads,
                 DType cache_type)
    : encoder_(std::move(encoder)), decoder_(std::move(decoder)), num_threads_(std::max(1, num_threads)) {
  state_.cache.set_layers(layers_of(decoder_->cache_layers, "cache"), cache_type);
  if (encoder_) {
    state_.memory_pages.set_layers(layers_of(encoder_->memory_layers, "memory"), cache_type);
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
  frame_.results = &results_;
}

// A failure half-way would leave pages, plans and pointers that do not belong together.
template <class Work>
void Session::all_or_nothing(Work work) {
  try {
    work();
  } catch (...) {
    state_.forget();
    copies_.clear();
    plan_ = Plan();
    layout_ = Layout();
    frame_ = Frame();  // nothing of it may be looked at any more
    frame_.state = &state_;
    frame_.results = &results_;
    results_.logits = nullptr;
    batch_ = 0;
    encoded_ = false;
    throw;
  }
}

int64_t Session::bytes() const {
  int64_t bytes =
      state_.cache.bytes() + state_.memory_pages.bytes() + layout_.bytes() + shared_.bytes() + scratch_.bytes();
  for (const Record& record : records_) bytes += record.weights.bytes() + record.scores.bytes();
  return bytes;
}

void Session::start(int64_t batch) {
  if (batch < 1) bad("start takes a batch of at least one sequence: got " + std::to_string(batch));
  all_or_nothing([&] { begin(batch); });
}

void Session::begin(int64_t batch) {
  encoded_ = false;
  if (static_cast<size_t>(batch) > state_.sequences.max_size()) throw std::bad_alloc();
  for (Sequence& sequence : state_.sequences) state_.release(sequence);
  if (static_cast<int64_t>(state_.sequences.size()) < batch) state_.sequences.resize(static_cast<size_t>(batch));
  state_.states.resize(static_cast<size_t>(batch * state_.state_width));
  state_.states.zero();
  batch_ = batch;
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

void Session::encode(const int32_t* ids, const int64_t* lengths, int64_t batch, Capture capture) {
  const Clock::time_point since = profiling_ ? Clock::now() : Clock::time_point{};
  if (!encoder_) bad("this model has no encoder: use start()");
  if (batch < 1) bad("encode takes at least one sequence: got " + std::to_string(batch));
  check(*encoder_, ids, lengths, batch);
  all_or_nothing([&] {
    begin(batch);
    remember(lengths, batch);
    lay_out(*encoder_, ids, lengths, batch, false);
    copies_.clear();
    prepare_results(*encoder_, kNothing);
    prepare_records(*encoder_, capture);
    execute(*encoder_);
  });
  encoded_ = true;
  if (profiling_) account(*encoder_, seconds_between(since, Clock::now()));
}

// Room for what the encoder says of each input.
void Session::remember(const int64_t* lengths, int64_t batch) {
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
}

void Session::check(const Program& program, const Select& select) {
  const int64_t vocabulary = program.output < 0 ? 0 : program.values[static_cast<size_t>(program.output)].cols;
  if (select.k < 0 || select.k > vocabulary)
    bad("k = " + std::to_string(select.k) + " best tokens of a vocabulary of " + std::to_string(vocabulary));
  if (select.logits && program.output < 0)
    bad("logits were asked for, but the graph " + program.name + " has no output");
}

void Session::step(const int32_t* ids, const int64_t* lengths, int64_t batch, const Select& select, bool all_rows,
                   Capture capture) {
  if (encoder_ && !encoded_) bad("step before encode: this model's decoder attends to an encoded input");
  if (batch != batch_)
    bad("step takes one token array per sequence: got " + std::to_string(batch) + " for a batch of " +
        std::to_string(batch_));
  check(*decoder_, ids, lengths, batch);
  check(*decoder_, select);
  const int64_t pieces = all_rows || capture != Capture::nothing || !decoder_->cuttable ? 1 : pieces_of(lengths, batch);
  all_or_nothing([&] {
    if (pieces == 1) return feed(ids, lengths, batch, select, all_rows, capture);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      cut(ids, lengths, batch, piece, pieces);
      feed(piece_ids_.data(), piece_lengths_.data(), batch, piece + 1 < pieces ? kNothing : select, false,
           Capture::nothing);
    }
  });
}

// One piece of every sequence's tokens to piece_ids_ and piece_lengths_.
void Session::cut(const int32_t* ids, const int64_t* lengths, int64_t batch, int64_t piece, int64_t pieces) {
  piece_lengths_.resize(static_cast<size_t>(batch));
  piece_ids_.resize(static_cast<size_t>(std::accumulate(lengths, lengths + batch, int64_t{0})));
  int32_t* to = piece_ids_.data();
  for (int64_t s = 0; s < batch; ids += lengths[s++]) {
    const int64_t begin = lengths[s] * piece / pieces, end = lengths[s] * (piece + 1) / pieces;
    to = std::copy(ids + begin, ids + end, to);
    piece_lengths_[static_cast<size_t>(s)] = end - begin;
  }
}

void Session::feed(const int32_t* ids, const int64_t* lengths, int64_t batch, const Select& select, bool all_rows,
                   Capture capture) {
  const Clock::time_point begin = profiling_ ? Clock::now() : Clock::time_point{};
  lay_out(*decoder_, ids, lengths, batch, all_rows);
  prepare_results(*decoder_, select);
  reserve_pages();
  prepare_records(*decoder_, capture);
  execute(*decoder_);
  if (profiling_) account(*decoder_, seconds_between(begin, Clock::now()));
  for (int64_t s = 0; s < batch; ++s) state_.sequences[static_cast<size_t>(s)].length += lengths[s];
}

int64_t Session::greedy(const int32_t* ids, int64_t batch, int64_t most, const Select& best, const int32_t* stops,
                        int64_t stop_count, int32_t* tokens, float* scores) {
  ones_.resize(static_cast<size_t>(batch));
  std::fill(ones_.begin(), ones_.end(), 1);
  const Clock::time_point begin = Clock::now();
  const auto stopped = [&](int32_t token) { return std::find(stops, stops + stop_count, token) != stops + stop_count; };
  for (int64_t done = 0; done < most; ids = tokens, tokens += batch, scores += batch) {
    step(ids, ones_.data(), batch, best, false, Capture::nothing);
    for (int64_t s = 0; s < batch; ++s) {
      tokens[s] = results_.tokens[static_cast<size_t>(s)];
      scores[s] = results_.scores[static_cast<size_t>(s)] - results_.log_sum_exp[static_cast<size_t>(s)];
    }
    const bool late = seconds_between(begin, Clock::now()) > kPatience;
    if (++done == most || late || std::any_of(tokens, tokens + batch, stopped)) return done;
  }
  return 0;
}

void Session::reorder(const int32_t* parents, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (parents[i] < 0 || parents[i] >= batch_)
      bad("parents[" + std::to_string(i) + "] = " + std::to_string(parents[i]) + " is outside the batch of " +
          std::to_string(batch_));
  all_or_nothing([&] { state_.reorder(parents, n); });
  batch_ = n;
}

void Session::lay_out(const Program& program, const int32_t* ids, const int64_t* lengths, int64_t batch,
                      bool all_rows) {
  const bool encoding = &program == encoder_.get();
  frame_.ids = ids;
  frame_.infos = program.values.data();
  layout_.set_rows(frame_, lengths, batch, all_rows,
                   [&](int64_t s) { return encoding ? 0 : state_.sequences[static_cast<size_t>(s)].length; });
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
  const Range mine = team.split(state_.cache.strip_count());
  for (const auto& [from, to] : copies_) state_.cache.copy(from, to, mine.begin, mine.end);
}

void Session::prepare_results(const Program& program, const Select& select) {
  Results& results = results_;
  frame_.select = &select;
  results.vocabulary = program.output < 0 ? 0 : program.values[static_cast<size_t>(program.output)].cols;
  const size_t rows = static_cast<size_t>(frame_.last);
  results.scores.resize(rows * static_cast<size_t>(select.k));
  results.tokens.resize(rows * static_cast<size_t>(select.k));
  results.log_sum_exp.resize(select.k || select.logits ? rows : 0);
}

void Session::prepare_records(const Program& program, Capture capture) {
  frame_.capture = capture;
  frame_.records = nullptr;
  if (capture != Capture::attention) return;
  if (records_.size() < program.records.size()) records_.resize(program.records.size());
  frame_.records = records_.data();
  int64_t own = 0, memory = 0;
  for (int64_t s = 0; s < frame_.batch; ++s) {
    own = std::max(own, frame_.positions[static_cast<size_t>(s)] + frame_.length(s));
    if (encoder_) memory = std::max(memory, frame_.memory(s).length);
  }
  for (size_t i = 0; i < program.records.size(); ++i) {
    Record& record = records_[i];
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

// The plan of the step, a place for every value, scratch.
void Session::prepare_memory(const Program& program) {
  if (plan_.update(program, frame_, num_threads_)) layout_.place(frame_, program, plan_, num_threads_);
  results_.logits = frame_.select->logits ? frame_.data(program.output) : nullptr;
  shared_.resize(static_cast<size_t>(plan_.shared));
  scratch_.resize(static_cast<size_t>(plan_.per_thread * num_threads_));
  scratch_of_.resize(static_cast<size_t>(num_threads_));
  for (int t = 0; t < num_threads_; ++t) scratch_of_[static_cast<size_t>(t)] = scratch_.data() + t * plan_.per_thread;
  frame_.shared = shared_.data();
  frame_.scratch = scratch_of_.data();
}

// The threads walk the ops together, as planned.
template <class Follower>
void Session::walk(const Program& program, Team& team, Follower follower) {
  Frame frame = frame_;
  frame.values = layout_.values(team.ith);
  Team alone{0, 1, nullptr};
  copy_pages(team);
  if (!copies_.empty()) team.barrier();
  for (size_t i = 0; i < program.nodes.size(); ++i) {
    const Node& node = program.nodes[i];
    const PlannedOp planned = plan_.ops[i];
    if (planned.barrier) {
      team.barrier();
      follower.waited(i);
    }
    if (planned.who == Who::all) {
      node.op->run(node, frame, team);
    } else if (planned.who == Who::each || team.ith == 0) {
      node.op->run(node, frame, alone);
    }
    follower.ran(i);
  }
  if (profiling_ && team.nth > 1) {  // the end of the region is one anyway, but nobody would see how long it takes
    team.barrier();
    follower.waited(program.nodes.size());
  }
}

void Session::execute(const Program& program) {
  frame_.kernel = &kernels();
  prepare_memory(program);
  last_program_ = &program;
  Profile& profile = profiles_[&program == encoder_.get() ? 0 : 1];
  parallel(plan_.single ? 1 : num_threads_, [&](Team& team) {
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
  for (size_t i = 0; i < program.nodes.size(); ++i) add_work(program.nodes[i], frame_, plan_.needs(i), profile.ops[i]);
}

}  // namespace fastattn
