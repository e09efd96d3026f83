"""Nothing of the machine a test runs on may change what it finds. And the emulators' self-tests, which run beside the others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # small products: NumPy's threads would only wait for each other
os.environ.pop("FASTATTN_ISA", None)  # the tests choose the instruction set themselves

SELFTEST = Path(__file__).resolve().parent.parent / "csrc" / "selftest" / "run.sh"


class Background:
    """`csrc/selftest/run.sh TARGET`, started at once and at the lowest priority."""

    def __init__(self, target: str) -> None:
        self.output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["nice", "-n", "19", SELFTEST, target],
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def result(self) -> str:
        status = self.process.wait(timeout=900)
        self.output.seek(0)
        output = self.output.read()
        assert status == 0, output
        return output

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.output.close()


started = pytest.StashKey[dict[str, Background]]()


def missing(tools: list[str]) -> list[str]:
    return [tool for tool in tools if shutil.which(tool) is None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[started] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts what `mark.selftest(TARGET, TOOL...)` asks for: minutes on a core that most tests leave idle."""
    if session.config.option.collectonly:
        return
    for item in session.items:
        for mark in item.iter_markers("selftest"):
            target, *tools = mark.args
            skipped = missing(tools) or any(skip.args[0] for skip in item.iter_markers("skipif"))
            if not skipped and target not in session.config.stash[started]:
                session.config.stash[started][target] = Background(target)


def pytest_unconfigure(config: pytest.Config) -> None:
    for run in config.stash[started].values():
        run.stop()


@pytest.fixture
def selftest(request: pytest.FixtureRequest) -> str:
    """What the self-test that the test's mark names printed; it has passed."""
    mark = request.node.get_closest_marker("selftest")
    target, *tools = mark.args
    if lacking := missing(tools):
        pytest.skip(f"missing: {', '.join(lacking)}")
    return request.config.stash[started][target].result()
