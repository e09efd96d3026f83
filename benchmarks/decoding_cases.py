"""Whole models, native against the reference: the bundled ones from text to text, random ones of full size by steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from measuring import Case

import fastattn
from fastattn.models import build
from fastattn.reference import ReferenceSession
from fastattn.runtime import NativeSession, Select

SENTENCES = [
    "I am eating an apple",
    "the little girl is drinking water in the garden",
    "he does not like the old red cars",
    "are your friends reading a book today",
]
BASE = {  # opus-mt-en-fr and its like: Marian's "base" Transformer
    "model_type": "marian",
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "vocab_size": 58101,
    "max_position_embeddings": 512,
    "activation_function": "swish",
    "scale_embedding": True,
}
RECURRENT = {  # the size of Bahdanau et al. 2015
    "model_type": "rnn_attention",
    "cell": "gru",
    "num_layers": 1,
    "attention": "bahdanau",
    "score": "additive",
    "embedding_size": 620,
    "encoder_hidden_size": 1000,
    "decoder_hidden_size": 1000,
    "attention_size": 1000,
    "attention_output_size": 500,
    "vocab_size": 30000,
}


def translations() -> Iterator[Case]:
    """generate() of the bundled models; equal ids are checked by the tests, so there is no error to state."""
    for name in fastattn.bundled_models():
        native, reference = fastattn.load(name), fastattn.load(name, backend="reference")
        for texts in (SENTENCES[:1], SENTENCES, SENTENCES * 4):
            for beams in (1, 4):
                work = {
                    model.backend: functools.partial(model.generate, texts, num_beams=beams, max_new_tokens=32)
                    for model in (native, reference)
                }
                shape = f"{len(texts)} text{'s' * (len(texts) > 1)}, {beams} beam{'s' * (beams > 1)}"
                yield Case(name, shape, work["native"], work["reference"])


class Steps:
    """A model with random weights, a source of 24 tokens each, and `steps` tokens fed one by one."""

    def __init__(self, config: dict[str, Any], batch: int, steps: int) -> None:
        self.graphs, self.weights = _random_model(config["model_type"], tuple(config.items()))
        rng = np.random.default_rng(batch)
        vocabulary = int(config["vocab_size"])
        self.sources = [rng.integers(0, vocabulary, 24, np.int32) for _ in range(batch)]
        self.tokens = [rng.integers(0, vocabulary, batch, np.int32) for _ in range(steps)]

    def run(self, session: Any) -> Any:
        session.encode(self.sources)
        for tokens in self.tokens[:-1]:
            session.step(tokens, Select(k=4, log_probs=True))
        return session.step(self.tokens[-1], Select(k=4, logits=True)).logits

    def case(self, name: str) -> Case:
        native, reference = NativeSession(*self._model), ReferenceSession(*self._model)
        streamed, batch, steps = _streamed(self.graphs["decoder"]), len(self.sources), len(self.tokens)
        return Case(
            name,
            f"batch {batch}, 24 in, {steps} out",
            native=lambda: self.run(native),
            reference=lambda: self.run(reference),
            truth=lambda: self.run(ReferenceSession(*self._model, np.float64)),
            flops=2.0 * batch * (24 * _streamed(self.graphs["encoder"]) + steps * streamed),
            nbytes=lambda: 4.0 * (_streamed(self.graphs["encoder"]) + steps * streamed),
        )

    @property
    def _model(self) -> tuple[Any, Any]:
        return self.graphs, self.weights


@functools.cache
def _random_model(name: str, config: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    architecture = build(dict(config), name)
    rng = np.random.default_rng(0)
    weights = {}
    for tensor, shape in architecture.params.items():
        values = rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
        weights[tensor] = values + np.float32("norm" in tensor and tensor.endswith("weight"))
    return architecture.graphs, architecture.prepare(weights)


def _streamed(graph: Any) -> int:
    """Elements of the matrices a run of the graph multiplies by: each is read once, and used once per row."""
    roles = ("weight_ih", "weight_hh")
    products = [(node.op, role, name) for node in graph.nodes for role, name in node.params.items()]
    return sum(
        int(np.prod(graph.params[name]))
        for op, role, name in products
        if role in roles or (op == "linear" and role == "weight")
    )


def steps() -> Iterator[Case]:
    for batch in (1, 8):
        yield Steps(BASE, batch, 8).case("Transformer, 512 wide, 6 + 6 layers, V = 58,101")
        yield Steps(RECURRENT, batch, 8).case("Bahdanau, GRU 1000, V = 30,000")


def cases() -> list[Case]:
    return [*translations(), *steps()]
