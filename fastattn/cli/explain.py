"""The five steps behind each target token, in words and numbers: `--explain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastattn.cli.console import one_line, terminal_width

if TYPE_CHECKING:
    from fastattn.generation import Step

# What the five steps compute, by kind of model.
RECURRENT = """\
  scores     how well each source word fits the decoder's state
  weights    softmax of the scores: they add up to 1
  context    the source words' encodings, added up with these weights
  state      attentional state: tanh of a linear map of [context; decoder state]
  likeliest  softmax over the vocabulary, from the attentional state"""
TRANSFORMER = """\
  scores     logarithm of the weights
  weights    last layer's cross-attention, mean of its heads: they add up to 1
  context    what the cross-attention adds to the decoder
  state      decoder state: the last layer's output
  likeliest  softmax over the vocabulary, from the decoder state"""
DECODER = """\
  scores     logarithm of the weights
  weights    last layer's self-attention, mean of its heads: they add up to 1
  context    what that attention read: the values of the tokens so far, added up with its heads' weights
  state      the last layer's output, normalised
  likeliest  softmax over the vocabulary, from the state"""
LEGENDS = {"recurrent": RECURRENT, "transformer": TRANSFORMER, "decoder": DECODER}
SHOWN = 6  # how many numbers of a vector


def as_text(steps: Sequence[Step], kind: str) -> str:
    """A legend by kind of model (a key of LEGENDS), then a block per target token."""
    width = terminal_width()
    blocks = ["how each token was chosen:\n" + LEGENDS[kind]]
    blocks += [_block(number, step, width) for number, step in enumerate(steps, 1)]
    return "\n\n".join(blocks)


def as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The same with all numbers."""
    return [
        {
            "token": step.token,
            "token_id": int(step.token_id),
            "source_tokens": list(step.source_tokens),
            "scores": _floats(step.scores),
            "weights": _floats(step.weights),
            "context": _floats(step.context),
            "attentional_state": _floats(step.attentional_state),
            "top": [{"token": token, "probability": float(probability)} for token, probability in step.top],
        }
        for step in steps
    ]


def _block(number: int, step: Step, width: int) -> str:
    names = [one_line(token) for token in step.source_tokens]
    scores = [f"{round(float(value), 2) + 0.0:.2f}" for value in step.scores]  # + 0.0: no -0.00
    weights = [f"{value:.3f}" for value in step.weights]
    likeliest = "  ".join(f"{one_line(token)} {probability:.3f}" for token, probability in step.top)
    lines = [f"{number}. {one_line(step.token)}"]
    lines += _columns([("", names), ("scores", scores), ("weights", weights)], width)
    lines += [
        f"  {'context':9}  {_vector(step.context)}",
        f"  {'state':9}  {_vector(step.attentional_state)}",
        f"  {'likeliest':9}  {likeliest}",
    ]
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, list[str]]], width: int) -> list[str]:
    """Rows under each other, a column per source token; what does not fit the width continues below."""
    from fastattn.attention_map import text_width

    widths = [max(map(text_width, cells)) + 2 for cells in zip(*(cells for _, cells in rows), strict=True)]
    lines, first = [], 0
    while first < len(widths):
        last = first + 1
        while last < len(widths) and 11 + sum(widths[first : last + 1]) <= width:
            last += 1
        for name, cells in rows:
            padded = (" " * (w - text_width(c)) + c for c, w in zip(cells[first:last], widths[first:last], strict=True))
            lines.append(f"  {name:9}{''.join(padded)}")
        first = last
    return lines


def _vector(values: Any) -> str:
    vector = np.asarray(values, np.float32).ravel()
    start = " ".join(f"{value:+.2f}" for value in vector[:SHOWN])
    more = " …" if vector.size > SHOWN else ""
    return f"{start}{more}  ({vector.size} numbers, length {np.linalg.norm(vector):.2f})"


def _floats(values: Any) -> list[float | None]:
    """JSON has no word for minus infinity, the score of what a window leaves out: it becomes null."""
    return [round(float(v), 6) if np.isfinite(v) else None for v in np.asarray(values).ravel()]
