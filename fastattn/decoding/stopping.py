"""When a sequence is over: its end tokens and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastattn.decoding.options import GenerationOptions

EARLY_STOPPING: dict[bool | str, int] = {False: 0, True: 1, "never": 2}
"""How `BeamState` is told when an input is over. In all cases it is once every candidate has ended, at the latest at
the limit.

False: also when the best running beam, scored at its present length, is no better than the worst of `num_beams`
finished hypotheses. True: also as soon as `num_beams` are finished. "never": as False, but with a positive length
penalty the running beam is scored as if it reached the limit without losing any probability, so that nothing better
can be missed.
"""


@dataclass(frozen=True)
class Limits:
    """Per input: the least and the most tokens to generate, end token included; and the end tokens."""

    least: tuple[int, ...]
    most: tuple[int, ...]
    eos: frozenset[int]

    @classmethod
    def of(cls, options: GenerationOptions, prompt_lengths: Sequence[int]) -> Limits:
        pairs = [options.new_tokens(length) for length in prompt_lengths]
        return cls(tuple(least for least, _ in pairs), tuple(most for _, most in pairs), frozenset(options.eos))
