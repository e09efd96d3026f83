"""CPUs that this machine is not, under qemu-user: aarch64, and x86-64 without AVX."""

from __future__ import annotations

import importlib.machinery
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastattn import _native

ROOT = Path(__file__).resolve().parent.parent
X86 = platform.machine() in ("x86_64", "AMD64")


@pytest.mark.selftest("aarch64", "aarch64-linux-gnu-g++", "qemu-aarch64")
def test_kernels_on_aarch64(selftest: str) -> None:
    for name in ("neon", "generic"):
        assert f"{name}: " in selftest
    assert selftest.count(" 0 failures") == 2


@pytest.mark.skipif(not X86, reason="x86-64 only")
@pytest.mark.selftest("old-x86", "g++", "qemu-x86_64")
def test_kernels_on_x86_64_without_avx(selftest: str) -> None:
    assert selftest.count(" 0 failures") == 1 and "generic: " in selftest


def emulated(cpu: str, code: str) -> str:
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("missing: qemu-x86_64")
    command = ["qemu-x86_64", "-cpu", cpu, sys.executable, "-c", code]
    # OPENBLAS_CORETYPE and the like are of this CPU, not of that one
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT, env=kept)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout


@pytest.mark.skipif(not X86, reason="x86-64 only")
def test_the_extension_loads_on_the_oldest_x86_64() -> None:
    # NumPy itself wants SSE4.2 and cannot be imported here: the extension alone is loaded.
    code = f"""
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
loader = ExtensionFileLoader("_native", {_native.__file__!r})
module = module_from_spec(spec_from_loader("_native", loader))
loader.exec_module(module)
print(module.available_isas(), module.active_isa())
"""
    assert any(_native.__file__.endswith(suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    assert emulated("qemu64", code) == "['generic'] generic\n"


@pytest.mark.skipif(not X86, reason="x86-64 only")
def test_import_and_a_kernel_without_avx() -> None:
    code = """
import numpy as np
from fastattn import isa, ops
assert isa.available() == ["generic"], isa.available()
x = np.eye(3, dtype=np.float32)[None, None]
out = ops.scaled_dot_product_attention(x, x, x, scale=1.0)
assert np.allclose(out[0, 0].diagonal(), np.e / (np.e + 2), atol=1e-6), out
assert np.allclose(ops.softmax(np.zeros(7, np.float32)), 1 / 7)
print("done")
"""
    assert emulated("Nehalem", code) == "done\n"
