"""Decoding: from a session that gives scores to sequences of tokens.

Greedy decoding, sampling and beam search with the meanings of Hugging Face `generate`, token for token; results do not
depend on the batch an input is in. Knows nothing of models, text or attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastattn.decoding.beam import BeamSearch
from fastattn.decoding.greedy import decode_rows
from fastattn.decoding.options import GenerationOptions
from fastattn.decoding.result import Hypothesis
from fastattn.decoding.stream import check_streamable, stream_tokens
from fastattn.errors import InputError
from fastattn.runtime import IntArray, Session

__all__ = ["GenerationOptions", "Hypothesis", "generate", "stream"]


def generate(session: Session, prompts: Sequence[IntArray], options: GenerationOptions) -> list[list[Hypothesis]]:
    """Decodes a batch: for each prompt `options.num_return_sequences` hypotheses, the best first.

    session: `session.encode(inputs)` or `session.start(len(prompts))` has been called, nothing stepped yet. prompts:
    the decoder prompts, int32 [length] each, lengths may differ; for an encoder-decoder model usually
    [decoder_start_token_id]. Raises InputError for an empty prompt and OptionError for a prompt that leaves no room
    for a token.

    >>> options = GenerationOptions(num_beams=4, eos_token_id=0)
    >>> session.encode([np.array([5, 8, 2], np.int32)])  # doctest: +SKIP
    >>> generate(session, [np.array([0], np.int32)], options)[0][0].token_ids  # doctest: +SKIP
    [17, 4, 9]
    """
    if not len(prompts):
        return []
    checked = [_prompt(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
    if options.num_beams > 1:
        return BeamSearch(session, checked, options).run()
    return decode_rows(session, checked, options)


def stream(session: Session, prompt: IntArray, options: GenerationOptions) -> Iterator[int]:
    """The tokens of one sequence as they are chosen, greedily or by sampling; neither the prompt nor the end token is
    among them.

    session: as for `generate`, with a batch of one. Raises OptionError if more than one beam or sequence is asked for.
    """
    check_streamable(options)
    return stream_tokens(session, _prompt(prompt, "prompt"), options)


def _prompt(prompt: IntArray, name: str) -> IntArray:
    array = np.asarray(prompt)
    if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"{name}: found an array of shape {array.shape} and dtype {array.dtype}, expected integers [length >= 1]"
        )
    return np.ascontiguousarray(array, np.int32)
