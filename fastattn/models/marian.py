"""The Transformer as Marian trains it: Vaswani et al. (2017), arXiv:1706.03762; Junczys-Dowmunt et al. (2018), arXiv:1804.00344.

Post-norm layers, sinusoidal positions, scaled embeddings, an output tied to them and a bias on the final logits. Tensor names
are those of Hugging Face's MarianMTModel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.errors import LoadError
from fastattn.graph import Graph, Value, apply, tracing
from fastattn.models.architecture import ACTIVATIONS, Architecture, Fields, Weights
from fastattn.nn import Embedding, LayerNorm, Linear, Module, Parameter, PositionEmbedding

# the special tokens of transformers' MarianConfig, for a config.json that does not say
DEFAULTS = {"pad_token_id": 58100, "eos_token_id": 0, "decoder_start_token_id": 58100, "forced_eos_token_id": 0}

MOST_POSITIONS = 1 << 20  # the table of sinusoids is made before any tensor is looked at


@dataclass(frozen=True)
class Config:
    """Sizes and choices of config.json, checked."""

    width: int
    encoder_layers: int
    decoder_layers: int
    encoder_heads: int
    decoder_heads: int
    encoder_ffn: int
    decoder_ffn: int
    source_vocabulary: int
    vocabulary: int
    positions: int
    activation: str
    scale: float
    shared: bool
    tied: bool


def read_config(config: Mapping[str, Any]) -> Config:
    f = Fields(config)
    width, source = f.integer("d_model"), f.integer("vocab_size")
    target = config.get("decoder_vocab_size")
    result = Config(
        width=width,
        encoder_layers=f.integer("encoder_layers", most=1000),
        decoder_layers=f.integer("decoder_layers", most=1000),
        encoder_heads=f.integer("encoder_attention_heads"),
        decoder_heads=f.integer("decoder_attention_heads"),
        encoder_ffn=f.integer("encoder_ffn_dim"),
        decoder_ffn=f.integer("decoder_ffn_dim"),
        source_vocabulary=source,
        vocabulary=source if target is None else f.integer("decoder_vocab_size"),
        positions=f.integer("max_position_embeddings", most=MOST_POSITIONS),
        activation=ACTIVATIONS[f.choice("activation_function", tuple(ACTIVATIONS), "gelu")],
        scale=float(width) ** 0.5 if f.flag("scale_embedding", False) else 1.0,
        shared=f.flag("share_encoder_decoder_embeddings", True),
        tied=f.flag("tie_word_embeddings", True),
    )
    for key, heads in (
        ("encoder_attention_heads", result.encoder_heads),
        ("decoder_attention_heads", result.decoder_heads),
    ):
        if width % heads:
            raise LoadError(f"config.json: {key!r} is {heads}, expected a divisor of d_model {width}")
    if result.shared and result.vocabulary != source:
        raise LoadError(
            f"config.json: 'decoder_vocab_size' is {result.vocabulary}, but the embeddings of {source} are shared"
        )
    return result


class Attention(Module):
    """Multi-head attention with biases on all four projections."""

    def __init__(self, width: int, heads: int) -> None:
        self.q_proj, self.k_proj = Linear(width, width), Linear(width, width)
        self.v_proj, self.out_proj = Linear(width, width), Linear(width, width)
        self._heads: dict[str, Any] = {"heads": heads, "kv_heads": heads, "scale": (width // heads) ** -0.5}

    def self_attention(self, x: Value, layer: int, cached: bool, residual: Value | None = None) -> Value:
        """residual: what the result is added to, by default x itself."""
        cache = layer if cached else -1
        qkv = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        mixed = apply("attention", qkv, layer=layer, causal=int(cached), cache=cache, **self._heads)[0]
        return self.out_proj(mixed, residual=residual or x)

    def remember(self, memory: Value, layer: int) -> None:
        kv = [self.k_proj(memory), self.v_proj(memory)]
        apply("memory_write", kv, layer=layer, kv_heads=self._heads["kv_heads"])

    def cross_attention(self, x: Value, layer: int, size: int, residual: Value | None = None) -> tuple[Value, Value]:
        mixed = apply("cross_attention", [self.q_proj(x)], layer=layer, value_size=size, **self._heads)[0]
        return mixed, self.out_proj(mixed, residual=residual or x)


class Layer(Module):
    """x = norm(x + sublayer(x)) for each sublayer."""

    def __init__(self, width: int, heads: int, ffn: int, activation: str, cross: bool) -> None:
        self._activation, self._size = activation, width // heads
        self.self_attn, self.self_attn_layer_norm = Attention(width, heads), LayerNorm(width)
        if cross:
            self.encoder_attn, self.encoder_attn_layer_norm = Attention(width, heads), LayerNorm(width)
        self.fc1, self.fc2, self.final_layer_norm = Linear(width, ffn), Linear(ffn, width), LayerNorm(width)

    def attend(self, x: Value, layer: int, cached: bool) -> Value:
        return self.self_attn_layer_norm(self.self_attn.self_attention(x, layer, cached))

    def cross(self, x: Value, layer: int) -> tuple[Value, Value]:
        context, x = self.encoder_attn.cross_attention(x, layer, self._size)
        return context, self.encoder_attn_layer_norm(x)

    def feed_forward(self, x: Value) -> Value:
        return self.final_layer_norm(self.fc2(self.fc1(x, activation=self._activation), residual=x))


class Stack(Module):
    def __init__(self, c: Config, layers: int, heads: int, ffn: int, embed: Embedding, cross: bool) -> None:
        self.embed_tokens = embed
        self.embed_positions = PositionEmbedding(c.positions, c.width)
        self.layers = [Layer(c.width, heads, ffn, c.activation, cross) for _ in range(layers)]


class Body(Module):
    def __init__(self, c: Config) -> None:
        if c.shared:
            self.shared = Embedding(c.vocabulary, c.width)
        source = self.shared if c.shared else Embedding(c.source_vocabulary, c.width)
        target = self.shared if c.shared else Embedding(c.vocabulary, c.width)
        self.encoder = Stack(c, c.encoder_layers, c.encoder_heads, c.encoder_ffn, source, cross=False)
        self.decoder = Stack(c, c.decoder_layers, c.decoder_heads, c.decoder_ffn, target, cross=True)


class MarianMT(Module):
    def __init__(self, c: Config) -> None:
        self._c = c
        self.model = Body(c)
        self.lm_head = Linear(c.width, c.vocabulary, bias=False)
        if c.tied:
            self.lm_head.weight = self.model.decoder.embed_tokens.weight
        self.final_logits_bias = Parameter(c.vocabulary)

    def encode(self) -> Graph:
        stack = self.model.encoder
        with tracing("encoder") as (graph, ids):
            x = stack.embed_positions(stack.embed_tokens(ids, scale=self._c.scale))
            for i, layer in enumerate(stack.layers):
                x = layer.feed_forward(layer.attend(x, i, cached=False))
            graph.tap(x, "last_hidden_state")
            for i, layer in enumerate(self.model.decoder.layers):
                layer.encoder_attn.remember(x, i)
        return graph

    def step(self) -> Graph:
        stack = self.model.decoder
        with tracing("decoder") as (graph, ids):
            x = stack.embed_positions(stack.embed_tokens(ids, scale=self._c.scale))
            for i, layer in enumerate(stack.layers):
                context, x = layer.cross(layer.attend(x, i, cached=True), i)
                x = layer.feed_forward(x)
            graph.tap(context, "context")
            graph.tap(x, "decoder_state")
            last = apply("select_rows", [x])[0]
            params = {"weight": self.lm_head.weight, "bias": self.final_logits_bias}
            apply("output", apply("linear", [last], params))
        return graph


def sinusoids(positions: int, width: int) -> NDArray[np.float32]:
    """[positions, width]: sines in the first half of the columns, cosines in the second (Vaswani et al. 2017, section 3.5)."""
    angle = np.arange(positions)[:, None] / np.power(10000.0, 2 * np.arange((width + 1) // 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)[:, : width // 2]], axis=1).astype(np.float32)


SINUSOIDAL = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


def complete(positions: int, width: int, vocabulary: int, sinusoidal: Sequence[str], weights: Weights) -> Weights:
    """Positions and the logits' bias may be missing from a file: the first are computed, the second is zero."""
    for name in sinusoidal:
        if name not in weights:
            weights[name] = sinusoids(positions, width)
    bias = weights.get("final_logits_bias")
    weights["final_logits_bias"] = np.zeros(vocabulary, np.float32) if bias is None else bias.reshape(-1)
    return weights


def build(config: Mapping[str, Any]) -> Architecture:
    c = read_config(config)
    model = MarianMT(c)
    params = dict(model.finalise())
    params["final_logits_bias"] = (1, c.vocabulary)
    rename: list[tuple[str, str]] = []
    if c.shared:
        rename.append((r"^model\.(?:encoder|decoder)\.embed_tokens\.weight$", "model.shared.weight"))
    if c.tied:
        rename.append(
            (r"^lm_head\.weight$", "model.shared.weight" if c.shared else "model.decoder.embed_tokens.weight")
        )
    return Architecture(
        family="marian",
        graphs={"encoder": model.encode(), "decoder": model.step()},
        params=params,
        vocabulary=c.vocabulary,
        columns=(),
        rename=rename,
        optional=["final_logits_bias", *SINUSOIDAL],
        prepare=partial(complete, c.positions, c.width, c.vocabulary, SINUSOIDAL),
        source_vocabulary=c.source_vocabulary,
        max_source=c.positions,
        max_target=c.positions,
        defaults=DEFAULTS,
    )
