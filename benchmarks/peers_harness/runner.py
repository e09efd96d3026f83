"""Turns: every engine in each round, one after the other, while the others sleep; what was disturbed is done again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers_harness import limits
from peers_harness.cases import OURS, PARTICIPANTS, Case, Participant
from peers_harness.pool import TICKS, Engine, Fault, Pool
from peers_harness.ratios import DISTURBED

SCORED = {"batch": 2, "context": 16, "length": 16}  # what the errors are taken from
LONGEST = 600.0  # seconds that a call may take: 8,128 tokens of the Llama shape take some engines two to three minutes
ENOUGH = 1.5  # seconds: whose turns are shorter takes part in three rounds whatever its share
# Seconds of the call, seconds of the same with one token or None, noise; of ours also the GB/s beside it.
Turn = list[Any]


def busy_seconds() -> float:
    """What all processors have worked so far, for whomever, and what a hypervisor took away; 0 where unknown."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(f) for f in fields)
    return (user + nice + system + irq + softirq + steal) / TICKS


class Runner:
    """Measures cases with a pool of workers; what it finds goes into `results`, which can be saved at any time."""

    def __init__(self, pool: Pool, results: dict[str, Any], end: float, cpus: int) -> None:
        self.pool, self.results, self.end, self.cpus = pool, results, end, cpus
        self.patience = 0.0  # seconds this sitting may still wait for a calm machine

    def left(self) -> float:
        return self.end - time.monotonic()

    def measure(
        self, block: dict[Case, list[Participant]], seconds: float, rounds: int, done: Callable[[Case], None]
    ) -> None:
        """Cases of one model, each with those wanted in it; about so many seconds per case and sitting.

        Who sits together stays loaded for all the cases. done: called after each case of each sitting. What was measured
        before stays.
        """
        model = next(iter(block)).model
        everybody = [p for p in PARTICIPANTS if any(p in wanted for wanted in block.values())]
        for table in self.pool.sittings(model, everybody, [p for p in everybody if p.engine == OURS]):
            if self.left() <= 0:
                break
            engines = self.pool.seat(model, table)
            self._describe(model, engines)
            for case, wanted in block.items():
                if self.left() <= 0:
                    break
                entry = self.entry(case)
                seated = {p: e for p, e in engines.items() if p in wanted and self.pool.engines.get((model, p)) is e}
                if any(p.engine != OURS for p in seated) or not any(p.engine != OURS for p in table):
                    sitting = self._sitting(case, seated, seconds, rounds, entry)
                    entry["sittings"] += [sitting] if sitting else []
                faults = {
                    p.name: self.pool.faults[model, p] for p in table if p in wanted and (model, p) in self.pool.faults
                }
                entry["faults"].update(faults)
                self._memory(model, engines)
                done(case)
        for case, wanted in block.items():
            faults = {p.name: self.pool.faults[model, p] for p in wanted if (model, p) in self.pool.faults}
            self.entry(case)["faults"].update(faults)

    def entry(self, case: Case) -> dict[str, Any]:
        """The results of a case, begun where there are none."""
        blank: dict[str, Any] = {"case": case.as_dict(), "sittings": [], "faults": {}, "ids": {}}
        found: dict[str, Any] = self.results["cases"].setdefault(case.label, blank)
        return found

    def _sitting(
        self, case: Case, engines: dict[Participant, Engine], seconds: float, rounds: int, entry: dict[str, Any]
    ) -> list[dict[str, Turn]]:
        """Rounds of turns. A slow engine takes part in as many as its share of the time allows, in one at least."""
        self.patience = seconds
        spent: dict[Participant, float] = dict.fromkeys(engines, 0.0)
        found: list[dict[str, Turn]] = []
        share = max(seconds / max(len(engines), 1) * 1.5, 0.5)
        for number in range(rounds):
            turns: dict[str, Turn] = {}
            for participant, engine in engines.items():
                key = (case.model, participant)
                last = spent[participant] / max(number, 1)
                slow = spent[participant] + last > share and (number > 2 or last > ENOUGH)
                if self.left() <= 0 and turns:
                    break
                if key in self.pool.faults or not engine.alive or (number and slow and participant.engine != OURS):
                    continue
                try:
                    turns[participant.name] = turn = self._turn(case, engine, number, entry, participant.name)
                except Fault as fault:
                    entry["faults"][participant.name] = str(fault)
                    if not engine.alive:
                        self.pool.drop(key, str(fault))  # it may try again in another case, once
                    spent[participant] = float("inf")  # not in this case again
                    continue
                spent[participant] += turn[0] + (turn[1] or 0.0)
            if turns:
                found.append(turns)
            measured = sum(time_ for time_ in spent.values() if time_ < float("inf"))  # waiting does not count
            if measured > seconds or self.left() <= 0 or len(turns) <= 1 < number:
                break
        return found

    def _turn(self, case: Case, engine: Engine, number: int, entry: dict[str, Any], name: str) -> Turn:
        """One call, repeated once if the machine was busy with something else meanwhile; before it a call for one token."""
        arguments = {"batch": case.batch, "context": case.context, "beams": case.beams}
        timeout = max(20.0, min(LONGEST, self.left() + 60))
        ours = Participant.parse(name).engine == OURS
        if number == 0:
            short = min(case.context, 128)
            engine.ask("run", timeout, **(arguments | {"context": short}), new=2)  # warm
        self._calm(engine)
        first = None
        if number < 3:
            first = engine.ask("run", timeout, **arguments, new=1)["seconds"]
        best: Turn = []
        for _ in range(2):
            before = limits.reading(case.threads) if ours else 0.0
            busy, own, begin = busy_seconds(), engine.cpu_seconds(), time.monotonic()
            answer = engine.ask("run", timeout, **arguments, new=case.new)
            passed = time.monotonic() - begin
            noise = max(0.0, (busy_seconds() - busy) - (engine.cpu_seconds() - own)) / (passed * self.cpus)
            beside = [(before + limits.reading(case.threads)) / 2] if ours else []
            if not best or noise < best[2]:
                best = [answer["seconds"], first, round(noise, 3), *beside]
            if noise <= DISTURBED or passed > 8:
                break
            self._calm(engine)
        entry["ids"].setdefault(name, answer["ids"][:4])
        return best

    def _calm(self, engine: Engine) -> None:
        """Waits until no other worker runs, and no other program either as far as the sitting's patience goes."""
        self.pool.quiet(engine)
        while self.patience > 0:
            busy, begin = busy_seconds(), time.monotonic()
            time.sleep(0.04)
            passed = time.monotonic() - begin
            if busy_seconds() - busy <= DISTURBED * passed * self.cpus + 1 / TICKS:
                return
            self.patience -= passed

    def _describe(self, model: str, engines: dict[Participant, Engine]) -> None:
        """Once per engine: how long it loaded, what it holds, its log-probabilities of given tokens."""
        for participant, engine in engines.items():
            known = self.results["engines"].setdefault(f"{model} {participant.name}", {})
            loaded = self.pool.loaded.get((model, participant), {})
            known.update({f"load_{k}": v for k, v in loaded.items() if k != "peak"})
            known["peak"] = max(known.get("peak") or 0, loaded.get("peak") or 0)
            if "log_probs" not in known:
                try:
                    known["log_probs"] = engine.ask("score", 60.0, **SCORED)["log_probs"]
                except Fault as fault:
                    known["log_probs"], known["score_fault"] = None, str(fault)

    def _memory(self, model: str, engines: dict[Participant, Engine]) -> None:
        for participant, engine in engines.items():
            known = self.results["engines"][f"{model} {participant.name}"]
            if engine.alive:
                try:
                    known["peak"] = max(known["peak"], engine.ask("memory", 10.0)["peak"] or 0)
                except Fault:
                    continue

    def slopes(self, model: str, participants: list[Participant], contexts: list[int], steps: int = 15) -> None:
        """Time per token against context length, ours only."""
        for participant in participants:
            if participant.engine != OURS or self.left() <= 0:
                continue
            for engine in self.pool.seat(model, [participant]).values():
                self.pool.quiet(engine)
                try:
                    answer = engine.ask("slope", 400.0, contexts=contexts, steps=steps)
                    self.results["slopes"].setdefault(model, {})[participant.name] = answer["points"]
                except Fault as fault:
                    self.results["slopes"].setdefault(model, {})[participant.name] = str(fault)
