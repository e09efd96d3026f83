"""The recurrent translator with attention.

Bahdanau, Cho, Bengio (2015), arXiv:1409.0473; Luong, Pham, Manning (2015), arXiv:1508.04025.

    encoder     bidirectional GRU or LSTM over the source: memory k_s, s = 1..S
    bahdanau    query = top decoder state of the step before; the context joins the input of the decoder's RNN
    luong       query = top decoder state of this step
    context     c_t = sum_s softmax_s(score(query, k_s)) k_s
    output      h~_t = tanh(W_c [c_t ; h_t]), logits = W_o h~_t + b; with input feeding h~_{t-1} joins the RNN's input

`examples/train/rnn.py` has the same tree in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastattn.errors import LoadError
from fastattn.graph import Graph, Value, apply, tracing
from fastattn.models.architecture import Architecture, Fields
from fastattn.nn import Embedding, Linear, Module, Parameter, Recurrent, concat, state_read, state_write

SCORES = {"bahdanau": ("additive",), "luong": ("dot", "general", "concat")}


@dataclass(frozen=True)
class Config:
    """Sizes and choices of config.json, checked."""

    cell: str
    layers: int
    attention: str
    score: str
    input_feeding: bool
    embedding: int
    encoder: int
    decoder: int
    inner: int
    output: int
    bias: bool
    source_vocabulary: int
    vocabulary: int
    max_source: int

    @property
    def memory(self) -> int:
        return 2 * self.encoder

    @property
    def additive(self) -> bool:
        return self.score in ("additive", "concat")


def read_config(config: Mapping[str, Any]) -> Config:
    f = Fields(config)
    attention = f.choice("attention", tuple(SCORES))
    source = f.integer("vocab_size")
    result = Config(
        cell=f.choice("cell", ("gru", "lstm")),
        layers=f.integer("num_layers", most=64),
        attention=attention,
        score=f.choice("score", SCORES[attention]),
        input_feeding=f.flag("input_feeding", False),
        embedding=f.integer("embedding_size"),
        encoder=f.integer("encoder_hidden_size"),
        decoder=f.integer("decoder_hidden_size"),
        inner=f.integer("attention_size", 1),
        output=f.integer("attention_output_size"),
        bias=f.flag("attention_bias", False),
        source_vocabulary=source,
        vocabulary=f.integer("target_vocab_size", source),
        max_source=f.integer("max_position_embeddings", 0, least=0),
    )
    if result.score == "dot" and result.decoder != result.memory:
        raise LoadError(
            f"config.json: score 'dot' needs decoder_hidden_size = 2 * encoder_hidden_size = {result.memory}, "
            f"found {result.decoder}"
        )
    return result


class Attention(Module):
    """score(q, k_s): additive and concat v·tanh(W_q q + W_k k_s (+ bias)), general q·W k_s, dot q·k_s.

    What does not depend on the query (`project`) is computed once with the encoder.
    """

    def __init__(self, c: Config) -> None:
        self._c = c
        if c.additive:
            self.W_q = Linear(c.decoder, c.inner, bias=False)
            self.W_k = Linear(c.memory, c.inner, bias=False)
            self.v = Linear(c.inner, 1, bias=False)
            self.bias = Parameter(c.inner) if c.score == "additive" and c.bias else None
        elif c.score == "general":
            self.W = Linear(c.memory, c.decoder, bias=False)

    def project(self, memory: Value) -> Value:
        if self._c.additive:
            return self.W_k(memory)
        return self.W(memory) if self._c.score == "general" else memory

    def __call__(self, query: Value) -> Value:
        c = self._c
        keys_width = c.inner if c.additive else c.decoder
        context = apply(
            "rnn_attention",
            [self.W_q(query) if c.additive else query],
            {"v": self.v.weight, "bias": self.bias} if c.additive else {},
            keys="memory" if c.score == "dot" else "keys",
            values="memory",
            score="additive" if c.additive else "dot",
            keys_width=keys_width,
            values_width=c.memory,
        )
        return context[0]


class Encoder(Module):
    def __init__(self, c: Config) -> None:
        self.embed_tokens = Embedding(c.source_vocabulary, c.embedding)
        self.rnn = Recurrent(c.cell, c.embedding, c.encoder, c.layers, bidirectional=True)


class Decoder(Module):
    def __init__(self, c: Config) -> None:
        width = c.embedding + (c.memory if c.attention == "bahdanau" else 0) + (c.output if c.input_feeding else 0)
        self.embed_tokens = Embedding(c.vocabulary, c.embedding)
        self.attention = Attention(c)
        self.rnn = Recurrent(c.cell, width, c.decoder, c.layers)
        self.W_c = Linear(c.memory + c.decoder, c.output, bias=False)


class Translator(Module):
    def __init__(self, c: Config) -> None:
        self._c = c
        self.encoder = Encoder(c)
        self.bridge = [Linear(c.memory, c.decoder) for _ in range(c.layers)]
        self.bridge_cell = [Linear(c.memory, c.decoder) for _ in range(c.layers)] if c.cell == "lstm" else []
        self.decoder = Decoder(c)
        self.lm_head = Linear(c.output, c.vocabulary)

    def encode(self) -> Graph:
        with tracing("encoder") as (graph, ids):
            memory, last = self.encoder.rnn.sequence(self.encoder.embed_tokens(ids))
            graph.tap(memory, "last_hidden_state")
            for layer, bridge in enumerate(self.bridge):
                state_write(bridge(last[layer][0], activation="tanh"), f"h{layer}")
            for layer, bridge in enumerate(self.bridge_cell):
                state_write(bridge(last[layer][1], activation="tanh"), f"c{layer}")
            apply("memory_rows_write", [memory], name="memory")
            if self._c.score != "dot":
                apply("memory_rows_write", [self.decoder.attention.project(memory)], name="keys")
        return graph

    def step(self) -> Graph:
        c = self._c
        with tracing("decoder", sequential=True) as (graph, ids):
            parts = [self.decoder.embed_tokens(ids)]
            names = ("h", "c") if c.cell == "lstm" else ("h",)
            states = [[state_read(f"{name}{layer}", c.decoder) for name in names] for layer in range(c.layers)]
            if c.attention == "bahdanau":
                context = self.decoder.attention(states[-1][0])
                parts.append(context)
            if c.input_feeding:
                parts.append(state_read("attentional", c.output))
            top, states = self.decoder.rnn.step(concat(parts), states)
            if c.attention == "luong":
                context = self.decoder.attention(top)
            attentional = self.decoder.W_c(concat([context, top]), activation="tanh")
            for layer, state in enumerate(states):
                for name, value in zip(names, state, strict=True):
                    state_write(value, f"{name}{layer}")
            if c.input_feeding:
                state_write(attentional, "attentional")
            graph.tap(context, "context")
            graph.tap(attentional, "attentional_state")
            apply("output", [self.lm_head(attentional)])
        return graph


def build(config: Mapping[str, Any]) -> Architecture:
    c = read_config(config)
    model = Translator(c)
    params = model.finalise()
    return Architecture(
        family="rnn_attention",
        graphs={"encoder": model.encode(), "decoder": model.step()},
        params=params,
        vocabulary=c.vocabulary,
        source_vocabulary=c.source_vocabulary,
        max_source=c.max_source,
    )
