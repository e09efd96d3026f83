"""One engine, loaded once, in a process that waits on a pipe: a line of JSON in, a line of JSON out.

{"do": "load"} {"do": "run", "batch", "context", "beams", "new"} {"do": "score", …} {"do": "memory"}; anything an engine
prints goes to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from peers_harness import engines, models

Answer = dict[str, Any]


class Worker:
    """The commands, by name."""

    def __init__(self, root: Path, model: str, engine: str, dtype: str, threads: int) -> None:
        self.root, self.name, self.engine, self.dtype, self.threads = root, model, engine, dtype, threads
        self.loaded: Any = None

    def load(self) -> Answer:
        begin = time.perf_counter()
        self.loaded = engines.ENGINES[self.engine](self.root, self.name, self.dtype, self.threads)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "from": self.loaded.loaded_from, **self.memory()}

    def run(self, batch: int, context: int, beams: int, new: int) -> Answer:
        """Seconds of one call, and its ids: as many as asked for, or it is not the same work."""
        rows = models.inputs(self.name, batch, context)
        begin = time.perf_counter()
        ids = self.loaded.generate(rows, beams, new)
        seconds = time.perf_counter() - begin
        lengths = sorted({len(row) for row in ids})
        if len(ids) != batch or lengths != [new]:
            raise RuntimeError(f"{len(ids)} rows of {lengths} tokens generated, expected {batch} of {new}")
        return {"seconds": seconds, "ids": [[int(i) for i in row] for row in ids]}

    def score(self, batch: int, context: int, length: int) -> Answer:
        rows = models.inputs(self.name, batch, context)
        return {"log_probs": self.loaded.log_probs(rows, models.targets(self.name, batch, length))}

    def slope(self, contexts: list[int], steps: int) -> Answer:
        """Ours only: steps with so many tokens in the cache, one sequence, fed piece by piece."""
        from peers_harness import slope

        shape = models.SHAPES[self.name]
        return {"points": slope.points(self.loaded.model, shape, contexts, steps)}

    def memory(self) -> Answer:
        """Bytes resident now, and the most there ever were."""
        return {"rss": status("VmRSS"), "anonymous": status("RssAnon"), "peak": status("VmHWM")}


def status(key: str) -> int | None:
    """A figure of /proc/self/status in bytes, None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), None)


def serve(worker: Any, commands: TextIO, answers: TextIO) -> None:
    """Answers every line until the pipe closes; an exception is an answer too."""
    for line in commands:
        request = json.loads(line)
        command: Callable[..., Answer] = getattr(worker, request.pop("do"))
        try:
            answer = command(**request)
        except engines.Unsupported as reason:
            answer = {"unsupported": str(reason)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    root, model, engine, dtype, threads = sys.argv[1:6]
    models.expendable()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Worker(Path(root), model, engine, dtype, int(threads)), sys.stdin, answers)


if __name__ == "__main__":
    main()
