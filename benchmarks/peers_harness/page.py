"""The section of docs/performance.md, and the same tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers_harness import limits, optables, ratios, slope, targets
from peers_harness.cases import OURS, PEERS, TYPES, Participant
from peers_harness.models import SHAPES

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
# Whom ours is set against, column by column.
COLUMNS = (
    "ctranslate2", "ctranslate2-AVX512", "ctranslate2-MKL", "torch", "ort", "llamacpp", "llamacpp-Q4_K_M", "numpy",
)  # fmt: skip
HEADS = (
    "CTranslate2", "CT2, AVX512 forced", "CT2, MKL on", "PyTorch", "ONNX Runtime", "llama.cpp", "llama.cpp, Q4_K_M",
    "NumPy",
)  # fmt: skip
METHOD = """Written by `python benchmarks/peers.py --write`: all that was measured stands here, what we lose in bold.

The models come from Hugging Face configurations, with random weights (seeded), so nothing is downloaded, and every
engine has the same ones. Each engine runs in a process of its own, loads once and stays warm; all take turns round by
round with {threads} thread{s}. All generate the same number of tokens from the same inputs, their end tokens kept
away by each engine's own option. A ratio is their seconds over ours within a round: the median, and in brackets the
quartiles where there were three rounds or more. The time is that of the whole call: encoder or prompt, steps, and the
Python around them. Nobody's waiting is tuned: the threads of an engine that has just been measured spin for as long as
its own defaults say, and the next turn begins when no thread of any other engine runs. A turn during which other
programs took more than {noise} of the processors is repeated once.

float32 is compared with float32. The Llama shape comes in bfloat16, as such models are published: float32 engines
widen its weights, ours reads the 16 bits and computes the same, so that its limit is that of half the bytes. Our
int8 is compared with CTranslate2's int8, our int4 with its int8, our bfloat16 with its float32. Our bfloat16 is
compared with PyTorch's bfloat16; against our int8 and int4 PyTorch runs the float32 model. ONNX Runtime runs the
exported float32 model and NumPy float32 against all our types. The dynamic quantisation that PyTorch and ONNX
Runtime have of their own is not used. CTranslate2 is measured as it comes, with AVX512 forced
(`CT2_FORCE_CPU_ISA=AVX512`), and, where the CPU is not Intel's and it leaves MKL off, with MKL on (`CT2_USE_MKL=1`);
the targets are held against the best of these. llama.cpp runs the decoder-only models in the same type as ours, Q8_0
against our int8 and, of 4 bits, both Q4_0, which has groups of 32 like ours, and Q4_K_M; it quantises the models
itself and keeps some of their tensors in more bits, keys and values in float16, and it has no beam search. From 2,000
tokens of context on a call takes so long that only some engines and types take part. "ms to first" is the time to the
first token (encoder or prompt, one step). "limit" is the share of the limit that memory sets: the bytes a step must
read (weights, and float32 keys and values) at the bandwidth measured right before and after the turn (the run's best:
{read:.1f} GB/s), over the time per step (the call for all tokens less the call for one). It can pass 100 % where a
large cache holds the weights; in brackets the share of the run's best bandwidth on as many bytes as the step reads."""


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def section(results: dict[str, Any], extra: list[str], plots: list[tuple[str, str]]) -> str:
    """extra: finished Markdown of the op tables; plots: (title, path)."""
    return "\n".join([BEGIN, *_lines(results, extra, plots), END])


def _lines(results: dict[str, Any], extra: list[str], plots: list[tuple[str, str]]) -> Iterator[str]:
    threads = results["threads"]
    read = limits.bandwidth(results, threads) / 1e9
    yield from ("## Against the peers", "")
    yield METHOD.format(threads=threads, s="s" * (threads > 1), read=read, noise=f"{100 * ratios.DISTURBED:.0f} %")
    yield ""
    yield "{} of {} turns were disturbed so.".format(*ratios.disturbed(list(results["cases"].values())))
    yield ""
    yield from (f"* {name}: {value}" for name, value in results["machine"].items())
    yield from (f"* {line}" for line in peers(results))
    yield ""
    yield from _limits(results)
    yield from ("", "### Targets", "")
    yield from table(["target", "wanted", "measured", "met"], targets.rows(results, optables.verdicts))
    for title, path in plots:
        yield from ("", f"![{title}]({path})")
    for model in dict.fromkeys(entry["case"]["model"] for entry in results["cases"].values()):
        yield from ("", f"### {targets.NAMES[model]}", "")
        yield from speeds(results, model)
        yield ""
        yield from memory_and_errors(results, model)
    yield from _slopes(results)
    if extra:
        yield from ("", *extra)


def peers(results: dict[str, Any]) -> Iterator[str]:
    """Versions; what is missing is named with how to install it."""
    for engine, version in results["peers"].items():
        title, install = PEERS[engine]
        yield f"{title}: {version}" if version else f"{title}: **missing**; to have it measured: `{install}`"


def _limits(results: dict[str, Any]) -> Iterator[str]:
    heads = [f"{size} MB" for size in limits.SIZES]
    yield "Bandwidth of reading, GB/s, by the size of what is read over and over, and multiply-adds:"
    yield ""
    rows = []
    for threads, found in results["limits"].items():
        cells = [f"{limits.best(results, int(threads), size):.1f}" for size in limits.SIZES]
        rows.append([threads, *cells, f"{max(m['fma_gflops'] for m in found):.0f}"])
    yield from table(["threads", *heads, "GFLOP/s"], rows)


def opponent(dtype: str, column: str) -> str:
    """Whom a type of ours is set against in a column: the same type, or the peer's nearest."""
    if column.startswith("llamacpp"):
        nearest = dtype
    elif column.startswith("ctranslate2"):
        nearest = {"bfloat16": "float32", "int4": "int8"}.get(dtype, dtype)
    else:
        nearest = "bfloat16" if (dtype, column) == ("bfloat16", "torch") else "float32"
    return f"{column}/{nearest}"


def speeds(results: dict[str, Any], model: str) -> Iterator[str]:
    """One row per case and type of ours; what could not be measured says why below."""
    rows, notes = [], {}
    for entry in results["cases"].values():
        if entry["case"]["model"] != model:
            continue
        case = ratios.case_of(entry)
        for dtype in TYPES:
            name = f"{OURS}/{dtype}"
            rate = ratios.tokens_per_second(entry, name)
            if rate is None:
                continue
            first, cells = ratios.first_seconds(entry, name), []
            for column in COLUMNS:
                against = ratios.ratio(entry, name, opponent(dtype, column))
                cells.append(str(against or ""))
            what = f"{case.batch} × {case.context}, beam {case.beams}"
            rows.append([what, dtype, ratios.number(rate), "" if first is None else ratios.number(1e3 * first),
                         limit_cell(results, entry, name), *cells])  # fmt: skip
        notes.update(entry["faults"])
    if rows:
        yield from table(["batch × context", "type", "tokens/s", "ms to first", "limit", *HEADS], rows)
    else:
        yield "Not measured."
    if notes:
        yield ""
        yield from (f"* {name}: {fault}" for name, fault in notes.items())


def limit_cell(results: dict[str, Any], entry: dict[str, Any], name: str) -> str:
    share = ratios.share(results, entry, name)
    cached = ratios.share(results, entry, name, cached=True)
    if share is None or cached is None:
        return ""
    return f"{100 * share:.0f} %" if abs(share - cached) < 0.01 else f"{100 * share:.0f} % ({100 * cached:.0f} %)"


def memory_and_errors(results: dict[str, Any], model: str) -> Iterator[str]:
    """One row per engine and type."""
    entries = [entry for entry in results["cases"].values() if entry["case"]["model"] == model]
    weights, rows = SHAPES[model].parameters, []
    for key, known in results["engines"].items():
        if not key.startswith(model + " "):
            continue
        name = key.partition(" ")[2]
        error, agree = ratios.largest_error(results, model, name), ratios.agreement(entries, name)
        sizes = [known.get("load_rss"), known.get("load_anonymous"), known.get("peak")]
        rows.append([
            name, known.get("load_from", ""), f"{known['load_seconds']:.1f}" if "load_seconds" in known else "",
            *(f"{size / 1e6:.0f}" if size else "" for size in sizes),
            "" if error is None else f"{error:.1e}", "" if agree is None else f"{100 * agree:.1f} %",
        ])  # fmt: skip
    yield f"{weights / 1e6:.0f} million parameters. Memory in MB: resident after loading, of it not mapped from files, and at"
    yield "the highest. Error: largest difference of a given token's log-probability from float32 PyTorch. Same ids: generated"
    yield "tokens before the first that differs from float32 PyTorch's (random weights make near ties common)."
    yield ""
    heads = ["engine", "loaded from", "seconds to load", "resident", "not mapped", "peak", "error", "same ids"]
    yield from table(heads, sorted(rows, key=lambda row: _rank(row[0])))


def _rank(name: str) -> tuple[bool, str, int]:
    p = Participant.parse(name)
    return (p.engine != OURS, name.partition("/")[0], TYPES.index(p.dtype))


def _slopes(results: dict[str, Any]) -> Iterator[str]:
    if not results["slopes"]:
        return
    yield from ("", "### Time per token against context length", "")
    yield "One sequence, ours. How fast memory reads changes from second to second, so lines are fitted to the time per step"
    yield "and to the weights, in bytes, that the same step would have read in it at the pace at which it read its own."
    yield "Keys and values: the bytes that one token of context adds, over the slope of that second line."
    yield ""
    rows = []
    for model, types in results["slopes"].items():
        for name, points in types.items():
            if isinstance(points, str):
                rows.append([targets.NAMES[model], name, points, *[""] * 6])
                continue
            start, per_token, straight = slope.fit(points)
            size, growth, straighter = slope.fit(points, 2)
            each = 4.0 * SHAPES[model].per_token
            line = [f"{1e3 * start:.2f}", f"{1e9 * per_token:.0f}", f"{straight:.3f}"]
            line += [f"{size / 1e6:.0f}", f"{growth / 1e3:.1f}", f"{straighter:.3f}"]
            share = f"{each / growth:.0%}".replace("%", " %") if growth > 0 else ""
            rows.append([targets.NAMES[model], name, f"{points[0][0]:.0f}–{points[-1][0]:.0f}", *line, share])
    heads = ["model", "engine", "context", "ms at none", "ns per token of context", "R²", "MB at none"]
    yield from table([*heads, "KB per token of context", "R²", "of it keys and values"], rows)


def replace(page: Path, section: str) -> None:
    """Puts the section in its place in the page: between its marks, before the first "## Every shape" where there is none."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    if BEGIN in text and END in text:
        text = text[: text.index(BEGIN)] + section + text[text.index(END) + len(END) :]
    elif "\n## Every shape" in text:
        at = text.index("\n## Every shape") + 1
        text = text[:at] + section + "\n\n" + text[at:]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    page.write_text(text, encoding="utf-8")


def kept(page: Path) -> str | None:
    """The section a page has, for who writes the rest of it."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return text[text.index(BEGIN) : text.index(END) + len(END)] if BEGIN in text and END in text else None
