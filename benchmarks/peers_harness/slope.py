"""Time per token against the number of tokens in the cache, by steps of a session: no prefill is repeated.

How fast memory reads may double from one second to the next (other guests of the machine), so each step stands between two
readings of it, counts only if they agree, and is also given in the bytes that memory would have delivered meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from peers_harness.models import Shape

AGREE = 1.1  # two readings
TRIES = 4  # for each step that is to count


def points(
    model: Any, shape: Shape, contexts: list[int], steps: int, reading: Callable[[], float]
) -> list[list[float]]:
    """[[tokens in the cache, seconds per step, bytes memory delivers in that time], …]: medians of `steps` steps of one sequence
    at each length.

    reading: GB/s now. A decoder-only model is fed the tokens between two lengths at once; one with an encoder has its own
    target tokens as context. Goes below the public interface, as only there a step can be timed alone.
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

        def step() -> float:
            nonlocal length
            begin = time.perf_counter()
            session.step(tokens(1), Select(k=1))
            length += 1
            return time.perf_counter() - begin

        for wanted in contexts:
            while length < wanted:
                more = tokens(min(wanted - length, 512))
                session.step([more])
                length += len(more)
            before = length
            times, sizes = zip(*calm(step, reading, steps), strict=True)
            found.append([(before + length) / 2, statistics.median(times), statistics.median(sizes)])
    return found


def calm(step: Callable[[], float], reading: Callable[[], float], steps: int) -> list[tuple[float, float]]:
    """(seconds, bytes) of steps between readings that agree; of all steps if too few do."""
    every, good = [], []
    before = reading()
    for _ in range(TRIES * steps):
        seconds, after = step(), reading()
        every.append((seconds, seconds * (before + after) / 2 * 1e9))
        if max(before, after) <= AGREE * min(before, after):
            good.append(every[-1])
        before = after
        if len(good) == steps:
            return good
    return good if 2 * len(good) >= steps else every


def fit(found: list[list[float]], column: int = 1) -> tuple[float, float, float]:
    """The line through the points: seconds (column 2: bytes) at no context, per token of context, and R²."""
    x, y = (np.array([point[i] for point in found], np.float64) for i in (0, column))
    slope, start = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - (start + slope * x)) ** 2).sum())
    return float(start), float(slope), 1.0 - rest / total if total else 1.0
