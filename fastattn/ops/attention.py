"""Attention over whole arrays: Bahdanau's, Luong's and the Transformer's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fastattn._native import ops as native
from fastattn.ops._arrays import (
    AnyArray,
    Floats,
    contiguous,
    contiguous_rows,
    expect,
    floats,
    integer,
    lengths_of,
    mask_of,
    number,
    optional_floats,
    positions_of,
    window_of,
)
from fastattn.ops.packed import PackedWeight, WeightLike, project, project_rows, weight_of

Window = Sequence[int | None]


def _scale_of(scale: float | None, size: int) -> float:
    return 1 / math.sqrt(max(size, 1)) if scale is None else number(scale, "scale")


def _check_heads(query: Floats, key: Floats, value: Floats) -> None:
    expect(query, "query", "B Hq T D", None, None, None, None)
    batch, heads, _, size = query.shape
    expect(key, "key", "B Hkv S D", batch, None, None, size)
    expect(value, "value", "B Hkv S Dv", batch, key.shape[1], key.shape[2], None)
    if heads and not key.shape[1]:
        raise ValueError(f"key: expected at least one head for {heads} query heads, got shape {list(key.shape)}")
    if key.shape[1] and heads % key.shape[1]:
        raise ValueError(f"query: expected a number of heads that is a multiple of key's {key.shape[1]}, got {heads}")


def _attend(
    query: Floats,
    key: Floats,
    value: Floats,
    attn_mask: ArrayLike | None,
    out: Floats,
    *,
    is_causal: bool,
    q_start: ArrayLike | None,
    scale: float | None,
    softcap: float,
    window: Window | None,
    kv_lengths: ArrayLike | None,
    return_weights: bool,
) -> Floats | None:
    """Writes the context to `out` [B, Hq, T, Dv]; gives the weights, if they are wanted."""
    (batch, heads, queries, size), keys = query.shape, key.shape[2]
    lengths = lengths_of(kv_lengths, "kv_lengths", batch, keys)
    mask: AnyArray | None = mask_of(attn_mask, (batch, heads, queries, keys), lengths)
    left, right = window_of(window)
    if is_causal:
        right = 0  # a causal query sees nothing to its right
    start = positions_of(q_start, "q_start", batch)
    weights = np.empty((batch, heads, queries, keys), np.float32) if return_weights else None
    scale, softcap = _scale_of(scale, size), number(softcap, "softcap", 0)
    native.attention(query, key, value, mask, left, right, start, lengths, scale, softcap, out, weights)
    return weights


@overload
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    q_start: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    kv_lengths: ArrayLike | None = None,
    return_weights: Literal[False] = False,
) -> Floats: ...


@overload
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    q_start: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    kv_lengths: ArrayLike | None = None,
    return_weights: Literal[True],
) -> tuple[Floats, Floats]: ...


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    q_start: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    kv_lengths: ArrayLike | None = None,
    return_weights: bool = False,
) -> Any:
    """softmax(softcap(scale · query keyᵀ) + mask) value: the attention of the Transformer.

    Vaswani et al. 2017, "Attention Is All You Need"; grouped heads: Ainslie et al. 2023, "GQA". Means what the ONNX
    operator `Attention` means: its past is a longer `key` with `q_start`, its `nonpad_kv_seqlen` is `kv_lengths`, its
    default alignment is `q_start=0`. A softmax weight never depends on what stands at a key that the query does not
    see.

    Args:
        query: [B, Hq, T, D].
        key: [B, Hkv, S, D]; Hq is a multiple of Hkv, and each Hq / Hkv query heads in a row share one key/value head.
        value: [B, Hkv, S, Dv].
        attn_mask: bool (True = attend) or float (added after the softcap; -inf hides a key), broadcast to [B, Hq, T,
            S]. With `kv_lengths` its last axis may be shorter than S, if no length exceeds it.
        is_causal: query t sees keys up to q_start + t.
        q_start: position of the first query among the keys, an integer or one per batch row [B]; default S - T, so
            that the last query stands at the last key.
        scale: default 1 / sqrt(D).
        softcap: c > 0 bends each score to c · tanh(score / c); 0: not.
        window: (left, right): query t sees keys from q_start + t - left to q_start + t + right; None = unbounded.
        kv_lengths: integers [B]: keys from there on do not exist, whatever they hold.
        return_weights: also return the weights.

    Returns:
        float32 [B, Hq, T, Dv]; with `return_weights` also the weights, float32 [B, Hq, T, S]. A query that sees no
        key gives zeros in both. B, Hq, T and S may be 0.

    float32 arrays are read in place, whatever their strides; only where a last axis is not contiguous, the rows at
    work are copied to a scratch (of keys and values: once). A bool mask is converted a few rows at a time. Other
    dtypes are converted to float32 first. Results are the same bits for a batch and its rows alone, and for any
    number of threads.

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: a shape, length or option does not fit; it is named, with what was found and expected.

    >>> import numpy as np
    >>> x = np.ones((1, 1, 2, 4), np.float32)
    >>> out, weights = scaled_dot_product_attention(x, x, x, is_causal=True, return_weights=True)
    >>> weights[0, 0].tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    q, k, v = floats(query, "query"), floats(key, "key"), floats(value, "value")
    _check_heads(q, k, v)
    out = np.empty((*q.shape[:3], v.shape[3]), np.float32)
    weights = _attend(
        q,
        k,
        v,
        attn_mask,
        out,
        is_causal=is_causal,
        q_start=q_start,
        scale=scale,
        softcap=softcap,
        window=window,
        kv_lengths=kv_lengths,
        return_weights=return_weights,
    )
    return out if weights is None else (out, weights)


def _heads(x: Floats, heads: int) -> Floats:
    """[B, T, C] as [B, H, T, D], without a copy."""
    batch, length, width = x.shape
    by_head: Floats = x.reshape(batch, length, heads, width // heads).swapaxes(1, 2)
    return by_head


def _project_inputs(
    query: Floats, key: Floats, value: Floats, weight: Floats | PackedWeight, bias: Floats | None
) -> tuple[Floats, ...]:
    """The three projections, as one product where the inputs are the same array."""
    width = query.shape[-1]
    inputs = (query, key, value)
    parts: list[Floats] = []
    while len(parts) < 3:
        first = len(parts)
        count = 1
        while first + count < 3 and inputs[first + count] is inputs[first]:
            count += 1
        joined = project_rows(inputs[first], weight, bias, first * width, (first + count) * width)
        parts += [joined[..., i * width : (i + 1) * width] for i in range(count)]
    return tuple(parts)


@overload
def multi_head_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    in_proj_weight: WeightLike,
    in_proj_bias: ArrayLike | None,
    out_proj_weight: WeightLike,
    out_proj_bias: ArrayLike | None,
    num_heads: int,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    kv_lengths: ArrayLike | None = None,
    q_start: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    return_weights: Literal[False] = False,
) -> Floats: ...


@overload
def multi_head_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    in_proj_weight: WeightLike,
    in_proj_bias: ArrayLike | None,
    out_proj_weight: WeightLike,
    out_proj_bias: ArrayLike | None,
    num_heads: int,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    kv_lengths: ArrayLike | None = None,
    q_start: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    return_weights: Literal[True],
) -> tuple[Floats, Floats]: ...


def multi_head_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    in_proj_weight: WeightLike,
    in_proj_bias: ArrayLike | None,
    out_proj_weight: WeightLike,
    out_proj_bias: ArrayLike | None,
    num_heads: int,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    kv_lengths: ArrayLike | None = None,
    q_start: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    return_weights: bool = False,
) -> Any:
    """Projections, attention in `num_heads` heads, and the output projection.

    Vaswani et al. 2017, section 3.2.2. The weights are those of PyTorch's `nn.MultiheadAttention`, and so is the
    meaning of `F.multi_head_attention_forward`, with three differences: arrays are batch first; a bool `attn_mask`
    says True = attend, as everywhere in this library (PyTorch's is its negation); weights are returned per head, not
    averaged.

    Args:
        query: [B, T, C].
        key, value: [B, S, C]. Passing the same array (as in self-attention) makes one product of the projections.
        in_proj_weight: [3 C, C], the rows of q, then k, then v. in_proj_bias: [3 C] or None.
        out_proj_weight: [C, C]. out_proj_bias: [C] or None. Both weights may be packed (`pack`).
        num_heads: a divisor of C.
        attn_mask, is_causal, kv_lengths, q_start, scale, softcap, window: as in `scaled_dot_product_attention`; the
            mask is broadcast to [B, H, T, S]. `kv_lengths` is PyTorch's `key_padding_mask` for padding at the end.
        return_weights: also return the weights.

    Returns:
        float32 [B, T, C]; with `return_weights` also the weights, float32 [B, H, T, S].

    Raises:
        TypeError, ValueError: as in `scaled_dot_product_attention`.

    >>> import numpy as np
    >>> eye, x = np.eye(2, dtype=np.float32), np.ones((1, 3, 2), np.float32)
    >>> multi_head_attention(x, x, x, np.vstack([eye] * 3), None, eye, None, 1)[0, 0].tolist()
    [1.0, 1.0]
    """
    q = floats(query, "query")
    k = q if key is query else floats(key, "key")
    v = k if value is key else floats(value, "value")
    expect(q, "query", "B T C", None, None, None)
    batch, queries, width = q.shape
    expect(k, "key", "B S C", batch, None, width)
    expect(v, "value", "B S C", batch, k.shape[1], width)
    num_heads = integer(num_heads, "num_heads")
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads: expected a divisor of C = {width}, got {num_heads}")
    w_in, b_in = weight_of(in_proj_weight, "in_proj_weight"), optional_floats(in_proj_bias, "in_proj_bias")
    w_out, b_out = weight_of(out_proj_weight, "out_proj_weight"), optional_floats(out_proj_bias, "out_proj_bias")
    expect(w_in, "in_proj_weight", "3C C", 3 * width, width)
    expect(w_out, "out_proj_weight", "C C", width, width)
    if b_in is not None:
        expect(b_in, "in_proj_bias", "3C", 3 * width)
    if b_out is not None:
        expect(b_out, "out_proj_bias", "C", width)
    context = np.empty((batch, queries, width), np.float32)
    q, k, v = (_heads(x, num_heads) for x in _project_inputs(q, k, v, w_in, b_in))
    weights = _attend(
        q,
        k,
        v,
        attn_mask,
        _heads(context, num_heads),
        is_causal=is_causal,
        q_start=q_start,
        scale=scale,
        softcap=softcap,
        window=window,
        kv_lengths=kv_lengths,
        return_weights=return_weights,
    )
    out = project(context, w_out, b_out)
    return out if weights is None else (out, weights)


def _check_recurrent(query: ArrayLike, keys: ArrayLike, values: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """query as [B, T, Hq], keys, and values (keys if there are none)."""
    q, k = floats(query, "query"), floats(keys, "keys")
    if q.ndim == 2:
        q = q[:, None]
    expect(q, "query", "B T Hq", None, None, None)
    expect(k, "keys", "B S Hk", q.shape[0], None, None)
    v = k if values is None else floats(values, "values")
    expect(v, "values", "B S Hv", k.shape[0], k.shape[1], None)
    return q, k, contiguous_rows(v)


def _weigh(
    query: Floats, keys: Floats, v: Floats | None, values: Floats, lengths: ArrayLike | None, single: bool
) -> tuple[Floats, Floats]:
    """Context and weights of projected queries [B, T, A] over projected keys [B, S, A]."""
    batch, queries, _ = query.shape
    limit = lengths_of(lengths, "lengths", batch, keys.shape[1])
    context = np.empty((batch, queries, values.shape[2]), np.float32)
    weights = np.empty((batch, queries, keys.shape[1]), np.float32)
    native.score_attention(
        contiguous_rows(query), contiguous_rows(keys), contiguous(v), values, limit, context, weights
    )
    return (context[:, 0], weights[:, 0]) if single else (context, weights)


def additive_attention(
    query: ArrayLike,
    keys: ArrayLike,
    W_q: WeightLike,
    W_k: WeightLike,
    v: ArrayLike,
    *,
    values: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """score(q, k) = v · tanh(W_q q + W_k k + bias); weights = softmax of the scores; context = weights · values.

    Bahdanau, Cho & Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and Translate": the query is
    the decoder's state s_{i-1}, the keys are the encoder's annotations h_j, W_q is W_a, W_k is U_a.

    Args:
        query: [B, T, Hq], or [B, Hq] for one query per sequence.
        keys: [B, S, Hk].
        W_q: [A, Hq]. W_k: [A, Hk]. They may be packed (`pack`). v: [A]. bias: [A] or None.
        values: [B, S, Hv]; default: the keys.
        lengths: integers [B]: keys and values from there on do not exist, whatever they hold.

    Returns:
        (context, weights): float32 [B, T, Hv] and [B, T, S], or [B, Hv] and [B, S] for a query [B, Hq]. A sequence of
        length 0 gives zeros in both.

    values are read in place if their last axis is contiguous, and copied if not; keys and queries are read once, by
    their projections.

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: a shape or length does not fit; it is named, with what was found and expected.

    >>> import numpy as np
    >>> eye = np.eye(2, dtype=np.float32)
    >>> context, weights = additive_attention(np.ones((1, 2)), np.zeros((1, 3, 2)), eye, eye, np.ones(2), lengths=[2])
    >>> weights.tolist()
    [[0.5, 0.5, 0.0]]
    """
    q, k, vals = _check_recurrent(query, keys, values)
    w_q, w_k, w_v = weight_of(W_q, "W_q"), weight_of(W_k, "W_k"), floats(v, "v")
    expect(w_v, "v", "A", None)
    expect(w_q, "W_q", "A Hq", len(w_v), q.shape[2])
    expect(w_k, "W_k", "A Hk", len(w_v), k.shape[2])
    b = optional_floats(bias, "bias")
    if b is not None:
        expect(b, "bias", "A", len(w_v))
    return _weigh(project(q, w_q), project(k, w_k, b), w_v, vals, lengths, np.ndim(query) == 2)


def luong_attention(
    query: ArrayLike,
    keys: ArrayLike,
    *,
    score: str = "dot",
    W: ArrayLike | None = None,
    v: ArrayLike | None = None,
    values: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Global attention with one of three scores: "dot" q · k, "general" q · W k, "concat" v · tanh(W [q; k]).

    Luong, Pham & Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation", section 3.1: the
    query is the decoder's state h_t, the keys are the encoder's states h̄_s.

    Args:
        query: [B, T, Hq], or [B, Hq] for one query per sequence.
        keys: [B, S, Hk]; Hk = Hq for "dot".
        score: "dot", "general" or "concat".
        W: [Hq, Hk] for "general", [A, Hq + Hk] for "concat".
        v: [A], for "concat".
        values: [B, S, Hv]; default: the keys.
        lengths: integers [B]: keys and values from there on do not exist, whatever they hold.

    Returns:
        (context, weights): as `additive_attention`.

    query, keys and values are read in place if their last axis is contiguous, and copied if not.

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: the score is unknown, or lacks W or v, or has one it does not take; a shape or length does not fit.

    >>> import numpy as np
    >>> keys = np.eye(2, dtype=np.float32)[None]
    >>> context, weights = luong_attention(np.zeros((1, 2)), keys)
    >>> context.tolist()
    [[0.5, 0.5]]
    """
    takes = {"dot": (), "general": ("W",), "concat": ("W", "v")}.get(score)
    if takes is None:
        raise ValueError(f"score: expected 'dot', 'general' or 'concat', got {score!r}")
    for name, given in (("W", W), ("v", v)):
        if (given is not None) != (name in takes):
            raise ValueError(f"{name}: score {score!r} {'needs it' if name in takes else 'does not take it'}")
    q, k, vals = _check_recurrent(query, keys, values)
    single = np.ndim(query) == 2
    width, key_width = q.shape[2], k.shape[2]
    if W is None:
        expect(k, "keys", "B S Hq", k.shape[0], None, width)
        return _weigh(q, k, None, vals, lengths, single)
    w = floats(W, "W")
    if v is None:
        expect(w, "W", "Hq Hk", width, key_width)
        return _weigh(project(q, w.T), k, None, vals, lengths, single)
    w_v = floats(v, "v")
    expect(w_v, "v", "A", None)
    expect(w, "W", "A Hq+Hk", len(w_v), width + key_width)
    return _weigh(project(q, w[:, :width]), project(k, w[:, width:]), w_v, vals, lengths, single)


def attentional_state(context: ArrayLike, state: ArrayLike, W_c: WeightLike, bias: ArrayLike | None = None) -> Floats:
    """tanh(W_c [context; state] + bias): the state from which the next token is predicted.

    Luong et al. 2015, equation 5.

    Args:
        context: [..., Cc]. state: [..., Ch], with the same leading axes. They are copied side by side.
        W_c: [O, Cc + Ch]; it may be packed (`pack`). bias: [O] or None.

    Returns:
        float32 [..., O].

    Raises:
        TypeError: an argument is no array of numbers; it is named.
        ValueError: a shape does not fit; it is named, with what was found and expected.

    >>> import numpy as np
    >>> attentional_state(np.ones((1, 2)), np.ones((1, 1)), np.zeros((3, 3))).tolist()
    [[0.0, 0.0, 0.0]]
    """
    c, h, w, b = (
        floats(context, "context"),
        floats(state, "state"),
        weight_of(W_c, "W_c"),
        optional_floats(bias, "bias"),
    )
    if c.ndim == 0 or h.shape[:-1] != c.shape[:-1] or h.ndim != c.ndim:
        raise ValueError(f"state: expected the leading axes of context, {list(c.shape)}, got {list(h.shape)}")
    expect(w, "W_c", "O Cc+Ch", None, c.shape[-1] + h.shape[-1])
    if b is not None:
        expect(b, "bias", "O", w.shape[0])
    return project(np.concatenate([c, h], -1), w, b, "tanh")
