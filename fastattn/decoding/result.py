"""What decoding hands back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["eos", "length"]


@dataclass
class Hypothesis:
    """One decoded sequence.

    token_ids: the generated ids, with neither the prompt nor the end token.
    score: log-probability of the sequence (natural logarithm) divided by its generated length (end token included)
    ** length_penalty. With beams it is `sequences_scores` of Hugging Face `generate`: the sum of the processed
    log-probabilities. Greedily and by sampling it is the sum of the log-probabilities the model gave the chosen tokens,
    before penalties and bans; a forced token counts 0.
    finish_reason: "eos" if the model ended the sequence, "length" if a limit did.
    token_scores: the summands of the score, one per generated token; if it ended by "eos" the end token's is the last.
    end_token: the id that ended it, None if a limit did.
    """

    token_ids: list[int]
    score: float
    finish_reason: FinishReason
    token_scores: list[float] = field(default_factory=list)
    end_token: int | None = None


def length_normalised(total: float, length: int, length_penalty: float) -> float:
    """total / length ** length_penalty, the normalisation of Wu et al. 2016 as Hugging Face simplifies it.

    Never raises: within the bounds of the option the power of any length is a float64 other than 0.
    """
    return total / math.pow(length, length_penalty)
