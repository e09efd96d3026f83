"""The command line: what goes to which stream, in which order, with which exit code.

Most tests put a small fake in place of the library; the last ones run the installed command on the bundled models.
"""

from __future__ import annotations

import functools
import importlib.metadata
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import cli
from fastattn.attention_map import AttentionMap
from fastattn.cli import bench, loading
from fastattn.errors import InputError, LoadError, OptionError

WORDS = {"i": "je", "eat": "mange", "an": "une", "apple": "pomme", "you": "tu", "am": "suis", "here": "ici"}


class FakeModel:
    """Translates word by word; keeps what it was called with."""

    name = "en-fr-bahdanau"
    family = "rnn_attention"
    has_encoder = True
    num_parameters = 1234567
    compute_type = "float32"

    def __init__(self, **options: Any) -> None:
        self.loaded_with = options
        self.calls: list[tuple[list[str], dict[str, Any]]] = []
        self.config = {"model_type": "rnn_attention", "hidden_size": 64}
        self.checkpoint = SimpleNamespace(
            path=Path("somewhere"),
            config=self.config,
            generation_config={"num_beams": 2},
            tensors={"b": np.zeros((2, 3), np.float32), "a": np.zeros((4,), np.float32)},
            origin={"a": "initializer a", "b": "onnx::MatMul_7, transposed, at /b/MatMul"},
            aliases={"c": "b"},
            constants=frozenset({"a"}),
            format="ONNX",
        )

    def weight_sizes(self) -> dict[str, int]:
        return {"float32": 4938268, "int8": 1234567}

    def generate(self, texts: str | list[str], **options: Any) -> Any:
        if isinstance(texts, list):
            self.calls.append((texts, options))
            return [self.one(text, **options) for text in texts]
        return self.one(texts, **options)

    def one(self, text: str, return_attention: bool = False, **options: Any) -> SimpleNamespace:
        words = text.split()
        if not words:
            raise InputError("the text is empty")
        if len(words) > 9:
            raise InputError(f"the text is too long: {len(words)} tokens found, the limit is 9")
        tokens = [WORDS.get(word.lower(), word) for word in words]
        attention = None
        if return_attention:
            weights = (np.eye(len(words)) * 0.8 + 0.2 / len(words)).astype(np.float32)
            attention = AttentionMap(cross=weights[None, None], source_tokens=words, target_tokens=tokens)
        beams = [SimpleNamespace(text=" ".join(tokens), score=-0.5), SimpleNamespace(text="autre", score=-1.25)]
        return SimpleNamespace(
            text=" ".join(tokens),
            tokens=tokens,
            token_ids=list(range(len(tokens))),
            score=-0.5,
            finish_reason="length" if "here" in words else "eos",
            hypotheses=beams[: options.get("num_return_sequences", 1)],
            attention=attention,
            unknown_words=[word for word in words if word.lower() not in WORDS],
        )

    def explain(self, text: str, **options: Any) -> list[SimpleNamespace]:
        words = text.split()
        return [
            SimpleNamespace(
                token=WORDS.get(word.lower(), word),
                token_id=t,
                source_tokens=words,
                scores=np.arange(len(words), dtype=np.float32),
                weights=np.full(len(words), 1 / len(words), np.float32),
                context=np.ones(16, np.float32),
                attentional_state=np.array([0.5, -0.5], np.float32),
                top=[("une", 0.75), ("un", 0.2), ("la", 0.03), ("le", 0.01), ("des", 0.01)],
            )
            for t, word in enumerate(words)
        ]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """The fake in place of `fastattn.load`; `monkeypatch` puts the real one back."""
    fake = FakeModel()

    def load(name: str, **options: Any) -> FakeModel:
        if name == "nowhere":
            raise LoadError("nowhere: no such file or folder")
        fake.loaded_with = {"name": name, **options}
        return fake

    monkeypatch.setattr(fastattn, "load", load, raising=False)
    monkeypatch.setattr(fastattn, "bundled_models", lambda: ["en-fr-bahdanau"], raising=False)
    return fake


def typed(monkeypatch: pytest.MonkeyPatch, contents: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(contents)))


Captured = pytest.CaptureFixture[str]


def test_the_translation_alone_goes_to_standard_output(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "I eat an apple"]) == 0
    assert capsys.readouterr() == ("je mange une pomme\n", "")
    assert model.loaded_with == {"name": "en-fr-bahdanau", "num_threads": None, "backend": "native", "progress": None}
    assert model.calls == [(["I eat an apple"], {})]


def test_options_reach_the_library_by_their_names(model: FakeModel, capsys: Captured) -> None:
    options = "--num-beams 4 --max-new-tokens 9 --length-penalty -0.5 --early-stopping false --no-repeat-ngram-size 2"
    more = "--repetition-penalty 1.5 --threads 2 --backend reference --compute-type int8 --cache-type bfloat16 --model elsewhere"
    assert cli.main(["translate", "I", *options.split(), *more.split()]) == 0
    assert model.loaded_with == {
        "name": "elsewhere",
        "num_threads": 2,
        "backend": "reference",
        "progress": None,
        "compute_type": "int8",
        "cache_type": "bfloat16",
    }
    assert model.calls[0][1] == {
        "num_beams": 4,
        "max_new_tokens": 9,
        "length_penalty": -0.5,
        "early_stopping": False,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.5,
    }


def test_every_text_and_every_line_is_an_input(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "I eat\nyou", "an apple"]) == 0
    assert capsys.readouterr().out == "je mange\ntu\nune pomme\n"


@pytest.mark.parametrize("source", ["file", "pipe", "dash"])
def test_lines_keep_their_order_in_batches_and_blank_ones_stay(
    model: FakeModel, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    contents = "\ufeffI eat\r\n\r\nyou\n   \nan apple\nI am".encode()
    (tmp_path / "in.txt").write_bytes(contents)
    typed(monkeypatch, contents)
    given = {"file": ["--file", str(tmp_path / "in.txt")], "pipe": [], "dash": ["--file", "-"]}[source]
    assert cli.main(["translate", "--batch-size", "2", *given]) == 0
    assert capsys.readouterr() == ("je mange\n\ntu\n\nune pomme\nje suis\n", "")
    assert [texts for texts, _ in model.calls] == [["I eat"], ["you"], ["an apple", "I am"]]


def test_unknown_words_are_named_once_on_standard_error(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "I eat xylophone", "xylophone zebra yak"]) == 0
    out, err = capsys.readouterr()
    assert out == "je mange xylophone\nxylophone zebra yak\n"
    assert err.splitlines() == [
        'fastattn: not in the vocabulary of en-fr-bahdanau: "xylophone"; the translation around it is a guess',
        'fastattn: not in the vocabulary of en-fr-bahdanau: "zebra", "yak"; the translation around them is a guess',
    ]


def test_a_translation_cut_short_is_remarked_once(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "I", "I am here", "you here"]) == 0
    assert capsys.readouterr().err == "fastattn: line 2: cut after 3 tokens; --max-new-tokens allows more\n"


def test_attention_follows_the_translation(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "--attention", "I eat"]) == 0
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert first == "je mange"
    assert "je     I 0.90    eat 0.10" in rest
    assert "█" in rest and "\x1b" not in rest
    assert model.calls[0][1] == {"return_attention": True}


def test_one_layer_or_head_can_be_picked(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "--attention", "--layer", "0", "--head", "-1", "I eat"]) == 0
    assert "je     I 0.90" in capsys.readouterr().out
    assert cli.main(["translate", "--attention", "--layer", "3", "I eat"]) == 2
    assert capsys.readouterr().err == "fastattn: error: layer 3: cross attention has 1, counted from 0\n"


def test_plots_are_numbered_from_the_second_on(model: FakeModel, tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["translate", "--plot", str(tmp_path / "a.svg"), "I eat", "you"]) == 0
    assert capsys.readouterr().out == "je mange\ntu\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-2.svg", "a.svg"]


def test_hypotheses_are_listed_with_their_scores(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "--num-beams", "2", "--num-return-sequences", "2", "I"]) == 0
    assert capsys.readouterr().out == "-0.5000\tje\n-1.2500\tautre\n"


def test_explain_shows_five_steps_for_every_token(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "--explain", "I eat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "je mange"
    start = lines.index("1. je")
    assert lines[start + 1 : start + 7] == [
        "                 I    eat",
        "  scores      0.00   1.00",
        "  weights    0.500  0.500",
        "  context    +1.00 +1.00 +1.00 +1.00 +1.00 +1.00 …  (16 numbers, length 4.00)",
        "  state      +0.50 -0.50  (2 numbers, length 0.71)",
        "  likeliest  une 0.750  un 0.200  la 0.030  le 0.010  des 0.010",
    ]
    assert "2. mange" in lines


def test_explain_of_many_words_keeps_to_the_width(
    model: FakeModel, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert cli.main(["translate", "--explain", "I am here you eat an apple"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("  scores  ", "  weights  "))]
    numbers = [line for line in table if line[11:].strip()[:1].isdigit()]
    assert len(numbers) == 4 * 7
    assert max(map(len, numbers)) <= 40


def test_json_is_an_object_per_line(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "--output-format", "json", "--attention", "--explain", "I eat zut\n\nyou"]) == 0
    first, blank, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert blank == {"input": "", "text": ""}
    assert first["text"] == "je mange zut" and first["unknown_words"] == ["zut"] and first["finish_reason"] == "eos"
    assert first["attention"]["alignment"] == [0, 1, 2]
    assert first["attention"]["weights"][0][0] == pytest.approx(0.866667)
    assert first["steps"][1]["top"][0] == {"token": "une", "probability": 0.75}
    assert last["tokens"] == ["tu"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: COMMAND (see fastattn --help)"),
        (["dance"], 2, "argument COMMAND: invalid choice: 'dance'"),
        (["translate", "--beams", "2", "I"], 2, "unrecognized arguments: --beams"),
        (["translate", "--num-beams", "0", "I"], 2, "argument --num-beams: expected an integer from 1 on, found '0'"),
        (["translate", "--threads", "x", "I"], 2, "argument --threads: expected an integer from 1 on, found 'x'"),
        (["translate", "--length-penalty", "x", "I"], 2, "argument --length-penalty: invalid float value: 'x'"),
        (["translate", "--backend", "gpu", "I"], 2, "argument --backend: invalid choice: 'gpu'"),
        (["translate", "--file", "f", "I"], 2, "TEXT and --file: give one of them"),
        (["translate", "--file", "no/such/file"], 1, "no/such/file: No such file or directory"),
        (["translate", "--model", "nowhere", "I"], 1, "nowhere: no such file or folder"),
        (["translate", ""], 1, "nothing to translate: the input is empty"),
        (["translate", " \n "], 1, "nothing to translate: the input is empty"),
        (["translate", "I", "I " * 10], 1, "line 2: the text is too long: 10 tokens found, the limit is 9"),
        (["translate", "--plot", "a.xyz", "I"], 2, "a.xyz: cannot draw the format 'xyz'"),
        (["translate", "--plot", "no/such/a.png", "I"], 1, "no/such/a.png: No such file or directory"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    model: FakeModel, capsys: Captured, arguments: Sequence[str], code: int, message: str
) -> None:
    assert cli.main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith(f"fastattn: error: {message}")
    assert err.count("\n") == 1 and err.endswith("\n")


def test_what_precedes_a_bad_line_is_printed(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["translate", "I", "", "you " * 10, "an"]) == 1
    assert capsys.readouterr().out == "je\n\n"


def test_input_that_is_not_utf8_names_the_line(
    model: FakeModel, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, b"I\nyou\ne\xe9\n")
    assert cli.main(["translate", "--batch-size", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == "je\ntu\n"
    assert err == "fastattn: error: standard input, line 3: not UTF-8: byte 0xe9 at position 1\n"


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OptionError("a\nb"), 2), (MemoryError(), 1)])
def test_what_the_library_raises_becomes_an_exit_code(
    model: FakeModel, capsys: Captured, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(model, "generate", fail)
    assert cli.main(["translate", "I"]) == code
    assert capsys.readouterr().err.count("\n") == (code != 130)


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_closed_streams_are_nobodys(closed: str) -> None:
    number = ("stdin", "stdout", "stderr").index(closed)
    command = f"{shlex.quote(sys.executable)} -m fastattn translate 'I am eating an apple' {number}>&-"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert (run.stdout, run.stderr) == ("" if closed == "stdout" else "je mange une pomme\n", "")


def test_progress_is_shown_on_a_terminal_only(
    model: FakeModel, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("I eat\n" * 30)
    command = ["translate", "--batch-size", "4", "--file", str(tmp_path / "in.txt")]
    assert cli.main(command) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(command) == 0
    err = capsys.readouterr().err
    assert "28 of 30 lines" in err and err.endswith("\r\x1b[K") and "\n" not in err
    assert cli.main([*command[:2], "30", *command[3:]]) == 0  # few batches need no bar
    assert capsys.readouterr().err == ""


def test_loading_shows_a_bar_where_it_takes_a_while(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with loading.bar("loading x") as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with loading.bar("loading x") as progress:
        assert progress is not None
        progress(1, 4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(loading, "SOON", 0.0)
    with pytest.raises(KeyboardInterrupt), loading.bar("loading x") as progress:
        assert progress is not None
        progress(1, 4)
        raise KeyboardInterrupt
    err = capsys.readouterr().err
    assert err.startswith("\rloading x ██████░") and "░ 25 %, " in err and err.endswith("\r\x1b[K") and "\n" not in err


def test_inspect_shows_where_tensors_came_from(
    model: FakeModel, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["inspect", "somewhere"]) == 0
    text = capsys.readouterr().out
    assert "float32 4.9 MB, int8 1.2 MB" in text
    for part in ("rnn_attention", "1,234,567", "hidden_size  64", "2 × 3  float32  onnx::MatMul_7, transposed", "is b"):
        assert part in text
    assert cli.main(["inspect", "--json", "somewhere"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"][1] == {
        "name": "b",
        "shape": [2, 3],
        "dtype": "float32",
        "origin": "onnx::MatMul_7, transposed, at /b/MatMul",
    }
    assert found["parameters"] == 1234567


def test_models_lists_what_is_bundled(model: FakeModel, capsys: Captured) -> None:
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out == "en-fr-bahdanau  rnn_attention  1,234,567 parameters\n"


def test_a_measurement_takes_the_median_of_both_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    order: list[str] = []

    def work(name: str, seconds: float) -> Any:
        def call() -> None:
            clock[0] += seconds
            order.append(name)

        return call

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    case = bench.Case("op", "T=1", work("native", 0.25), work("numpy", 1.0), flops=5e8)
    row = bench.measure(case, {"fma_gflops": 8.0}, quick=True)
    assert (row["native_s"], row["reference_s"], row["speedup"], row["of_peak"]) == (0.25, 1.0, 4.0, 0.25)
    assert order[-6:] == ["native", "numpy"] * 3
    machine = {"cpu": "c", "isa": "avx2", "threads": 2, "fma_gflops": 8.0, "read_gbs": 9.0, "python": "3", "numpy": "2"}
    table = bench.as_text({"machine": machine, "results": [row]})
    assert table.splitlines()[-1].split() == ["op", "T=1", "250.00", "ms", "1.00", "s", "4.0", "×", "25", "%"]


# --- the installed command on the bundled models ----------------------------------------------------------------------

APPLE = "I am eating an apple"


def fastattn_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastattn", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, **options)


@pytest.fixture(scope="module")
def pomme() -> str:
    """What the bundled model makes of APPLE."""
    return str(fastattn.load("en-fr-bahdanau").generate(APPLE).text)


def test_the_first_command_of_the_readme() -> None:
    done = fastattn_command("translate", "--attention", APPLE)
    assert (done.returncode, done.stderr) == (0, "")
    first, blank, *rest = done.stdout.splitlines()
    assert (first, blank) == ("je mange une pomme", "")
    top = {line.split()[0]: line.split()[1:] for line in rest[1 : rest.index("")]}
    assert top["pomme"][0] == "apple"
    assert {top["une"][0], top["une"][2]} == {"an", "apple"}
    assert float(top["une"][1]) + float(top["une"][3]) >= 0.7
    assert any(line.startswith("pomme") and set("░▒▓█") & set(line) for line in rest)


def test_the_entry_point_is_the_module() -> None:
    done = fastattn_command("--version")
    assert done.stdout == f"fastattn {fastattn.__version__} ({fastattn.isa.active()})\n"
    found = list(importlib.metadata.entry_points(group="console_scripts", name="fastattn"))
    if not found:
        pytest.skip("fastattn is not installed here, only importable")
    assert found[0].load() is cli.main


def test_a_pipe_of_lines_keeps_its_shape(pomme: str) -> None:
    lines = [APPLE, "", "The xylophone is red.", APPLE]
    done = fastattn_command("translate", "--threads", "1", "--batch-size", "2", input="\n".join(lines))
    out = done.stdout.splitlines()
    assert done.returncode == 0 and len(out) == 4
    assert out[0] == out[3] == pomme and out[1] == ""
    assert done.stderr.splitlines() == [
        'fastattn: not in the vocabulary of en-fr-bahdanau: "xylophone"; the translation around it is a guess'
    ]


WRITER = str(Path(__file__).parent / "golden" / "decoders" / "gpt2-text")


SISTER = "ma sœur est ici"
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def written(environment: dict[str, str], *arguments: str) -> bytes:
    """What a translation with œ in it writes to a pipe."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONIO", "PYTHONUTF8", "LC_", "LANG"))}
    command = [sys.executable, "-m", "fastattn", "translate", *arguments, "my sister is here"]
    done = subprocess.run(command, capture_output=True, timeout=120, env=plain | environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_output_is_utf8_whatever_the_locale() -> None:
    assert written(ASCII_LOCALE) == f"{SISTER}\n".encode()
    assert "█" in written(ASCII_LOCALE, "--attention").decode()
    assert json.loads(written(ASCII_LOCALE, "--output-format", "json"))["text"] == SISTER
    assert "sœur".encode() in written(ASCII_LOCALE, "--output-format", "json")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("latin-1", rb"ma s\u0153ur est ici"),
        ("iso8859-15", SISTER.encode("iso8859-15")),
        ("ascii:ignore", b"ma sur est ici"),
        ("ascii:surrogateescape", rb"ma s\u0153ur est ici"),
        (":strict", SISTER.encode()),
    ],
)
def test_pythonioencoding_decides_and_nothing_is_lost(encoding: str, expected: bytes) -> None:
    chosen = {**ASCII_LOCALE, "PYTHONIOENCODING": encoding}
    assert written(chosen) == expected + b"\n"
    shown = written(chosen, "--output-format", "json").decode(encoding.partition(":")[0] or "utf-8")
    assert json.loads(shown)["text"] == SISTER  # with JSON's own escapes
    assert written(chosen, "--attention")


def test_generate_continues_prompts() -> None:
    pytest.importorskip("tokenizers")
    done = fastattn_command("generate", WRITER, "The children", "She drinks", "--max-new-tokens", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [" were playing in the garden.", " water, and he reads a book."]
    streamed = fastattn_command("generate", WRITER, "The children", "--stream", "--max-new-tokens", "20")
    assert (streamed.returncode, streamed.stdout) == (0, " were playing in the garden.\n")
    piped = fastattn_command("generate", WRITER, "--num-beams", "2", input="The children\n\nShe drinks\n")
    assert piped.stdout == " were playing in the garden.\n\n water, and he reads a book.\n"


def test_generate_explains_what_it_looked_back_on() -> None:
    pytest.importorskip("tokenizers")
    shown = ["--attention", "--explain", "--output-format", "json"]
    found = json.loads(fastattn_command("generate", WRITER, "The children", *shown).stdout)
    assert found["text"] == " were playing in the garden."
    assert found["attention"]["target_tokens"] == found["tokens"]
    assert len(found["attention"]["source_tokens"]) == len(found["attention"]["weights"][0])
    assert found["steps"][-1]["token"] == "<|endoftext|>"
    text = fastattn_command("generate", WRITER, "The children", *shown[:2]).stdout
    assert "last layer's self-attention" in text and "target down, what came before across" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "a", "b"], "--stream: takes one TEXT"),
        (["--stream", "--explain", "a"], "--stream: gives the text only"),
        (["--stream", "--output-format", "json", "a"], "--stream: gives text, not json"),
        (["--stream", "--layer", "0", "a"], "without --layer"),
        (["--stream", "--head", "1", "a"], "without --head"),
        (["--stream", "--early-stopping", "never", "a"], "without --early-stopping"),
        (["--stream", "--batch-size", "2", "a"], "without --batch-size"),
        (["--max-length", "66", "a"], "max_length: 66 after a prompt of 1 token, expected at most 65"),
        (["--max-new-tokens", "100", "a"], "100 after a prompt of 1 token, expected at most 64"),
        (["--max-length", "1", "a"], "max_length: found 1, expected more than the 1 token "),
    ],
)
def test_what_generate_cannot_do_is_named(arguments: list[str], message: str, capsys: Captured) -> None:
    pytest.importorskip("tokenizers")
    assert cli.main(["generate", WRITER, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_sampling_reaches_the_library(model: FakeModel, capsys: Captured) -> None:
    options = "--do-sample --temperature 0.5 --top-k 3 --top-p 0.9 --seed 7 --min-new-tokens 2 --max-length 9"
    assert cli.main(["generate", "somewhere", "I\neat", *options.split()]) == 0
    expected = {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "seed": 7,
        "min_new_tokens": 2,
        "max_length": 9,
    }
    assert model.calls == [(["I\neat"], expected)]


def test_explain_of_samples_shows_the_one_that_was_printed(model: FakeModel, capsys: Captured) -> None:
    sampling = ["generate", "somewhere", "I eat", "--explain", "--do-sample"]
    for options in ([], ["--seed", "7", "--num-return-sequences", "2"]):
        assert cli.main([*sampling, *options]) == 2
        assert "--explain: with sampling, expected --seed and a single output" in capsys.readouterr().err
    assert cli.main([*sampling, "--seed", "7"]) == 0
    assert cli.main(["generate", "somewhere", "I eat", "--explain"]) == 0
    model.checkpoint.generation_config = {"do_sample": True}
    assert cli.main(["translate", "I eat", "--explain"]) == 2


@pytest.mark.parametrize("name", fastattn.bundled_models())
def test_every_bundled_model_explains_itself(name: str) -> None:
    done = fastattn_command("translate", "--model", name, "--explain", "--attention", "--output-format", "json", APPLE)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["text"] == fastattn.load(name).generate(APPLE).text
    assert [step["token"] for step in found["steps"]][:4] == found["tokens"][:4]
    for step in found["steps"]:
        assert sum(step["weights"]) == pytest.approx(1, abs=1e-4)
        assert len(step["scores"]) == len(step["weights"]) == len(step["source_tokens"])
        assert step["top"][0]["token"] == step["token"] and len(step["top"]) == 5
        assert step["context"] and step["attentional_state"]


def test_backends_agree_on_the_command_line(pomme: str) -> None:
    texts = [fastattn_command("translate", "--backend", backend, APPLE).stdout for backend in ("native", "reference")]
    assert texts == [pomme + "\n"] * 2


def test_inspect_of_a_bundled_model_maps_every_name() -> None:
    done = fastattn_command("inspect", "--json", "en-fr-bahdanau")
    found = json.loads(done.stdout)
    assert found["family"] == "rnn_attention"
    assert all(tensor["origin"] and tensor["shape"] for tensor in found["tensors"])
    assert found["parameters"] == sum(
        np.prod(t["shape"]) for t in found["tensors"] if t["name"] not in found["constants"]
    )


def test_models_are_listed() -> None:
    names = [line.split()[0] for line in fastattn_command("models").stdout.splitlines()]
    assert names == fastattn.bundled_models()


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path, pomme: str) -> None:
    (tmp_path / "in.txt").write_text((APPLE + "\n") * 2000)
    command = [sys.executable, "-m", "fastattn", "translate", "--file", str(tmp_path / "in.txt"), "--batch-size", "4"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == pomme + "\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_ctrl_c_ends_quietly(pomme: str) -> None:
    command = [sys.executable, "-m", "fastattn", "translate", "--batch-size", "1"]
    pipe = subprocess.PIPE
    # a shell that runs the tests in the background leaves SIGINT ignored, and children inherit that
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=listen) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(APPLE + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == pomme + "\n"  # now it waits for the next line
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""


def test_a_terminal_gets_colour_unless_it_says_no(pomme: str) -> None:
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"} | extra
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "fastattn", "translate", "--attention", APPLE]
        process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # the terminal is gone when the command has ended
            pass
        os.close(ours)
        process.communicate()
        assert process.returncode == 0
        assert (b"\x1b[48;5;" in seen) is coloured and pomme.encode() in seen


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["translate", "--model", "no/such/model", "I"], 1, "no/such/model"),
        (["translate", "--num-return-sequences", "2", "I"], 2, "num_return_sequences: found 2"),
        (["translate", "I am " * 2000], 1, "tokens found, the limit is"),
        (["inspect", "no/such/model"], 1, "no/such/model"),
    ],
)
def test_errors_of_the_library_are_one_line(arguments: list[str], code: int, message: str) -> None:
    done = fastattn_command(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("fastattn: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_bench_measures_this_machine() -> None:
    done = fastattn_command("bench", "--quick", "--json", "--threads", "1")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["machine"]["threads"] == 1 and found["machine"]["fma_gflops"] > 0 and found["machine"]["read_gbs"] > 0
    assert {"additive_attention", "softmax", "en-fr-bahdanau"} <= {row["name"] for row in found["results"]}
    assert all(row["native_s"] > 0 and row["reference_s"] > 0 for row in found["results"])
