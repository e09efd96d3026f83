"""`ReferenceSession`: runs a model's graphs step by step in NumPy, by the contract of `fastattn.runtime.Session`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastattn.errors import InputError
from fastattn.reference.dense import Array
from fastattn.reference.matrices import Matrix
from fastattn.reference.ops import PLAIN
from fastattn.reference.stateful import KEEPING, TAPS, Kept, Step


class ReferenceSession:
    """Sequences in flight through `graphs` ("decoder", and "encoder" if there is one) with the weights of that name.

    A weight may be `Rounded` or `Quantized` where it is multiplied with or looked up. dtype: float32 as the engine computes,
    or float64 for the truth; scores, logits, attention and taps come in it. cache_type: keys and values are rounded as the
    engine rounds them. result, record: called with the fields of `fastattn.runtime.StepResult` and `AttentionRecord` by name.
    Errors (unknown ids, positions past the table, …) are InputErrors, raised before anything has changed.

    >>> from fastattn.graph import apply, tracing
    >>> from fastattn.nn import Embedding
    >>> table = Embedding(3, 3)
    >>> shapes = table.finalise()
    >>> with tracing("decoder") as (graph, ids):
    ...     _ = apply("output", apply("select_rows", [table(ids)]))
    >>> session = ReferenceSession({"decoder": graph}, {"weight": np.eye(3)})
    >>> session.start(2)
    >>> from fastattn.runtime import Select
    >>> session.step(np.array([2, 0]), Select(k=1)).tokens
    array([[2],
           [0]], dtype=int32)
    """

    def __init__(
        self,
        graphs: Mapping[str, Any],
        weights: Mapping[str, Matrix],
        dtype: DTypeLike = np.float32,
        *,
        cache_type: str = "float32",
        result: Callable[..., Any] = SimpleNamespace,
        record: Callable[..., Any] = SimpleNamespace,
    ) -> None:
        self.batch, self.capture = 0, 0
        self.dtype = np.dtype(dtype)
        self._cache_type = cache_type
        self._graphs, self._result, self._record = graphs, result, record
        self._weights = self._take(weights)
        self._kept: Kept | None = None

    def _take(self, weights: Mapping[str, Matrix]) -> dict[str, Any]:
        taken: dict[str, Any] = {}
        for graph in self._graphs.values():
            for name, shape in graph.params.items():
                if name not in weights:
                    raise InputError(f"tensor {name!r} is missing: the graph {graph.name!r} expects it, {list(shape)}")
                if weights[name].shape != tuple(shape):
                    raise InputError(f"tensor {name!r} is {list(weights[name].shape)}, expected {list(shape)}")
                if name not in taken:
                    held = weights[name]
                    taken[name] = np.ascontiguousarray(held, self.dtype) if isinstance(held, np.ndarray) else held
        return taken

    def encode(self, inputs: Sequence[Array]) -> Any:
        """Starts a batch: runs the encoder on ragged ids; every sequence is at position 0."""
        if "encoder" not in self._graphs:
            raise InputError("encode: the model has no encoder; start(batch) starts a batch")
        if not len(inputs):
            raise InputError("encode takes at least one sequence: got 0")
        tokens = self._tokens(inputs, len(inputs))
        graph, kept = self._graphs["encoder"], Kept(np.zeros(len(tokens), np.int64), cache_type=self._cache_type)
        self._check(graph, tokens, kept)
        step = self._run(graph, tokens, kept, all_rows=False)
        self._kept, self.batch = kept, len(tokens)
        return self._pack(step, None)

    def start(self, batch: int) -> None:
        """Starts a batch without an encoder."""
        if batch < 1:
            raise InputError(f"start takes a batch of at least one sequence: got {batch}")
        self._kept, self.batch = Kept(np.zeros(batch, np.int64), cache_type=self._cache_type), batch

    def step(self, tokens: Sequence[Array] | Array, select: Any = None, all_rows: bool = False) -> Any:
        """Feeds one array of ids per sequence, or one id each as an array [batch]."""
        if self._kept is None:
            raise InputError("step before encode or start: there is no batch")
        if "decoder" not in self._graphs:
            raise InputError("step: the model has no decoder")
        fed, graph = self._tokens(tokens, self.batch), self._graphs["decoder"]
        self._check(graph, fed, self._kept)
        # a run writes new arrays under the old names: with a shallow copy, an error leaves the session as it was
        kept = self._kept.take(np.arange(self.batch))
        step = self._run(graph, fed, kept, all_rows)
        packed = self._pack(step, select)
        kept.lengths = kept.lengths + step.counts
        self._kept = kept
        return packed

    def greedy(
        self, tokens: Array, most: int, stops: Array, banned: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        """Up to `most` steps fed with each step's best tokens, none after one of them is in `stops`: tokens and their
        log-probabilities, [steps, batch] each. banned: tokens that no step may take, as CSR."""
        best, scores = [], []
        select = SimpleNamespace(k=1, log_probs=False, penalised=None, banned=banned, logits=False)
        for _ in range(most):
            step = self.step(tokens, select)
            tokens = step.tokens[:, 0]
            best.append(tokens)
            scores.append(step.scores[:, 0] - step.log_sum_exp)
            if np.isin(tokens, stops).any():
                break
        return np.stack(best), np.stack(scores)

    def reorder(self, parents: Array) -> None:
        """The batch becomes [batch[p] for p in parents]."""
        parents = np.asarray(parents, np.int64)
        if self._kept is None:
            raise InputError("reorder before encode or start: there is no batch")
        for i, p in enumerate(parents):
            if not 0 <= p < self.batch:
                raise InputError(f"parents[{i}] = {p} is outside the batch of {self.batch}")
        self._kept, self.batch = self._kept.take(parents), len(parents)

    @staticmethod
    def _tokens(tokens: Sequence[Array] | Array, batch: int) -> list[Array]:
        if len(tokens) != batch:
            raise InputError(f"step takes one token array per sequence: got {len(tokens)} for a batch of {batch}")
        fed = [np.atleast_1d(np.asarray(ids, np.int32)) for ids in tokens]
        for i, ids in enumerate(fed):
            if not len(ids):
                raise InputError(f"sequence {i} has no tokens")
        return fed

    def _check(self, graph: Any, tokens: Sequence[Array], kept: Kept) -> None:
        """InputError for what the graph's tables do not hold, before anything runs."""
        if graph.sequential and any(len(ids) != 1 for ids in tokens):
            counts = [len(ids) for ids in tokens]
            raise InputError(f"the {graph.name} takes one token per sequence and step: got {counts}")
        for node in graph.nodes:
            size = graph.params[node.params["weight"]][0] if "weight" in node.params else 0
            if node.op == "embedding" and node.inputs[0] == graph.input:
                ids = np.concatenate(tokens)
                wrong = ids[(ids < 0) | (ids >= size)]
                if len(wrong):
                    raise InputError(f"token id {wrong[0]} is outside the vocabulary of {size}")
            elif node.op == "position_embedding":
                ends = kept.lengths + [len(ids) for ids in tokens] + node.attrs["offset"]
                if ends.max() > size:
                    raise InputError(f"position {ends.max() - 1} is past the table of {size} positions")

    def _run(self, graph: Any, tokens: Sequence[Array], kept: Kept, all_rows: bool) -> Step:
        counts = np.array([len(ids) for ids in tokens])
        step = Step(graph, counts, kept, self.dtype, all_rows, self.capture)
        values: dict[int, Array] = {graph.input: np.concatenate(tokens)[:, None]}
        for node in graph.nodes:
            inputs = [values[i] for i in node.inputs]
            named = {role: self._weights[name] for role, name in node.params.items()} | dict(node.attrs)
            if node.op in PLAIN:
                out = PLAIN[node.op](*inputs, **named)
            else:
                step.space = graph.values[node.inputs[0]].rows if inputs else "batch"
                out = KEEPING[node.op](step, *inputs, **named)
            values.update(zip(node.outputs, out if isinstance(out, tuple) else (out,), strict=False))
        if self.capture >= TAPS:
            step.named |= {name: values[i].astype(self.dtype) for name, i in graph.taps.items()}
        return step

    def _pack(self, step: Step, select: Any) -> Any:
        scores, tokens, log_sum_exp, logits = choose(step.logits, select, step.batch, self.dtype)
        attention = [self._record(kind=kind, layer=layer, weights=w) for kind, layer, w in step.attention]
        return self._result(
            scores=scores, tokens=tokens, log_sum_exp=log_sum_exp, logits=logits, attention=attention, taps=step.named
        )


def choose(
    raw: Array | None, select: Any, batch: int, dtype: np.dtype[Any]
) -> tuple[Array, Array, Array, Array | None]:
    """scores [rows, k], tokens [rows, k], log_sum_exp [rows] and processed logits [rows, V] or None."""
    if select is None or not (select.k or select.logits):
        rows = batch if raw is None else len(raw)
        return np.empty((rows, 0), dtype), np.empty((rows, 0), np.int32), np.empty(0, dtype), None
    if raw is None:
        raise InputError("select: the graph has no output to choose tokens from")
    rows, vocabulary = raw.shape
    if select.k > vocabulary:
        raise InputError(f"k = {select.k} is more than the vocabulary of {vocabulary}")
    top = raw.max(-1, keepdims=True)
    log_sum_exp = top + np.log(np.exp(raw - top).sum(-1, keepdims=True))
    scores = raw - log_sum_exp if select.log_probs else raw.copy()
    if select.penalised is not None:
        at = _entries("penalised", select.penalised, rows)
        scores[at] = np.where(scores[at] < 0, scores[at] * select.penalty, scores[at] / select.penalty)
    if select.banned is not None:
        scores[_entries("banned", select.banned, rows)] = -np.inf
    tokens = np.array([_best(row, select.k) for row in scores], np.int32).reshape(rows, select.k)
    best = np.take_along_axis(scores, tokens, -1)
    return best, tokens, log_sum_exp[:, 0], scores if select.logits else None


def _entries(name: str, csr: tuple[Array, Array], rows: int) -> tuple[Array, Array]:
    """The (row, column) index arrays of a CSR pair."""
    indptr, ids = csr
    if len(indptr) != rows + 1:
        raise InputError(f"{name}: indptr has {len(indptr)} entries, expected {rows + 1} for {rows} rows")
    return np.repeat(np.arange(rows), np.diff(indptr)), np.asarray(ids)


def _best(row: Array, k: int) -> Iterable[int]:
    """Ids of the k largest entries, best first, of equal ones the lower id."""
    if k == 0:
        return []
    candidates = np.flatnonzero(row >= np.partition(row, -k)[-k])
    return list(candidates[np.argsort(-row[candidates], kind="stable")[:k]])
