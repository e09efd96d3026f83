"""Tiny random models of both kinds, built from `fastattn.nn`, and the backends that run them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from fastattn import graph as g
from fastattn import isa, models, nn
from fastattn.reference import ReferenceSession
from fastattn.runtime import AttentionRecord, NativeSession, StepResult

Graphs = Mapping[str, g.Graph]
Weights = dict[str, np.ndarray]
VOCABULARY, POSITIONS = 37, 600


@dataclass
class Toy:
    """A model's graphs and weights; `sequential`: its decoder takes one token a step."""

    graphs: Graphs
    weights: Weights
    sequential: bool = False
    cache_type: str = "float32"

    @property
    def has_encoder(self) -> bool:
        return "encoder" in self.graphs


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
    """Normal, scaled so that activations keep their size; norm weights near 1."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.3
        value = rng.normal(0, scale, shape)
        weights[name] = (value + (1 if "norm" in name and name.endswith("weight") else 0)).astype(np.float32)
    return weights


@dataclass
class Shape:
    """Sizes of a toy transformer; widths are odd on purpose: no kernel may count on multiples."""

    heads: int = 3
    kv_heads: int = 3
    head: int = 5
    ffn: int = 33
    layers: int = 2
    softcap: float = 0.0
    window: int = -1
    rms: bool = False
    memory: bool = True
    buckets: int = 0  # of T5's relative positions
    slopes: bool = False  # ALiBi's

    @property
    def width(self) -> int:
        return self.heads * self.head


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        self.weight = nn.Parameter(width)

    def __call__(self, x: g.Value) -> g.Value:
        return g.apply("rms_norm", [x], {"weight": self.weight})[0]


class Attention(nn.Module):
    def __init__(self, s: Shape) -> None:
        self._shape = s
        kv = s.kv_heads * s.head
        self.q, self.k, self.v = nn.Linear(s.width, s.width), nn.Linear(s.width, kv), nn.Linear(s.width, kv, bias=False)
        self.out = nn.Linear(s.width, s.width)
        self.bias_table = nn.Parameter(s.buckets, s.heads) if s.buckets else None
        self.slopes = nn.Parameter(s.heads) if s.slopes else None

    def own(self, x: g.Value, layer: int, causal: bool) -> g.Value:
        s = self._shape
        y = g.apply(
            "attention",
            [self.q(x), self.k(x), self.v(x)],
            {"bias_table": self.bias_table, "slopes": self.slopes},
            heads=s.heads,
            kv_heads=s.kv_heads,
            scale=s.head**-0.5,
            layer=layer,
            causal=int(causal),
            cache=layer if causal else -1,
            softcap=s.softcap,
            window_left=s.window,
            buckets=s.buckets,
            max_distance=4 * s.buckets,
            bidirectional=int(not causal),
        )[0]
        return self.out(y, residual=x)

    def remember(self, x: g.Value, layer: int) -> None:
        g.apply("memory_write", [self.k(x), self.v(x)], layer=layer, kv_heads=self._shape.kv_heads)

    def cross(self, x: g.Value, layer: int) -> g.Value:
        s = self._shape
        sizes = {"heads": s.heads, "kv_heads": s.kv_heads, "value_size": s.head}
        y = g.apply("cross_attention", [self.q(x)], scale=s.head**-0.5, layer=layer, **sizes)[0]
        return self.out(y, residual=x)


class Layer(nn.Module):
    def __init__(self, s: Shape, cross: bool) -> None:
        norm: Any = RMSNorm if s.rms else nn.LayerNorm
        self.attention, self.norm1 = Attention(s), norm(s.width)
        self.cross = Attention(s) if cross else None
        self.norm2 = norm(s.width) if cross else None
        self.up, self.down, self.norm3 = nn.Linear(s.width, s.ffn), nn.Linear(s.ffn, s.width), norm(s.width)

    def __call__(self, x: g.Value, layer: int, causal: bool) -> g.Value:
        x = self.norm1(self.attention.own(x, layer, causal))
        if self.cross and self.norm2:
            x = self.norm2(self.cross.cross(x, layer))
        return self.norm3(self.down(self.up(x, activation="gelu"), residual=x))


class Transformer(nn.Module):
    def __init__(self, s: Shape) -> None:
        self._shape = s
        self.embed, self.positions = nn.Embedding(VOCABULARY, s.width), nn.PositionEmbedding(POSITIONS, s.width)
        self.encoder = [Layer(s, cross=False) for _ in range(s.layers if s.memory else 0)]
        self.decoder = [Layer(s, cross=s.memory) for _ in range(s.layers)]
        self.bias = nn.Parameter(VOCABULARY)

    def __call__(self) -> dict[str, g.Graph]:
        graphs = {}
        if self.encoder:
            with g.tracing("encoder") as (graphs["encoder"], ids):
                x = self.positions(self.embed(ids, scale=1.5))
                for i, layer in enumerate(self.encoder):
                    x = layer(x, i, causal=False)
                graphs["encoder"].tap(x, "hidden")
                for i, layer in enumerate(self.decoder):
                    layer.cross.remember(x, i)
        with g.tracing("decoder") as (graphs["decoder"], ids):
            x = self.positions(self.embed(ids))
            for i, layer in enumerate(self.decoder):
                x = graphs["decoder"].tap(layer(x, i, causal=True), f"layer{i}")
            x = g.apply("select_rows", [x])[0]
            logits = g.apply("linear", [x], {"weight": self.embed.weight, "bias": self.bias})[0]
            g.apply("output", [logits])
        return graphs


def transformer(seed: int = 0, cache_type: str = "float32", **sizes: Any) -> Toy:
    model = Transformer(Shape(**sizes))
    shapes = model.finalise()
    return Toy(model(), random_weights(shapes, seed), cache_type=cache_type)


def llama(seed: int, **changes: Any) -> Toy:
    """The family as it is: rotary positions, grouped queries, gates."""
    config: dict[str, Any] = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 20, "intermediate_size": 33, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "max_position_embeddings": POSITIONS}  # fmt: skip
    built = models.build({**config, **changes}, "a toy")
    weights = random_weights(built.params, seed)
    built.prepare(weights)
    return Toy(built.graphs, weights)


class Translator(nn.Module):
    """Bidirectional encoder, additive or dot attention, input feeding, attentional state."""

    def __init__(self, cell: str, width: int, hidden: int, layers: int, score: str) -> None:
        self._cell, self._layers, self._score, self._hidden = cell, layers, score, hidden
        self.source, self.target = nn.Embedding(VOCABULARY, width), nn.Embedding(VOCABULARY, width)
        self.encoder = nn.Recurrent(cell, width, hidden, layers, bidirectional=True)
        self.bridge = [nn.Linear(2 * hidden, hidden) for _ in range(layers * (2 if cell == "lstm" else 1))]
        self.keys, self.query = nn.Linear(2 * hidden, hidden, bias=False), nn.Linear(hidden, hidden)
        if score == "additive":
            self.v, self.energy_bias = nn.Parameter(hidden), nn.Parameter(hidden)
        self.decoder = nn.Recurrent(cell, width + hidden, hidden, layers)
        self.combine, self.out = nn.Linear(3 * hidden, hidden), nn.Linear(hidden, VOCABULARY)

    def _names(self) -> list[list[str]]:
        return [[f"{kind}{i}" for kind in ("h", "c")[: 1 + (self._cell == "lstm")]] for i in range(self._layers)]

    def _encode(self, ids: g.Value) -> None:
        x, states = self.encoder.sequence(self.source(ids))
        g.apply("memory_rows_write", [self.keys(x)], name="keys")
        g.apply("memory_rows_write", [x], name="values")
        last = [state for layer in states for state in layer]
        for bridge, state, name in zip(self.bridge, last, chain(*self._names()), strict=True):
            nn.state_write(bridge(state, activation="tanh"), name)

    def _attend(self, h: g.Value) -> g.Value:
        additive = self._score == "additive"
        params = {"v": self.v, "bias": self.energy_bias} if additive else {}
        names = {"keys": "keys", "values": "values", "score": self._score}
        widths = {"keys_width": self._hidden, "values_width": 2 * self._hidden}
        return g.apply("rnn_attention", [self.query(h)], params, **names, **widths)[0]

    def __call__(self) -> dict[str, g.Graph]:
        graphs = {}
        with g.tracing("encoder") as (graphs["encoder"], ids):
            self._encode(ids)
        with g.tracing("decoder", sequential=True) as (graphs["decoder"], ids):
            states = [[nn.state_read(name, self._hidden) for name in layer] for layer in self._names()]
            x = nn.concat([self.target(ids), nn.state_read("fed", self._hidden)])
            h, states = self.decoder.step(x, states)
            for name, state in zip(chain(*self._names()), chain(*states), strict=True):
                nn.state_write(state, name)
            fed = self.combine(nn.concat([self._attend(h), h]), activation="tanh")
            nn.state_write(graphs["decoder"].tap(fed, "attentional"), "fed")
            g.apply("output", [self.out(fed)])
        return graphs


def translator(cell: str, seed: int = 0, hidden: int = 17, layers: int = 2, score: str = "additive") -> Toy:
    model = Translator(cell, 7, hidden, layers, score)
    shapes = model.finalise()
    return Toy(model(), random_weights(shapes, seed), sequential=True)


TOYS: dict[str, Callable[[], Toy]] = {
    "transformer": transformer,
    "grouped": lambda: transformer(1, heads=4, kv_heads=2, head=8, softcap=2.0, window=5, rms=True),
    "decoder-only": lambda: transformer(2, memory=False, heads=2, kv_heads=1, head=16),
    "buckets": lambda: transformer(7, heads=4, kv_heads=2, head=5, buckets=12),
    "slopes": lambda: transformer(8, memory=False, heads=4, head=8, kv_heads=4, slopes=True, window=150),
    "llama": lambda: llama(7),
    "mistral": lambda: llama(8, model_type="mistral", sliding_window=5),
    "bfloat16 cache": lambda: transformer(9, "bfloat16", heads=4, kv_heads=2, head=7, slopes=True),
    "int8 cache": lambda: transformer(10, "int8", heads=4, kv_heads=2, head=20),
    "gru": lambda: translator("gru", 3),
    "lstm": lambda: translator("lstm", 4, score="dot"),
    # large enough that the engine gives their steps to several threads
    "wide": lambda: transformer(5, heads=4, kv_heads=4, head=16, ffn=512),
    # and whose heads of keys do not go evenly into two, so that the blocks of a long sequence are split
    "wide-grouped": lambda: transformer(11, heads=6, kv_heads=3, head=16, ffn=1024),
    "wide-gru": lambda: translator("gru", 6, hidden=96),
}


@dataclass(frozen=True)
class Backend:
    """How a test runs a toy. `exact`: equal inputs must give equal bits; else float64, to rounding."""

    name: str
    isa: str = ""
    threads: int = 1
    dtype: Any = np.float64  # of the reference

    @property
    def exact(self) -> bool:
        return self.isa != ""

    def session(self, toy: Toy) -> Any:
        if not self.exact:
            made = {"cache_type": toy.cache_type, "result": StepResult, "record": AttentionRecord}
            return ReferenceSession(toy.graphs, toy.weights, self.dtype, **made)
        return NativeSession(toy.graphs, toy.weights, num_threads=self.threads, cache_type=toy.cache_type)

    def active(self) -> AbstractContextManager[Any]:
        if not self.exact:
            return nullcontext()
        return isa.use(self.isa)

    def assert_same(self, a: Any, b: Any, what: str = "") -> None:
        if self.exact:
            np.testing.assert_array_equal(a, b, what)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12, err_msg=what)


def backends() -> list[Backend]:
    native = [Backend(f"{name}-{threads}", name, threads) for name in isa.available() for threads in (1, 2)]
    return [Backend("reference"), *native]
