"""What must not end, hang or corrupt the process: exits and forks among running threads, arrays of absurd sizes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from toys import TOYS

from fastattn import _native, ops
from fastattn.errors import InputError
from fastattn.runtime import NativeSession


def run(script: str) -> subprocess.CompletedProcess[str]:
    # Python 3.12 and later warn of any fork() in a process with threads
    program = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", textwrap.dedent(script)]
    return subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)


def test_a_subinterpreter_is_refused_or_works_but_never_waits_for_ever() -> None:
    done = run("""
        import sys
        if sys.version_info < (3, 12):
            import _xxsubinterpreters as interpreters
            try:
                interpreters.run_string(interpreters.create(isolated=False), "import fastattn")
            except interpreters.RunFailedError as error:
                print("in the main interpreter only" in str(error))
        else:
            print(True)
    """)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_the_process_ends_well_while_daemon_threads_are_inside_calls(threads: int) -> None:
    done = run(f"""
        import threading, time
        import numpy as np, fastattn
        fastattn.set_num_threads({threads})
        model = fastattn.load("en-fr-bahdanau")
        x = np.ones((64, 512), np.float32)
        w = np.ones((512, 512), np.float32)
        def work(call):
            while True:
                call()
        for call in (lambda: fastattn.ops.linear(x, w), lambda: model.generate("I am eating an apple")):
            threading.Thread(target=work, args=(call,), daemon=True).start()
        time.sleep(0.3)
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_may_work_whoever_used_openmp_in_its_parent() -> None:
    done = run("""
        import ctypes, os
        import numpy as np, fastattn
        body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)
        ctypes.CDLL("libgomp.so.1").GOMP_parallel(body, None, 2, 0)
        fastattn.set_num_threads(2)
        child = os.fork()
        if child == 0:
            import signal
            signal.alarm(20)
            fastattn.ops.linear(np.ones((64, 512), np.float32), np.ones((512, 512), np.float32))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_more_threads_than_the_system_can_start_are_not_asked_for() -> None:
    done = run("""
        import resource
        import numpy as np, fastattn
        fastattn.set_num_threads(1024)
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        print(fastattn.ops.linear(np.ones((64, 1024), np.float32), np.ones((4096, 1024), np.float32))[0, 0])
    """)
    assert (done.stdout, done.stderr) == ("1024.0\n", "")


def one(*shape: int) -> np.ndarray[Any, Any]:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.float32(1), shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.pack(one(1, 1 << 57)), "weight: an axis is longer"),
        (lambda: ops.pack(one(1 << 30, 1 << 30)), r"weight: more than 2\^40 elements"),
        (lambda: ops.linear(one(1, (1 << 59) + 1), one(1, (1 << 59) + 1)), "x: an axis is longer"),
        (lambda: ops.scaled_dot_product_attention(one(1, 1, 1, 1 << 57), one(1, 1, 1, 1 << 57), one(1, 1, 1, 4)), "query: "),
        (lambda: _native.Weight(one(1, 1 << 57), True, 1), "a weight: an axis is longer"),
        (lambda: _native.Weight(one(1 << 30, 1 << 30), True, 1), r"a weight: more than 2\^40 elements"),
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("apart", [24, 72, 1 << 17])
def test_keys_far_apart(length: int, apart: int) -> None:
    rng = np.random.default_rng(3)
    q = rng.standard_normal((1, 2, 2, 24)).astype(np.float32)
    k = rng.standard_normal((1, 2, length, apart), np.float32)[..., :24]
    expected = ops.scaled_dot_product_attention(q, k.copy(), k.copy())
    np.testing.assert_array_equal(ops.scaled_dot_product_attention(q, k, k), expected)


def test_a_stride_that_leads_nowhere_takes_no_memory() -> None:
    """The first key of a large cache keeps the stride of its rows."""
    q = k = np.ones((1, 2, 1, 24), np.float32)
    strided = np.lib.stride_tricks.as_strided(k, k.shape, (0, 96, 1 << 59, 4))
    np.testing.assert_array_equal(ops.scaled_dot_product_attention(q, strided, strided), k)


def test_what_a_native_session_is_given_is_checked() -> None:
    toy = TOYS["transformer"]()
    session = NativeSession(toy.graphs, toy.weights, num_threads=1)
    with pytest.raises(InputError, match="at least one sequence: got 0"):
        session.start(0)
    with pytest.raises(TypeError):
        _native.Session(None, None, 1)
    for ids, lengths in ((np.int32(1), np.ones(1, np.int64)), (np.ones(1, np.int32), np.int64(1))):
        with pytest.raises(ValueError, match="one dimension"):
            session._native.encode(ids, lengths, False)
