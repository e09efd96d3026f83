"""LLaMA: Touvron et al. (2023), arXiv:2302.13971; and its siblings Mistral (Jiang et al. 2023, arXiv:2310.06825), with a sliding
window, and Qwen2 (Yang et al. 2024, arXiv:2407.10671), with biases and perhaps windows in some layers.

A decoder alone: RMS norms before each sublayer, rotary positions, key/value heads shared by groups of query heads, a gated
feed-forward layer (SwiGLU). Tensor names are those of Hugging Face's LlamaForCausalLM without their prefix `model.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastattn.errors import LoadError
from fastattn.graph import Graph, Value, apply, tracing
from fastattn.models.architecture import ACTIVATIONS, Architecture, Fields, Weights
from fastattn.models.rope import FloatArray, read_rope
from fastattn.nn import Embedding, Linear, Module, RMSNorm, Rotary, multiply


@dataclass(frozen=True)
class Config:
    """Sizes and choices of config.json, checked. windows: per layer how many keys a query sees at most, 0 for all."""

    family: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    vocabulary: int
    positions: int
    eps: float
    activation: str
    qkv_bias: bool
    out_bias: bool
    ffn_bias: bool
    tied: bool
    windows: tuple[int, ...]


# num_key_value_heads and max_position_embeddings where a config.json says nothing, as in transformers; None: as many as heads
_ABSENT: dict[str, tuple[int | None, int]] = {"llama": (None, 2048), "mistral": (8, 131072), "qwen2": (32, 32768)}


def read_config(config: Mapping[str, Any]) -> Config:
    f = Fields(config)
    family = f.choice("model_type", tuple(_ABSENT))
    kv_heads, positions = _ABSENT[family]
    width, heads = f.integer("hidden_size"), f.integer("num_attention_heads")
    layers = f.integer("num_hidden_layers", most=1000)
    llama = family == "llama"
    result = Config(
        family=family,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads if f.null("num_key_value_heads") else f.integer("num_key_value_heads", kv_heads or heads),
        head=f.integer("head_dim") if f.has("head_dim") else width // heads,
        ffn=f.integer("intermediate_size"),
        vocabulary=f.integer("vocab_size"),
        positions=f.integer("max_position_embeddings", positions),
        eps=f.number("rms_norm_eps", 1e-6, above=0.0),
        activation=ACTIVATIONS[f.choice("hidden_act", tuple(ACTIVATIONS), "silu")],
        qkv_bias=f.flag("attention_bias", False) if llama else family == "qwen2",
        out_bias=llama and f.flag("attention_bias", False),
        ffn_bias=llama and f.flag("mlp_bias", False),
        tied=f.flag("tie_word_embeddings", False),
        windows=_windows(f, family, layers),
    )
    if heads % result.kv_heads:
        raise LoadError(f"config.json: 'num_key_value_heads' is {result.kv_heads}, expected a divisor of {heads} heads")
    if not f.has("head_dim") and width % heads:
        raise LoadError(f"config.json: 'num_attention_heads' is {heads}, expected a divisor of hidden_size {width}")
    return result


def _windows(f: Fields, family: str, layers: int) -> tuple[int, ...]:
    """Mistral has one window for all layers, Qwen2 for those that `layer_types` or `max_window_layers` names."""
    if family == "llama" or (family == "qwen2" and not f.flag("use_sliding_window", False)):
        return (0,) * layers
    if f.null("sliding_window"):
        return (0,) * layers
    window = f.integer("sliding_window", 4096)  # what transformers assumes where nothing is said
    if family == "mistral":
        return (window,) * layers
    if f.has("layer_types"):
        kinds = f.choices("layer_types", ("full_attention", "sliding_attention"), layers)
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    full = f.integer("max_window_layers", 28, least=0)
    return tuple(0 if i < full else window for i in range(layers))


class Attention(Module):
    def __init__(self, c: Config) -> None:
        self._c = c
        self.q_proj = Linear(c.width, c.heads * c.head, c.qkv_bias)
        self.k_proj = Linear(c.width, c.kv_heads * c.head, c.qkv_bias)
        self.v_proj = Linear(c.width, c.kv_heads * c.head, c.qkv_bias)
        self.o_proj = Linear(c.heads * c.head, c.width, c.out_bias)

    def __call__(self, x: Value, residual: Value, rotary: Rotary, turns: Value, layer: int) -> tuple[Value, Value]:
        c = self._c
        q = rotary.turn(self.q_proj(x), turns, c.heads)
        k = rotary.turn(self.k_proj(x), turns, c.kv_heads)
        context = apply(
            "attention",
            [q, k, self.v_proj(x)],
            heads=c.heads,
            kv_heads=c.kv_heads,
            scale=c.head**-0.5,
            layer=layer,
            causal=1,
            cache=layer,
            window_left=c.windows[layer] - 1,
        )[0]
        return context, self.o_proj(context, residual=residual)


class FeedForward(Module):
    """down(act(gate(x)) * up(x)): Shazeer (2020), arXiv:2002.05202."""

    def __init__(self, c: Config) -> None:
        self._activation = c.activation
        self.gate_proj, self.up_proj = Linear(c.width, c.ffn, c.ffn_bias), Linear(c.width, c.ffn, c.ffn_bias)
        self.down_proj = Linear(c.ffn, c.width, c.ffn_bias)

    def __call__(self, x: Value, residual: Value) -> Value:
        gated = multiply(self.gate_proj(x, activation=self._activation), self.up_proj(x))
        return self.down_proj(gated, residual=residual)


class Layer(Module):
    """x = x + sublayer(norm(x)) for each sublayer."""

    def __init__(self, c: Config) -> None:
        self.input_layernorm, self.self_attn = RMSNorm(c.width, c.eps), Attention(c)
        self.post_attention_layernorm, self.mlp = RMSNorm(c.width, c.eps), FeedForward(c)

    def __call__(self, x: Value, rotary: Rotary, turns: Value, layer: int) -> tuple[Value, Value]:
        context, x = self.self_attn(self.input_layernorm(x), x, rotary, turns, layer)
        return context, self.mlp(self.post_attention_layernorm(x), x)


class Llama(Module):
    def __init__(self, c: Config, scale: float) -> None:
        self.embed_tokens = Embedding(c.vocabulary, c.width)
        self.rotary_emb = Rotary(c.head, scale)
        self.layers = [Layer(c) for _ in range(c.layers)]
        self.norm = RMSNorm(c.width, c.eps)
        self.lm_head = Linear(c.width, c.vocabulary, bias=False)
        if c.tied:
            self.lm_head.weight = self.embed_tokens.weight

    def step(self) -> Graph:
        with tracing("decoder") as (graph, ids):
            x, turns = self.embed_tokens(ids), self.rotary_emb(ids)
            for i, layer in enumerate(self.layers):
                context, x = layer(x, self.rotary_emb, turns, i)
            x = self.norm(x)
            graph.tap(context, "context")
            graph.tap(x, "last_hidden_state")
            apply("output", [self.lm_head(apply("select_rows", [x])[0])])
        return graph


def _prepare(inv_freq: FloatArray, weights: Weights) -> Weights:
    weights["rotary_emb.inv_freq"] = inv_freq
    return weights


def build(config: Mapping[str, Any]) -> Architecture:
    c = read_config(config)
    inv_freq, scale = read_rope(config, c.head, c.positions)
    model = Llama(c, scale)
    params = model.finalise()
    del params["rotary_emb.inv_freq"]
    rename = [
        (r"^model\.", ""),
        # onnxruntime-genai's names:
        (r"^(layers\.\d+)\.attn\.", r"\1.self_attn."),
        (r"^layers\.\d+\.final_norm_layernorm\.", "norm."),
    ]
    if c.tied:
        rename.append((r"^lm_head\.weight$", "embed_tokens.weight"))
    return Architecture(
        family=c.family,
        graphs={"decoder": model.step()},
        params=params,
        vocabulary=c.vocabulary,
        columns=(),
        rename=rename,
        # computed here; old checkpoints hold the first, onnxruntime-genai's exports the others
        ignore=[r"rotary_emb\.inv_freq$", r"^(cos|sin)_cache$"],
        prepare=partial(_prepare, inv_freq),
        max_target=c.positions,
        computed={"rotary_emb.inv_freq": inv_freq},
    )
