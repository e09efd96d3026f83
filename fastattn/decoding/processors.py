"""What is penalised, banned or forced at each step; the backend and the Cython helper carry it out.

Hugging Face chains processors over the whole vocabulary: repetition penalty, n-grams, bad words, minimum length,
forced first and last token, suppressed tokens, tokens suppressed at the beginning. All but the first and the forced
ones set scores to minus infinity, so their order does not matter, and the chain becomes: penalise, ban; or, for a
forced row, ignore both and offer the forced tokens at score 0, unless they are suppressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fastattn.decoding._beam import Bans
from fastattn.decoding.options import GenerationOptions
from fastattn.decoding.stopping import Limits
from fastattn.runtime import Csr, FloatArray, IntArray, Select

Rows = tuple[IntArray, IntArray, IntArray]
"""Histories of a step's rows: all histories [R, capacity], the row among them and the length for each of the step's
rows."""

_NO_ROWS: Rows = (np.zeros((0, 0), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
_ENDLESS = 1 << 30
_END, _BEGIN = 1, 2  # bits of a row's phase: end tokens are banned; the tokens suppressed at the beginning are banned


class Processors:
    """The processors of one call of `generate`.

    A step is described by `generated`, the number of tokens generated before it, and `inputs`, the input of each of
    its rows.
    """

    def __init__(self, options: GenerationOptions, prompt_lengths: Sequence[int], limits: Limits) -> None:
        self._penalty = options.repetition_penalty
        self._forced_eos = options.forced_eos
        self._forced_bos = () if options.forced_bos_token_id is None else (options.forced_bos_token_id,)
        self._begin = frozenset(options.begin_suppress_tokens or ())
        self._prompts = np.array(prompt_lengths, np.int32)
        self._least, self._most = np.array(limits.least, np.int32), np.array(limits.most, np.int32)
        # a forced first token is not the beginning yet
        self._begins = ((self._prompts == 1) & bool(self._forced_bos)).astype(np.int32)
        self._bans, self._ban_history = _bans(options, limits)
        self._phase_end = max(
            int(self._least.max()) if limits.eos else 0, int(self._begins.max()) + 1 if self._begin else 0
        )
        self._bans_always = bool(self._ban_history or options.suppress_tokens or _single_words(options))
        self._last_steps = frozenset(int(most) - 1 for most in self._most) if self._forced_eos else frozenset()
        self._cached: tuple[bytes, Csr | None] = (b"", None)

    @property
    def penalty(self) -> float:
        """The repetition penalty, 1 if there is none."""
        return self._penalty

    @property
    def needs_history(self) -> bool:
        """Whether `select` looks at the rows' tokens."""
        return self._penalty != 1 or self._ban_history

    @property
    def idle(self) -> bool:
        """Whether no step of the call differs from the plain one."""
        return not (self.needs_history or self._bans_always or self._phase_end or self._forced_bos or self._forced_eos)

    def steady(self, generated: int, inputs: IntArray) -> int:
        """How many steps from this one on take the same `select`, whatever tokens they choose, and are not forced."""
        if self.needs_history:
            return 0
        changes = (
            [self._last_steps, (self._least[inputs]).tolist()] if generated < self._phase_end else [self._last_steps]
        )
        if self._begin:
            begins = self._begins[inputs].tolist()
            changes += [begins, [begin + 1 for begin in begins]]
        if generated in self._last_steps or (generated == 0 and self._forced_bos):
            return 0
        return min((at - generated for each in changes for at in each if at > generated), default=_ENDLESS)

    def select(self, plain: Select, generated: int, inputs: IntArray, rows: Rows | None = None) -> Select:
        """`plain` with the penalties and bans of this step."""
        penalised = banned = None
        if self._penalty != 1 and rows is not None:
            penalised = self._bans.penalised(*rows)
        if self._bans_always or generated < self._phase_end:
            banned = self._banned(generated, inputs, rows)
        if penalised is None and banned is None:
            return plain
        return Select(plain.k, plain.log_probs, self._penalty, penalised, banned, plain.logits)

    def _banned(self, generated: int, inputs: IntArray, rows: Rows | None) -> Csr | None:
        phases = np.zeros(len(inputs), np.uint8)
        if generated < self._phase_end:
            phases += _END * (generated < self._least[inputs]).astype(np.uint8)
            phases += _BEGIN * (generated == self._begins[inputs]).astype(np.uint8)
        if self._ban_history:
            return self._bans.banned(*(rows or _NO_ROWS), phases)
        key = phases.tobytes()
        if key != self._cached[0]:
            self._cached = (key, self._bans.banned(*_NO_ROWS, phases))
        return self._cached[1]

    def forced(self, generated: int, inputs: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """The rows of this step that are forced, and the tokens they may take; usually there are none."""
        if not (generated == 0 and self._forced_bos) and generated not in self._last_steps:
            return {}
        rows: dict[int, tuple[int, ...]] = {}
        for row, i in enumerate(inputs):
            if self._forced_eos and generated == self._most[i] - 1:
                tokens = self._forced_eos
            elif self._forced_bos and generated == 0 and self._prompts[i] == 1:
                tokens = self._forced_bos
            else:
                continue
            begins = generated == self._begins[i]
            rows[row] = tuple(t for t in sorted(tokens) if not (begins and t in self._begin))
        return rows


def force(
    forced: dict[int, tuple[int, ...]], rows: int, scores: FloatArray, tokens: IntArray, k: int
) -> tuple[FloatArray, IntArray]:
    """A step's scores and tokens [rows, k] with the forced rows replaced; those given may have k = 0 if all rows are
    forced."""
    scores = np.array(scores, np.float32) if scores.shape[1] else np.empty((rows, k), np.float32)
    tokens = np.array(tokens, np.int32) if tokens.shape[1] else np.empty((rows, k), np.int32)
    for row, allowed in forced.items():
        others = [t for t in range(k) if t not in allowed]
        tokens[row] = [*allowed, *others][:k]
        scores[row] = -np.inf
        scores[row, : len(allowed)] = 0
    return scores, tokens


def force_logits(forced: dict[int, tuple[int, ...]], logits: FloatArray) -> FloatArray:
    """Whole rows [rows, V] of scores with the forced rows replaced."""
    logits = np.array(logits, np.float32)
    for row, allowed in forced.items():
        logits[row] = -np.inf
        logits[row, list(allowed)] = 0
    return logits


def _single_words(options: GenerationOptions) -> set[int]:
    """Bad words of one token; an end token alone is not one, as in Hugging Face."""
    return {word[0] for word in options.bad_words_ids or () if len(word) == 1} - set(options.eos)


def _bans(options: GenerationOptions, limits: Limits) -> tuple[Bans, bool]:
    """The helper that writes the lists, and whether it looks at histories."""
    always = set(options.suppress_tokens or ()) | _single_words(options)
    end, begin = limits.eos, set(options.begin_suppress_tokens or ())
    sets: list[set[int]] = [always, always | end, always | begin, always | end | begin]
    words = [word for word in options.bad_words_ids or () if len(word) > 1]
    ngram = options.no_repeat_ngram_size
    return Bans([sorted(ids) for ids in sets], words, ngram), bool(words or ngram)
