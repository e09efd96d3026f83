"""The graph ops that know of sequences: they read and write caches, memories and states, or walk ragged rows."""

# mypy: disable-error-code="no-any-return"
# (arithmetic on arrays of either float type is Any to mypy)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from fastattn.errors import InputError
from fastattn.reference.dense import Array, as_bias, attend, softmax, visible
from fastattn.reference.ops import gru_gates, linear, lstm_gates, project
from fastattn.reference.quantized import to_bfloat16

TAPS, ATTENTION = 1, 2  # what a session captures, numbered as fastattn.runtime.Capture
KeysValues = tuple[Array, Array]  # of one sequence: [G, S, D], [G, S, Dv]


@dataclass
class Kept:
    """What the sequences of a batch keep between steps; arrays are never written to, so beams share them."""

    lengths: Array  # [batch], tokens fed so far
    cache: dict[int, list[KeysValues]] = field(default_factory=dict)  # by cache layer, one per sequence
    memory: dict[int, list[KeysValues]] = field(default_factory=dict)  # by decoder layer, one per sequence
    rows: dict[str, list[Array]] = field(default_factory=dict)  # by name, one [source length, width] per sequence
    states: dict[str, Array] = field(default_factory=dict)  # by name, [batch, width]
    cache_type: str = "float32"  # of keys and values in `cache` and `memory`

    def take(self, parents: Array) -> Kept:
        return Kept(
            self.lengths[parents],
            {layer: [kept[p] for p in parents] for layer, kept in self.cache.items()},
            {layer: [kept[p] for p in parents] for layer, kept in self.memory.items()},
            {name: [kept[p] for p in parents] for name, kept in self.rows.items()},
            {name: kept[parents] for name, kept in self.states.items()},
            self.cache_type,
        )


class Step:
    """One run of one graph: the rows of its spaces, what its ops may read and write, and what it records."""

    def __init__(
        self, graph: Any, counts: Array, kept: Kept, dtype: np.dtype[Any], all_rows: bool, capture: int
    ) -> None:
        self.graph, self.kept, self.dtype, self.capture = graph, kept, dtype, capture
        self.batch = len(counts)
        self.ends = np.cumsum(counts)  # tokens of sequence b: rows ends[b] - counts[b] to ends[b]
        self.starts, self.counts = self.ends - counts, counts
        each = np.arange(self.batch)
        within = np.concatenate([np.arange(n) for n in counts])  # place of each token in its sequence's step
        last_rows = np.arange(len(within)) if all_rows else self.ends - 1
        tokens = np.repeat(each, counts)
        self.last_rows = last_rows
        self.sequences = {"tokens": tokens, "batch": each, "last": tokens[last_rows]}  # whose each row is
        self.places = {"tokens": within, "batch": within[self.ends - 1], "last": within[last_rows]}
        self.space = "tokens"  # of the first input of the op being run
        self.attention: list[tuple[str, int, Array]] = []
        self.named: dict[str, Array] = {}
        self.logits: Array | None = None

    def slices(self, space: str) -> list[slice]:
        """The rows of each sequence in a space."""
        ends = np.searchsorted(self.sequences[space], np.arange(self.batch + 1))
        return [slice(a, b) for a, b in pairwise(ends)]

    def split(self, x: Array) -> list[Array]:
        """x [tokens, width] by sequence."""
        return [x[a:b] for a, b in zip(self.starts, self.ends, strict=True)]

    def record(self, kind: str, layer: int, parts: Sequence[Array]) -> None:
        """parts: per sequence [H, rows, S], gathered to [rows, H, Smax] with zeros beyond a row's keys."""
        if self.capture == ATTENTION:
            kind = "encoder" if self.graph.name == "encoder" else kind
            self.attention.append((kind, layer, _gather([part.swapaxes(0, 1) for part in parts])))


def _gather(parts: Sequence[Array]) -> Array:
    """Parts [rows, ..., S] of any S, one above the other, with zeros at the end of the shorter ones."""
    widest = max(part.shape[-1] for part in parts)
    padded = [np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, widest - part.shape[-1])]) for part in parts]
    return np.concatenate(padded)


def _heads(x: Array, heads: int) -> Array:
    """[rows, heads · D] -> [heads, rows, D]."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def round_cached(x: Array, cache_type: str) -> Array:
    """x [..., D] as a cache of that type gives it back: the nearest bfloat16, or int8 codes times a scale for each row.

    int8: scale = max |x| / 127, or 0 where all is below 2^-100; a row with NaN or infinity is NaN.

    >>> np.float64(round_cached(np.array([[1.0, 0.5, -0.1]], np.float32), "int8")[0]).round(3).tolist()
    [1.0, 0.504, -0.102]
    """
    if cache_type == "float32":
        return x
    if cache_type == "bfloat16":
        return to_bfloat16(x)
    small = x.astype(np.float32)
    largest = np.abs(small).max(-1, keepdims=True, initial=0)
    scale = np.where(largest < 2.0**-100, np.float32(0), largest / np.float32(127))
    finite = np.isfinite(small).all(-1, keepdims=True)
    codes = np.rint(np.where(finite, small, 0) / np.where(finite & (scale > 0), scale, np.float32(np.inf)))
    return codes.astype(x.dtype) * np.where(finite, scale, np.float32(np.nan)).astype(x.dtype)


def _bound(window: int) -> int | None:
    return None if window < 0 else window


def position_embedding(step: Step, x: Array, *, weight: Array, offset: int) -> Array:
    """weight [P, C] added by each row's position in its sequence."""
    positions = step.kept.lengths[step.sequences[step.space]] + step.places[step.space]
    return x + weight[positions + offset]


def relative_buckets(distance: Array, buckets: int, max_distance: int, bidirectional: bool) -> Array:
    """T5's bucket of each distance, key position - query position (Raffel et al. 2020).

    The first half (of a side) is exact, the rest logarithmic up to max_distance; in float32, as transformers computes it.

    >>> relative_buckets(np.array([-200, -9, -1, 0, 1]), 32, 128, bidirectional=True).tolist()
    [15, 8, 1, 0, 17]
    """
    first = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        first = (distance > 0) * buckets
        distance = -np.abs(distance)
    away, exact = np.maximum(-distance, 0), buckets // 2
    ratio = (np.maximum(away, 1).astype(np.float32) / np.float32(exact)).astype(np.float64)
    steps = np.log(ratio).astype(np.float32) / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + steps.astype(np.int64), buckets - 1)
    return np.asarray(first + np.where(away < exact, away, far))


def distance_bias(
    distance: Array, bias_table: Array | None, slopes: Array | None, max_distance: int, bidirectional: bool
) -> Array:
    """[H, T, S] of distances [T, S]: T5's table [buckets, H], or ALiBi's slopes [H] (Press et al. 2022) times distance."""
    if bias_table is not None:
        return np.moveaxis(bias_table[relative_buckets(distance, len(bias_table), max_distance, bidirectional)], -1, 0)
    assert slopes is not None
    return slopes[:, None, None] * distance.astype(slopes.dtype)


def rotations(step: Step, ids: Array, *, inv_freq: Array, scale: float) -> Array:
    """[rows, 2 · len(inv_freq)]: cosines, then sines, of position · inv_freq, times `scale`. The angle is rounded to
    float32 whatever the session computes in, as in every implementation: at large positions that is felt."""
    positions = step.kept.lengths[step.sequences[step.space]] + step.places[step.space]
    angles = (positions.astype(np.float32)[:, None] * inv_freq.astype(np.float32)).astype(np.float64)
    return np.concatenate([np.cos(angles), np.sin(angles)], -1).astype(step.dtype) * float(scale)


def attention(
    step: Step,
    q: Array,
    k: Array,
    v: Array,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    layer: int,
    causal: int,
    cache: int,
    softcap: float,
    window_left: int,
    window_right: int,
    rounded: int,
    buckets: int,
    max_distance: int,
    bidirectional: int,
    bias_table: Array | None = None,
    slopes: Array | None = None,
) -> Array:
    """Self-attention inside each sequence; with cache ≥ 0 over all its tokens so far, else over those of this step.

    bias_table [buckets, H] (T5) and slopes [H] (ALiBi) add to the score of a key by its distance from the query.
    """
    cache_type = step.kept.cache_type if cache >= 0 else "float32"
    parts = zip(step.split(k), step.split(v), strict=True)
    new = [
        (round_cached(_heads(a, kv_heads), cache_type), round_cached(_heads(b, kv_heads), cache_type)) for a, b in parts
    ]
    before = step.kept.lengths if cache >= 0 else np.zeros_like(step.kept.lengths)
    if cache >= 0:
        old = step.kept.cache.get(cache)
        if old:
            new = [
                (np.concatenate([k0, k1], 1), np.concatenate([v0, v1], 1))
                for (k0, v0), (k1, v1) in zip(old, new, strict=True)
            ]
        step.kept.cache[cache] = new
    out, weights = [], []
    for (keys, values), rows, past in zip(new, step.slices(step.space), before, strict=True):
        positions = past + step.places[step.space][rows]
        seen = visible(positions, keys.shape[1], bool(causal), _bound(window_left), _bound(window_right))
        bias = None if seen is None else as_bias(seen, q.dtype)
        if bias_table is not None or slopes is not None:
            distance = np.arange(keys.shape[1]) - positions[:, None]
            added = distance_bias(distance, bias_table, slopes, max_distance, bool(bidirectional))
            bias = added if bias is None else added + bias
        query = _heads(q[rows], heads)
        context, weight = attend(query, keys, values, bias, float(scale), float(softcap), bool(rounded))
        out.append(context.swapaxes(0, 1).reshape(context.shape[1], -1))
        weights.append(weight)
    step.record("self", layer, weights)
    return np.concatenate(out)


def memory_write(step: Step, k: Array, v: Array, *, layer: int, kv_heads: int) -> None:
    """Keeps the encoder's keys and values for the cross-attention of a layer."""
    parts = zip(step.split(k), step.split(v), strict=True)
    kind = step.kept.cache_type
    step.kept.memory[layer] = [
        (round_cached(_heads(a, kv_heads), kind), round_cached(_heads(b, kv_heads), kind)) for a, b in parts
    ]


def cross_attention(
    step: Step, q: Array, *, heads: int, kv_heads: int, scale: float, layer: int, value_size: int, softcap: float
) -> Array:
    """Attention of each sequence over its own memory of the encoder."""
    if layer not in step.kept.memory:
        raise InputError(f"cross_attention: layer {layer} has no memory: encode comes before step")
    out, weights = [], []
    for (keys, values), rows in zip(step.kept.memory[layer], step.slices(step.space), strict=True):
        context, weight = attend(_heads(q[rows], heads), keys, values, None, float(scale), float(softcap))
        out.append(context.swapaxes(0, 1).reshape(-1, heads * value_size))
        weights.append(weight)
    step.record("cross", layer, weights)
    return np.concatenate(out)


Cell = Callable[[Array, Sequence[Array]], Sequence[Array]]  # (rows, states) -> new states, h first


def _sequence(step: Step, cell: Cell, states: int, hidden: int, reverse: int) -> tuple[Array, ...]:
    """Runs a cell over sequences, one place of all of them at a time: outputs [tokens, H], last states [batch, H]."""
    out = np.zeros((step.counts.sum(), hidden), step.dtype)
    state = [np.zeros((step.batch, hidden), step.dtype) for _ in range(states)]
    for t in range(step.counts.max()):
        going = np.flatnonzero(step.counts > t)
        rows = step.ends[going] - 1 - t if reverse else step.starts[going] + t
        new = cell(rows, [kept[going] for kept in state])
        for kept, value in zip(state, new, strict=True):
            kept[going] = value
        out[rows] = new[0]
    return (out, *state)


def gru_sequence(
    step: Step,
    x: Array,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    reverse: int = 0,
) -> tuple[Array, ...]:
    """Whole sequences from a zero state: h of every token, and the last h."""
    gi = project(x, weight_ih, bias_ih)

    def cell(rows: Array, states: Sequence[Array]) -> Sequence[Array]:
        return [gru_gates(gi[rows], project(states[0], weight_hh, bias_hh), states[0])]

    return _sequence(step, cell, 1, weight_hh.shape[1], reverse)


def lstm_sequence(
    step: Step,
    x: Array,
    *,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    reverse: int = 0,
) -> tuple[Array, ...]:
    """Whole sequences from zero states: h of every token, and the last h and c."""
    gi = project(x, weight_ih, bias_ih)

    def cell(rows: Array, states: Sequence[Array]) -> Sequence[Array]:
        return lstm_gates(gi[rows] + project(states[0], weight_hh, bias_hh), states[1])

    return _sequence(step, cell, 2, weight_hh.shape[1], reverse)


def state_read(step: Step, *, name: str, width: int) -> Array:
    """[batch, width]; zeros before the first write."""
    kept = step.kept.states.get(name)
    return np.zeros((step.batch, width), step.dtype) if kept is None else kept


def state_write(step: Step, x: Array, *, name: str) -> None:
    step.kept.states[name] = x


def memory_rows_write(step: Step, x: Array, *, name: str) -> None:
    step.kept.rows[name] = step.split(x)


def rnn_attention(
    step: Step,
    query: Array,
    *,
    keys: str,
    values: str,
    score: str,
    keys_width: int,
    values_width: int,
    v: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Attention over memory rows by the dot product, or Bahdanau's v · tanh(query + key + bias) on projected keys."""
    for name in (keys, values):
        if name not in step.kept.rows:
            raise InputError(f"rnn_attention: there are no memory rows {name!r}: encode comes before step")
    out, scores, weights = [], [], []
    memory = zip(step.kept.rows[keys], step.kept.rows[values], step.slices(step.space), strict=True)
    for key, value, rows in memory:
        if v is not None:
            hidden = query[rows, None] + key  # [rows, S, A]
            scores.append(np.tanh(hidden if bias is None else hidden + bias) @ v.reshape(-1))
        else:
            scores.append(query[rows] @ key.T)
        weights.append(softmax(scores[-1]))
        out.append(weights[-1] @ value)
    step.record("cross", 0, [weight[None] for weight in weights])
    if step.capture == ATTENTION:
        step.named["scores"] = _gather(scores)
    return np.concatenate(out)


def select_rows(step: Step, x: Array) -> Array:
    return x if step.space == "batch" else x[step.last_rows]


def output(step: Step, x: Array, *, weight: Array | None = None, bias: Array | None = None) -> Array | None:
    """Marks the logits: x, or with a weight x Wᵀ + b, which is then also the op's value."""
    step.logits = x if weight is None else linear(x, weight=weight, bias=bias)
    return None if weight is None else step.logits


KEEPING: dict[str, Callable[..., Any]] = {
    op.__name__: op
    for op in (
        position_embedding,
        rotations,
        attention,
        memory_write,
        cross_attention,
        gru_sequence,
        lstm_sequence,
        state_read,
        state_write,
        memory_rows_write,
        rnn_attention,
        select_rows,
        output,
    )
}
