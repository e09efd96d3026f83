"""T5 and its kin: Raffel et al. (2020), arXiv:1910.10683; T5 v1.1 and FLAN (gated feed-forward, Shazeer 2020,
arXiv:2002.05202); mT5 (Xue et al. 2021, arXiv:2010.11934), which is T5 v1.1; UMT5 (Chung et al. 2023, arXiv:2304.09151), which
has a table of biases in every layer.

    sublayer    x + f(rms_norm(x)), no biases; scores q·k are not scaled
    positions   scores of self-attention + table[bucket(key - query), head]; the first layer's table serves all layers
    output      tied: W_embedding (x / sqrt(C)); own head: W x

Tensor names are those of Hugging Face's T5ForConditionalGeneration. Lengths have no limit. What a config.json has in
`task_specific_params` (prefixes, beams) is not applied, as in transformers' `generate`: a prefix such as
"translate English to German: " is the caller's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastattn.errors import LoadError
from fastattn.graph import Graph, Value, apply, tracing
from fastattn.models.architecture import ACTIVATIONS, Architecture, Fields, Weights
from fastattn.nn import Embedding, Linear, Module, Parameter, RMSNorm

# what the classes of transformers assume where config.json says nothing
DEFAULTS: dict[str, dict[str, Any]] = {
    "t5": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "mt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0},
    "umt5": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": True, "decoder_start_token_id": 0},
}
TOKENS = {"pad_token_id": 0, "eos_token_id": 1}
REFUSED = {"pruned_heads": {}, "tie_encoder_decoder": False, "is_encoder_decoder": True}


@dataclass(frozen=True)
class Config:
    """Sizes and choices of config.json, checked."""

    width: int
    size: int
    ffn: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    buckets: int
    max_distance: int
    eps: float
    activation: str
    gated: bool
    tied: bool
    table_per_layer: bool


def read_config(config: Mapping[str, Any]) -> Config:
    family = str(config.get("model_type", "t5"))
    f = Fields({**DEFAULTS[family], **config})
    for key, only in REFUSED.items():
        if config.get(key) not in (None, only):
            raise LoadError(f"config.json: {key!r} is {config[key]!r}, expected {only!r}; others are not supported")
    activation, gated = _feed_forward(f, config)
    layers = f.integer("num_layers", most=1000)
    decoder_layers = config.get("num_decoder_layers")
    result = Config(
        width=f.integer("d_model"),
        size=f.integer("d_kv"),
        ffn=f.integer("d_ff"),
        heads=f.integer("num_heads"),
        encoder_layers=layers,
        decoder_layers=layers if decoder_layers is None else f.integer("num_decoder_layers", most=1000),
        vocabulary=f.integer("vocab_size"),
        buckets=f.integer("relative_attention_num_buckets", 32, least=4),
        max_distance=f.integer("relative_attention_max_distance", 128),
        eps=f.number("layer_norm_epsilon", 1e-6, above=0.0),
        activation=activation,
        gated=gated,
        tied=f.flag("tie_word_embeddings", True),
        table_per_layer=family == "umt5",
    )
    if result.buckets % 4:  # exact and logarithmic ones, on two sides
        raise LoadError(f"config.json: 'relative_attention_num_buckets' is {result.buckets}, expected a multiple of 4")
    if result.max_distance <= result.buckets // 2:
        least = f"more than half of relative_attention_num_buckets {result.buckets}"
        raise LoadError(f"config.json: 'relative_attention_max_distance' is {result.max_distance}, expected {least}")
    return result


def _feed_forward(f: Fields, config: Mapping[str, Any]) -> tuple[str, bool]:
    """(activation, gated) of `feed_forward_proj`: an activation, or "gated-" and one. transformers also writes what it derived
    from that, and believes it."""
    known = [f"{gate}{name}" for gate in ("", "gated-") for name in ACTIVATIONS]
    gate, _, name = f.choice("feed_forward_proj", known).rpartition("-")
    if gate and name == "gelu":  # of old, "gated-gelu" means the tanh approximation
        name = "gelu_new"
    if config.get("dense_act_fn") is not None:
        name = f.choice("dense_act_fn", tuple(ACTIVATIONS))
    gated = f.flag("is_gated_act", False) if config.get("is_gated_act") is not None else bool(gate)
    return ACTIVATIONS[name], gated


class Attention(Module):
    """Multi-head attention, projections to heads * size without biases."""

    def __init__(self, c: Config, table: bool) -> None:
        inner = c.heads * c.size
        self.q, self.k, self.v = (Linear(c.width, inner, bias=False) for _ in range(3))
        self.o = Linear(inner, c.width, bias=False)
        if table:
            self.relative_attention_bias = Embedding(c.buckets, c.heads)
        self._c = c
        self._heads: dict[str, Any] = {"heads": c.heads, "kv_heads": c.heads, "scale": 1.0}

    def within(self, x: Value, residual: Value, layer: int, table: Parameter, cached: bool) -> Value:
        """Self-attention: in the encoder over all tokens, in the decoder (`cached`) over those before."""
        qkv = [self.q(x), self.k(x), self.v(x)]
        places = {"buckets": self._c.buckets, "max_distance": self._c.max_distance, "bidirectional": int(not cached)}
        cache = {"causal": 1, "cache": layer} if cached else {"causal": 0, "cache": -1}
        attrs: dict[str, Any] = {**self._heads, **places, **cache}
        mixed = apply("attention", qkv, {"bias_table": table}, layer=layer, **attrs)[0]
        return self.o(mixed, residual=residual)

    def remember(self, memory: Value, layer: int) -> None:
        apply("memory_write", [self.k(memory), self.v(memory)], layer=layer, kv_heads=self._c.heads)

    def across(self, x: Value, residual: Value, layer: int) -> tuple[Value, Value]:
        mixed = apply("cross_attention", [self.q(x)], layer=layer, value_size=self._c.size, **self._heads)[0]
        return mixed, self.o(mixed, residual=residual)


class SelfAttentionLayer(Module):
    def __init__(self, c: Config, table: bool) -> None:
        self.SelfAttention, self.layer_norm = Attention(c, table), RMSNorm(c.width, c.eps)

    def __call__(self, x: Value, layer: int, table: Parameter, cached: bool) -> Value:
        return self.SelfAttention.within(self.layer_norm(x), x, layer, table, cached)


class CrossAttentionLayer(Module):
    def __init__(self, c: Config) -> None:
        self.EncDecAttention, self.layer_norm = Attention(c, table=False), RMSNorm(c.width, c.eps)

    def __call__(self, x: Value, layer: int) -> tuple[Value, Value]:
        return self.EncDecAttention.across(self.layer_norm(x), x, layer)


class FeedForward(Module):
    """wo(act(wi x)), or gated wo(act(wi_0 x) * wi_1 x)."""

    def __init__(self, c: Config) -> None:
        self._activation = c.activation
        for name in ("wi_0", "wi_1") if c.gated else ("wi",):
            setattr(self, name, Linear(c.width, c.ffn, bias=False))
        self.wo = Linear(c.ffn, c.width, bias=False)

    def __call__(self, x: Value, residual: Value) -> Value:
        inner: list[Linear] = [item for key, item in vars(self).items() if key.startswith("wi")]
        hidden = inner[0](x, activation=self._activation)
        for linear in inner[1:]:
            hidden = apply("multiply", [hidden, linear(x)])[0]
        return self.wo(hidden, residual=residual)


class FeedForwardLayer(Module):
    def __init__(self, c: Config) -> None:
        self.DenseReluDense, self.layer_norm = FeedForward(c), RMSNorm(c.width, c.eps)

    def __call__(self, x: Value) -> Value:
        return self.DenseReluDense(self.layer_norm(x), x)


class Block(Module):
    def __init__(self, c: Config, table: bool, cross: bool) -> None:
        self._parts = SelfAttentionLayer(c, table), CrossAttentionLayer(c) if cross else None, FeedForwardLayer(c)
        self.layer = [part for part in self._parts if part is not None]

    def attend(self, x: Value, layer: int, table: Parameter, cached: bool) -> Value:
        return self._parts[0](x, layer, table, cached)

    @property
    def cross(self) -> CrossAttentionLayer:
        assert self._parts[1] is not None
        return self._parts[1]

    def feed_forward(self, x: Value) -> Value:
        return self._parts[2](x)

    @property
    def table(self) -> Parameter:
        """The biases by bucket, where the block has its own."""
        return self._parts[0].SelfAttention.relative_attention_bias.weight


class Stack(Module):
    def __init__(self, c: Config, layers: int, cross: bool) -> None:
        self._own = c.table_per_layer
        self.block = [Block(c, table=i == 0 or c.table_per_layer, cross=cross) for i in range(layers)]
        self.final_layer_norm = RMSNorm(c.width, c.eps)

    def table(self, layer: int) -> Parameter:
        return self.block[layer if self._own else 0].table


class T5(Module):
    def __init__(self, c: Config) -> None:
        self._c = c
        self.shared = Embedding(c.vocabulary, c.width)
        self.encoder = Stack(c, c.encoder_layers, cross=False)
        self.decoder = Stack(c, c.decoder_layers, cross=True)
        self.lm_head = Linear(c.width, c.vocabulary, bias=False)
        if c.tied:
            self.lm_head.weight = self.shared.weight

    def encode(self) -> Graph:
        stack = self.encoder
        with tracing("encoder") as (graph, ids):
            x = self.shared(ids)
            for i, block in enumerate(stack.block):
                x = block.feed_forward(block.attend(x, i, stack.table(i), cached=False))
            x = stack.final_layer_norm(x)
            graph.tap(x, "last_hidden_state")
            for i, block in enumerate(self.decoder.block):
                block.cross.EncDecAttention.remember(x, i)
        return graph

    def step(self) -> Graph:
        stack = self.decoder
        with tracing("decoder") as (graph, ids):
            x = self.shared(ids)
            for i, block in enumerate(stack.block):
                context, x = block.cross(block.attend(x, i, stack.table(i), cached=True), i)
                x = block.feed_forward(x)
            graph.tap(context, "context")
            x = stack.final_layer_norm(x)
            graph.tap(x, "decoder_state")
            apply("output", [self.lm_head(apply("select_rows", [x])[0])])
        return graph


def _prepare(c: Config, weights: Weights) -> Weights:
    """The 1 / sqrt(C) before a tied head joins the weight of the norm before it."""
    if c.tied:
        name, scale = "decoder.final_layer_norm.weight", np.full(1, c.width**-0.5, np.float32)
        weights[name] = np.multiply(weights[name], scale)
    return weights


def build(config: Mapping[str, Any]) -> Architecture:
    c = read_config(config)
    model = T5(c)
    params = model.finalise()
    embedded = r"^(?:encoder|decoder)\.embed_tokens\.weight$"
    rename = [(embedded, "shared.weight")]
    if c.tied:
        rename.append((r"^lm_head\.weight$", "shared.weight"))
    family = str(config.get("model_type", "t5"))
    return Architecture(
        family=family,
        graphs={"encoder": model.encode(), "decoder": model.step()},
        params=params,
        vocabulary=c.vocabulary,
        columns=(),
        rename=rename,
        # some conversions of T5 v1.0 left a table in the cross-attention, which nothing reads
        ignore=[r"^decoder\.block\.\d+\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"],
        prepare=partial(_prepare, c),
        source_vocabulary=c.vocabulary,
        defaults={**TOKENS, **DEFAULTS[family]},
    )
