"""Products with packed weights, beside PyTorch's, in turns, and beside what this machine can do at most.

    python benchmarks/linear.py [products|stream]... [--threads 1 2] [--rounds 7] [--dtypes float32 int8] [--rows 1 64]

products: M rows times weights [O, I] in float32, ours packed, PyTorch's (torch.nn.functional.linear) as they are; share of the
multiply-add peak of float32. Other types are held against our float32. stream: one row, weights past the last-level cache;
share of the read bandwidth, measured on the same bytes. Limits are measured in every round, medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from measuring import Case, calls_for, compare_here, seconds_of

import fastattn
from fastattn import _native, ops

try:
    import torch
except ImportError:  # then ours alone
    torch = None

DTYPES = ("float32", "bfloat16", "int8", "int4")
ROWS = (1, 4, 16, 64, 256, 1024)
SHAPES = ((512, 512), (512, 2048), (2048, 512), (768, 3072), (4096, 4096))  # O x I
LEAST = 0.01  # seconds of a turn


def rate_and_share(
    work: Callable[[], Any], amount: float, limit: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """Medians of amount / time in 10^9 per second, and of that over the limit, each limit measured right before."""
    calls = calls_for(work, LEAST)
    rates, shares = [], []
    for _ in range(rounds):
        most = limit()
        rates.append(amount / seconds_of(work, calls) / 1e9)
        shares.append(rates[-1] / most)
    return statistics.median(rates), statistics.median(shares)


def products(threads: int, rounds: int, dtypes: list[str], counts: list[int]) -> Iterator[str]:
    yield "| O x I | M | type | threads | ms | GFLOP/s | of the peak | PyTorch / ours | our float32 / ours |"
    yield "|---|---|---|---|---|---|---|---|---|"
    rng = np.random.default_rng(0)
    for size_out, size_in in SHAPES:
        weight = rng.standard_normal((size_out, size_in), np.float32) / np.float32(size_in**0.5)
        plain = ops.pack(weight)
        for dtype in dtypes:
            packed = ops.pack(weight, dtype)
            for count in counts:
                yield _product(
                    weight, plain, packed, rng.standard_normal((count, size_in), np.float32), threads, rounds
                )


def _product(
    weight: np.ndarray, plain: ops.PackedWeight, packed: ops.PackedWeight, x: np.ndarray, threads: int, rounds: int
) -> str:
    flops = 2.0 * len(x) * weight.size

    def ours() -> Any:
        return ops.linear(x, packed)

    def our_float32() -> Any:
        return ops.linear(x, plain)

    rate, share = rate_and_share(ours, flops, lambda: _native.fma_gflops(threads, LEAST), rounds)
    against_torch = against_ours = ""
    if packed.dtype == "float32" and torch is not None:
        rows, matrix = torch.from_numpy(x), torch.from_numpy(weight)

        def theirs() -> Any:
            with torch.inference_mode():
                return torch.nn.functional.linear(rows, matrix)

        torch.set_num_threads(threads)
        against_torch = f"{compare_here(Case('linear', '', ours, theirs), rounds).ratio:.2f}"
    if packed.dtype != "float32":
        against_ours = f"{in_turns(ours, our_float32, rounds):.2f}"
    shape = " x ".join(map(str, packed.shape))
    return (
        f"| {shape} | {len(x)} | {packed.dtype} | {threads} | {flops / rate / 1e6:.3f} | {rate:.0f} | {share:.0%} "
        f"| {against_torch} | {against_ours} |"
    )


def in_turns(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Median over the rounds of other / ours."""
    calls, others = calls_for(ours, LEAST), calls_for(other, LEAST)
    return statistics.median(seconds_of(other, others) / seconds_of(ours, calls) for _ in range(rounds))


def stream(threads: int, rounds: int, dtypes: list[str], megabytes: int) -> Iterator[str]:
    yield "| O x I | type | threads | GB/s | of the read bandwidth |"
    yield "|---|---|---|---|---|"
    rng = np.random.default_rng(0)
    for size_out, size_in in ((8192, 512), (8192, 2048), (8192, 4096)):
        x = rng.standard_normal((1, size_in), np.float32)
        for dtype in dtypes:
            first = ops.pack(rng.standard_normal((size_out, size_in), np.float32), dtype)
            size = first.native.nbytes
            room = np.empty(max(1, megabytes * 1_000_000 // size) * size, np.uint8)
            parts = room.reshape(-1, size)
            parts[...] = first.native.packed
            weights = [
                ops.PackedWeight(_native.Weight.from_packed(part, size_out, size_in, dtype), (size_out, size_in))
                for part in parts
            ]

            def work(x: np.ndarray = x, weights: list[ops.PackedWeight] = weights) -> None:
                for weight in weights:
                    ops.linear(x, weight)

            def limit(room: np.ndarray = room) -> float:
                return _native.read_gbs(room.view(np.float32), threads, 1)

            rate, share = rate_and_share(work, float(room.size), limit, rounds)
            yield f"| {size_out} x {size_in} | {dtype} | {threads} | {rate:.1f} | {share:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="suite", help="of products, stream; default: both")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="of the products")
    parser.add_argument("--megabytes", type=int, default=500, help="of the weights that are streamed")
    options = parser.parse_args()
    for suite in options.suites or ("products", "stream"):
        for threads in options.threads:
            fastattn.set_num_threads(threads)
            print(f"\n{suite}, {fastattn.isa.active()}, {threads} threads\n")
            last: list[Any] = [options.rows] if suite == "products" else [options.megabytes]
            table = products if suite == "products" else stream
            for line in table(threads, options.rounds, list(options.dtypes), *last):
                print(line, flush=True)


if __name__ == "__main__":
    main()
