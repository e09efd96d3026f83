"""translate text with a bundled or your own model"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fastattn.cli import explain, loading
from fastattn.cli.console import Progress, at_least, note, print_json
from fastattn.errors import InputError, OptionError

if TYPE_CHECKING:
    from fastattn.api import Model
    from fastattn.attention_map import AttentionMap
    from fastattn.generation import Generation

DEFAULT_MODEL = "en-fr-bahdanau"
BATCH_SIZE = 16

# Options that go to `generate` as they are: name -> how the command line reads them.
EARLY = {"true": True, "false": False, "never": "never"}
Option = tuple[Callable[[str], Any], str]
GENERATION: dict[str, Option] = {
    "num_beams": (at_least(1), "hypotheses kept while decoding; 1 is greedy (default: the model's)"),
    "num_return_sequences": (at_least(1), "print so many hypotheses, best first, with their scores"),
    "max_new_tokens": (at_least(1), "end an output after so many tokens"),
    "length_penalty": (float, "above 0 favours long outputs in beam search"),
    "no_repeat_ngram_size": (at_least(0), "no N tokens twice in a row of their own"),
    "repetition_penalty": (float, "above 1 makes tokens seen before less likely"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("text", nargs="*", metavar="TEXT", help="text to translate; each line is an input of its own")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="a bundled model, a folder or a file (default: %(default)s)"
    )
    add_shared_arguments(parser, GENERATION)


def add_shared_arguments(parser: argparse.ArgumentParser, generation: Mapping[str, Option]) -> None:
    """The options of every command that decodes lines. generation: those that `generate` takes as they are."""
    parser.add_argument(
        "--file", metavar="F", help="read the lines of a file, - for standard input (also without TEXT)"
    )
    for name, (kind, text) in generation.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar="N", help=text)
    parser.add_argument("--early-stopping", choices=list(EARLY), help="when beam search ends (default: the model's)")
    parser.add_argument("--attention", action="store_true", help="also print what each word attended to")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the attention (.png, .svg, .pdf)")
    parser.add_argument("--layer", type=int, metavar="N", help="attention of this layer, from 0 (default: mean of all)")
    parser.add_argument("--head", type=int, metavar="N", help="attention of this head, from 0 (default: mean of all)")
    parser.add_argument("--explain", action="store_true", help="also print the five steps behind each token")
    parser.add_argument("--output-format", choices=["text", "json"], default="text", help="json: an object per line")
    parser.add_argument("--batch-size", type=at_least(1), metavar="N", help=f"lines at once (default: {BATCH_SIZE})")
    loading.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Translates the lines batch by batch; the order of the output is that of the input."""
    work_through(arguments, GENERATION, whole=False)


def work_through(arguments: argparse.Namespace, generation: Iterable[str], whole: bool) -> None:
    """Decodes what is given batch by batch. generation: the options that `generate` takes as they are; whole: a TEXT is one
    input, however many lines it has."""
    lines, total, streamed = _input(arguments, whole)
    model = loading.load(arguments)
    options = {name: value for name in generation if (value := getattr(arguments, name)) is not None}
    if arguments.early_stopping:
        options["early_stopping"] = EARLY[arguments.early_stopping]
    if arguments.attention or arguments.plot:
        options["return_attention"] = True
    job = Job(model, options, arguments)
    if arguments.explain:
        _check_explained(model, options)
    size = 1 if streamed else arguments.batch_size or BATCH_SIZE
    progress = Progress("lines", total, few=4 * size)
    done = 0
    try:
        for batch in _batches(lines, size):
            job.decode(batch)
            done += len(batch)
            progress.update(done)
    finally:
        progress.close()
    if not job.decoded:
        raise InputError(f"nothing to {arguments.command}: the input is empty")


def _check_explained(model: Model, options: Mapping[str, Any]) -> None:
    """`explain` decodes again: OptionError where it would draw other tokens than those printed."""
    given = {**(model.checkpoint.generation_config or model.checkpoint.config), **options}
    if given.get("do_sample") and ("seed" not in options or given.get("num_return_sequences", 1) != 1):
        raise OptionError(
            "--explain: with sampling, expected --seed and a single output: the explained one is drawn again"
        )


@dataclass
class Job:
    """One run of the command: the model, the options of `generate`, and what has been said already."""

    model: Model
    options: dict[str, Any]
    arguments: argparse.Namespace
    decoded: int = 0
    named: set[str] = field(default_factory=set)
    cut: bool = False

    def decode(self, batch: list[tuple[int, str]]) -> None:
        """Decodes and prints numbered lines; blank ones stay blank."""
        written = [line for line in batch if line[1].strip()]
        try:
            results = iter(self.model.generate([text for _, text in written], **self.options) if written else [])
        except InputError:  # one of them is at fault: print those before it, then say which
            results = (self._alone(number, text) for number, text in written)
        for number, text in batch:
            self._print(number, text, next(results) if text.strip() else None)
        sys.stdout.flush()

    def _alone(self, number: int, text: str) -> Generation:
        try:
            result: Generation = self.model.generate(text, **self.options)
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None
        return result

    def _print(self, number: int, text: str, result: Generation | None) -> None:
        if result is not None:
            self.decoded += 1
            self._remark(number, result)
        if self.arguments.output_format == "json":
            print_json(self._as_json(text, result))
        elif result is None:
            print()
        else:
            self._print_text(text, result)
        if result is not None and self.arguments.plot:
            title = f"{text.strip()}  →  {result.text}"
            self._attention(result).plot(self._picture(), title=title, **self._part(result))

    def _print_text(self, text: str, result: Generation) -> None:
        if "num_return_sequences" in self.options:
            for hypothesis in result.hypotheses:
                print(f"{hypothesis.score:.4f}\t{hypothesis.text}")
        else:
            print(result.text)
        extra = []
        if self.arguments.attention:
            attention = self._attention(result)
            part = self._part(result)
            across = "source" if part["kind"] == "cross" else "what came before"
            extra.append(f"each token and what it attends to most:\n{attention.table(**part)}")
            extra.append(f"attention weights, target down, {across} across:\n{attention.heatmap(**part)}")
        if self.arguments.explain:
            steps = self.model.explain(text, **self._plain_options())
            extra.append(explain.as_text(steps, self._kind()))
        for block in extra:
            print(f"\n{block}")
        if extra:
            print()

    def _as_json(self, text: str, result: Generation | None) -> dict[str, Any]:
        if result is None:
            return {"input": text, "text": ""}
        found = {
            "input": text,
            "text": result.text,
            "tokens": list(result.tokens),
            "token_ids": [int(i) for i in result.token_ids],
            "score": float(result.score),
            "finish_reason": result.finish_reason,
            "unknown_words": list(result.unknown_words),
            "hypotheses": [{"text": h.text, "score": float(h.score)} for h in result.hypotheses],
        }
        if self.arguments.attention:
            attention, part = self._attention(result), self._part(result)
            rows, columns = attention.labels(part["kind"])
            found["attention"] = {
                "source_tokens": list(columns),
                "target_tokens": list(rows),
                "weights": [[round(float(w), 6) for w in row] for row in attention.to_numpy(**part)],
                "alignment": [aligned.position for aligned in attention.alignment(**part)],
            }
        if self.arguments.explain:
            found["steps"] = explain.as_json(self.model.explain(text, **self._plain_options()))
        return found

    def _part(self, result: Generation) -> dict[str, Any]:
        """Which part of the attention is shown: the decoder's look at the source, or at what came before."""
        kind = "cross" if "cross" in self._attention(result).kinds else "self"
        return {"kind": kind, "layer": self.arguments.layer, "head": self.arguments.head}

    def _attention(self, result: Generation) -> AttentionMap:
        if result.attention is None:
            raise OptionError(f"{self.model.name} gives no attention weights")
        return result.attention

    def _plain_options(self) -> dict[str, Any]:
        """The options that `explain` takes: it shows one hypothesis and always has the attention."""
        return {name: v for name, v in self.options.items() if name not in ("return_attention", "num_return_sequences")}

    def _kind(self) -> str:
        if not self.model.has_encoder:
            return "decoder"
        return "recurrent" if "rnn" in self.model.family else "transformer"

    def _picture(self) -> Path:
        """FILE for the first input, FILE-2 and so on for the others."""
        file: Path = self.arguments.plot
        return file if self.decoded == 1 else file.with_stem(f"{file.stem}-{self.decoded}")

    def _remark(self, number: int, result: Generation) -> None:
        """Unknown words and a cut translation are the user's business: each said once."""
        new = [word for word in result.unknown_words if word not in self.named]
        self.named.update(new)
        if new:
            words = ", ".join(f'"{word}"' for word in new)
            them = "it" if len(new) == 1 else "them"
            output = "translation" if self.arguments.command == "translate" else "output"
            note(f"not in the vocabulary of {self.model.name}: {words}; the {output} around {them} is a guess")
        if result.finish_reason == "length" and not self.cut:
            self.cut = True
            note(f"line {number}: cut after {len(result.token_ids)} tokens; --max-new-tokens allows more")


def _input(arguments: argparse.Namespace, whole: bool) -> tuple[Iterator[tuple[int, str]], int | None, bool]:
    """The numbered lines, how many there are if that is known, and whether a person is typing them."""
    if arguments.text and arguments.file:
        raise OptionError("TEXT and --file: give one of them")
    if arguments.text:
        lines = arguments.text if whole else [line for t in arguments.text for line in (t.splitlines() or [""])]
        return enumerate_lines(lines), len(lines), False
    if arguments.file and arguments.file != "-":
        with open(arguments.file, "rb") as stream:
            lines = list(_decoded(stream, arguments.file))
        return enumerate_lines(lines), len(lines), False
    if sys.stdin is None:
        raise InputError(f"nothing to {arguments.command}: no text, no --file and no standard input")
    typed = sys.stdin.isatty()
    if typed:
        note("type a text per line, Ctrl-D to end")
    return enumerate_lines(_decoded(sys.stdin.buffer, "standard input")), None, typed


def enumerate_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Numbered from 1, as editors do."""
    return enumerate(lines, 1)


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    """The lines of a UTF-8 stream, one at a time, whatever the locale; a leading byte order mark is no text."""
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{line[error.start]:02x} at position {error.start}"
            raise InputError(f"{name}, line {number}: not UTF-8: {found}") from None
        yield text.rstrip("\r\n")


def _batches(lines: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    while batch := list(itertools.islice(lines, size)):
        yield batch
