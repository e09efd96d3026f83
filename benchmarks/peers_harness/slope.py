"""Time per token against the number of tokens in the cache, by steps of a session: no prefill is repeated."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from peers_harness.models import Shape


def points(model: Any, shape: Shape, contexts: list[int], steps: int) -> list[list[float]]:
    """[[tokens in the cache, seconds per step], …]: median of `steps` steps of one sequence at each length.

    A decoder-only model is fed the tokens between two lengths at once; one with an encoder has its own target tokens as
    context. Goes below the public interface, as only there a step can be timed alone.
    """
    random = np.random.default_rng(5)
    found = []
    from fastattn.runtime import Select

    with model._session() as session:
        if shape.kind == "seq2seq":
            session.encode([random.integers(3, 1000, 32, np.int32)])
        else:
            session.start(1)
        length = 0
        for wanted in contexts:
            while length < wanted:
                more = random.integers(3, 1000, min(wanted - length, 512), np.int32)
                session.step([more])
                length += len(more)
            times = []
            for token in random.integers(3, 1000, steps, np.int32):
                begin = time.perf_counter()
                session.step(np.array([token], np.int32), Select(k=1))
                times.append(time.perf_counter() - begin)
            length += steps
            found.append([length - steps / 2, statistics.median(times)])
    return found


def fit(found: list[list[float]]) -> tuple[float, float, float]:
    """The line through the points: seconds at no context, seconds per token of context, and R²."""
    x, y = np.array(found, np.float64).T
    slope, start = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - (start + slope * x)) ** 2).sum())
    return float(start), float(slope), 1.0 - rest / total if total else 1.0
