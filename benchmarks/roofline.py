"""Prints what this machine can do at most in float32, by instruction set, on one thread and on all.

python benchmarks/roofline.py
"""

from __future__ import annotations

import fastattn


def isas() -> list[str]:
    """The instruction sets that differ in float32: of those with AVX-512 the best, for all share these kernels."""
    names = fastattn.isa.available()
    wide = [name for name in names if name.startswith("avx512")]
    return [name for name in names if name not in wide[1:]]


def table() -> list[dict[str, float | str]]:
    """One row per instruction set and number of threads: isa, threads, fma_gflops, read_gbs."""
    rows: list[dict[str, float | str]] = []
    for name in isas():
        with fastattn.isa.use(name):
            for threads in sorted({1, fastattn.get_num_threads()}):
                rows.append({"isa": name, **fastattn.roofline(threads)})
    return rows


def main() -> None:
    print(f"{'':10} threads   GFLOP/s   read GB/s")
    for row in table():
        print(f"{row['isa']:10} {row['threads']:7} {row['fma_gflops']:9.1f} {row['read_gbs']:11.1f}")


if __name__ == "__main__":
    main()
