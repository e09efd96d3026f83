"""The instruction set: what is available, what is forced, and that the forced one really does the arithmetic."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from toys import VOCABULARY, llama

from fastattn import _native, isa, ops
from fastattn.errors import OptionError
from fastattn.runtime import NativeSession, Select

ALL = isa.available()

# What the arithmetic of each one gives away: whether a multiply-add rounds once, and the float lanes of a vector.
TRAITS = {"generic": (False, 4), "neon": (True, 4), "avx2": (True, 8)}
TRAITS |= dict.fromkeys(("avx512", "avx512vnni", "avx512bf16"), (True, 16))


def rounds_once() -> bool:
    """(1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 if the product is not rounded before the sum, else 0."""
    x = np.array([[1.0, 1.0 + 2.0**-12]], np.float32)
    weight = np.array([[-(1.0 + 2.0**-11), 1.0 + 2.0**-12]], np.float32)
    return bool(ops.linear(x, weight)[0, 0] != 0)


def lanes() -> int:
    """A dot product of length 48 adds each lane's elements in order: 2^24 + 1 - 2^24 is 0, 2^24 - 2^24 + 1 is 1.

    The elements are 0, s and 32. If the vector has L lanes and s is a multiple of L, all three share lane 0, and the 1
    is lost; otherwise it is in a lane of its own.
    """
    for s in (4, 8, 16):
        keys = np.zeros((1, 2, 48), np.float32)
        keys[0, 0, [0, s, 32]] = 2.0**24, 1.0, -(2.0**24)
        _, weights = ops.luong_attention(np.ones((1, 48), np.float32), keys, score="dot")
        if np.isclose(weights.reshape(-1)[0], 0.5):
            return s
    return 0


def test_the_last_resort_is_generic() -> None:
    assert ALL[-1] == "generic"
    assert isa.active() == ALL[0]  # the best, unless told otherwise


@pytest.mark.parametrize("name", ALL)
def test_the_forced_one_is_active(name: str) -> None:
    before = isa.active()
    with isa.use(name):
        assert isa.active() == name
        assert (rounds_once(), lanes()) == TRAITS[name]
    assert isa.active() == before


def test_a_step_under_way_keeps_its_instruction_set() -> None:
    """Whenever another thread chooses another one, the bits are those of one of them."""
    toy = llama(0, layers=6, ffn=257)
    tokens = [(np.arange(300) % VOCABULARY).astype(np.int32)]

    def logits() -> bytes:
        session = NativeSession(toy.graphs, toy.weights, num_threads=1)
        session.start(1)
        found = session.step(tokens, Select(logits=True)).logits
        assert found is not None
        return found.tobytes()

    pure = set()
    for name in ALL:
        with isa.use(name):
            pure.add(logits())
    done, before = threading.Event(), isa.active()

    def choose() -> None:
        for name in itertools.cycle(ALL):
            if done.wait(0.0003):
                return
            _native.set_isa(name)

    chooser = threading.Thread(target=choose)
    chooser.start()
    try:
        assert {logits() for _ in range(30)} <= pure
    finally:
        done.set()
        chooser.join()
        _native.set_isa(before)


def test_use_nests_and_survives_an_exception() -> None:
    before = isa.active()
    with pytest.raises(ZeroDivisionError), isa.use("generic"):
        with isa.use(ALL[0]):
            assert isa.active() == ALL[0]
        assert isa.active() == "generic"
        _ = 1 // 0
    assert isa.active() == before


def test_blocks_that_overlap_leave_everything_as_it_was() -> None:
    before = isa.active()
    first, second = isa.use("generic"), isa.use(ALL[0])
    with contextlib.ExitStack() as late:
        with contextlib.ExitStack() as early:
            early.enter_context(first)
            late.enter_context(second)
            assert isa.active() == ALL[0]
        assert isa.active() == ALL[0]  # the last to begin
    assert isa.active() == before


@pytest.mark.parametrize("name", ["", "AVX2", "sse9", "avx2 ", None, 5])
def test_an_unknown_name_is_an_error(name: Any) -> None:
    with pytest.raises(OptionError) as error, isa.use(name):
        pass
    assert repr(name) in str(error.value) and ", ".join(ALL) in str(error.value)
    assert "\n" not in str(error.value)


def run_with(value: str) -> subprocess.CompletedProcess[str]:
    code = "from fastattn import isa; print(isa.active())"
    environment = {**os.environ, "FASTATTN_ISA": value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["", *ALL])
def test_the_environment_chooses(name: str) -> None:
    done = run_with(name)
    assert (done.returncode, done.stdout) == (0, f"{name or ALL[0]}\n"), done.stderr


def test_a_wrong_name_in_the_environment_is_an_error_at_import() -> None:
    done = run_with("mmx")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "FASTATTN_ISA" in last and "'mmx'" in last and ", ".join(ALL) in last
