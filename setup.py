"""Builds the C++ engine (pybind11, OpenMP) and the beam's inner bookkeeping (Cython); everything else is in pyproject.toml.

FASTATTN_SANITIZE=address,undefined builds the engine with sanitizers (see CONTRIBUTING.md).
"""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, setup

ROOT = Path(__file__).parent
X86 = platform.machine().lower() in ("x86_64", "amd64")
ISAS = ("generic", "avx2", "avx512", "avx512vnni", "avx512bf16") if X86 else ("generic", "neon")

# No -m flags: what needs a newer CPU is compiled inside target regions (csrc/kernels/compile.h).
FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-fopenmp",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
LINK = ["-fopenmp"]
if sanitizers := os.environ.get("FASTATTN_SANITIZE"):
    FLAGS += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g", "-O1"]
    LINK += [f"-fsanitize={sanitizers}"]


def sources() -> list[str]:
    """Every .cpp of csrc in its reading order; of csrc/isa only what this architecture can run."""
    folders = ("base", "dispatch", "ops", "engine", "bindings")
    files = [path for folder in folders for path in sorted((ROOT / "csrc" / folder).glob("*.cpp"))]
    files += [ROOT / "csrc" / "isa" / f"{isa}.cpp" for isa in ISAS]
    return [str(path.relative_to(ROOT)) for path in files]


def headers() -> list[str]:
    return [
        str(path.relative_to(ROOT)) for end in ("h", "inl", "def") for path in sorted((ROOT / "csrc").rglob(f"*.{end}"))
    ]


engine = Pybind11Extension("fastattn._native", sources(), include_dirs=["csrc"], depends=headers())
engine.extra_compile_args = FLAGS
engine.extra_link_args = LINK

beam = Extension("fastattn.decoding._beam", ["fastattn/decoding/_beam.pyx"], extra_compile_args=["-O3"])

ParallelCompile("FASTATTN_BUILD_JOBS", default=os.cpu_count() or 2).install()
setup(ext_modules=[engine, *cythonize([beam], language_level=3)])
