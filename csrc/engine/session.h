// Sequences in flight of one model: one call per step, one parallel region per call.
#pragma once

#include <memory>
#include <vector>

#include "engine/layout.h"
#include "engine/plan.h"
#include "engine/profile.h"
#include "engine/program.h"

namespace fastattn {

class Session {
 public:
  // encoder may be null. num_threads is the most a step may use; cache_type: of cached keys
  // and values, and of the memory's.
  Session(std::shared_ptr<const Program> encoder, std::shared_ptr<const Program> decoder, int num_threads,
          DType cache_type = DType::float32);

  // Starts a batch of `batch` sequences at position 0, forgetting the ones before.
  void start(int64_t batch);
  // start(), then runs the encoder on ragged ids. Throws std::invalid_argument on bad ids or lengths.
  void encode(const int32_t* ids, const int64_t* lengths, int64_t batch, Capture capture);
  // Feeds lengths[s] tokens to every sequence, many of them in pieces. Results are in frame().
  // What is thrown for bad arguments leaves the session as it was; anything else, as where memory runs out, ends the
  // batch: start() or encode() must come next.
  void step(const int32_t* ids, const int64_t* lengths, int64_t batch, const Select& select, bool all_rows,
            Capture capture);
  // Up to `most` steps of one token a sequence, each fed with the best tokens of the one before, and no more after one
  // in which a token is among `stops`, nor after a tenth of a second. best: k = 1 and perhaps bans, the same in every
  // step. Returns how many steps it took, at least one; tokens, and their log-probabilities in scores: (most, batch).
  int64_t greedy(const int32_t* ids, int64_t batch, int64_t most, const Select& best, const int32_t* stops,
                 int64_t stop_count, int32_t* tokens, float* scores);
  void reorder(const int32_t* parents, int64_t n);

  int64_t batch() const { return batch_; }
  int64_t length(int64_t sequence) const { return state_.sequences[static_cast<size_t>(sequence)].length; }
  const Frame& frame() const { return frame_; }
  const Program& last_program() const { return *last_program_; }
  // Memory that the session holds, in use or not: keys and values, the values between ops, scratch, attention.
  int64_t bytes() const;
  int64_t pages_in_use() const { return state_.cache.pages_in_use(); }

  // From now on every op is timed, from zero; or none is.
  void profile(bool on);
  const Profile& encoder_profile() const { return profiles_[0]; }
  const Profile& decoder_profile() const { return profiles_[1]; }

 private:
  void check(const Program& program, const int32_t* ids, const int64_t* lengths, int64_t batch) const;
  template <class Work>
  void all_or_nothing(Work work);
  static void check(const Program& program, const Select& select);
  void begin(int64_t batch);
  void remember(const int64_t* lengths, int64_t batch);
  void feed(const int32_t* ids, const int64_t* lengths, int64_t batch, const Select& select, bool all_rows,
            Capture capture);
  void cut(const int32_t* ids, const int64_t* lengths, int64_t batch, int64_t piece, int64_t pieces);
  void lay_out(const Program& program, const int32_t* ids, const int64_t* lengths, int64_t batch, bool all_rows);
  void reserve_pages();
  void prepare_results(const Program& program, const Select& select);
  void prepare_records(const Program& program, Capture capture);
  void prepare_memory(const Program& program);
  void execute(const Program& program);
  template <class Follower>
  void walk(const Program& program, Team& team, Follower follower);
  void account(const Program& program, double seconds);
  void copy_pages(const Team& team);

  std::shared_ptr<const Program> encoder_, decoder_;
  const Program* last_program_ = nullptr;
  int num_threads_;
  int64_t batch_ = 0;
  bool encoded_ = false;
  State state_;
  Frame frame_;
  Layout layout_;
  Plan plan_;
  Buffer<int64_t> ones_, piece_lengths_;
  Buffer<int32_t> piece_ids_;
  std::vector<Record> records_;
  Results results_;
  Buffer<float> shared_, scratch_;
  Buffer<float*> scratch_of_;  // by thread
  bool profiling_ = false;
  Profile profiles_[2];                              // encoder, decoder
  std::vector<std::pair<int32_t, int32_t>> copies_;  // pages written by one of several owners: (from, to)
};

}  // namespace fastattn
