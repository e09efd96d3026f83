"""What memory allows: bytes a step must read, and the bandwidth measured in the same run."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from peers_harness.cases import OURS, Participant
from peers_harness.models import SHAPES

SIZES = (16, 32, 64, 128, 256, 512)  # megabytes; the limit is that of MEMORY, the others tell what a cache does
MEMORY = 256
BYTES = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "int8": 1.0,
    "int4": 0.5 + 2 / 32,
}  # int4: a scale of two bytes per group of 32


def held_as(model: str, participant: Participant) -> str:
    """The type a participant keeps the weights in: ours that of the checkpoint, where float32 would only widen it."""
    published = SHAPES[model].published
    return published if participant == Participant(OURS, "float32") else participant.dtype


def step_bytes(model: str, dtype: str, batch: int, beams: int, context: int, new: int) -> float:
    """Bytes one decoding step reads at least, halfway through: weights, kept in `dtype`, once for all rows, float32 keys and
    values per row, those of a source once for all its beams."""
    shape = SHAPES[model]
    past = new / 2 if shape.kind == "seq2seq" else context + new / 2
    cached = batch * beams * shape.per_token * past + batch * shape.per_source * context
    return shape.weights * BYTES[dtype] + 4.0 * cached


def measured(threads: int) -> dict[str, Any]:
    """GB/s of reading by size, and the peak of multiply-adds."""
    import fastattn

    limits = {size: [fastattn.roofline(threads, seconds=0.02, megabytes=size) for _ in range(2)] for size in SIZES}
    return {
        "read_gbs": {str(size): max(limit["read_gbs"] for limit in limits[size]) for size in SIZES},
        "fma_gflops": max(limit["fma_gflops"] for found in limits.values() for limit in found),
    }


@cache
def _room() -> np.ndarray:
    return np.ones(MEMORY * 250_000, np.float32)


def reading(threads: int) -> float:
    """GB/s of reading MEMORY now, of two passes the faster: what is measured beside a turn."""
    from fastattn import _native

    return float(_native.read_gbs(_room(), threads, 2))


def best(results: dict[str, Any], threads: int, size: int) -> float:
    """GB/s: the best of the run's measurements of one of SIZES."""
    return max((m["read_gbs"][str(size)] for m in results["limits"].get(str(threads), [])), default=float("nan"))


def bandwidth(results: dict[str, Any], threads: int, megabytes: float = MEMORY) -> float:
    """Bytes per second: the best of the run's measurements, for what is as large as this."""
    size = next((s for s in SIZES if s >= min(megabytes, MEMORY)), MEMORY)
    return 1e9 * best(results, threads, size)
