"""Nothing of the machine a test runs on may change what it finds."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products: NumPy's threads would only wait for each other
os.environ.pop("FASTATTN_ISA", None)  # the tests choose the instruction set themselves
