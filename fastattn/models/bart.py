"""BART and its kin: Lewis et al. (2020), arXiv:1910.13461; mBART: Liu et al. (2020), arXiv:2001.08210; Pegasus: Zhang et al.
(2020), arXiv:1912.08777.

The Transformer of `marian` with these differences:

    bart       norms after sublayers and one after the embeddings; learned positions
    mbart      norms before sublayers, after the embeddings and at the end; learned positions
    pegasus    norms before sublayers and at the end; sinusoidal positions

The output is tied to the embeddings and has a bias. Tensor names are those of Hugging Face's BartForConditionalGeneration.
Learned positions start in row 2 of their table. As in transformers, what a config.json says of norms and positions
(`normalize_before`, `static_position_embeddings`, …) is history: the model_type decides. mBART's languages are tokens: the
source's is the one its tokenizer.json was saved with, the target's is `decoder_start_token_id` or `forced_bos_token_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastattn.errors import LoadError
from fastattn.graph import Graph, Value, apply, tracing
from fastattn.models.architecture import ACTIVATIONS, Architecture, Fields
from fastattn.models.marian import MOST_POSITIONS, SINUSOIDAL, Attention, complete
from fastattn.nn import Embedding, LayerNorm, Linear, Module, Parameter, PositionEmbedding

LEARNED_OFFSET = 2


@dataclass(frozen=True)
class Style:
    """Where a family has its norms, and how it counts positions."""

    norm_first: bool
    norm_embeddings: bool
    learned_positions: bool


STYLES = {
    "bart": Style(norm_first=False, norm_embeddings=True, learned_positions=True),
    "mbart": Style(norm_first=True, norm_embeddings=True, learned_positions=True),
    "pegasus": Style(norm_first=True, norm_embeddings=False, learned_positions=False),
}
# the attribute_map of transformers' config classes
ALIASES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}
# the special tokens of transformers' config classes, for a config.json that does not say
DEFAULTS: dict[str, dict[str, Any]] = {
    "bart": {
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    "mbart": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2},
    "pegasus": {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
}


@dataclass(frozen=True)
class Config:
    """Sizes and choices of config.json, checked."""

    style: Style
    width: int
    encoder_layers: int
    decoder_layers: int
    encoder_heads: int
    decoder_heads: int
    encoder_ffn: int
    decoder_ffn: int
    vocabulary: int
    positions: int
    activation: str
    scale: float


def read_config(config: Mapping[str, Any]) -> Config:
    f = Fields(config, aliases=ALIASES)
    width = f.integer("d_model", 1024)
    result = Config(
        style=STYLES[str(config["model_type"])],
        width=width,
        encoder_layers=f.integer("encoder_layers", 12, most=1000),
        decoder_layers=f.integer("decoder_layers", 12, most=1000),
        encoder_heads=f.integer("encoder_attention_heads", 16),
        decoder_heads=f.integer("decoder_attention_heads", 16),
        encoder_ffn=f.integer("encoder_ffn_dim", 4096),
        decoder_ffn=f.integer("decoder_ffn_dim", 4096),
        vocabulary=f.integer("vocab_size", 50265),
        positions=f.integer("max_position_embeddings", 1024, most=MOST_POSITIONS),
        activation=ACTIVATIONS[f.choice("activation_function", tuple(ACTIVATIONS), "gelu")],
        scale=float(width) ** 0.5 if f.flag("scale_embedding", False) else 1.0,
    )
    for key, heads in (
        ("encoder_attention_heads", result.encoder_heads),
        ("decoder_attention_heads", result.decoder_heads),
    ):
        if width % heads:
            raise LoadError(f"config.json: {key!r} is {heads}, expected a divisor of d_model {width}")
    if not f.flag("tie_word_embeddings", True):
        raise LoadError(
            "config.json: 'tie_word_embeddings' is False, expected True: embeddings of their own are not supported"
        )
    return result


class Layer(Module):
    """Each sublayer x + f(norm(x)), or norm(x + f(x))."""

    def __init__(self, c: Config, heads: int, ffn: int, cross: bool) -> None:
        width = c.width
        self._first, self._activation, self._size = c.style.norm_first, c.activation, width // heads
        self.self_attn, self.self_attn_layer_norm = Attention(width, heads), LayerNorm(width)
        if cross:
            self.encoder_attn, self.encoder_attn_layer_norm = Attention(width, heads), LayerNorm(width)
        self.fc1, self.fc2, self.final_layer_norm = Linear(width, ffn), Linear(ffn, width), LayerNorm(width)

    def _sublayer(self, x: Value, norm: LayerNorm, f: Callable[[Value, Value], Value]) -> Value:
        """f(input, residual) with its norm."""
        return f(norm(x), x) if self._first else norm(f(x, x))

    def attend(self, x: Value, layer: int, cached: bool) -> Value:
        def f(y: Value, residual: Value) -> Value:
            return self.self_attn.self_attention(y, layer, cached, residual)

        return self._sublayer(x, self.self_attn_layer_norm, f)

    def cross(self, x: Value, layer: int) -> tuple[Value, Value]:
        contexts: list[Value] = []

        def f(y: Value, residual: Value) -> Value:
            context, out = self.encoder_attn.cross_attention(y, layer, self._size, residual)
            contexts.append(context)
            return out

        x = self._sublayer(x, self.encoder_attn_layer_norm, f)
        return contexts[0], x

    def feed_forward(self, x: Value) -> Value:
        def f(y: Value, residual: Value) -> Value:
            return self.fc2(self.fc1(y, activation=self._activation), residual=residual)

        return self._sublayer(x, self.final_layer_norm, f)


class Stack(Module):
    def __init__(self, c: Config, layers: int, heads: int, ffn: int, embed: Embedding, cross: bool) -> None:
        self._c = c
        self._offset = LEARNED_OFFSET if c.style.learned_positions else 0
        self.embed_tokens = embed
        self.embed_positions = PositionEmbedding(c.positions + self._offset, c.width)
        self.layernorm_embedding = LayerNorm(c.width) if c.style.norm_embeddings else None
        self.layers = [Layer(c, heads, ffn, cross) for _ in range(layers)]
        self.layer_norm = LayerNorm(c.width) if c.style.norm_first else None

    def embed(self, ids: Value) -> Value:
        x = self.embed_positions(self.embed_tokens(ids, scale=self._c.scale), offset=self._offset)
        return self.layernorm_embedding(x) if self.layernorm_embedding else x

    def finish(self, x: Value) -> Value:
        return self.layer_norm(x) if self.layer_norm else x


class Body(Module):
    def __init__(self, c: Config) -> None:
        self.shared = Embedding(c.vocabulary, c.width)
        self.encoder = Stack(c, c.encoder_layers, c.encoder_heads, c.encoder_ffn, self.shared, cross=False)
        self.decoder = Stack(c, c.decoder_layers, c.decoder_heads, c.decoder_ffn, self.shared, cross=True)


class Bart(Module):
    def __init__(self, c: Config) -> None:
        self.model = Body(c)
        self.final_logits_bias = Parameter(c.vocabulary)

    def encode(self) -> Graph:
        stack = self.model.encoder
        with tracing("encoder") as (graph, ids):
            x = stack.embed(ids)
            for i, layer in enumerate(stack.layers):
                x = layer.feed_forward(layer.attend(x, i, cached=False))
            x = stack.finish(x)
            graph.tap(x, "last_hidden_state")
            for i, layer in enumerate(self.model.decoder.layers):
                layer.encoder_attn.remember(x, i)
        return graph

    def step(self) -> Graph:
        stack = self.model.decoder
        with tracing("decoder") as (graph, ids):
            x = stack.embed(ids)
            for i, layer in enumerate(stack.layers):
                context, x = layer.cross(layer.attend(x, i, cached=True), i)
                x = layer.feed_forward(x)
            graph.tap(context, "context")
            x = stack.finish(x)
            graph.tap(x, "decoder_state")
            last = apply("select_rows", [x])[0]
            params = {"weight": self.model.shared.weight, "bias": self.final_logits_bias}
            apply("output", apply("linear", [last], params))
        return graph


def build(config: Mapping[str, Any]) -> Architecture:
    c = read_config(config)
    model = Bart(c)
    params = dict(model.finalise())
    params["final_logits_bias"] = (1, c.vocabulary)
    sinusoidal = () if c.style.learned_positions else SINUSOIDAL
    family = str(config["model_type"])
    defaults = dict(DEFAULTS[family])
    if config.get("force_bos_token_to_be_generated") is True:  # of old, in place of forced_bos_token_id
        defaults["forced_bos_token_id"] = config.get("bos_token_id", defaults.get("bos_token_id"))
    return Architecture(
        family=family,
        graphs={"encoder": model.encode(), "decoder": model.step()},
        params=params,
        vocabulary=c.vocabulary,
        columns=(),
        rename=[
            (r"^(shared|encoder|decoder)\.", r"model.\1."),  # saved from the model without its head
            (r"^model\.(?:encoder|decoder)\.embed_tokens\.weight$", "model.shared.weight"),
            (r"^lm_head\.weight$", "model.shared.weight"),
        ],
        optional=["final_logits_bias", *sinusoidal],
        ignore=[r"^model\.(?:encoder|decoder)\.version$"],
        prepare=partial(complete, c.positions, c.width, c.vocabulary, sinusoidal),
        source_vocabulary=c.vocabulary,
        max_source=c.positions,
        max_target=c.positions,
        defaults=defaults,
    )
