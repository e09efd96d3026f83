"""One sequence per row, one token per step: greedy decoding and sampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastattn.decoding._beam import History
from fastattn.decoding.options import GenerationOptions
from fastattn.decoding.processors import Processors, Rows, force, force_logits
from fastattn.decoding.result import Hypothesis, length_normalised
from fastattn.decoding.sampling import draw, generator, warp
from fastattn.decoding.stopping import Limits
from fastattn.runtime import FloatArray, IntArray, Select, Session, StepResult

AHEAD = 32
"""Steps that a backend may take in one call; an interrupt is seen in between."""


class Row:
    """A sequence being decoded: `input` it belongs to, `row` it has in the present step's result."""

    __slots__ = ("end_token", "ended", "index", "input", "most", "random", "row", "scores", "tokens")

    def __init__(self, index: int, input: int, most: int, random: np.random.Generator | None) -> None:
        self.index, self.input, self.most, self.random, self.row = index, input, most, random, input
        self.tokens: list[int] = []
        self.scores: list[float] = []
        self.end_token: int | None = None
        self.ended = False

    def hypothesis(self, length_penalty: float) -> Hypothesis:
        score = length_normalised(sum(self.scores), len(self.scores), length_penalty)
        ended = self.end_token is not None
        ids = self.tokens[:-1] if ended else self.tokens
        return Hypothesis(ids, score, "eos" if ended else "length", self.scores, self.end_token)


class RowDecoder:
    """Decodes the sequences of a batch in step; those that end leave the batch.

    In the first step the session has one row per input; with several sequences per input (sampling) it is then
    repeated.
    """

    def __init__(self, session: Session, prompts: Sequence[IntArray], options: GenerationOptions) -> None:
        lengths = [len(prompt) for prompt in prompts]
        limits = Limits.of(options, lengths)
        copies = options.num_return_sequences
        self._session, self._options, self._eos = session, options, limits.eos
        self._processors = Processors(options, lengths, limits)
        self._stops = np.array(sorted(limits.eos), np.int32)
        self._inputs = len(prompts)
        self._history = None
        if self._processors.needs_history:
            self._history = History([prompt for prompt in prompts for _ in range(copies)])
        self._feed: Sequence[IntArray] | IntArray = prompts
        self._plain = _plain(options)
        self.generated = 0
        self.rows = [
            Row(i * copies + c, i, limits.most[i], generator(options.seed, c) if options.do_sample else None)
            for i in range(len(prompts))
            for c in range(copies)
        ]
        self.live = self.rows

    def advance(self, ahead: int = 1) -> None:
        """A step, or up to `ahead` of them where nothing has to be decided in between: every live row gets its next tokens,
        and the rows that end leave the batch."""
        live = self.live
        columns = self._steps(ahead) or [([token], [score]) for token, score in self._step()]
        ended = False
        for row, (tokens, scores) in zip(live, columns, strict=True):
            row.tokens += tokens
            row.scores += scores
            if tokens[-1] in self._eos:
                row.end_token, row.ended, ended = tokens[-1], True, True
            elif len(row.tokens) >= row.most:
                row.ended = ended = True
        first = self.generated == 0
        self.generated = len(live[0].tokens)
        if self._history is not None:
            last = np.array([row.tokens[-1] for row in live], np.int32)
            self._history.append(np.array([row.index for row in live], np.int32), last)
        if ended or (first and len(live) > self._inputs):
            live = self._regroup()
        self._feed = np.array([row.tokens[-1] for row in live], np.int32)

    def _regroup(self) -> list[Row]:
        """Keeps the session's rows of the sequences that go on, repeated where one row served several."""
        self.live = [row for row in self.live if not row.ended]
        if self.live:
            self._session.reorder(np.array([row.row for row in self.live], np.int32))
        for position, row in enumerate(self.live):
            row.row = position
        return self.live

    def _steps(self, ahead: int) -> list[tuple[list[int], list[float]]]:
        """Every row's next tokens and their log-probabilities, from as many steps as have nothing to decide between them;
        empty where that is not even one: the first, sampling, penalties, forced tokens."""
        generated = self.generated
        if generated == 0 or self._options.do_sample:
            return []
        inputs = np.array([row.input for row in self.live], np.int32)
        most = min(ahead, self._processors.steady(generated, inputs), min(row.most for row in self.live) - generated)
        if most < 1:
            return []
        banned = self._processors.select(self._plain, generated, inputs).banned
        tokens, scores = self._session.greedy(np.asarray(self._feed), most, self._stops, banned)
        return list(zip(tokens.T.tolist(), scores.T.tolist(), strict=True))

    def _step(self) -> list[tuple[int, float]]:
        """Greedy or sampling, with processors. The session's rows are the inputs at first and the live sequences
        later."""
        first, processors = self.generated == 0, self._processors
        served = self.rows[:: self._options.num_return_sequences] if first else self.live
        inputs = np.array([row.input for row in served], np.int32)
        forced = processors.forced(self.generated, inputs.tolist())
        rows: Rows | None = None
        if self._history is not None:
            at = np.array([row.index for row in served], np.int32)
            rows = (self._history.tokens, at, self._history.lengths[at])
        all_forced = len(forced) == len(served) and self._plain.k > 0
        select = Select() if all_forced else processors.select(self._plain, self.generated, inputs, rows)
        result = self._session.step(self._feed, select)
        scores, ids = _candidates(result, forced, len(served), self._plain.k)
        chosen: list[tuple[int, float]] = []
        for row in self.live:
            at_column = self._pick(scores[row.row], row)
            token = at_column if ids is None else int(ids[row.row, at_column])
            score = float(scores[row.row, at_column])
            chosen.append((token, 0.0 if row.row in forced else self._log_probability(row, token, score, result)))
        return chosen

    def _pick(self, scores: FloatArray, row: Row) -> int:
        """The column of the token chosen; greedily the first, as candidates come best first."""
        if row.random is None:
            return 0
        return draw(warp(scores.astype(np.float64), self._options), row.random)

    def _log_probability(self, row: Row, token: int, score: float, result: StepResult) -> float:
        """What the model gave the token: its score without the penalty, normalised."""
        penalty = self._processors.penalty
        if penalty != 1 and self._history is not None and self._history.contains(row.index, token):
            score = score / penalty if score < 0 else score * penalty
        return score - float(result.log_sum_exp[row.row])


def _plain(options: GenerationOptions) -> Select:
    """What a step without processors asks for: the best token, the best `top_k`, or whole rows to draw from."""
    if not options.do_sample:
        return Select(k=1)
    if options.top_k:
        return Select(k=min(options.top_k, options.vocab_size or options.top_k))
    return Select(logits=True)


def _candidates(
    result: StepResult, forced: dict[int, tuple[int, ...]], rows: int, k: int
) -> tuple[FloatArray, IntArray | None]:
    """Scores [rows, k] and their tokens, None where columns are tokens; forced rows in place."""
    if k == 0:
        assert result.logits is not None
        return (force_logits(forced, result.logits) if forced else result.logits), None
    if forced:
        return force(forced, rows, result.scores, result.tokens, k)
    return result.scores, result.tokens


def decode_rows(session: Session, prompts: Sequence[IntArray], options: GenerationOptions) -> list[list[Hypothesis]]:
    """Greedy decoding or sampling of a batch: per input `num_return_sequences` hypotheses, the best first."""
    decoder = RowDecoder(session, prompts, options)
    while decoder.live:
        decoder.advance(AHEAD)
    copies = options.num_return_sequences
    found = [row.hypothesis(options.length_penalty) for row in decoder.rows]
    groups = [found[i : i + copies] for i in range(0, len(found), copies)]
    return [sorted(group, key=lambda h: -h.score) for group in groups]
