"""The public attention ops in plain NumPy: the definition the kernels are tested against, and the benchmarks' baseline.

Signatures and meanings are those of `fastattn.ops`; results have the dtype of `query`.
"""

# mypy: disable-error-code="no-any-return"
# (arithmetic on arrays of either float type is Any to mypy)

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.reference.quantized import to_bfloat16

Array = NDArray[Any]
Window = tuple[int | None, int | None]

BLOCK = 256  # keys whose powers of a softmax the engine takes beside their own largest
LOG2E = np.float32(1.44269504)


def softmax(x: ArrayLike, axis: int = -1) -> Array:
    """exp(x) over its sum along `axis`; a row of nothing but -inf gives zeros.

    >>> softmax(np.array([0.0, 0.0, -np.inf])).tolist()
    [0.5, 0.5, 0.0]
    """
    x = np.asarray(x)
    if x.shape[axis] == 0:
        return x
    top = x.max(axis, keepdims=True)
    e = np.exp(x - np.where(np.isneginf(top), 0, top))
    total = e.sum(axis, keepdims=True)
    return np.asarray(e / np.where(total == 0, 1, total))


def rounded_weights(scores: Array) -> Array:
    """softmax(scores) [..., S] with each power e^(score - largest) rounded to bfloat16 beside the largest of its block of BLOCK
    keys, as the engine takes them to the values; the sum that divides them is of powers that are not rounded.

    >>> rounded_weights(np.log(np.array([1.0, 3.0, 4.0]))).tolist()
    [0.125, 0.375, 0.5]
    """
    keys = scores.shape[-1]
    if keys == 0:
        return scores
    edges = np.arange(0, keys, BLOCK)
    tops = np.maximum.reduceat(scores, edges, -1)
    most = tops.max(-1, keepdims=True)
    scales = np.exp(tops - np.where(np.isneginf(most), 0, most))  # 0 for a block of nothing but -inf
    powers = np.exp(scores - np.repeat(np.where(np.isneginf(tops), 0, tops), BLOCK, -1)[..., :keys])
    total = (np.add.reduceat(powers, edges, -1) * scales).sum(-1, keepdims=True)
    return to_bfloat16(powers) * np.repeat(scales, BLOCK, -1)[..., :keys] / np.where(total == 0, 1, total)


def attend(
    q: Array, k: Array, v: Array, bias: Array | None, scale: float, softcap: float, rounded: bool = False
) -> tuple[Array, Array]:
    """softmax(softcap(scale · q kᵀ) + bias) v, and the softmax.

    q [..., H, T, D], k [..., G, S, D], v [..., G, S, Dv], bias broadcast to [..., H, T, S] with -inf where a key is not
    seen. H is a multiple of G: each group of H / G query heads shares one key/value head.
    rounded: the two products multiply bfloat16, the queries being rounded times scale · log2 e.
    """
    *lead, heads, queries, size = q.shape
    groups, keys = k.shape[-3:-1]
    grouped = (*lead, groups, heads // groups, queries)  # [..., G, H / G, T]
    # scale is a Python float, so it does not widen float32; on q, not on the scores, as [T, D] is the smaller matrix
    if rounded:
        q, k, v = to_bfloat16(q * float(np.float32(scale) * LOG2E)) * math.log(2), to_bfloat16(k), to_bfloat16(v)
    else:
        q = q * scale
    scores = np.matmul(q.reshape(*grouped, size), k[..., None, :, :].swapaxes(-1, -2))
    scores = scores.reshape(*lead, heads, queries, keys)
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    if bias is not None:
        # not scores + bias: an overflow or NaN in the score of a key that is not seen must not be seen either
        scores = np.where(np.isneginf(bias), q.dtype.type(-np.inf), scores + bias)
    weights = softmax(scores)
    factors = rounded_weights(scores) if rounded else weights
    context = np.matmul(factors.reshape(*grouped, keys), v[..., None, :, :])
    return context.reshape(*lead, heads, queries, v.shape[-1]), weights


def visible(queries: Array, keys: int, causal: bool, left: int | None, right: int | None) -> Array | None:
    """Which keys [..., T, S] the queries at positions [..., T] see; None when all see all."""
    ahead = np.arange(keys) - queries[..., None]  # how far key s lies ahead of query t
    seen = None
    if causal:
        seen = ahead <= 0
    if left is not None:
        seen = ahead >= -left if seen is None else seen & (ahead >= -left)
    if right is not None:
        seen = ahead <= right if seen is None else seen & (ahead <= right)
    return seen


def as_bias(mask: Array, dtype: np.dtype[Any]) -> Array:
    """A bool mask (True = attend) as the number to add to a score; a float mask is that already."""
    return np.where(mask, 0.0, -np.inf).astype(dtype) if mask.dtype == bool else mask.astype(dtype)


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    *,
    is_causal: bool = False,
    q_start: int | Array | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    kv_lengths: Array | None = None,
    return_weights: bool = False,
) -> Any:
    """softmax(softcap(scale · query keyᵀ) + mask) value, as the ONNX `Attention` operator means it.

    query [B, Hq, T, D], key [B, Hkv, S, D], value [B, Hkv, S, Dv], Hq a multiple of Hkv -> [B, Hq, T, Dv].
    attn_mask: bool (True = attend) or float (added after the softcap), broadcast to [B, Hq, T, S].
    q_start: position of the first query among the keys, an int or one per batch row [B]; default S - T.
    is_causal: query t sees keys up to q_start + t. window (left, right): keys from q_start + t - left to
    q_start + t + right, None = unbounded. kv_lengths [B]: keys from there on do not exist, whatever they hold.
    scale: default 1 / sqrt(D). softcap c > 0: scores become c · tanh(score / c). A query that sees no key gives zeros.
    return_weights: (result, weights [B, Hq, T, S]).

    >>> x = np.ones((1, 1, 2, 4), np.float32)
    >>> scaled_dot_product_attention(x, x, x, is_causal=True, return_weights=True)[1][0, 0].tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    batch, _, queries, size = query.shape
    keys = key.shape[2]
    start = np.broadcast_to(np.asarray(keys - queries if q_start is None else q_start), (batch,))
    left, right = window or (None, None)
    bias = np.zeros((1, 1, 1, keys), query.dtype)
    if attn_mask is not None:
        bias = bias + as_bias(np.asarray(attn_mask), query.dtype)
    seen = visible(start[:, None] + np.arange(queries), keys, is_causal, left, right)
    if seen is not None:
        bias = bias + as_bias(seen, query.dtype)[:, None]
    if kv_lengths is not None:
        there = np.arange(keys) < np.asarray(kv_lengths)[:, None]  # [B, S]
        bias = bias + as_bias(there, query.dtype)[:, None, None]
        value = np.where(there[:, None, :, None], value, 0)  # 0 · NaN is NaN: what is not there must not leak
    context, weights = attend(query, key, value, bias, 1 / math.sqrt(size) if scale is None else scale, softcap)
    return (context, weights) if return_weights else context


def _weigh(scores: Array, values: Array, lengths: Array | None) -> tuple[Array, Array]:
    """Softmax of scores [B, T, S] over the first `lengths` keys, and the mean of values [B, S, C] it weighs."""
    if lengths is not None:
        there = np.arange(scores.shape[-1]) < np.asarray(lengths)[:, None]  # [B, S]
        scores = np.where(there[:, None], scores, scores.dtype.type(-np.inf))
        values = np.where(there[..., None], values, 0)
    weights = softmax(scores)
    return weights @ values, weights


def _squeeze(result: tuple[Array, Array], single: bool) -> tuple[Array, Array]:
    return (result[0][:, 0], result[1][:, 0]) if single else result


def additive_attention(
    query: Array,
    keys: Array,
    W_q: Array,
    W_k: Array,
    v: Array,
    *,
    values: Array | None = None,
    bias: Array | None = None,
    lengths: Array | None = None,
) -> tuple[Array, Array]:
    """Bahdanau et al. 2015: score(q, k) = v · tanh(W_q q + W_k k + bias); gives (context, weights).

    query [B, Cq] or [B, T, Cq], keys [B, S, Ck], W_q [A, Cq], W_k [A, Ck], v and bias [A], values [B, S, Cv] (default:
    keys). lengths [B]: keys from there on do not exist. context [B, Cv] or [B, T, Cv], weights [B, S] or [B, T, S].

    >>> eye = np.eye(2, dtype=np.float32)
    >>> additive_attention(np.ones((1, 2)), np.zeros((1, 3, 2)), eye, eye, np.ones(2), lengths=[2])[1].tolist()
    [[0.5, 0.5, 0.0]]
    """
    q = query[:, None] if query.ndim == 2 else query
    hidden = (q @ W_q.T)[:, :, None] + (keys @ W_k.T)[:, None]  # [B, T, S, A]
    if bias is not None:
        hidden = hidden + bias
    return _squeeze(_weigh(np.tanh(hidden) @ v, keys if values is None else values, lengths), query.ndim == 2)


def luong_attention(
    query: Array,
    keys: Array,
    *,
    score: str = "dot",
    W: Array | None = None,
    v: Array | None = None,
    values: Array | None = None,
    lengths: Array | None = None,
) -> tuple[Array, Array]:
    """Luong et al. 2015: score(q, k) is "dot" q · k, "general" q · W k or "concat" v · tanh(W [q; k]).

    query [B, Cq] or [B, T, Cq], keys [B, S, Ck], values [B, S, Cv] (default: keys); W [Cq, Ck] for general,
    [A, Cq + Ck] for concat, v [A]. lengths [B]: keys from there on do not exist. Gives (context [B, Cv] or [B, T, Cv],
    weights [B, S] or [B, T, S]).

    >>> keys = np.eye(2, dtype=np.float32)[None]
    >>> luong_attention(np.zeros((1, 2), np.float32), keys)[0].tolist()
    [[0.5, 0.5]]
    """
    q = query[:, None] if query.ndim == 2 else query
    if score == "dot":
        scores = q @ keys.swapaxes(1, 2)
    elif score == "general" and W is not None:
        scores = q @ W @ keys.swapaxes(1, 2)
    elif score == "concat" and W is not None and v is not None:
        width = q.shape[-1]
        hidden = (q @ W[:, :width].T)[:, :, None] + (keys @ W[:, width:].T)[:, None]  # W [q; k], [B, T, S, A]
        scores = np.tanh(hidden) @ v
    else:
        raise ValueError(f'score: "dot", "general" (with W) or "concat" (with W and v) expected, got {score!r}')
    return _squeeze(_weigh(scores, keys if values is None else values, lengths), query.ndim == 2)


def multi_head_attention(
    query: Array,
    key: Array,
    value: Array,
    in_proj_weight: Array,
    in_proj_bias: Array | None,
    out_proj_weight: Array,
    out_proj_bias: Array | None,
    num_heads: int,
    *,
    attn_mask: Array | None = None,
    is_causal: bool = False,
    kv_lengths: Array | None = None,
    q_start: int | Array | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    window: Window | None = None,
    return_weights: bool = False,
) -> Any:
    """Vaswani et al. 2017, with the packed weights of PyTorch's nn.MultiheadAttention (batch first).

    query [B, T, C], key and value [B, S, C], in_proj_weight [3 C, C] (q, k, v), in_proj_bias [3 C],
    out_proj_weight [C, C], out_proj_bias [C] -> [B, T, C]; with return_weights also the weights [B, H, T, S].
    The other options are those of `scaled_dot_product_attention`.

    >>> eye, x = np.eye(2, dtype=np.float32), np.ones((1, 3, 2), np.float32)
    >>> multi_head_attention(x, x, x, np.vstack([eye] * 3), None, eye, None, 1).tolist()[0][0]
    [1.0, 1.0]
    """
    batch, queries, width = query.shape

    def project(x: Array, part: int) -> Array:  # -> [B, H, T, D]
        rows = slice(part * width, (part + 1) * width)
        y = x @ in_proj_weight[rows].T
        y = y if in_proj_bias is None else y + in_proj_bias[rows]
        return y.reshape(batch, -1, num_heads, width // num_heads).swapaxes(1, 2)

    context, weights = scaled_dot_product_attention(
        project(query, 0),
        project(key, 1),
        project(value, 2),
        attn_mask,
        is_causal=is_causal,
        kv_lengths=kv_lengths,
        q_start=q_start,
        scale=scale,
        softcap=softcap,
        window=window,
        return_weights=True,
    )
    out = context.swapaxes(1, 2).reshape(batch, queries, width) @ out_proj_weight.T
    out = out if out_proj_bias is None else out + out_proj_bias
    return (out, weights) if return_weights else out


def attentional_state(context: Array, state: Array, W_c: Array, bias: Array | None = None) -> Array:
    """tanh(W_c [c; h]) of Luong et al. 2015.

    context [..., Cc], state [..., Ch], W_c [O, Cc + Ch], bias [O] -> [..., O].

    >>> attentional_state(np.zeros((1, 2)), np.ones((1, 1)), np.ones((1, 3))).round(4).tolist()
    [[0.7616]]
    """
    y = np.concatenate([context, state], -1) @ W_c.T
    return np.asarray(np.tanh(y if bias is None else y + bias))
