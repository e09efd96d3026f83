"""What is installed: names, version, types, data, and that README and changelog speak of the same thing."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import fastattn
from fastattn import _native

ROOT = Path(__file__).parent.parent
PACKAGE = Path(fastattn.__file__).parent
MODULES = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "fastattn.") if "_native" not in module.name]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version() -> None:
    declared = re.search(r'^version = "(.+)"$', text("pyproject.toml"), re.M)
    assert declared and fastattn.__version__ == declared[1] == metadata.version("fastattn")
    assert f"## [{fastattn.__version__}]" in text("CHANGELOG.md")


def test_a_source_distribution_holds_what_the_build_needs(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("csrc", "fastattn"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "_beam.c", "__pycache__"))
    made = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = [
        *tmp_path.glob("csrc/**/*.*"),
        *tmp_path.glob("fastattn/**/*.py*"),
        *tmp_path.glob("fastattn/bundled/**/*.*"),
    ]
    assert {file.relative_to(tmp_path).as_posix() for file in needed} <= held
    assert not [name for name in held if name.startswith("tests")]


def test_sources_that_were_not_built_say_so(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "fastattn", ignore=shutil.ignore_patterns("*.so", "bundled"))
    (tmp_path / "fastattn" / "_native").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", "import fastattn"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert f"ImportError: fastattn: {tmp_path / 'fastattn'} holds the sources without the engine" in done.stderr


@pytest.mark.parametrize("name", sorted(fastattn.__all__))
def test_public_names_exist_and_are_documented(name: str) -> None:
    thing = getattr(fastattn, name)
    assert name.startswith("__") or thing.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed


@pytest.mark.parametrize("name", sorted(fastattn.ops.__all__))
def test_ops_are_documented_with_an_example(name: str) -> None:
    assert ">>>" in getattr(fastattn.ops, name).__doc__


def test_the_extension_is_typed_and_documented() -> None:
    assert (PACKAGE / "py.typed").exists()
    for module, stub in ((_native, "__init__.pyi"), (_native.ops, "ops.pyi")):
        declared = (PACKAGE / "_native" / stub).read_text(encoding="utf-8")
        for name, thing in vars(module).items():
            if name.startswith("_") or name == "ops":
                continue
            assert thing.__doc__, name
            assert re.search(rf"\b(def|class) {name}\b|^{name}: ", declared, re.M), f"{name} is missing from {stub}"


def test_bundled_models_are_small() -> None:
    assert set(fastattn.bundled_models()) == {"en-fr-bahdanau", "en-fr-luong", "en-fr-transformer"}
    for name in fastattn.bundled_models():
        size = sum(path.stat().st_size for path in (PACKAGE / "bundled" / name).rglob("*") if path.is_file())
        assert size <= 4_000_000, f"{name}: {size} bytes"


def test_threads_are_chosen_and_checked() -> None:
    before = fastattn.get_num_threads()
    try:
        fastattn.set_num_threads(1)
        assert fastattn.get_num_threads() == 1
        for wrong in (0, -1, 1.5, True, 10**6):
            with pytest.raises(fastattn.OptionError, match="num_threads"):
                fastattn.set_num_threads(wrong)  # type: ignore[arg-type]
    finally:
        fastattn.set_num_threads(before)


def test_module_runs_as_the_command_does() -> None:
    for command in ([sys.executable, "-m", "fastattn"], [str(Path(sys.executable).parent / "fastattn")]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert done.returncode == 0 and fastattn.__version__ in done.stdout, done.stderr


def test_ops_need_no_model() -> None:
    assert fastattn.ops.softmax(np.zeros((1, 2), np.float32)).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("block", [0, 1])
def test_readme_begins_with_two_one_line_commands(block: int) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text("README.md"), re.M | re.S)
    language, command = blocks[block]
    assert language == "sh" and command.count("\n") == 1
    assert "pip install" in command and ("translate --attention" in command, "pytest" in command)[block]


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text(page)):
            assert (ROOT / target).exists(), f"{page}: {target}"
