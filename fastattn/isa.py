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

_CHOSEN = str(_native.active_isa())  # on import
_requested: list[list[str]] = []  # the `use` blocks that are open, in any threads; a list each, found by identity


def available() -> list[str]:
    """The instruction sets this CPU can run, best first; the last is always "generic"."""
    return list(_native.available_isas())


def active() -> str:
    """The instruction set in use."""
    return str(_native.active_isa())


@contextmanager
def use(name: str) -> Iterator[None]:
    """Uses another instruction set inside the block, for the whole process; OptionError if this CPU cannot run it. Of blocks
    that overlap in several threads the last to begin decides; when all have ended, everything is as it was.

    >>> with use("generic"):
    ...     active()
    'generic'
    """
    if not isinstance(name, str) or name not in available():
        raise OptionError(f"isa: found {name!r}, expected one of {', '.join(available())}")
    request = [name]
    _requested.append(request)
    _native.set_isa(name)
    try:
        yield
    finally:
        _requested[:] = [other for other in _requested if other is not request]
        _native.set_isa(_requested[-1][0] if _requested else _CHOSEN)
