"""The public ops in the shapes of translators, encoders and long contexts, each beside its NumPy counterpart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from measuring import Case

from fastattn import ops, reference
from fastattn.reference import ops as plain

Array = Any


POOL = np.random.default_rng(0).standard_normal((1 << 20) + 7, np.float32)  # an odd size: no two arrays are alike
taken = 0


def _floats(*shape: int, scale: float = 1.0) -> Array:
    """The next numbers of the pool, again and again: normal ones, made faster than a generator makes them."""
    global taken
    size = math.prod(shape)
    values = np.resize(POOL[taken:] if size <= POOL.size - taken else POOL, shape) * np.float32(scale)
    taken = (taken + size) % POOL.size
    return values


def _size(values: Any) -> int:
    """Bytes of all arrays in nested tuples."""
    if isinstance(values, (tuple, list)):
        return sum(map(_size, values))
    return values.nbytes if isinstance(values, np.ndarray) else 0


def _double(values: Any) -> Any:
    if isinstance(values, (tuple, list)):
        return type(values)(map(_double, values))
    return values.astype(np.float64) if isinstance(values, np.ndarray) and values.dtype == np.float32 else values


def _pack(values: Any) -> Any:
    """Matrices become packed weights, in nested sequences too."""
    if isinstance(values, (tuple, list)):
        return type(values)(map(_pack, values))
    return ops.pack(values) if isinstance(values, np.ndarray) and values.ndim == 2 else values


def _case(
    name: str,
    shape: str,
    flops: float,
    native: Callable[..., Any],
    numpy: Callable[..., Any],
    *inputs: Any,
    weights: tuple[Any, ...] = (),
    packed: bool = True,
    **options: Any,
) -> Case:
    """Both are called with inputs, then weights; native with the matrices among them packed, as a program does once."""
    native_weights = _pack(weights) if packed else weights
    arguments = (*inputs, *weights)

    def truth() -> Any:
        return numpy(*_double(arguments), **{key: _double(value) for key, value in options.items()})

    return Case(
        name,
        shape,
        native=lambda: native(*inputs, *native_weights, **options),
        reference=lambda: numpy(*arguments, **options),
        truth=truth,
        flops=flops,
        nbytes=lambda: (
            _size(arguments) + _size(tuple(options.values())) + _size(native(*inputs, *native_weights, **options))
        ),
    )


def attention() -> Iterator[Case]:
    """A step of decoding (T = 1) with a short and a long context, whole sentences, and every option at once."""
    native, numpy = ops.scaled_dot_product_attention, reference.scaled_dot_product_attention
    shapes = [(1, 8, 8, 1, 32, 64), (1, 8, 8, 1, 2048, 64), (8, 8, 8, 1, 256, 64), (4, 32, 8, 1, 1024, 128)]
    shapes += [(1, 8, 8, 32, 32, 64), (1, 8, 8, 512, 512, 64), (8, 8, 8, 64, 64, 64)]
    for B, H, G, T, S, D in shapes:
        qkv = _floats(B, H, T, D), _floats(B, G, S, D), _floats(B, G, S, D)
        shape = f"B={B} H={H}{f'/{G}' if G != H else ''} T={T} S={S} D={D}"
        yield _case("scaled_dot_product_attention", shape, 4.0 * B * H * T * S * D, native, numpy, *qkv)
        if T in (1, 512) and S == 512:
            causal = 2.0 * B * H * T * S * D
            yield _case("scaled_dot_product_attention", shape + " causal", causal, native, numpy, *qkv, is_causal=True)
    B, H, G, T, S, D = 2, 8, 2, 64, 256, 64
    qkv = _floats(B, H, T, D), _floats(B, G, S, D), _floats(B, G, S, D)
    everything = {
        "attn_mask": _floats(B, 1, T, S),
        "softcap": 20.0,
        "window": (128, 32),
        "kv_lengths": np.array([200, 256]),
        "return_weights": True,
    }
    yield _case(
        "scaled_dot_product_attention", "B=2 H=8/2 T=64 S=256 D=64 every option", 0.0, native, numpy, *qkv, **everything
    )


def multi_head() -> Iterator[Case]:
    both = (ops.multi_head_attention, reference.multi_head_attention)
    for B, T, C, H in [(1, 1, 512, 8), (1, 32, 512, 8), (8, 32, 256, 4), (1, 256, 768, 12)]:
        x = _floats(B, T, C)
        weights = _floats(3 * C, C, scale=C**-0.5), _floats(3 * C), _floats(C, C, scale=C**-0.5), _floats(C), H
        flops = 8.0 * B * T * C * C + 4.0 * B * T * T * C
        yield _case("multi_head_attention", f"B={B} T=S={T} C={C} H={H}", flops, *both, x, x, x, weights=weights)


def recurrent_attention() -> Iterator[Case]:
    """One decoder step of a translator (query [B, C]) and teacher forcing over T steps (query [B, T, C])."""
    for B, T, S, C in [(1, 0, 16, 256), (1, 0, 64, 512), (16, 0, 64, 512), (4, 32, 32, 256)]:
        query = _floats(B, T, C) if T else _floats(B, C)
        keys, W, v, rows = _floats(B, S, C), _floats(C, C, scale=C**-0.5), _floats(C, scale=C**-0.5), B * max(T, 1)
        shape = f"B={B} {f'T={T} ' if T else ''}S={S} C={C}"
        score, mapped = 4.0 * rows * S * C, 2.0 * C * C
        for name, flops, options in [
            ("dot", score, {}),
            ("general", score + mapped * rows, {"W": W}),
            ("concat", score + mapped * (rows + B * S), {"W": _floats(C, 2 * C, scale=C**-0.5), "v": v}),
        ]:
            luong = (ops.luong_attention, reference.luong_attention)
            yield _case(f"luong_attention {name}", shape, flops, *luong, query, keys, score=name, **options)
        additive = (ops.additive_attention, reference.additive_attention)
        flops = score + mapped * (rows + B * S)
        yield _case("additive_attention", shape, flops, *additive, query, keys, weights=(W, W.T.copy(), v))
    for B, C in [(1, 256), (16, 512)]:
        both, weights = (ops.attentional_state, reference.attentional_state), (_floats(C, 2 * C, scale=C**-0.5),)
        yield _case(
            "attentional_state", f"B={B} C={C}", 4.0 * B * C * C, *both, _floats(B, C), _floats(B, C), weights=weights
        )


def _linear(x: Array, weight: Array, bias: Array, activation: str = "none") -> Array:
    return plain.linear(x, weight=weight, bias=bias, activation=activation)


def linear() -> Iterator[Case]:
    for rows, width, out, activation in [
        (1, 512, 512, "none"),
        (1, 512, 2048, "relu"),
        (1, 512, 32000, "none"),
        (8, 512, 2048, "relu"),
        (32, 512, 512, "none"),
        (256, 512, 2048, "gelu"),
    ]:
        x, weights = _floats(rows, width), (_floats(out, width, scale=width**-0.5), _floats(out))
        flops, both = 2.0 * rows * width * out, (ops.linear, _linear)
        shape = f"rows={rows} {width}→{out}{'' if activation == 'none' else ' ' + activation}"
        yield _case("linear", shape, flops, *both, x, weights=weights, activation=activation)
        if out < 32000:
            raw = {"weights": weights, "packed": False, "activation": activation}
            yield _case("linear, weight as an array", shape, flops, *both, x, **raw)


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _top_k(x: Array, k: int) -> tuple[Array, Array]:
    """Of equal elements the first: a stable sort of the candidates that argpartition's threshold lets through."""
    least = np.partition(x, -k, -1)[:, -k]
    indices = np.empty((len(x), k), np.int32)
    for row, bound, found in zip(x, least, indices, strict=True):
        near = np.flatnonzero(row >= bound)
        found[:] = near[np.argsort(-row[near], kind="stable")[:k]]
    return np.take_along_axis(x, indices, -1), indices


def rows() -> Iterator[Case]:
    """Softmax and its kin over vocabularies and over keys; norms; look-ups."""
    for n, width in [(1, 32), (64, 64), (1, 8000), (4, 58101), (4096, 128)]:
        x, shape = _floats(n, width, scale=3.0), f"{n} × {width}"
        yield _case("softmax", shape, 0.0, ops.softmax, reference.softmax, x)
        yield _case("log_softmax", shape, 0.0, ops.log_softmax, _log_softmax, x)
    for n, width, k in [(1, 8000, 1), (4, 58101, 8), (16, 8000, 8)]:
        yield _case("top_k", f"{n} × {width} k={k}", 0.0, ops.top_k, _top_k, _floats(n, width), k)
    for n, width in [(1, 512), (32, 512), (1024, 768)]:
        x, weight, bias, shape = _floats(n, width), _floats(width), _floats(width), f"{n} × {width}"
        yield _case(
            "layer_norm",
            shape,
            0.0,
            ops.layer_norm,
            lambda x, w, b: plain.layer_norm(x, weight=w, bias=b),
            x,
            weight,
            bias,
        )
        yield _case("rms_norm", shape, 0.0, ops.rms_norm, lambda x, w: plain.rms_norm(x, weight=w), x, weight)
    V, C = 58101, 512
    weight = _floats(V, C)
    for n in (1, 64, 1024):
        ids = np.arange(n) * 7919 % V
        case = _case(
            "embedding",
            f"{n} of {V} × {C}, scaled",
            0.0,
            ops.embedding,
            lambda ids, w, s: plain.embedding(ids[:, None], weight=w, scale=s),
            ids,
            weight,
            C**0.5,
        )
        yield Case(case.name, case.shape, case.native, case.reference, case.truth, nbytes=lambda n=n, C=C: 8.0 * n * C)


ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "exp": (ops.exp, np.exp),
    "erf": (ops.erf, plain.erf),
    "tanh": (ops.tanh, np.tanh),
    "sigmoid": (ops.sigmoid, plain.sigmoid),
    "relu": (ops.relu, plain.ACTIVATIONS["relu"]),
    "gelu": (ops.gelu, plain.gelu),
    "gelu_tanh": (lambda x: ops.gelu(x, approximate="tanh"), plain.gelu_tanh),
    "silu": (ops.silu, plain.ACTIVATIONS["silu"]),
}


def activations() -> Iterator[Case]:
    for n, width in [(1, 512), (32, 2048), (1024, 1024)]:
        x = _floats(n, width, scale=2.0)
        for name, (native, numpy) in ACTIVATIONS.items():
            yield _case(name, f"{n} × {width}", 0.0, native, numpy, x)


def _gru_cell(x: Array, h: Array, *weights: Array) -> Array:
    return plain.gru_cell(x, h, **dict(zip(ROLES, weights, strict=True)))


def _lstm_cell(x: Array, h: Array, c: Array, *weights: Array) -> Array:
    return plain.lstm_cell(x, h, c, **dict(zip(ROLES, weights, strict=True)))


ROLES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _sequence(x: Array, weights: Array, lstm: bool) -> Array:
    """One layer, forward: the projection of all inputs in one product, then the steps."""
    w_ih, w_hh, b_ih, b_hh = weights
    projected = plain.project(x, w_ih, b_ih)
    h = c = np.zeros((x.shape[0], w_hh.shape[1]), x.dtype)
    out = np.empty((*x.shape[:2], w_hh.shape[1]), x.dtype)
    for t in range(x.shape[1]):
        state = plain.project(h, w_hh, b_hh)
        if lstm:
            h, c = plain.lstm_gates(projected[:, t] + state, c)
        else:
            h = plain.gru_gates(projected[:, t], state, h)
        out[:, t] = h
    return out


def recurrent() -> Iterator[Case]:
    """Cells, which a decoder steps through, and whole sequences."""
    for cell, gates in (("gru", 3), ("lstm", 4)):
        lstm = cell == "lstm"

        def weights(C: int, rows: int = gates) -> tuple[Array, ...]:
            return (*(_floats(rows * C, C, scale=C**-0.5) for _ in range(2)), *(_floats(rows * C) for _ in range(2)))

        both = (ops.lstm_cell, _lstm_cell) if lstm else (ops.gru_cell, _gru_cell)
        for B, C in [(1, 256), (16, 512)]:
            states, flops = [_floats(B, C) for _ in range(1 + lstm)], 4.0 * B * gates * C * C
            yield _case(f"{cell}_cell", f"B={B} I=H={C}", flops, *both, _floats(B, C), *states, weights=weights(C))
        for B, T, C in [(1, 16, 256), (8, 32, 256), (1, 64, 512)]:
            yield _case(
                cell,
                f"B={B} T={T} I=H={C}",
                4.0 * B * T * gates * C * C,
                lambda x, w, op=ops.lstm if lstm else ops.gru: op(x, [w])[0],
                lambda x, w, lstm=lstm: _sequence(x, w, lstm),
                _floats(B, T, C),
                weights=(weights(C),),
            )


FAMILIES = (attention, multi_head, recurrent_attention, linear, rows, activations, recurrent)


def cases() -> list[Case]:
    """All of them; arrays are made, nothing is computed."""
    return [case for family in FAMILIES for case in family()]
