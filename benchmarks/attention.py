"""Scaled dot-product attention beside PyTorch's, in turns, and beside what this machine can do at most.

    python benchmarks/attention.py [prefill|decode|odd]... [--threads 1 2] [--rounds 7]

prefill: long prompts, share of the multiply-add peak. decode: one query, share of the read bandwidth. odd: lengths and sizes
that fit no vector, grouped heads, batches. Peak and bandwidth are measured beside every case; medians of the rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from measuring import Case, compare_here

import fastattn
from fastattn import ops


@dataclass(frozen=True)
class Shape:
    """q [B, H, T, D], k and v [B, G, S, D]."""

    B: int
    H: int
    T: int
    D: int
    S: int = 0
    G: int = 0
    causal: bool = False

    @property
    def keys(self) -> int:
        return self.S or self.T

    @property
    def groups(self) -> int:
        return self.G or self.H

    def __str__(self) -> str:
        heads = f"{self.H}/{self.G}" if self.G else f"{self.H}"
        length = f"{self.T} of {self.S}" if self.S else f"{self.T}"
        return f"{self.B} x {heads} x {length} x {self.D}{' causal' if self.causal else ''}"

    def flops(self) -> float:
        """Of the two products, over the pairs that are seen."""
        pairs = self.T * self.keys - (self.T * (self.T - 1) / 2 if self.causal else 0)
        return 4.0 * self.B * self.H * self.D * pairs

    def nbytes(self) -> float:
        """Keys and values, once."""
        return 8.0 * self.B * self.groups * self.keys * self.D


PREFILL = [
    Shape(1, heads, length, size, causal=causal)
    for heads, length, size in ((8, 512, 64), (16, 1024, 64), (16, 2048, 64), (8, 4096, 64), (8, 2048, 128))
    for causal in (False, True)
]
DECODE = [
    *(Shape(1, 16, 1, 64, S=keys) for keys in (2048, 4096, 8192, 16384)),
    *(Shape(batch, 8, 1, 64, S=2048) for batch in (4, 16)),
    Shape(1, 32, 1, 128, S=4096, G=8),
    Shape(1, 8, 1, 64, S=16384, G=1),
]
ODD = [
    *(Shape(1, 8, length, 64, causal=causal) for length in (64, 100, 777) for causal in (False, True)),
    *(Shape(1, 8, 512, size) for size in (32, 40, 80, 96, 256)),
    Shape(1, 16, 1024, 64, G=4, causal=True),
    Shape(8, 8, 256, 64),
    Shape(8, 8, 33, 64, causal=True),
    Shape(1, 8, 16, 64, S=4096),
]
SUITES = {"prefill": PREFILL, "decode": DECODE, "odd": ODD}


def case_of(shape: Shape) -> Case:
    rng = np.random.default_rng(0)
    q = rng.standard_normal((shape.B, shape.H, shape.T, shape.D), np.float32)
    k, v = (rng.standard_normal((shape.B, shape.groups, shape.keys, shape.D), np.float32) for _ in range(2))
    theirs = [torch.from_numpy(x) for x in (q, k, v)]

    def run_torch() -> torch.Tensor:
        with torch.inference_mode():
            return torch.nn.functional.scaled_dot_product_attention(
                *theirs, is_causal=shape.causal, enable_gqa=shape.groups != shape.H
            )

    return Case(
        "attention",
        str(shape),
        lambda: ops.scaled_dot_product_attention(q, k, v, is_causal=shape.causal),
        run_torch,
        flops=shape.flops(),
        nbytes=shape.nbytes,
    )


def rows(suite: str, threads: int, rounds: int) -> Iterator[tuple[str, float]]:
    """A line of the table, and the ratio."""
    fastattn.set_num_threads(threads)
    torch.set_num_threads(threads)
    for shape in SUITES[suite]:
        case = case_of(shape)
        unit, work = ("read_gbs", shape.nbytes()) if suite == "decode" else ("fma_gflops", shape.flops())
        before = fastattn.roofline(threads, seconds=0.03)[unit]
        timing = compare_here(case, rounds)
        limit = statistics.mean((before, fastattn.roofline(threads, seconds=0.03)[unit])) * 1e9
        share = work / timing.native / limit
        yield (
            f"| {shape} | {threads} | {timing.native * 1e3:.3f} | {timing.reference * 1e3:.3f} "
            f"| {timing.ratio:.2f} | {share:.0%} |",
            timing.ratio,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; default: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for suite in options.suites or SUITES:
        limit = "read bandwidth" if suite == "decode" else "multiply-add peak"
        print(f"\n{suite}: B x H x T (of S) x D\n")
        print(f"| shape | threads | fastattn ms | torch {torch.__version__} ms | ratio | of {limit} |")
        print("|---|---|---|---|---|---|")
        for threads in options.threads:
            ratios = []
            for line, ratio in rows(suite, threads, options.rounds):
                print(line, flush=True)
                ratios.append(ratio)
            mean = math.exp(statistics.mean(map(math.log, ratios)))
            print(f"| geometric mean, at least {min(ratios):.2f} | {threads} | | | {mean:.2f} | |", flush=True)


if __name__ == "__main__":
    main()
