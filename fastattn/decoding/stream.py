"""Tokens as they are chosen."""

from __future__ import annotations

from collections.abc import Iterator

from fastattn.decoding.greedy import RowDecoder
from fastattn.decoding.options import GenerationOptions
from fastattn.errors import OptionError
from fastattn.runtime import IntArray, Session


def check_streamable(options: GenerationOptions) -> None:
    """OptionError if the options want more than one sequence, whose tokens are known only at the end."""
    for name in ("num_beams", "num_return_sequences"):
        if (found := getattr(options, name)) != 1:
            raise OptionError(f"{name}: found {found}, expected 1 for streaming")


def stream_tokens(session: Session, prompt: IntArray, options: GenerationOptions) -> Iterator[int]:
    """The tokens of one sequence one by one, without the end token; each step runs when its token is asked for."""
    decoder = RowDecoder(session, [prompt], options)
    row = decoder.rows[0]
    while decoder.live:
        decoder.advance()
        if row.end_token is None:
            yield row.tokens[-1]
