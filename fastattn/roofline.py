"""What this machine can do at most: the two figures every measurement is held against."""

from __future__ import annotations

import math

import numpy as np

from fastattn import _native
from fastattn.errors import OptionError


def roofline(num_threads: int | None = None, *, seconds: float = 0.1, megabytes: int = 256) -> dict[str, float]:
    """Measures the peak of fused multiply-adds and the bandwidth of streaming reads (Williams et al. 2009, "Roofline").

    Args:
        num_threads: threads that compute and read at once; default `fastattn.get_num_threads()`.
        seconds: how long multiply-adds are counted, each of three times, of which the best is given.
        megabytes: size of the float32 array that is read; what is smaller than a cache measures the cache.

    Returns:
        {"fma_gflops": 10⁹ floating-point operations a second (a multiply-add counts two) with the active instruction
        set, "read_gbs": 10⁹ bytes a second, "threads": how many were used}.

    Raises:
        OptionError: an argument is no number, not positive, or not an integer where one is needed.

    >>> sorted(roofline(1, seconds=0.001, megabytes=1))
    ['fma_gflops', 'read_gbs', 'threads']
    """
    threads = _native.get_num_threads() if num_threads is None else num_threads
    for name, value in (("num_threads", threads), ("seconds", seconds), ("megabytes", megabytes)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise OptionError(f"{name}: expected a positive number, got {value!r}")
    if not isinstance(threads, int) or threads > 1024:
        raise OptionError(f"num_threads: found {threads!r}, expected an integer from 1 to 1024")
    if not isinstance(megabytes, int):
        raise OptionError(f"megabytes: found {megabytes!r}, expected an integer")
    array = np.ones(megabytes * 250_000, np.float32)
    return {
        "fma_gflops": max(_native.fma_gflops(threads, seconds) for _ in range(3)),
        "read_gbs": _native.read_gbs(array, threads, 7),
        "threads": threads,
    }
