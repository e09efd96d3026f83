"""Loads the extension module, with OpenMP told to let idle threads sleep soon.

GNU OpenMP keeps a region's threads spinning for milliseconds afterwards. In a process that also uses a BLAS (NumPy's spins
too) they then hold the core the other needs: alternating the two was measured ten times slower. It reads its environment once,
when it is loaded, so the setting is made for that moment only; what the user set is kept. See
docs/decisions/idle-threads-sleep.md.
"""

from __future__ import annotations

import os

SPINS = "3000"  # some 0.1 ms: longer than the Python between two decode steps
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

if not any(name in os.environ for name in _SETTINGS):
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        import fastattn._native  # noqa: F401
    finally:
        del os.environ["GOMP_SPINCOUNT"]
