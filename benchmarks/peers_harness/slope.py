"""Time per token against the number of tokens in the cache, by steps of a session: no prefill is repeated.

How fast memory reads may double from one second to the next (other guests of the machine). A step is therefore also held against
itself: in the same milliseconds it reads its weights, whose bytes are the same at every length.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from peers_harness.models import Shape


def points(model: Any, shape: Shape, contexts: list[int], steps: int) -> list[list[float]]:
    """[[tokens in the cache, seconds per step, bytes of weights that are read in that time], …]: medians of `steps` steps of one
    sequence at each length.

    A decoder-only model is fed the tokens between two lengths at once; one with an encoder has its own target tokens as context.
    Goes below the public interface, as only there a step can be timed alone.
    """
    from fastattn.runtime import Select

    random, most, found = np.random.default_rng(5), min(1000, model._architecture.vocabulary), []

    def tokens(count: int) -> np.ndarray:
        return random.integers(3, most, count, np.int32)

    with model._session() as session:
        if shape.kind == "seq2seq":
            session.encode([tokens(32)])
        else:
            session.start(1)
        length = 0

        def step() -> tuple[float, float]:
            nonlocal length
            session.profile(True)
            session.step(tokens(1), Select(k=1))
            length += 1
            cost = session.profiled()["decoder"]
            return cost.seconds, weights_meanwhile(cost.ops)

        for wanted in contexts:
            session.profile(False)
            while length < wanted:
                more = tokens(min(wanted - length, 512))
                session.step([more])
                length += len(more)
            before = length
            times, sizes = zip(*(step() for _ in range(steps)), strict=True)
            found.append([(before + length) / 2, statistics.median(times), statistics.median(sizes)])
    return found


def weights_meanwhile(ops: Any) -> float:
    """Bytes of weights that a step would read in its time, at the pace of the ops that read no keys and values."""
    rest = [op for op in ops if not op.kept_bytes]
    pace = sum(op.weight_bytes for op in rest) / sum(op.seconds + op.waiting for op in rest)
    return pace * sum(op.seconds + op.waiting for op in ops)


def fit(found: list[list[float]], column: int = 1) -> tuple[float, float, float]:
    """The line through the points: seconds (column 2: bytes) at no context, per token of context, and R²."""
    x, y = (np.array([point[i] for point in found], np.float64) for i in (0, column))
    slope, start = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - (start + slope * x)) ** 2).sum())
    return float(start), float(slope), 1.0 - rest / total if total else 1.0
