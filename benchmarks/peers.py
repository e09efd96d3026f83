"""fastattn against PyTorch, ONNX Runtime, CTranslate2, llama.cpp and plain NumPy: the same models, in turns, in one run.

    python benchmarks/peers.py --quick                     # two models, batch 1, beam 1 and 4: less than three minutes
    python benchmarks/peers.py --prepare                   # only make the models
    python benchmarks/peers.py --minutes 25 --results peers.json --write     # the same again does what is not done yet

Models are made from Hugging Face configurations with random weights, once, below --models; nothing is downloaded. Peers that
are not installed are named with how to install them. --write puts tables and plots into docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from peers_harness import engines, limits, models, optables, page, ratios, targets  # noqa: E402
from peers_harness.cases import OURS, PARTICIPANTS, PEERS, Case, Participant, cases, takes_part  # noqa: E402
from peers_harness.pool import Pool, available_memory  # noqa: E402
from peers_harness.runner import Runner  # noqa: E402

DOCS = FOLDER.parent / "docs"
PACKAGES = {
    "ctranslate2": ("ctranslate2",), "torch": ("torch", "transformers"), "ort": ("onnxruntime", "optimum-onnx"),
    "llamacpp": ("llama-cpp-python", "gguf"),
}  # fmt: skip
NOTHING: dict[str, Any] = {"sittings": []}
SLOPES = {  # model -> contexts, which types of ours
    "gpt2-small": ([64, 192, 320, 448, 576, 704, 832, 960], ("float32", "int8")),
    "llama-1b": ([128, 1024, 2048, 3072, 4096, 6144, 8128], ("float32", "int8")),
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastattn" / "peers"
    parser.add_argument("--models", type=Path, default=default, help=f"where models are made and kept ({default})")
    parser.add_argument("--quick", action="store_true", help="two models, few rounds: less than three minutes")
    parser.add_argument("--case", default="", help="only cases with all these words, as in 'marian batch=1 beams=4'")
    parser.add_argument("--peers", default="", help="only these engines (comma between): " + ", ".join(PEERS))
    parser.add_argument("--types", default="", help="only these types (comma between): float32, bfloat16, int8, int4")
    parser.add_argument("--threads", type=int, default=min(2, cpus()), help="of every engine")
    parser.add_argument("--minutes", type=float, default=60.0, help="no case is begun after so many")
    parser.add_argument("--seconds", type=float, default=20.0, help="about so many per case")
    parser.add_argument("--rounds", type=int, default=7, help="at most so many per case")
    parser.add_argument("--results", type=Path, help="raw results: kept there, and added to where it exists")
    parser.add_argument("--again", action="store_true", help="measure also what the results already hold")
    parser.add_argument("--prepare", action="store_true", help="only make the models, measure nothing")
    parser.add_argument("--write", action="store_true", help="write the section of docs/performance.md and its plots")
    parser.add_argument("--skip-ops", action="store_true", help="no tables of linear and attention")
    return parser.parse_args(given)


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen(options: argparse.Namespace) -> tuple[list[Case], list[Participant]]:
    found = [c for c in cases(options.threads, options.quick) if all(named(c, word) for word in options.case.split())]
    engines_wanted = {OURS, *(options.peers.split(",") if options.peers else PEERS)}
    types = set(options.types.split(",")) if options.types else {"float32", "bfloat16", "int8", "int4"}
    participants = [p for p in PARTICIPANTS if p.engine in engines_wanted and p.dtype in types and installed(p.engine)]
    return found, participants


def named(case: Case, word: str) -> bool:
    """Whether the label has the word: whole where it says "batch=1", else as a part."""
    return any(word == part or ("=" not in word and word in part) for part in case.label.split())


def installed(engine: str) -> bool:
    return importlib.util.find_spec(engines.MODULES[engine].partition(".")[0]) is not None and all(
        version(package) for package in PACKAGES.get(engine, ())
    )


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def described() -> dict[str, str | None]:
    """Peers and the versions that were measured; None: not installed."""
    found = {}
    for engine in PEERS:
        packages = PACKAGES.get(engine, ("numpy",))
        found[engine] = ", ".join(f"{p} {version(p)}" for p in packages) if installed(engine) else None
    return found


def opened(options: argparse.Namespace) -> dict[str, Any]:
    """The results so far, or none yet."""
    import report

    results: dict[str, Any] = {"cases": {}, "engines": {}, "slopes": {}, "limits": {}, "ops": {}}
    if options.results and options.results.exists():
        results.update(json.loads(options.results.read_text()))
    return results | {"machine": report.machine(), "peers": described(), "threads": options.threads}


def save(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """All or nothing: an interrupted run leaves the last whole state."""
    if options.results:
        partial = options.results.with_suffix(".partial")
        partial.write_text(json.dumps(results))
        partial.replace(options.results)


def missing(results: dict[str, Any], case: Case, wanted: list[Participant], again: bool) -> list[Participant]:
    """Who has not been measured in this case; ours comes along, for every ratio is taken within a round. On a busy machine
    nobody was."""
    wanted = [p for p in wanted if takes_part(p, case)]
    entry = results["cases"].get(case.label)
    if entry is None or again or busy(entry):
        return wanted
    done = {*ratios.participants(entry), *entry["faults"]}
    new = [p for p in wanted if p.name not in done]
    return [p for p in wanted if p in new or (p.engine == OURS and new)]


def busy(entry: dict[str, Any]) -> bool:
    """Whether most of a case's turns were disturbed."""
    bad, turns = ratios.disturbed([entry])
    return bad > turns / 2


def measure_limits(options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["limits"].setdefault(str(options.threads), []).append(limits.measured(options.threads))


def run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """All chosen cases, the most wanted first, until they are done or time is up."""
    listed, wanted = chosen(options)
    pool = Pool(options.models, options.threads)
    begin = time.monotonic()
    runner = Runner(pool, results, begin + 60 * options.minutes, cpus())
    whole = not options.quick and not options.case
    try:
        for block in blocks(listed):
            if whole and block[0].priority > 1:  # once, before what is wanted least
                slopes(options, runner, wanted)
                whole = False
            work = {case: who for case in block if (who := missing(results, case, wanted, options.again))}
            if not work or runner.left() <= 0:
                continue
            pool.quiet()
            measure_limits(options, results)  # every time: what is the machine's best shows only now and then
            for case in work:
                if options.again or busy(results["cases"].get(case.label, NOTHING)):
                    results["cases"].pop(case.label, None)

            def done(case: Case) -> None:
                print(f"\n{case.label}  ({(time.monotonic() - begin) / 60:.1f} min)")
                print("\n".join(summary(results, results["cases"][case.label])), flush=True)
                save(options, results)

            runner.measure(work, options.seconds, options.rounds, done)
            save(options, results)
        if whole:
            slopes(options, runner, wanted)
            save(options, results)
    finally:
        pool.close()


def blocks(listed: list[Case]) -> list[list[Case]]:
    """Cases of one model and priority, the most wanted first: what is measured without loading anything anew."""
    names = list(models.SHAPES)
    ordered = sorted(listed, key=lambda c: (c.priority, names.index(c.model)))
    return [list(group) for _, group in itertools.groupby(ordered, key=lambda c: (c.priority, c.model))]


def slopes(options: argparse.Namespace, runner: Runner, wanted: list[Participant]) -> None:
    """What is not known yet; where only a fault is known, it is tried again."""
    for model, (contexts, types) in SLOPES.items():
        stored = runner.results["slopes"].get(model, {})
        known = [name for name, points in stored.items() if not isinstance(points, str)]
        mine = [p for p in wanted if p.engine == OURS and p.dtype in types and (options.again or p.name not in known)]
        runner.slopes(model, mine, contexts)


def summary(results: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """One line per participant: tokens/s, ms to first, share of the limit; for ours the ratios to its opponents."""
    lines = []
    for name in ratios.participants(entry):
        rate, first = ratios.tokens_per_second(entry, name), ratios.first_seconds(entry, name)
        text = f"  {name:28} {rate or 0:9.1f} tokens/s {1e3 * (first or 0):9.1f} ms to first"
        if name.startswith(OURS + "/"):
            found = {c: ratios.ratio(entry, name, page.opponent(name.partition("/")[2], c)) for c in page.COLUMNS}
            text += f"  limit {page.limit_cell(results, entry, name):14}"
            text += "  ".join(f"{column} {ratio}" for column, ratio in found.items() if ratio)
        lines.append(text)
    bad, all_turns = ratios.disturbed([entry])
    lines += [f"  {bad} of {all_turns} turns were disturbed by other programs"] if bad else []
    return lines + [f"  {name}: {fault}" for name, fault in entry["faults"].items()]


def prepare(options: argparse.Namespace) -> None:
    """Every model in every form, so that a run with a budget only measures."""
    listed, wanted = chosen(options)
    pool = Pool(options.models, options.threads)
    for model in dict.fromkeys(case.model for case in listed):
        for participant in wanted:
            pool.prepare(model, participant, timeout=900.0)
    for (model, participant), fault in pool.faults.items():
        print(f"{model} {participant.name}: {fault}")


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    if options.quick:
        options.minutes, options.seconds = min(options.minutes, 2.2), min(options.seconds, 9.0)
    if options.prepare:
        return prepare(options)
    results = opened(options)
    for line in page.peers(results):
        print(line)
    print(
        f"models: {options.models}; {available_memory() / 1e9:.0f} GB of memory free; {options.threads} threads",
        flush=True,
    )
    run(options, results)
    if not options.quick and not options.skip_ops:
        optables.run(results, 240.0, options.again)
        save(options, results)
    print(
        "\n" + "\n".join(page.table(["target", "wanted", "measured", "met"], targets.rows(results, optables.verdicts)))
    )
    if options.write:
        from peers_harness import plotting

        drawn = [(title, f"img/{name}") for title, name in plotting.draw(results, DOCS / "img")]
        page.replace(DOCS / "performance.md", page.section(results, list(optables.lines(results)), drawn))


if __name__ == "__main__":
    main()
