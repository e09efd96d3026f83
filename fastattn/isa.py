"""Which instruction set the kernels use: "generic", "avx2", "avx512", "avx512vnni", "avx512bf16" on x86-64, "neon" on
aarch64.

The best one the CPU has is chosen on import; the environment variable FASTATTN_ISA names another. Results are bit-identical for
one instruction set whatever the batch and the threads, and may differ in the last bits from one to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastattn import _native
from fastattn.errors import OptionError


def available() -> list[str]:
    """The instruction sets this CPU can run, best first; the last is always "generic"."""
    return list(_native.available_isas())


def active() -> str:
    """The instruction set in use."""
    return str(_native.active_isa())


@contextmanager
def use(name: str) -> Iterator[None]:
    """Uses another instruction set inside the block, for the whole process; OptionError if this CPU cannot run it.

    >>> with use("generic"):
    ...     active()
    'generic'
    """
    if name not in available():
        raise OptionError(f"isa: found {name!r}, expected one of {', '.join(available())}")
    before = active()
    _native.set_isa(name)
    try:
        yield
    finally:
        _native.set_isa(before)
