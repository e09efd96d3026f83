"""Beam search, and sampling with beams.

The algorithm is that of Hugging Face's `generate` since transformers 4.50: each input has `num_beams` running
hypotheses and up to as many finished ones. A step looks at the best (1 + number of end tokens, at least 2) * num_beams
continuations of the running ones. Those among the first num_beams that end compete, with their score divided by length
** length_penalty, for a place among the finished; the best num_beams that do not end run on. stopping.py says when an
input is over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastattn.decoding._beam import BeamState
from fastattn.decoding.options import GenerationOptions
from fastattn.decoding.processors import Processors, Rows, force, force_logits
from fastattn.decoding.result import Hypothesis
from fastattn.decoding.sampling import draw_beams, generator
from fastattn.decoding.stopping import EARLY_STOPPING, Limits
from fastattn.runtime import IntArray, Select, Session

NO_HYPOTHESIS = -1.0e9
"""Score of the empty hypotheses that fill up when fewer sequences than asked for could end, as in Hugging Face."""


class BeamSearch:
    """Decodes the inputs of a batch in step. The session has one row per input at first, then num_beams; inputs that
    are over leave the batch."""

    def __init__(self, session: Session, prompts: Sequence[IntArray], options: GenerationOptions) -> None:
        lengths = [len(prompt) for prompt in prompts]
        limits = Limits.of(options, lengths)
        self._session, self._options = session, options
        self._lengths = np.array(lengths, np.int32)
        self._eos = limits.eos
        self._keep = max(2, 1 + len(limits.eos)) * options.num_beams
        if options.do_sample and options.vocab_size:  # there are no more to draw
            self._keep = min(self._keep, options.num_beams * options.vocab_size)
        self._processors = Processors(options, lengths, limits)
        self._idle = self._processors.idle
        self._state = BeamState(
            prompts,
            limits.most,
            sorted(limits.eos),
            options.num_beams,
            self._keep,
            options.length_penalty,
            EARLY_STOPPING[options.early_stopping],
        )
        self._random = [generator(options.seed, 0) for _ in prompts] if options.do_sample else []
        if options.do_sample:
            self._plain = Select(log_probs=True, logits=True)
        else:
            self._plain = Select(k=min(self._keep, options.vocab_size or self._keep), log_probs=True)
        self._feed: Sequence[IntArray] | IntArray = prompts
        self._rows_now = len(prompts)

    def run(self) -> list[list[Hypothesis]]:
        """All hypotheses asked for, per input the best first."""
        while len(self._feed):
            parents, feed = self._draw_step() if self._random else self._step()
            if len(parents) and self._state.moved:  # else everything is already where it should be
                self._session.reorder(parents)
            self._feed, self._rows_now = feed, len(feed)
        return [self._hypotheses(i) for i in range(len(self._lengths))]

    def _step(self) -> tuple[IntArray, IntArray]:
        if self._idle:
            result = self._session.step(self._feed, self._plain)
            return self._state.advance(_float32(result.scores), result.tokens)
        select, forced = self._select()
        result = self._session.step(self._feed, select)
        scores, tokens = result.scores, result.tokens
        if forced:
            scores, tokens = force(forced, self._rows_now, scores, tokens, self._plain.k)
        return self._state.advance(_float32(scores), tokens)

    def _select(self) -> tuple[Select, dict[int, tuple[int, ...]]]:
        """What this step asks of the backend, and which rows are forced."""
        state, processors = self._state, self._processors
        inputs = np.repeat(state.live, self._rows_now // len(state.live))
        forced = processors.forced(state.generated, inputs.tolist())
        if len(forced) == self._rows_now and self._plain.k:
            return Select(), forced
        rows: Rows | None = None
        if processors.needs_history:
            rows = (state.history, state.rows, self._lengths[inputs] + np.int32(state.generated))
        return processors.select(self._plain, state.generated, inputs, rows), forced

    def _draw_step(self) -> tuple[IntArray, IntArray]:
        select, forced = self._select()
        logits = self._session.step(self._feed, select).logits
        assert logits is not None
        if forced:
            logits = force_logits(forced, logits)
        live = self._state.live
        drawn = [
            draw_beams(scores, running, self._options, self._keep, self._random[i])
            for i, scores, running in zip(live, np.split(logits, len(live)), self._state.running, strict=True)
        ]
        scores, beams, tokens = (np.stack(column) for column in zip(*drawn, strict=True))
        return self._state.advance_drawn(scores, beams, tokens)

    def _hypotheses(self, i: int) -> list[Hypothesis]:
        found = [self._hypothesis(*found) for found in self._state.finished(i)[: self._options.num_return_sequences]]
        missing = self._options.num_return_sequences - len(found)
        return found + [Hypothesis([], NO_HYPOTHESIS, "length") for _ in range(missing)]

    def _hypothesis(self, ids: list[int], token_scores: list[float], score: float) -> Hypothesis:
        if ids[-1] in self._eos:
            return Hypothesis(ids[:-1], score, "eos", token_scores, ids[-1])
        return Hypothesis(ids, score, "length", token_scores)


def _float32(scores: np.ndarray) -> np.ndarray:
    """As the beam's bookkeeping wants them; a backend that computes in float64 is rounded."""
    return scores if scores.dtype == np.float32 else scores.astype(np.float32)
