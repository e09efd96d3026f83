"""Workers: started once, kept warm while memory allows, asked over pipes with a time limit, watched while idle."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers_harness import engines, models
from peers_harness.cases import Participant

FOLDER = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
BASE = {
    "torch": 500e6,
    "ort": 700e6,
    "ctranslate2": 150e6,
    "llamacpp": 500e6,
}  # what a process holds before its weights
FACTOR = {"ort": 1.3, "ctranslate2": 1.5}  # how many times the weights an engine holds, at times; the others once
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.1, "int4": 0.7}


class Fault(Exception):
    """A worker that died, ran out of time or said no; the text is one line for the table."""


class Engine:
    """One worker process."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
                cwd=FOLDER, start_new_session=True,
            )  # fmt: skip
        self.log, self._rest = log, b""
        self.used = time.monotonic()

    def ask(self, do: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer. Raises Fault; after a time-out the worker is gone."""
        assert self.process.stdin is not None
        self.used = time.monotonic()
        try:
            self.process.stdin.write((json.dumps({"do": do, **arguments}) + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            raise Fault(self._obituary()) from None
        answer: dict[str, Any] = json.loads(self._line(timeout))
        for key in ("unsupported", "error"):
            if key in answer:
                raise Fault(answer[key] if key == "error" else f"not supported: {answer[key]}")
        return answer

    def _line(self, timeout: float) -> bytes:
        assert self.process.stdout is not None
        end, pipe = time.monotonic() + timeout, self.process.stdout.fileno()
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.stop()
                raise Fault(f"no answer within {timeout:.0f} s")
            piece = os.read(pipe, 1 << 20)
            if not piece:
                raise Fault(self._obituary())
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _obituary(self) -> str:
        self.stop()
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return f"ended with status {self.process.returncode}: {lines[-1][:200] if lines else 'no message'}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Ends it, however it is; its own process group only."""
        if self.alive:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far; 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / TICKS

    def running(self) -> bool:
        """Whether any of its threads is on a processor or wants one: after its work a library's threads spin for a while."""
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):
                if task.read_text().rpartition(")")[2].split()[0] == "R":
                    return True
        return False


class Pool:
    """The workers of a run. root: folder of the models; threads: of every engine; memory: bytes all may hold together."""

    def __init__(self, root: Path, threads: int, memory: float | None = None) -> None:
        self.root, self.threads = root, threads
        self.memory = memory if memory is not None else 0.75 * available_memory()
        self.engines: dict[tuple[str, Participant], Engine] = {}
        self.loaded: dict[tuple[str, Participant], dict[str, Any]] = {}
        self.faults: dict[tuple[str, Participant], str] = {}
        self.deaths: dict[tuple[str, Participant], int] = {}

    def need(self, model: str, participant: Participant) -> float:
        """Bytes a worker is expected to hold at its highest."""
        weights = models.SHAPES[model].parameters * BYTES[participant.dtype]
        engine = participant.engine
        return BASE.get(engine, 100e6) + weights * FACTOR.get(engine, 1.0) + 0.15 * weights

    def sittings(self, model: str, wanted: list[Participant], ours: list[Participant]) -> list[list[Participant]]:
        """Who is measured together: everybody, or, where memory does not allow it, each peer with those of ours it is
        compared with."""
        for p in wanted:
            if self.need(model, p) > self.memory:
                self.faults[model, p] = f"needs {self.need(model, p) / 1e9:.0f} GB, there are {self.memory / 1e9:.0f}"
        able = [p for p in wanted if (model, p) not in self.faults]
        tables: list[list[Participant]] = []
        for peer in [p for p in able if p not in ours] or [p for p in able if p in ours]:
            table = [peer]
            for mine in ours:  # as many as there is room for, the nearest first
                if mine in able and mine != peer and compared(mine, peer) and self._fit(model, [*table, mine]):
                    table.append(mine)
            if tables and self._fit(model, together := list(dict.fromkeys([*tables[-1], *table]))):
                tables[-1] = together
            else:
                tables.append(table)
        left = [[p] for p in able if not any(p in table for table in tables)]
        return [sorted(table, key=wanted.index) for table in [*tables, *left]]

    def _fit(self, model: str, table: list[Participant]) -> bool:
        return sum(self.need(model, p) for p in table) <= self.memory

    def prepare(self, model: str, participant: Participant, timeout: float) -> None:
        """Makes the model in the forms the engine needs, each in a process of its own; remembers what went wrong."""
        for form in dict.fromkeys(("hf", models.form_of(participant.engine, participant.weights))):
            if (model, participant) not in self.faults and form in models.FORMS:
                self._make(model, participant, form, timeout)

    def _make(self, model: str, participant: Participant, form: str, timeout: float) -> None:
        if models.is_ready(self.root, model, form):
            return
        command = [sys.executable, "-m", "peers_harness.models", str(self.root), model, form]
        log = self._log(f"{model}-{form}")
        try:
            with log.open("ab") as errors:
                made = subprocess.run(
                    command, cwd=FOLDER, timeout=timeout, stdout=errors, stderr=errors, check=False,
                    env=engines.environment("", "", self.threads) | {"PYTHONPATH": path()},
                )  # fmt: skip
            fault = f"{form}: could not be made, see {log}" if made.returncode else ""
        except subprocess.TimeoutExpired:
            fault = f"{form}: not made within {timeout:.0f} s"
        if fault:
            self.faults[model, participant] = fault

    def seat(self, model: str, table: list[Participant], timeout: float = 300.0) -> dict[Participant, Engine]:
        """Those of the table that run, loaded; others leave if memory is needed for it."""
        keys = [(model, p) for p in table]
        found = {}
        for key in keys:
            if key in self.faults:
                continue
            if key not in self.engines or not self.engines[key].alive:
                self._make_room(self.need(*key), keys)
                self._start(key, timeout)
            if key in self.engines:
                found[key[1]] = self.engines[key]
        return found

    def _start(self, key: tuple[str, Participant], timeout: float) -> None:
        model, participant = key
        self.prepare(model, participant, timeout)
        if key in self.faults:
            return
        command = [sys.executable, "-m", "peers_harness.worker", str(self.root), model]
        command += [participant.engine, participant.weights, str(self.threads)]
        environment = engines.environment(participant.engine, participant.variant, self.threads)
        engine = Engine(command, environment | {"PYTHONPATH": path()}, self._log(f"{model}-{participant.name}"))
        try:
            self.loaded[key] = engine.ask("load", timeout)
            self.engines[key] = engine
        except Fault as fault:
            engine.stop()
            self.faults[key] = str(fault)

    def _make_room(self, wanted: float, staying: list[tuple[str, Participant]]) -> None:
        others = sorted((e.used, key) for key, e in self.engines.items() if key not in staying)
        held = sum(self.need(*key) for key in self.engines)
        for _, key in others:
            if held + wanted <= self.memory:
                return
            held -= self.need(*key)
            self.engines.pop(key).stop()

    def quiet(self, but: Engine | None = None, patience: float = 0.6) -> None:
        """Waits until no worker but this one has a thread that runs."""
        end = time.monotonic() + patience
        while time.monotonic() < end and any(e.running() for e in self.engines.values() if e is not but):
            time.sleep(0.01)

    def drop(self, key: tuple[str, Participant], fault: str) -> None:
        """After an engine has gone: it is started again when next wanted, but not a third time."""
        if key in self.engines:
            self.engines.pop(key).stop()
        self.deaths[key] = self.deaths.get(key, 0) + 1
        if self.deaths[key] > 1:
            self.faults[key] = fault

    def close(self) -> None:
        for engine in self.engines.values():
            engine.stop()
        self.engines.clear()

    def _log(self, name: str) -> Path:
        folder = self.root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / (name.replace("/", "-") + ".log")


def compared(ours: Participant, peer: Participant) -> bool:
    """Whether the tables set one against the other: the same type, or a smaller one of ours where the peer has only more."""
    if peer.engine == "llamacpp":
        return ours.dtype == peer.dtype
    if peer.engine == "ctranslate2":
        return ours.dtype == peer.dtype or (ours.dtype, peer.dtype) in (("int4", "int8"), ("bfloat16", "float32"))
    return ours.dtype == peer.dtype or peer.dtype == "float32"


def path() -> str:
    """PYTHONPATH of a worker: this checkout, then what was there."""
    return os.pathsep.join(filter(None, [str(FOLDER), str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))


def available_memory() -> float:
    """Bytes that can be had without swapping; 8 GB where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024.0
    return 8e9
