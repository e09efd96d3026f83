"""A language model small enough to know by heart, as a `Session`: for tests of decoding that need no engine.

The logits after a prefix are a row of a random table, chosen by a hash of the whole prefix (and of the source, if
there is one). So they depend on everything that came before: a beam whose state was not reordered with it gives wrong
tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastattn.runtime import Csr, FloatArray, IntArray, Select, StepResult

PRIME, FACTOR = 2_147_483_629, 48_271


def hash_prefix(tokens: Sequence[int] | IntArray, start: int = 1) -> int:
    """The state after these tokens; products stay below 2 ** 63, so PyTorch's int64 gives the same."""
    state = start
    for token in tokens:
        state = (state * FACTOR + int(token) + 1) % PRIME
    return state


def random_table(
    seed: int, rows: int, vocabulary: int, sharpness: float = 2.0, eos: tuple[int, ...] = (), boost: float = 0.0
) -> FloatArray:
    """Logits float32 [rows, vocabulary]; end tokens are made likelier by `boost`. The legacy generator never changes
    its stream."""
    table = np.random.RandomState(seed).randn(rows, vocabulary) * sharpness
    table[:, list(eos)] += boost
    return table.astype(np.float32)


class TableSession:
    """The Session contract over a table of logits [rows, V]."""

    def __init__(self, table: FloatArray, max_positions: int | None = None) -> None:
        self.table, self.capture, self.batch = table, 0, 0
        self.states: list[int] = []
        self.positions: list[int] = []
        self.rows_computed = 0  # how many rows of logits decoding has asked for
        self.max_positions = max_positions

    def encode(self, inputs: Sequence[IntArray]) -> StepResult:
        self.states = [hash_prefix(ids, start=7) for ids in inputs]
        self.positions = [0] * len(inputs)
        self.batch = len(inputs)
        return StepResult(
            np.empty((self.batch, 0), np.float32), np.empty((self.batch, 0), np.int32), np.empty(0, np.float32)
        )

    def start(self, batch: int) -> None:
        self.states, self.positions, self.batch = [1] * batch, [0] * batch, batch

    def step(
        self, tokens: Sequence[IntArray] | IntArray, select: Select | None = None, all_rows: bool = False
    ) -> StepResult:
        assert len(tokens) == self.batch > 0, f"{len(tokens)} token arrays for a batch of {self.batch}"
        assert not all_rows
        for i, ids in enumerate(tokens):
            ids = np.atleast_1d(np.asarray(ids))
            assert len(ids) and ids.min() >= 0 and ids.max() < self.table.shape[1]
            self.states[i] = hash_prefix(ids, self.states[i])
            self.positions[i] += len(ids)
            assert self.max_positions is None or self.positions[i] <= self.max_positions
        self.rows_computed += self.batch
        return choose(self.table[[state % len(self.table) for state in self.states]], select or Select())

    def greedy(
        self, tokens: IntArray, most: int, stops: IntArray, banned: Csr | None = None
    ) -> tuple[IntArray, FloatArray]:
        steps: list[StepResult] = []
        while len(steps) < most:
            steps.append(self.step(tokens, Select(k=1, banned=banned)))
            tokens = steps[-1].tokens[:, 0]
            if np.isin(tokens, stops).any():
                break
        return (
            np.stack([step.tokens[:, 0] for step in steps]),
            np.stack([step.scores[:, 0] - step.log_sum_exp for step in steps]),
        )

    def reorder(self, parents: IntArray) -> None:
        self.states = [self.states[p] for p in parents]
        self.positions = [self.positions[p] for p in parents]
        self.batch = len(parents)


def choose(raw: FloatArray, select: Select) -> StepResult:
    """What `Select` says, on rows of logits [rows, V]."""
    rows, vocabulary = raw.shape
    assert select.k <= vocabulary
    if not (select.k or select.logits):
        return StepResult(np.empty((rows, 0), np.float32), np.empty((rows, 0), np.int32), np.empty(0, np.float32))
    top = raw.max(-1, keepdims=True)
    log_sum_exp = np.log(np.exp(raw - top).sum(-1, keepdims=True, dtype=np.float64)) + top
    scores = (raw - log_sum_exp).astype(np.float32) if select.log_probs else raw.copy()
    for row, ids in _lists(select.penalised, rows):
        assert len(set(ids.tolist())) == len(ids)
        old = scores[row, ids]
        scores[row, ids] = np.where(old < 0, old * np.float32(select.penalty), old / np.float32(select.penalty))
    for row, ids in _lists(select.banned, rows):
        scores[row, ids] = -np.inf
    tokens = np.argsort(-scores, axis=-1, kind="stable")[:, : select.k].astype(np.int32)
    best = np.take_along_axis(scores, tokens, -1)
    return StepResult(best, tokens, log_sum_exp[:, 0].astype(np.float32), scores if select.logits else None)


def _lists(csr: tuple[IntArray, IntArray] | None, rows: int) -> list[tuple[int, IntArray]]:
    if csr is None:
        return []
    indptr, ids = csr
    assert indptr.dtype == ids.dtype == np.int32 and len(indptr) == rows + 1 and indptr[-1] == len(ids)
    return [(row, ids[indptr[row] : indptr[row + 1]]) for row in range(rows)]
