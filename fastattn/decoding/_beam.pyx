# cython: language_level=3, embedsignature=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Inner bookkeeping of decoding: the histories of rows, what they forbid, and one step of beam search.

Policy (what is penalised, banned or forced, and when) is in processors.py and beam.py; here is only what would
otherwise create Python objects per token. Arithmetic is float32 in the order of Hugging Face's, so that equal
log-probabilities give equal scores and choices.
"""

from libc.math cimport INFINITY, pow
from libc.string cimport memcpy

import numpy as np

cdef float DEAD = -1.0e9  # what Hugging Face adds to the score of a beam that must not go on


cdef _grow(array, int axis, Py_ssize_t size):
    """A copy of the array that is at least `size` long on this axis; at least doubled, so that growing stays cheap."""
    if array.shape[axis] >= size:
        return array
    shape = list(array.shape)
    shape[axis] = max(size, 2 * shape[axis])
    larger = np.zeros(shape, array.dtype)
    larger[tuple(slice(0, n) for n in array.shape)] = array
    return larger


cdef class History:
    """The tokens of each row so far, its prompt included.

    prompts: one int32 array per row. `tokens` is int32 [rows, capacity], `lengths` int32 [rows].
    """

    cdef int[:, ::1] _tokens
    cdef int[::1] _lengths
    cdef readonly object tokens
    cdef readonly object lengths

    def __init__(self, prompts):
        self.lengths = np.array([len(p) for p in prompts], np.int32)
        self.tokens = np.zeros((len(prompts), int(self.lengths.max()) + 32), np.int32)
        for row, prompt in enumerate(prompts):
            self.tokens[row, : len(prompt)] = prompt
        self._tokens, self._lengths = self.tokens, self.lengths

    def append(self, int[::1] rows, int[::1] tokens):
        """Adds tokens[i] to row rows[i]."""
        cdef Py_ssize_t i
        cdef int longest = 0
        if rows.shape[0] != tokens.shape[0]:
            raise ValueError(f"append: found {tokens.shape[0]} tokens for {rows.shape[0]} rows")
        for i in range(rows.shape[0]):
            longest = max(longest, self._lengths[rows[i]] + 1)
        self.tokens = _grow(self.tokens, 1, longest)
        self._tokens = self.tokens
        for i in range(rows.shape[0]):
            self._tokens[rows[i], self._lengths[rows[i]]] = tokens[i]
            self._lengths[rows[i]] += 1

    def contains(self, int row, int token):
        """Whether the row has this token."""
        cdef int i
        for i in range(self._lengths[row]):
            if self._tokens[row, i] == token:
                return True
        return False


cdef class Bans:
    """Writes the CSR lists of a step: tokens to ban and tokens to penalise.

    sets: the fixed lists of banned ids a row can have, chosen by its phase; words: banned sequences of two or more
    tokens; ngram: no n tokens may appear twice (0: off).
    """

    cdef list _sets
    cdef list _words
    cdef int _ngram
    cdef object _buffer
    cdef int[::1] _ids
    cdef Py_ssize_t _used
    cdef object _stamp_array
    cdef int[::1] _stamps
    cdef int _stamp

    def __init__(self, sets, words, int ngram):
        self._sets = [np.ascontiguousarray(ids, np.int32) for ids in sets]
        self._words = [np.ascontiguousarray(ids, np.int32) for ids in words]
        self._ngram = ngram
        self._buffer = np.zeros(256, np.int32)
        self._ids = self._buffer
        self._stamp_array = np.zeros(1024, np.int32)
        self._stamps = self._stamp_array
        self._stamp = 0

    cdef void _reserve(self, Py_ssize_t more) except *:
        if self._used + more > self._ids.shape[0]:
            self._buffer = _grow(self._buffer, 0, self._used + more)
            self._ids = self._buffer

    cdef void _add_set(self, const int[::1] ids) except *:
        self._reserve(ids.shape[0])
        if ids.shape[0]:
            memcpy(&self._ids[self._used], &ids[0], ids.shape[0] * sizeof(int))
        self._used += ids.shape[0]

    cdef void _add_ngrams(self, const int* tokens, int length) except *:
        """Bans what followed each earlier appearance of the last ngram - 1 tokens."""
        cdef int prefix = self._ngram - 1, start, i
        for start in range(length - prefix):
            i = 0
            while i < prefix and tokens[start + i] == tokens[length - prefix + i]:
                i += 1
            if i == prefix:
                self._reserve(1)
                self._ids[self._used] = tokens[start + prefix]
                self._used += 1

    cdef void _add_words(self, const int* tokens, int length) except *:
        """Bans the last token of a word whose others are the row's last tokens. As in Hugging Face a word must not be
        longer than the row, though one token less would do."""
        cdef const int[::1] word
        cdef int prefix, i
        for array in self._words:
            word = array
            if word.shape[0] > length:
                continue
            prefix, i = <int>word.shape[0] - 1, 0
            while i < prefix and word[i] == tokens[length - prefix + i]:
                i += 1
            if i == prefix:
                self._reserve(1)
                self._ids[self._used] = word[prefix]
                self._used += 1

    cdef _csr(self, indptr):
        return (indptr, self._buffer[: self._used].copy()) if self._used else None

    def banned(
        self, const int[:, ::1] history, const int[::1] rows, const int[::1] lengths, const unsigned char[::1] phases
    ):
        """The CSR pair of banned ids, or None if there are none. Row i is history[rows[i], :lengths[i]] in phases[i].

        The history is looked at only for n-grams and words.
        """
        cdef Py_ssize_t i, count = phases.shape[0]
        indptr = np.zeros(count + 1, np.int32)
        cdef int[::1] ends = indptr
        self._used = 0
        for i in range(count):
            self._add_set(self._sets[phases[i]])
            if self._ngram and lengths[i] >= self._ngram:
                self._add_ngrams(&history[rows[i], 0], lengths[i])
            if self._words:
                self._add_words(&history[rows[i], 0], lengths[i])
            ends[i + 1] = <int>self._used
        return self._csr(indptr)

    def penalised(self, const int[:, ::1] history, const int[::1] rows, const int[::1] lengths):
        """The CSR pair of the ids in each row's history, each once."""
        cdef Py_ssize_t i, count = rows.shape[0]
        cdef int j, token
        indptr = np.zeros(count + 1, np.int32)
        cdef int[::1] ends = indptr
        self._used = 0
        for i in range(count):
            self._stamp += 1
            self._reserve(lengths[i])
            for j in range(lengths[i]):
                token = history[rows[i], j]
                if token >= self._stamps.shape[0]:
                    self._stamp_array = _grow(self._stamp_array, 0, token + 1)
                    self._stamps = self._stamp_array
                if self._stamps[token] != self._stamp:
                    self._stamps[token] = self._stamp
                    self._ids[self._used] = token
                    self._used += 1
            ends[i + 1] = <int>self._used
        return self._csr(indptr)


cdef class BeamState:
    """Running and finished beams of several inputs.

    prompts: int32 array per input; max_new: most tokens to generate per input; eos: end tokens; keep: candidates
    looked at per input and step. early_stopping: 0 False, 1 True, 2 "never".

    The session's rows are the live inputs in order, `num_beams` rows each; before the first step one row each, which
    all beams share. History is a flat copy per beam in two buffers used in turn: a step writes the new beams'
    histories from the old ones', at most a few kilobytes of memcpy.
    """

    cdef readonly int num_beams
    cdef readonly int generated
    cdef readonly bint moved                  # whether the last step's parents are other than the rows in their order
    cdef int _keep, _early_stopping, _prompt_cap
    cdef double _length_penalty
    cdef bint _fresh
    cdef unsigned char[::1] _is_eos
    cdef int[::1] _live, _prompt_lengths, _max_new, _finished_count
    cdef object _tokens_array, _scores_array, _done_tokens_array, _done_scores_array
    cdef int[:, :, :, ::1] _tokens            # [2, inputs, beams, prompt + generated]
    cdef float[:, :, :, ::1] _token_scores    # [2, inputs, beams, generated]
    cdef int _side
    cdef float[:, ::1] _running               # [inputs, beams] accumulated log-probability, best first
    cdef int[:, :, ::1] _done_tokens          # [inputs, slots, generated]: finished hypotheses, num_beams slots
    cdef float[:, :, ::1] _done_token_scores
    cdef int[:, ::1] _done_length             # [inputs, slots]
    cdef float[:, ::1] _done_score            # [inputs, ranks] normalised, best first
    cdef int[:, ::1] _done_slot               # [inputs, ranks]
    cdef float[::1] _cand_score, _cand_token_score
    cdef int[::1] _cand_beam, _cand_token, _heads
    cdef unsigned char[::1] _hits, _taken, _over
    cdef Py_ssize_t _rows                     # of the session in this step
    cdef list _parents_arrays, _next_arrays   # what a step returns, in two buffers used in turn
    cdef int[::1] _parents, _next

    def __init__(self, prompts, max_new, eos, int num_beams, int keep, double length_penalty, int early_stopping):
        cdef int inputs = len(prompts), token
        self.num_beams, self.generated, self._keep, self._side = num_beams, 0, keep, 0
        self._length_penalty, self._early_stopping, self._fresh = length_penalty, early_stopping, True
        self._is_eos = np.zeros(max(eos, default=-1) + 1, np.uint8)
        for token in eos:
            self._is_eos[token] = 1
        self._live = np.arange(inputs, dtype=np.int32)
        self._over = np.zeros(inputs, np.uint8)
        self._parents_arrays = [np.zeros(inputs * num_beams, np.int32) for _ in range(2)]
        self._next_arrays = [np.zeros(inputs * num_beams, np.int32) for _ in range(2)]
        self._max_new = np.ascontiguousarray(max_new, np.int32)
        lengths = np.array([len(p) for p in prompts], np.int32)
        self._prompt_lengths, self._prompt_cap = lengths, int(lengths.max())
        self._finished_count = np.zeros(inputs, np.int32)
        self._tokens_array = np.zeros((2, inputs, num_beams, self._prompt_cap + 32), np.int32)
        self._scores_array = np.zeros((2, inputs, num_beams, 32), np.float32)
        self._done_tokens_array = np.zeros((inputs, num_beams, 32), np.int32)
        self._done_scores_array = np.zeros((inputs, num_beams, 32), np.float32)
        for i, prompt in enumerate(prompts):
            self._tokens_array[:, i, :, : len(prompt)] = prompt
        self._take_views()
        running = np.full((inputs, num_beams), DEAD, np.float32)
        running[:, 0] = 0  # all beams are equal at first: only one of them may be continued
        self._running = running
        self._done_score = np.full((inputs, num_beams), DEAD, np.float32)
        self._done_length = np.zeros((inputs, num_beams), np.int32)
        self._done_slot = np.zeros((inputs, num_beams), np.int32)
        self._cand_score, self._cand_token_score = np.zeros(keep, np.float32), np.zeros(keep, np.float32)
        self._cand_beam, self._cand_token = np.zeros(keep, np.int32), np.zeros(keep, np.int32)
        self._hits, self._taken = np.zeros(keep, np.uint8), np.zeros(keep, np.uint8)
        self._heads = np.zeros(num_beams, np.int32)

    cdef void _take_views(self) except *:
        self._tokens, self._token_scores = self._tokens_array, self._scores_array
        self._done_tokens, self._done_token_scores = self._done_tokens_array, self._done_scores_array

    # -- what processors look at --

    @property
    def live(self):
        """int32: the inputs that are not finished, in the order of the session's rows."""
        return np.array(self._live)

    @property
    def history(self):
        """int32 [inputs * num_beams, capacity]: the tokens of every beam, prompt included."""
        side = self._tokens_array[self._side]
        return side.reshape(side.shape[0] * side.shape[1], side.shape[2])

    @property
    def rows(self):
        """int32: the row of `history` for each of the session's rows."""
        first = np.array(self._live) * self.num_beams
        if self._fresh:
            return first.astype(np.int32)
        return (first[:, None] + np.arange(self.num_beams)).ravel().astype(np.int32)

    @property
    def running(self):
        """float32 [live inputs, num_beams]: accumulated log-probabilities of the running beams, best first."""
        return np.array(self._running)[np.array(self._live)]

    # -- one step --

    def advance(self, const float[:, ::1] scores, const int[:, ::1] tokens):
        """One step: scores and tokens [session rows, k] are the rows' processed log-probabilities, best first.

        Returns the parents for `Session.reorder` and the tokens to feed next, both int32 [live inputs * num_beams], which
        the step after the next overwrites.
        """
        cdef Py_ssize_t a
        self._begin(scores.shape[0])
        for a in range(self._live.shape[0]):
            self._merge(self._live[a], a, scores, tokens)
            self._turn(a)
        return self._end()

    def advance_drawn(self, const float[:, ::1] scores, const int[:, ::1] beams, const int[:, ::1] tokens):
        """One step on candidates [live inputs, keep] drawn by the caller: log-probabilities, beams, tokens."""
        cdef Py_ssize_t a
        cdef int c
        if scores.shape[0] != self._live.shape[0] or scores.shape[1] != self._keep:
            raise ValueError(f"advance_drawn: expected [{self._live.shape[0]}, {self._keep}] candidates")
        self._begin(self._live.shape[0] * (1 if self._fresh else self.num_beams))
        for a in range(self._live.shape[0]):
            for c in range(self._keep):
                self._cand_beam[c], self._cand_token[c] = beams[a, c], tokens[a, c]
                self._cand_token_score[c] = scores[a, c]
                self._cand_score[c] = scores[a, c] + self._running[self._live[a], beams[a, c]]
            self._turn(a)
        return self._end()

    cdef void _begin(self, Py_ssize_t rows) except *:
        cdef Py_ssize_t expected = self._live.shape[0] * (1 if self._fresh else self.num_beams)
        if rows != expected:
            raise ValueError(f"advance: found {rows} rows, expected {expected}")
        self.generated += 1
        if self.generated > self._token_scores.shape[3]:
            self._tokens_array = _grow(self._tokens_array, 3, self._prompt_cap + self.generated)
            self._scores_array = _grow(self._scores_array, 3, self.generated)
            self._done_tokens_array = _grow(self._done_tokens_array, 2, self.generated)
            self._done_scores_array = _grow(self._done_scores_array, 2, self.generated)
            self._take_views()
        if self._prompt_cap + self.generated > self._tokens.shape[3]:
            self._tokens_array = _grow(self._tokens_array, 3, self._prompt_cap + self.generated)
            self._take_views()
        self._rows = rows
        self._parents, self._next = self._parents_arrays[self._side], self._next_arrays[self._side]

    cdef void _merge(self, int i, Py_ssize_t a, const float[:, ::1] scores, const int[:, ::1] tokens) noexcept:
        """The `keep` best candidates of an input: a merge of its beams' sorted lists. Ties: the lower beam first."""
        cdef int beam, best, c, k = <int>scores.shape[1]
        cdef Py_ssize_t row
        cdef float score, top = 0
        for beam in range(self.num_beams):
            self._heads[beam] = 0
        for c in range(self._keep):
            best = -1
            for beam in range(self.num_beams):
                if self._heads[beam] < k:
                    row = a if self._fresh else a * self.num_beams + beam
                    score = scores[row, self._heads[beam]] + self._running[i, beam]
                    if best < 0 or score > top:
                        best, top = beam, score
            if best < 0:  # fewer candidates than wanted: only with a vocabulary smaller than that
                self._cand_beam[c], self._cand_token[c] = 0, self._cand_token[0]
                self._cand_score[c] = self._cand_token_score[c] = -INFINITY
                continue
            row = a if self._fresh else a * self.num_beams + best
            self._cand_beam[c], self._cand_token[c] = best, tokens[row, self._heads[best]]
            self._cand_token_score[c], self._cand_score[c] = scores[row, self._heads[best]], top
            self._heads[best] += 1

    cdef void _turn(self, Py_ssize_t a) noexcept:
        """From candidates to finished hypotheses, the next running beams, and whether the input is over."""
        cdef int i = self._live[a], c, token
        cdef bint all_hit = True, full, at_limit = self.generated >= self._max_new[i]
        for c in range(self._keep):
            token = self._cand_token[c]
            self._hits[c] = at_limit or (token < self._is_eos.shape[0] and self._is_eos[token])
            all_hit = all_hit and self._hits[c]
        for c in range(self.num_beams):  # the other candidates are only there to run on
            if self._hits[c]:
                self._finish(i, c)
        self._continue(i, a)
        full = self._finished_count[i] == self.num_beams
        self._over[a] = all_hit or (full and self._early_stopping == 1) or not self._may_improve(i, full)

    cdef void _finish(self, int i, int c) noexcept:
        """Puts candidate c among input i's finished hypotheses if it is good enough; on equal scores the older wins."""
        cdef float score = self._cand_score[c] / <float>pow(self.generated, self._length_penalty)
        cdef int count = self._finished_count[i], rank, slot, beam = self._cand_beam[c]
        cdef int before = self.generated - 1, start = self._prompt_lengths[i]
        if count < self.num_beams:
            if not score > DEAD:  # an empty place counts as much
                return
            slot, rank = count, count
            self._finished_count[i] += 1
        else:
            rank = count - 1
            if not score > self._done_score[i, rank]:
                return
            slot = self._done_slot[i, rank]
        while rank > 0 and score > self._done_score[i, rank - 1]:
            self._done_score[i, rank] = self._done_score[i, rank - 1]
            self._done_slot[i, rank] = self._done_slot[i, rank - 1]
            rank -= 1
        self._done_score[i, rank], self._done_slot[i, rank], self._done_length[i, slot] = score, slot, self.generated
        memcpy(&self._done_tokens[i, slot, 0], &self._tokens[self._side, i, beam, start], before * sizeof(int))
        memcpy(
            &self._done_token_scores[i, slot, 0], &self._token_scores[self._side, i, beam, 0], before * sizeof(float)
        )
        self._done_tokens[i, slot, before] = self._cand_token[c]
        self._done_token_scores[i, slot, before] = self._cand_token_score[c]

    cdef void _continue(self, int i, Py_ssize_t a) noexcept:
        """The best `num_beams` candidates that have not ended run on; ended ones, as dead, if there are no others."""
        cdef int rank, c, best
        cdef float score, top = 0
        for c in range(self._keep):
            self._taken[c] = 0
        for rank in range(self.num_beams):
            best = -1
            for c in range(self._keep):
                if not self._taken[c]:
                    score = self._cand_score[c] + DEAD if self._hits[c] else self._cand_score[c]
                    if best < 0 or score > top:
                        best, top = c, score
            self._taken[best] = 1
            self._running[i, rank] = top
            self._extend(i, a, rank, best)

    cdef void _extend(self, int i, Py_ssize_t a, int rank, int c) noexcept:
        """Beam `rank` becomes candidate c: its history is written to the other side."""
        cdef int beam = self._cand_beam[c], old = self._side, new = 1 - self._side, before = self.generated - 1
        cdef int start = self._prompt_lengths[i]
        cdef Py_ssize_t out = a * self.num_beams + rank
        memcpy(&self._tokens[new, i, rank, start], &self._tokens[old, i, beam, start], before * sizeof(int))
        memcpy(&self._token_scores[new, i, rank, 0], &self._token_scores[old, i, beam, 0], before * sizeof(float))
        self._tokens[new, i, rank, start + before] = self._cand_token[c]
        self._token_scores[new, i, rank, before] = self._cand_token_score[c]
        self._parents[out] = <int>(a if self._fresh else a * self.num_beams + beam)
        self._next[out] = self._cand_token[c]

    cdef bint _may_improve(self, int i, bint full) noexcept:
        """Whether the best running beam could beat the worst finished hypothesis, at the length the policy assumes."""
        cdef int length = self.generated
        if self._early_stopping == 2 and self._length_penalty > 0:
            length = self._max_new[i]
        cdef float best = self._running[i, 0] / <float>pow(length, self._length_penalty)
        return best > (self._done_score[i, self.num_beams - 1] if full else DEAD)

    cdef _end(self):
        """Drops the inputs that are over; gives parents and next tokens of the others."""
        cdef Py_ssize_t a, i, kept = 0, n = self.num_beams, size = n * sizeof(int)
        for a in range(self._live.shape[0]):
            if not self._over[a]:
                self._live[kept] = self._live[a]
                memcpy(&self._parents[kept * n], &self._parents[a * n], size)
                memcpy(&self._next[kept * n], &self._next[a * n], size)
                kept += 1
        self._live = self._live[:kept]
        self.moved = kept * n != self._rows
        for i in range(kept * n):
            self.moved = self.moved or self._parents[i] != i
        parents, following = self._parents_arrays[self._side], self._next_arrays[self._side]
        self._side, self._fresh = 1 - self._side, False
        if kept * n < self._parents.shape[0]:
            return parents[: kept * n], following[: kept * n]
        return parents, following

    def finished(self, int i):
        """The finished hypotheses of input i, best first: (token ids, token scores, score), end token included."""
        out = []
        cdef int rank, slot, length
        for rank in range(self._finished_count[i]):
            slot = self._done_slot[i, rank]
            length = self._done_length[i, slot]
            ids, scores = self._done_tokens_array[i, slot, :length], self._done_scores_array[i, slot, :length]
            out.append((ids.tolist(), scores.tolist(), float(self._done_score[i, rank])))
        return out
