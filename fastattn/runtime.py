"""What a backend offers to decoding: a `Session` steps sequences through a model's graphs.

`NativeSession` is the C++ engine; `fastattn.reference.ReferenceSession` runs the same graphs in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
Csr = tuple[IntArray, IntArray]


@dataclass
class Select:
    """What a step does with its last rows of logits.

    k: how many best tokens per row (0: none). log_probs: scores are the log-softmax of the logits, else the logits.
    penalty: repetition penalty on the `penalised` tokens (s * penalty if s < 0, else s / penalty), as in CTRL (Keskar et al.
    2019). penalised, banned: CSR pairs (indptr int32 [rows + 1], token ids int32); a banned token's score is -inf.
    logits: also return the whole rows, processed in the same way.
    """

    k: int = 0
    log_probs: bool = False
    penalty: float = 1.0
    penalised: Csr | None = None
    banned: Csr | None = None
    logits: bool = False


@dataclass
class AttentionRecord:
    """Weights of one attention layer in one step: kind "self", "cross" or "encoder"; weights float32 [rows, H, S]."""

    kind: str
    layer: int
    weights: FloatArray


@dataclass
class StepResult:
    """What a step gives back. rows = batch, or all tokens of the step when `all_rows` was asked for.

    scores float32 [rows, k] descending, tokens int32 [rows, k], log_sum_exp float32 [rows] of the raw logits (empty when
    neither k nor logits was asked for), logits float32 [rows, V] or None; with capture also attention and named values (taps).
    """

    scores: FloatArray
    tokens: IntArray
    log_sum_exp: FloatArray
    logits: FloatArray | None = None
    attention: list[AttentionRecord] = field(default_factory=list)
    taps: dict[str, FloatArray] = field(default_factory=dict)


class Session(Protocol):
    """Sequences in flight, with their caches, memories and states; not shared between threads."""

    batch: int
    capture: bool

    def encode(self, inputs: Sequence[IntArray]) -> StepResult:
        """Starts a batch: runs the encoder on ragged int32 ids; every sequence is at position 0."""

    def start(self, batch: int) -> None:
        """Starts a batch without an encoder (decoder-only models)."""

    def step(
        self, tokens: Sequence[IntArray] | IntArray, select: Select | None = None, all_rows: bool = False
    ) -> StepResult:
        """Feeds tokens: one int32 array per sequence, or int32 [batch] for one token each."""

    def reorder(self, parents: IntArray) -> None:
        """The batch becomes [batch[p] for p in parents]: beams, repeats, dropped sequences."""
