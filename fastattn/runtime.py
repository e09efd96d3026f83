"""What a backend offers to decoding: a `Session` steps sequences through a model's graphs.

`NativeSession` is the C++ engine; `fastattn.reference.ReferenceSession` runs the same graphs in NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastattn import _native
from fastattn.errors import InputError
from fastattn.graph import Attr, Graph, Node, check_kept
from fastattn.ops.table import OPS
from fastattn.packing import AnyArray, Needed, PackingStore, WeightStore
from fastattn.passes import optimise

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
Csr = tuple[IntArray, IntArray]


@dataclass
class Select:
    """What a step does with its last rows of logits.

    k: how many best tokens per row (0: none). log_probs: scores are the log-softmax of the logits, else the logits.
    penalty: repetition penalty on the `penalised` tokens (s * penalty if s < 0, else s / penalty), as in CTRL (Keskar et al.
    2019). penalised, banned: CSR pairs (indptr int32 [rows + 1], token ids int32); a banned token's score is -inf.
    logits: also return the whole rows, processed in the same way.
    """

    k: int = 0
    log_probs: bool = False
    penalty: float = 1.0
    penalised: Csr | None = None
    banned: Csr | None = None
    logits: bool = False


class Capture(IntEnum):
    """What a step gives back beside its results: the graph's named values (taps), or these and all attention weights, whose
    size grows with rows times keys in every layer."""

    NOTHING = 0
    TAPS = 1
    ATTENTION = 2


@dataclass
class AttentionRecord:
    """Weights of one attention layer in one step: kind "self", "cross" or "encoder"; weights float32 [rows, H, S]."""

    kind: str
    layer: int
    weights: FloatArray


@dataclass
class StepResult:
    """What a step gives back. rows = batch, or all tokens of the step when `all_rows` was asked for.

    scores float32 [rows, k] descending, tokens int32 [rows, k], log_sum_exp float32 [rows] of the raw logits (empty when
    neither k nor logits was asked for), logits float32 [rows, V] or None; with `Capture` also attention and named values
    (taps), with a row for each token of the step, or, of what is computed after the last attention, for each of `rows`.
    """

    scores: FloatArray
    tokens: IntArray
    log_sum_exp: FloatArray
    logits: FloatArray | None = None
    attention: list[AttentionRecord] = field(default_factory=list)
    taps: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class OpCost:
    """What the calls of one node cost: seconds on the first thread, in the op and in the barriers behind it; work in bytes and
    flops."""

    calls: int
    barriers: int
    seconds: float
    waiting: float
    weight_bytes: float
    kept_bytes: float
    value_bytes: float
    flops: float


@dataclass(frozen=True)
class GraphCost:
    """What the steps of one graph cost: rows fed, seconds of whole calls, and the costs of its nodes in order."""

    steps: int
    rows: int
    seconds: float
    ops: list[OpCost]


class Session(Protocol):
    """Sequences in flight, with their caches, memories and states; not shared between threads."""

    capture: int  # a Capture

    @property
    def batch(self) -> int:
        """How many sequences there are."""

    def encode(self, inputs: Sequence[IntArray]) -> StepResult:
        """Starts a batch: runs the encoder on ragged int32 ids; every sequence is at position 0."""

    def start(self, batch: int) -> None:
        """Starts a batch without an encoder (decoder-only models)."""

    def step(
        self, tokens: Sequence[IntArray] | IntArray, select: Select | None = None, all_rows: bool = False
    ) -> StepResult:
        """Feeds tokens: one int32 array per sequence, or int32 [batch] for one token each."""

    def greedy(
        self, tokens: IntArray, most: int, stops: IntArray, banned: Csr | None = None
    ) -> tuple[IntArray, FloatArray]:
        """One to `most` steps, fed with tokens [batch] and then with each step's best; none after one of them is in
        `stops`, nor after some time. banned: as in `Select`, the same in every step. Returns the best tokens, int32
        [steps, batch], and their log-probabilities, float32 of the same shape."""

    def reorder(self, parents: IntArray) -> None:
        """The batch becomes [batch[p] for p in parents]: beams, repeats, dropped sequences."""


_DROPPED = ("name", "width", "keys", "values", "keys_width", "values_width", "value_size", "buckets", "score", "kind")


CACHE_TYPES = ("float32", "bfloat16", "int8")


class NativePrograms:
    """A model's graphs and packed weights in the C++ engine: immutable, shared by all its sessions.

    graphs: "decoder", and "encoder" where there is one. weights: a store, or arrays by tensor name to be packed as float32.
    cache_type: what sessions keep keys and values in, of CACHE_TYPES.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        weights: Mapping[str, AnyArray] | WeightStore,
        num_threads: int,
        cache_type: str = "float32",
    ) -> None:
        self.cache_type = cache_type
        check_kept(list(graphs.values()))
        self.graphs = {name: optimise(graphs[name]) for name in ("encoder", "decoder") if name in graphs}
        self.num_threads = num_threads
        store = PackingStore(weights, num_threads=num_threads) if isinstance(weights, Mapping) else weights
        self._slots: dict[str, dict[str, int]] = {"state": {}, "rows": {}}
        self.encoder: _native.Program | None = None
        if "encoder" in graphs:
            self.encoder = self._compile(self.graphs["encoder"], store)
        self.decoder = self._compile(self.graphs["decoder"], store)
        self.vocabulary = _output_width(graphs["decoder"])
        self.sequential = graphs["decoder"].sequential

    def _slot(self, kind: str, name: Attr) -> int:
        slots = self._slots[kind]
        return slots.setdefault(str(name), len(slots))

    def _attrs(self, node: Node) -> dict[str, Attr]:
        """Attributes as the engine takes them: names of states and memories become slots."""
        attrs = {key: value for key, value in node.attrs.items() if key not in _DROPPED}
        given = node.attrs
        if node.op in ("state_read", "state_write"):
            attrs["slot"] = self._slot("state", given["name"])
        elif node.op == "memory_rows_write":
            attrs["slot"] = self._slot("rows", given["name"])
        elif node.op == "rnn_attention":
            attrs["slot"], attrs["values_slot"] = self._slot("rows", given["keys"]), self._slot("rows", given["values"])
            attrs["additive"] = int(given["score"] == "additive")
        elif node.op == "activation":
            attrs["activation"] = given["kind"]
        return attrs

    def _compile(self, graph: Graph, store: WeightStore) -> _native.Program:
        program = _native.Program(graph.name, graph.sequential)
        for value in graph.values:
            program.add_value(value.rows, value.cols)
        for node in graph.nodes:
            row = OPS[node.op]
            held = [
                store.get(Needed(name, graph.params[name], role in row.matrices)) if name else None
                for role, name in ((role, node.params.get(role)) for role in (p.rstrip("?") for p in row.params))
            ]
            program.add_node(node.op, list(node.inputs), list(node.outputs), held, self._attrs(node))
        for name, index in graph.taps.items():
            program.add_tap(name, index)
        program.finish()
        return program


def _output_width(graph: Graph) -> int:
    values = ((*node.outputs, *node.inputs)[0] for node in graph.nodes if node.op == "output")
    return next((graph.values[value].cols for value in values), 0)


_EMPTY = np.empty(0, np.int32)


class NativeSession:
    """The C++ engine as a `Session`. Takes graphs and weights, or programs that share their weights with other sessions.

    One call at a time: RuntimeError for a thread that calls it while another's call has not returned.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph] | NativePrograms,
        weights: Mapping[str, FloatArray] | None = None,
        num_threads: int | None = None,
        cache_type: str = "float32",
    ) -> None:
        if isinstance(graphs, NativePrograms):
            programs = graphs
        else:
            programs = NativePrograms(graphs, weights or {}, num_threads or _native.get_num_threads(), cache_type)
        self.capture: int = Capture.NOTHING
        self._programs = programs
        self._native = _native.Session(
            programs.encoder, programs.decoder, num_threads or programs.num_threads, programs.cache_type
        )
        self._ones = np.ones(1, np.int64)

    def start(self, batch: int) -> None:
        try:
            self._native.start(batch)
        except ValueError as error:
            raise InputError(str(error)) from None

    def encode(self, inputs: Sequence[IntArray]) -> StepResult:
        ids, lengths = self._flat(inputs)
        try:
            self._native.encode(ids, lengths, self.capture)
        except ValueError as error:
            raise InputError(str(error)) from None
        return self._result(np.empty((0, 0), np.float32), _EMPTY.reshape(0, 0), np.empty(0, np.float32), None)

    def step(
        self, tokens: Sequence[IntArray] | IntArray, select: Select | None = None, all_rows: bool = False
    ) -> StepResult:
        if isinstance(tokens, np.ndarray) and tokens.ndim == 1:
            ids, lengths = tokens, self._one_each(len(tokens))
            if ids.dtype != np.int32 or not ids.flags.c_contiguous:
                ids = np.ascontiguousarray(ids, np.int32)
        else:
            ids, lengths = self._flat(tokens)
        s = select or _NOTHING
        try:
            result = self._native.step(
                ids,
                lengths,
                s.k,
                s.log_probs,
                s.penalty,
                s.penalised,
                s.banned,
                s.logits,
                all_rows,
                self.capture,
                self._programs.vocabulary,
            )
        except ValueError as error:
            raise InputError(str(error)) from None
        return self._result(*result) if self.capture else StepResult(*result)

    def greedy(
        self, tokens: IntArray, most: int, stops: IntArray, banned: Csr | None = None
    ) -> tuple[IntArray, FloatArray]:
        try:
            return self._native.greedy(tokens, most, stops, banned, self._programs.vocabulary)
        except ValueError as error:
            raise InputError(str(error)) from None

    def reorder(self, parents: IntArray) -> None:
        try:
            self._native.reorder(np.ascontiguousarray(parents, np.int32))
        except ValueError as error:
            raise InputError(str(error)) from None

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self._native.batch

    @property
    def nbytes(self) -> int:
        """Memory that the session holds, in use or not: keys and values, the values between ops, scratch, attention."""
        return self._native.nbytes

    @property
    def graphs(self) -> Mapping[str, Graph]:
        """The graphs as they run, after `fastattn.passes`: "encoder", where there is one, and "decoder"."""
        return self._programs.graphs

    def profile(self, on: bool) -> None:
        """Times every op from now on, starting from zero, or stops doing so."""
        self._native.profile(on)

    def profiled(self) -> dict[str, GraphCost]:
        """What each graph's steps cost since `profile(True)`."""
        encoder, decoder = (
            GraphCost(steps, rows, seconds, [OpCost(*op) for op in ops])
            for steps, rows, seconds, ops in self._native.profiled()
        )
        return {"encoder": encoder, "decoder": decoder} if "encoder" in self.graphs else {"decoder": decoder}

    def _one_each(self, batch: int) -> NDArray[np.int64]:
        if len(self._ones) != batch:
            self._ones = np.ones(batch, np.int64)
        return self._ones

    @staticmethod
    def _flat(tokens: Sequence[IntArray] | IntArray) -> tuple[IntArray, NDArray[np.int64]]:
        lengths = np.fromiter((len(t) for t in tokens), np.int64, len(tokens))
        ids = np.concatenate([np.asarray(t, np.int32) for t in tokens]) if len(tokens) else _EMPTY
        return np.ascontiguousarray(ids, np.int32), lengths

    def _result(
        self, scores: FloatArray, tokens: IntArray, log_sum_exp: FloatArray, logits: FloatArray | None
    ) -> StepResult:
        result = StepResult(scores, tokens, log_sum_exp, logits)
        if self.capture:
            attention, result.taps = self._native.captured()
            for kind, layer, weights, raw in attention:
                result.attention.append(AttentionRecord(kind, layer, weights))
                if raw is not None:
                    result.taps["scores"] = raw[:, 0]
        return result


_NOTHING = Select()
