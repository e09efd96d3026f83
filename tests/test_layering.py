"""The layer rule of the architecture, read from the imports and includes themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastattn

PACKAGE = Path(fastattn.__file__).parent
CSRC = PACKAGE.parent / "csrc"

# What a unit (a module or subpackage of fastattn) may import of the others; every unit may import `errors`.
GRAPH = {"graph", "ops"}
MODELS = GRAPH | {"nn", "models"}
RUNTIME = MODELS | {"runtime", "packing", "passes", "_native", "isa", "reference"}
API = RUNTIME | {
    "decoding",
    "loaders",
    "text",
    "weights",
    "attention_map",
    "generation",
    "inputs",
    "roofline",
    "profile",
    "api",
}
API |= {"container", "assembly", "conversion"}
MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": API | {"fastattn"},
    "fastattn": API | {"_load"},
    "api": API | {"fastattn"},
    "inputs": set(),
    "generation": RUNTIME | {"decoding", "attention_map"},
    "decoding": RUNTIME,
    "runtime": RUNTIME,
    "models": MODELS,
    "nn": GRAPH,
    "graph": GRAPH,
    "ops": GRAPH | {"_native", "isa"},
    "isa": {"_native"},
    "_load": {"_native"},
    "loaders": GRAPH,
    "packing": GRAPH | {"_native"},
    "container": GRAPH | {"loaders", "packing", "_native"},
    "weights": GRAPH | {"loaders", "packing"},
    "assembly": MODELS | {"passes", "reference", "loaders", "packing", "container", "weights"},
    "conversion": API,
    "text": GRAPH,
    "attention_map": set(),
    "passes": {"graph", "ops"},
    "roofline": {"_native"},
    "profile": GRAPH | {"runtime", "roofline"},
    "reference": set(),
    "errors": set(),
    "_native": set(),
}
LATE = ("onnx", "tokenizers", "sentencepiece", "matplotlib", "torch", "rich")  # loaded where used, never on import


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi"))


def unit_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].split(".")[0]
    return "fastattn" if first == "__init__" else first


def statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which load nothing."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from statements(statement.orelse)
        else:
            yield statement
            for name in ("body", "orelse", "finalbody", "handlers"):
                yield from statements(getattr(statement, name, []))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what a file imports, `from a import b` as a.b."""
    for node in statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; the house writes them out"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_module_has_its_place() -> None:
    assert {unit_of(path) for path in sources()} <= set(MAY_IMPORT), "name a new module's layer in MAY_IMPORT"


def test_modules_import_only_the_layers_below() -> None:
    wrong = []
    for path in sources():
        unit = unit_of(path)
        for line, name in imports(path):
            top, _, rest = name.partition(".")
            target = rest.split(".")[0] if top == "fastattn" else ""
            if top != "fastattn" or target in (unit, "errors"):
                continue
            if target not in MAY_IMPORT:  # a public name: `import fastattn`, `from fastattn import load`
                target = "fastattn"
            if target not in MAY_IMPORT[unit] | {unit}:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {unit} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_reference_knows_only_numpy() -> None:
    for path in (PACKAGE / "reference").glob("*.py"):
        for line, name in imports(path):
            top = name.split(".")[0]
            if top == "fastattn":
                assert name.startswith(("fastattn.reference.", "fastattn.errors.")), f"{path.name}:{line}: {name}"
            else:
                assert top in sys.stdlib_module_names | {"numpy"}, f"{path.name}:{line}: {name}"


def test_heavy_libraries_are_imported_inside_functions() -> None:
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top_level = [node for node in statements(tree.body) if isinstance(node, (ast.Import, ast.ImportFrom))]
        inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
        for node in top_level:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if id(node) not in inside:
                assert not {name.split(".")[0] for name in names} & set(LATE), f"{path.name}:{node.lineno}"


ORDER = ("base", "simd", "kernels", "isa", "dispatch", "ops", "engine", "bindings")


@pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc")
def test_a_folder_of_csrc_includes_only_folders_to_its_left() -> None:
    wrong = []
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".inl", ".def")):
        folder = path.relative_to(CSRC).parts[0]
        allowed = ORDER if folder == "selftest" else ORDER[: ORDER.index(folder) + 1]
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+"([^"]+)"', text)
            if found and found[1].split("/")[0] not in (*allowed, folder):
                wrong.append(f"{path.relative_to(CSRC)}:{line}: includes {found[1]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc")
def test_only_base_threads_knows_openmp() -> None:
    knowing = [
        p for p in CSRC.rglob("*") if p.is_file() and re.search(r"omp\.h|#pragma omp", p.read_text(encoding="utf-8"))
    ]
    assert [p.relative_to(CSRC).as_posix() for p in knowing] == ["base/threads.cpp"]


@pytest.mark.skipif(not CSRC.is_dir(), reason="not a checkout")
def test_no_file_is_long() -> None:
    files = [
        p for folder in (PACKAGE, CSRC) for p in folder.rglob("*") if p.suffix in (".py", ".pyx", ".h", ".cpp", ".inl")
    ]
    long = {p.name: n for p in files if (n := len(p.read_text(encoding="utf-8").splitlines())) > 700}
    assert not long


def test_import_loads_numpy_and_the_engine_only() -> None:
    code = f"import sys, fastattn; print(*[m for m in {LATE!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_import_is_quick() -> None:
    """Under a quarter of a second of CPU time, NumPy included, best of several: the machine may be busy."""
    code = "import time; t = time.process_time(); import fastattn; print(time.process_time() - t)"
    best = 1.0
    for _ in range(8):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, float(out.stdout))
        if best < 0.25:
            break
    assert best < 0.25
