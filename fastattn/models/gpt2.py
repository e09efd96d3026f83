"""GPT-2: Radford et al. (2019), "Language Models are Unsupervised Multitask Learners".

A decoder alone: learned positions, norms before each sublayer and one at the end, an output tied to the embeddings. Tensor
names are those of Hugging Face's GPT2LMHeadModel without their prefix `transformer.`; its Conv1D keeps weights as [in, out].
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
from fastattn.nn import Embedding, LayerNorm, Linear, Module, PositionEmbedding

# the attribute_map of transformers' GPT2Config
ALIASES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}


@dataclass(frozen=True)
class Config:
    """Sizes and choices of config.json, checked."""

    width: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    eps: float
    activation: str
    scaled: bool
    scaled_by_layer: bool
    tied: bool

    def scale(self, layer: int) -> float:
        """What scores are multiplied by."""
        scale = (self.width // self.heads) ** -0.5 if self.scaled else 1.0
        return scale / (layer + 1) if self.scaled_by_layer else scale


def read_config(config: Mapping[str, Any]) -> Config:
    f = Fields(config, aliases=ALIASES)
    width = f.integer("n_embd", 768)
    result = Config(
        width=width,
        layers=f.integer("n_layer", 12, most=1000),
        heads=f.integer("n_head", 12),
        ffn=f.integer("n_inner") if config.get("n_inner") is not None else 4 * width,
        vocabulary=f.integer("vocab_size", 50257),
        positions=f.integer("n_positions", 1024),
        eps=f.number("layer_norm_epsilon", 1e-5, above=0.0),
        activation=ACTIVATIONS[f.choice("activation_function", tuple(ACTIVATIONS), "gelu_new")],
        scaled=f.flag("scale_attn_weights", True),
        scaled_by_layer=f.flag("scale_attn_by_inverse_layer_idx", False),
        tied=f.flag("tie_word_embeddings", True),
    )
    if width % result.heads:
        raise LoadError(f"config.json: 'n_head' is {result.heads}, expected a divisor of n_embd {width}")
    if f.flag("add_cross_attention", False):
        raise LoadError("config.json: 'add_cross_attention' is true, expected false: GPT-2 is a decoder alone")
    return result


class Attention(Module):
    """c_attn computes queries, keys and values as one product; here they are three (`_prepare` cuts the weight)."""

    def __init__(self, c: Config) -> None:
        self._c = c
        self.q, self.k, self.v = (Linear(c.width, c.width) for _ in range(3))
        self.c_proj = Linear(c.width, c.width)

    def __call__(self, x: Value, residual: Value, layer: int) -> tuple[Value, Value]:
        sizes: dict[str, Any] = {"heads": self._c.heads, "kv_heads": self._c.heads, "scale": self._c.scale(layer)}
        qkv = [self.q(x), self.k(x), self.v(x)]
        context = apply("attention", qkv, layer=layer, causal=1, cache=layer, **sizes)[0]
        return context, self.c_proj(context, residual=residual)


class FeedForward(Module):
    def __init__(self, c: Config) -> None:
        self._activation = c.activation
        self.c_fc, self.c_proj = Linear(c.width, c.ffn), Linear(c.ffn, c.width)

    def __call__(self, x: Value, residual: Value) -> Value:
        return self.c_proj(self.c_fc(x, activation=self._activation), residual=residual)


class Block(Module):
    """x = x + sublayer(norm(x)) for each sublayer."""

    def __init__(self, c: Config) -> None:
        self.ln_1, self.attn = LayerNorm(c.width, c.eps), Attention(c)
        self.ln_2, self.mlp = LayerNorm(c.width, c.eps), FeedForward(c)

    def __call__(self, x: Value, layer: int) -> tuple[Value, Value]:
        context, x = self.attn(self.ln_1(x), x, layer)
        return context, self.mlp(self.ln_2(x), x)


class GPT2(Module):
    def __init__(self, c: Config) -> None:
        self.wte, self.wpe = Embedding(c.vocabulary, c.width), PositionEmbedding(c.positions, c.width)
        self.h = [Block(c) for _ in range(c.layers)]
        self.ln_f = LayerNorm(c.width, c.eps)
        self.lm_head = Linear(c.width, c.vocabulary, bias=False)
        if c.tied:
            self.lm_head.weight = self.wte.weight

    def step(self) -> Graph:
        with tracing("decoder") as (graph, ids):
            x = self.wpe(self.wte(ids))
            for i, block in enumerate(self.h):
                context, x = block(x, i)
            x = self.ln_f(x)
            graph.tap(context, "context")
            graph.tap(x, "last_hidden_state")
            apply("output", [self.lm_head(apply("select_rows", [x])[0])])
        return graph


def _transposed(c: Config) -> list[str]:
    """The layers that the checkpoint keeps as [in, out]."""
    return [
        f"h.{i}.{name}" for i in range(c.layers) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]


def _prepare(c: Config, weights: Weights) -> Weights:
    """Conv1D weights are turned to [out, in] and c_attn is cut in three: all views, no copies."""
    for name in _transposed(c):
        weights[f"{name}.weight"] = weights[f"{name}.weight"].T
    for i in range(c.layers):
        for kind in ("weight", "bias"):
            whole = weights.pop(f"h.{i}.attn.c_attn.{kind}")
            for part, rows in zip("qkv", np.split(whole, 3), strict=True):
                weights[f"h.{i}.attn.{part}.{kind}"] = rows
    return weights


def build(config: Mapping[str, Any]) -> Architecture:
    c = read_config(config)
    model = GPT2(c)
    params = {name: shape for name, shape in model.finalise().items() if ".attn." not in name or ".c_proj." in name}
    for i in range(c.layers):
        params[f"h.{i}.attn.c_attn.weight"] = (3 * c.width, c.width)
        params[f"h.{i}.attn.c_attn.bias"] = (3 * c.width,)
    for name in _transposed(c):
        params[f"{name}.weight"] = params[f"{name}.weight"][::-1]
    rename = [(r"^transformer\.", "")]
    if c.tied:
        rename.append((r"^lm_head\.weight$", "wte.weight"))
    return Architecture(
        family="gpt2",
        graphs={"decoder": model.step()},
        params=params,
        vocabulary=c.vocabulary,
        columns=[r"\.c_(?:attn|fc|proj)\.weight$"],  # Conv1D
        rename=rename,
        ignore=[r"\.attn\.(masked_)?bias$"],  # the causal mask, which old checkpoints hold
        prepare=partial(_prepare, c),
        max_source=c.positions,
        max_target=c.positions,
    )
