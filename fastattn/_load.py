"""Loads the extension module, with OpenMP told to let idle threads sleep soon, or says why it cannot.

GNU OpenMP keeps a region's threads spinning for milliseconds afterwards. In a process that also uses a BLAS (NumPy's spins
too) they then hold the core the other needs: alternating the two was measured ten times slower. It reads its environment once,
when it is loaded, so the setting is made for that moment only; what the user set is kept. See
docs/decisions/idle-threads-sleep.md.
"""

from __future__ import annotations

import importlib
import os
import sys

SPINS = "3000"  # some 0.1 ms: longer than the Python between two decode steps
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def _check_interpreter() -> None:
    """Before Python 3.12 pybind11 waits in a subinterpreter for ever."""
    if sys.version_info < (3, 12):
        interpreters = importlib.import_module("_xxsubinterpreters")
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError("fastattn: works in the main interpreter only, not in a subinterpreter")


def _load() -> None:
    # beside sources that were not built there is only the folder with the module's stubs
    if importlib.import_module("fastattn._native").__file__ is None:
        folder = os.path.dirname(os.path.abspath(__file__))
        raise ImportError(
            f"fastattn: {folder} holds the sources without the engine, and comes before what is installed; "
            "work in another folder, or build it here: pip install -e ."
        )


_check_interpreter()
if any(name in os.environ for name in _SETTINGS):
    _load()
else:
    os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        _load()
    finally:
        del os.environ["GOMP_SPINCOUNT"]
