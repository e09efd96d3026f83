"""Prints what this machine can do at most, for every instruction set, on one thread and on all.

python benchmarks/roofline.py
"""

from __future__ import annotations

import fastattn


def table() -> list[dict[str, float | str]]:
    """One row per instruction set and number of threads: isa, threads, fma_gflops, read_gbs."""
    rows: list[dict[str, float | str]] = []
    for name in fastattn.isa.available():
        with fastattn.isa.use(name):
            for threads in sorted({1, fastattn.get_num_threads()}):
                rows.append({"isa": name, **fastattn.roofline(threads)})
    return rows


def main() -> None:
    print(f"{'':8} threads   GFLOP/s   read GB/s")
    for row in table():
        print(f"{row['isa']:8} {row['threads']:7} {row['fma_gflops']:9.1f} {row['read_gbs']:11.1f}")


if __name__ == "__main__":
    main()
