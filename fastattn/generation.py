"""What `Model.generate` and `Model.explain` give back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastattn.attention_map import AttentionMap

FloatArray = NDArray[np.float32]


@dataclass
class Candidate:
    """One output: text ("" without a tokenizer), its tokens and ids (neither prompt nor end token), score (see
    `fastattn.decoding.Hypothesis`), why it ended ("eos" or "length"), and the attention behind it if it was asked for.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    finish_reason: str
    attention: AttentionMap | None = field(default=None, compare=False)
    token_scores: list[float] = field(default_factory=list, repr=False)


@dataclass
class Generation(Candidate):
    """The best output for one input. hypotheses: `num_return_sequences` of them, best first, this one among them.

    unknown_words: words of the input that the model's vocabulary does not know.
    """

    hypotheses: list[Candidate] = field(default_factory=list, repr=False)
    unknown_words: list[str] = field(default_factory=list)
    source_tokens: list[str] = field(default_factory=list, repr=False)


@dataclass(eq=False)
class Step:
    """How one target token came about, in the five steps of attention.

    scores, weights: float32 [S] over `source_tokens` (weights = softmax(scores); for a Transformer the weights are the mean
    over the heads of the last layer's cross-attention and the scores their logarithm). context, attentional_state: float32
    [C] and [A] (a Transformer's decoder state). top: the five likeliest tokens with their probabilities.
    """

    token: str
    token_id: int
    source_tokens: list[str]
    scores: FloatArray
    weights: FloatArray
    context: FloatArray
    attentional_state: FloatArray
    top: list[tuple[str, float]]


@dataclass
class Source:
    """An input as the encoder takes it."""

    ids: NDArray[np.int32]
    tokens: list[str]
    unknown: list[str]
