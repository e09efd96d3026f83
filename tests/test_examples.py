"""Every example runs, and is short enough to be read at a glance; README's Python runs too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {  # a line that shows that the example did what it is for
    "attention": "pomme    apple",
    "explain": "pomme: pomme",
    "ops": "a batch changes no bit: True",
    "server": "the same as one after another: True",
    "translate": "I am eating an apple -> je mange une pomme",
}


def run(code: Path, folder: Path) -> str:
    done = subprocess.run([sys.executable, str(code)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} == set(SAYS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    assert SAYS[path.stem] in run(path, tmp_path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_python_of_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 2
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    assert "pomme" in run(script, tmp_path)
    assert (tmp_path / "apple.png").stat().st_size > 1000
