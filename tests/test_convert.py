"""`fastattn convert`: what is written, that it runs as the original does, and what a damaged file does (one line, no crash)."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, GOLDEN, inputs, logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastattn
from fastattn import cli, container
from fastattn.conversion import _move
from fastattn.loaders import open_checkpoint
from fastattn.packing import COMPUTE_TYPES

MARIAN = GOLDEN / "models" / "marian"
NAME = "packed.safetensors"
SOURCES = [[5, 9, 33, 0], [7, 0], [11, 12, 13, 14, 15, 16, 0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fastattn.convert(MARIAN, tmp_path_factory.mktemp("converted") / "marian-int8")


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(file: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    text = text.ljust(-(-(len(text) + 8) // 64) * 64 - 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("kind", COMPUTE_TYPES)
@pytest.mark.parametrize("model", FAMILIES)
def test_a_converted_model_is_the_model_to_the_bit(tmp_path: Path, model: str, kind: str) -> None:
    out = fastattn.convert(GOLDEN / model, tmp_path / "a" / "out", compute_type=kind)
    original, converted = fastattn.load(GOLDEN / model, compute_type=kind), fastattn.load(out)
    assert (converted.compute_type, converted.family) == (kind, original.family)
    assert (converted.num_parameters, converted.weight_bytes) == (original.num_parameters, original.weight_bytes)
    assert converted.weight_sizes() == {kind: original.weight_sizes()[kind]} == {kind: original.weight_bytes}
    sources, targets = inputs(original)
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}
    for ours, theirs in zip(converted.generate(sources, **options), original.generate(sources, **options), strict=True):
        assert [(h.token_ids, h.score) for h in ours.hypotheses] == [(h.token_ids, h.score) for h in theirs.hypotheses]
    assert (logits(converted, sources, targets) == logits(original, sources, targets)).all()
    plain = [fastattn.load(m, compute_type=kind, backend="reference") for m in (out, GOLDEN / model)]
    assert (logits(plain[0], sources, targets) == logits(plain[1], sources, targets)).all()


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    out = fastattn.convert("en-fr-transformer", tmp_path / "out")
    model = fastattn.load(out)
    assert model.generate("I am eating an apple", num_beams=4).text == "je mange une pomme"
    assert fastattn.load(out / NAME).generate("she sees a dog").text == "elle voit un chien"
    assert "README.md" not in os.listdir(out) and "tokenizer.json" in os.listdir(out)


def test_the_file_is_an_ordinary_safetensors_file(folder: Path) -> None:
    theirs = pytest.importorskip("safetensors", reason="safetensors is not installed: pip install safetensors")
    with theirs.safe_open(folder / NAME, "numpy") as file:
        metadata = file.metadata()
        assert (
            metadata["format"] == "fastattn" and metadata["compute_type"] == "int8" and metadata["family"] == "marian"
        )
        matrices = json.loads(metadata["matrices"])
        rows, columns, kind, nbytes = matrices["model.shared.weight"]
        assert (rows, columns, kind) == (101, 32, "int8")
        assert file.get_tensor("model.shared.weight.packed").shape == (nbytes,)
        plain = {name for name in file.keys() if not name.endswith(".packed")}  # noqa: SIM118
        assert {name for name in plain if file.get_tensor(name).dtype != np.float32} == set()
        assert len(plain) + len(matrices) == len(list(file.keys()))


def test_every_matrix_is_aligned_and_held_once(folder: Path) -> None:
    header, data = header_of(folder / NAME)
    start = (folder / NAME).stat().st_size - len(data)
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    assert all((start + begin) % 64 == 0 for name, (begin, _) in offsets.items() if name.endswith(".packed"))
    assert sum(end - begin for begin, end in offsets.values()) == len(data)
    assert sum("shared" in name or "embed_tokens" in name or "lm_head" in name for name in offsets) == 1


def test_out_is_not_overwritten(tmp_path: Path) -> None:
    out = fastattn.convert("en-fr-luong", tmp_path / "out", compute_type="int4")
    with pytest.raises(fastattn.OptionError, match="exists; force=True"):
        fastattn.convert("en-fr-luong", out)
    before = (out / NAME).read_bytes()
    fastattn.convert("en-fr-luong", out, force=True)
    assert fastattn.load(out).compute_type == "int8" and (out / NAME).read_bytes() != before
    assert sorted(os.listdir(tmp_path)) == ["out"]
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(fastattn.OptionError, match=r"holds 'thesis.txt', which no conversion wrote"):
        fastattn.convert("en-fr-luong", out, force=True)
    (out / "thesis.txt").unlink()
    (out / NAME).unlink()
    with pytest.raises(fastattn.OptionError, match=r"holds 'config.json', which no conversion wrote"):
        fastattn.convert("en-fr-luong", out, force=True)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(fastattn.OptionError, match="exists and is no folder"):
        fastattn.convert("en-fr-luong", file, force=True)


def test_the_original_is_never_the_target(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "models" / "rnn-gru-dot-3", tmp_path / "model")
    before = sorted(os.listdir(tmp_path / "model"))
    with pytest.raises(fastattn.OptionError, match="holds the model that is to be converted"):
        fastattn.convert(tmp_path / "model", tmp_path / "model", force=True)
    assert sorted(os.listdir(tmp_path / "model")) == before


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastattn.convert("en-fr-luong", tmp_path / "out", progress=stop)
    assert os.listdir(tmp_path) == []
    out = fastattn.convert("en-fr-luong", tmp_path / "out", compute_type="int4")
    with pytest.raises(KeyboardInterrupt):
        fastattn.convert("en-fr-luong", out, force=True, progress=stop)
    assert fastattn.load(out).compute_type == "int4" and os.listdir(tmp_path) == ["out"]


def test_ctrl_c_while_the_old_one_is_deleted_leaves_the_new_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, delete, interrupts = fastattn.convert("en-fr-luong", tmp_path / "out"), shutil.rmtree, [KeyboardInterrupt()]

    def interrupted(folder: Path, **options: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        delete(folder, **options)

    monkeypatch.setattr("fastattn.conversion.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastattn.convert("en-fr-luong", out, compute_type="int8", force=True)
    assert os.listdir(tmp_path) == ["out"] and fastattn.load(out).compute_type == "int8"


def test_an_error_of_the_callback_is_its_own(tmp_path: Path) -> None:
    mine = ConnectionResetError("the dashboard is gone")

    def report(done: int, total: int) -> None:
        raise mine

    with pytest.raises(ConnectionResetError) as caught:
        fastattn.convert("en-fr-luong", tmp_path / "out", progress=report)
    assert caught.value is mine and os.listdir(tmp_path) == []


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_replaced_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def never(done: int, total: int) -> None:
        raise AssertionError("packs already")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "", Path.cwd(), "../here"):
        with pytest.raises(fastattn.OptionError, match=r"^out: .* is the current folder, which cannot be replaced"):
            fastattn.convert("en-fr-luong", out, force=force, progress=never)
    with pytest.raises(fastattn.OptionError, match=r"^out: / is a mount point, which cannot be replaced"):
        fastattn.convert("en-fr-luong", "/", force=force, progress=never)
    assert os.listdir(tmp_path) == ["here"] and os.listdir() == []


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"

    def convert_too(done: int, total: int) -> None:
        shutil.copytree(folder, out, dirs_exist_ok=True)

    def write_too(done: int, total: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "thesis.txt").write_text("years of work")

    with pytest.raises(fastattn.OptionError, match="exists; force=True"):
        fastattn.convert("en-fr-luong", out, progress=convert_too)
    assert fastattn.load(out).family == "marian" and os.listdir(tmp_path) == ["out"]
    assert fastattn.load(fastattn.convert("en-fr-luong", out, force=True, progress=convert_too)).family != "marian"
    shutil.rmtree(out)
    for force in (False, True):
        with pytest.raises(fastattn.OptionError, match=r"holds 'thesis.txt'"):
            fastattn.convert("en-fr-luong", out, force=force, progress=write_too)
        assert os.listdir(out) == ["thesis.txt"] and os.listdir(tmp_path) == ["out"]


def test_the_last_step_takes_no_place_that_is_taken(tmp_path: Path) -> None:
    """Between the last look and the move, too."""
    made, out = tmp_path / "made", tmp_path / "out"
    for path in (made, out):
        path.mkdir()
        (path / "file").write_text(path.name)
    with pytest.raises(OSError, match=r"not empty|exists"):
        _move(made, out, force=False)
    assert (out / "file").read_text() == "out"
    _move(made, out, force=True)
    assert (out / "file").read_text() == "made" and os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert fastattn.load(fastattn.convert("en-fr-luong", tmp_path)).compute_type == "int8"


def test_the_folder_has_the_rights_of_any_other(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "other").mkdir()
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_progress_goes_from_nothing_to_all(tmp_path: Path) -> None:
    for run in (
        lambda report: fastattn.load("en-fr-transformer", progress=report),
        lambda report: fastattn.convert("en-fr-transformer", tmp_path / "out", progress=report),
    ):
        seen: list[tuple[int, int]] = []
        run(lambda done, total, seen=seen: seen.append((done, total)))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert len({total for _, total in seen}) == 1 and seen[-1][0] == seen[-1][1]


def test_a_converted_model_has_its_own_type(folder: Path, tmp_path: Path) -> None:
    assert fastattn.load(folder, compute_type="int8").compute_type == "int8"
    with pytest.raises(
        fastattn.OptionError, match="was converted to int8; convert the original again: fastattn convert"
    ):
        fastattn.load(folder, compute_type="float32")
    with pytest.raises(fastattn.LoadError, match="is converted already, to int8"):
        fastattn.convert(folder, tmp_path / "again")
    with pytest.raises(fastattn.OptionError, match="compute_type: found 'int3'"):
        fastattn.convert(MARIAN, tmp_path / "again", compute_type="int3")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["convert", "en-fr-transformer", str(out), "--compute-type", "int4"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n" and re.search(r"en-fr-transformer as int4: \d\.\d MB", printed.err)
    assert cli.main(["convert", "en-fr-transformer", str(out)]) == 2
    assert "force=True (--force) replaces it" in capsys.readouterr().err
    assert cli.main(["convert", "en-fr-transformer", str(out), "--force"]) == 0
    assert cli.main(["translate", "--model", str(out), "I am eating an apple"]) == 0
    assert capsys.readouterr().out.endswith("je mange une pomme\n")
    assert cli.main(["translate", "--model", str(out), "--compute-type", "int4", "I am eating an apple"]) == 2
    assert cli.main(["inspect", str(out)]) == 0
    assert re.search(r"compute type +int8", capsys.readouterr().out)


# -- pages ------------------------------------------------------------------------------------------------------------

CODE = """
import re, sys, time
import fastattn
from pathlib import Path
model = fastattn.load(sys.argv[1])
model.generate([[5, 9, 33, 0]], max_new_tokens=2)
lines = Path("/proc/self/smaps").read_text()
block = re.search(rf"{re.escape(sys.argv[1])}\\S*packed\\.safetensors\\n((?:[A-Z].*\\n)*)", lines)[1]
print({key: int(re.search(rf"^{key}: +(\\d+)", block, re.M)[1]) for key in ("Size", "Anonymous", "Private_Dirty")})
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what pages are shared")
def test_weights_stay_in_the_files_pages(folder: Path) -> None:
    run = subprocess.run([sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.replace("'", '"'))
    assert found["Size"] > 0 and found["Anonymous"] == found["Private_Dirty"] == 0


# -- damaged files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path, folder: Path) -> Path:
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def refused(path: Path, message: str) -> None:
    with pytest.raises(fastattn.LoadError, match=message) as caught:
        fastattn.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000 and NAME in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", "2", "container version 2, this fastattn reads 1: convert the model again"),
        ("version", "one", "has version 'one', expected a number"),
        ("layout", "999", "packed in layout 999, this fastattn reads"),
        ("compute_type", "int3", "compute type 'int3', expected one of"),
        ("family", "gpt5", "weights of 'gpt5', but config.json describes 'marian'"),
        ("format", "pt", "format 'pt', expected 'fastattn'"),
        ("parameters", "-4", "has parameters '-4', expected a number"),
        ("matrices", "[1, 2]", "matrices are no JSON object"),
        ("matrices", "{", "matrices are not JSON"),
        ("matrices", "[" * 100_000, "matrices are not JSON"),
        ("matrices", "{}", "39 missing: model.shared.weight, "),
        ("matrices", '{"a": [1, 2, "int8"]}', r"matrix 'a' is .*expected \[rows, columns, type, bytes\]"),
        ("matrices", '{"a": [1, 1e9, "int8", 64]}', "matrix 'a' is"),
        ("matrices", '{"a": 1, "a": 2}', "matrices are not JSON: 'a' occurs twice"),
        ("matrices", '{"a": [1, 2, "int8", 64]}', "tensor 'a.packed' is missing"),
    ],
)
def test_wrong_metadata_is_named(damaged: Path, key: str, value: str, message: str) -> None:
    header, data = header_of(damaged / NAME)
    header["__metadata__"][key] = value
    rewrite(damaged / NAME, header, data)
    refused(damaged, message)
    del header["__metadata__"][key]
    rewrite(damaged / NAME, header, data)
    refused(damaged, "format None, expected 'fastattn'" if key == "format" else f"has no '{key}'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update({"model.shared.weight": [102, 32, "int8", m["model.shared.weight"][3]]}),
            "is .102, 32., expected",
        ),
        (lambda m: m["model.shared.weight"].__setitem__(3, 64), "model.shared.weight.packed"),
        (lambda m: m["model.shared.weight"].__setitem__(3, 1 << 40), "bytes, expected"),
        (lambda m: m["model.shared.weight"].__setitem__(2, "int4"), "model.shared.weight.packed"),
        (
            lambda m: m["model.shared.weight"].__setitem__(2, "int2"),
            "model.shared.weight.packed is 'int2', expected 'int8'",
        ),
        (lambda m: m["model.shared.weight"].__setitem__(2, "bfloat16"), "is 'bfloat16', expected 'int8'"),
        (lambda m: m["model.shared.weight"].__setitem__(2, "float16"), "is 'float16', expected 'int8'"),
        (lambda m: m["model.shared.weight"].__setitem__(3, 64), "has 64 bytes, expected 4608"),
        (lambda m: m.pop("model.shared.weight"), "missing"),
    ],
)
def test_wrong_matrices_are_named(damaged: Path, change: Any, message: str) -> None:
    header, data = header_of(damaged / NAME)
    matrices = json.loads(header["__metadata__"]["matrices"])
    change(matrices)
    header["__metadata__"]["matrices"] = json.dumps(matrices)
    rewrite(damaged / NAME, header, data)
    refused(damaged, message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bfloat16", "weight.packed has 16384 bytes, expected 8192"),  # which a float32 model may hold
        ("float16", "weight.packed has 16384 bytes, expected 8192"),
        ("int8", "weight.packed is 'int8', expected 'float32'"),
    ],
)
def test_a_matrix_of_a_float32_model_is_that_or_has_16_bits(tmp_path: Path, kind: str, message: str) -> None:
    out = fastattn.convert(MARIAN, tmp_path / "out", compute_type="float32")
    header, data = header_of(out / NAME)
    matrices = json.loads(header["__metadata__"]["matrices"])
    matrices["model.shared.weight"][2] = kind
    header["__metadata__"]["matrices"] = json.dumps(matrices)
    rewrite(out / NAME, header, data)
    refused(out, message)


def test_a_file_that_another_tool_rewrote_is_refused(damaged: Path) -> None:
    header, data = header_of(damaged / NAME)
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64 + 4)
    (damaged / NAME).write_bytes(len(text).to_bytes(8, "little") + text + data)
    refused(damaged, "is not at a multiple of 64 bytes: another tool rewrote the file")


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_config_decides_on_rotations(tmp_path: Path, backend: str) -> None:
    """Frequencies are computed from config.json, whatever the file holds."""
    name = next(name for name in FAMILIES if name.endswith("llama"))
    out = fastattn.convert(GOLDEN / name, tmp_path / "out", compute_type="float32")
    shutil.copytree(GOLDEN / name, tmp_path / "model")
    for folder in (out, tmp_path / "model"):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 77.0, "rope_scaling": None}))
    ours, theirs = (fastattn.load(folder, backend=backend) for folder in (out, tmp_path / "model"))
    assert (ours.logits([[5, 9, 33, 7]]) == theirs.logits([[5, 9, 33, 7]])).all()


@pytest.mark.parametrize("name", ["file/out", "x" * 300])
def test_where_nothing_can_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(fastattn.OptionError, match=r"out: .* cannot be written"):
        fastattn.convert("en-fr-luong", tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_a_target_that_is_no_path_is_named() -> None:
    with pytest.raises(fastattn.OptionError, match=r"out: 'a\\x00b' is no path"):
        fastattn.convert("en-fr-luong", "a\0b")


def test_a_source_that_cannot_be_read_is_not_taken_for_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "tokenizer.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(fastattn.LoadError, match=r"tokenizer\.json: cannot be read: Permission denied"):
        fastattn.convert("en-fr-luong", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_wrong_config_is_named(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "decoder_layers": 3, "encoder_ffn_dim": 50}))
    refused(damaged, r"missing: .*decoder\.layers\.2.*misshapen: .*encoder.*expected \[50, 32\]")
    (damaged / "config.json").unlink()
    with pytest.raises(fastattn.LoadError, match=r"config\.json"):
        fastattn.load(damaged)


@pytest.mark.parametrize("size", [0, 7, 100, 5000, -1])
def test_a_cut_file_is_refused(damaged: Path, size: int) -> None:
    data = (damaged / NAME).read_bytes()
    (damaged / NAME).write_bytes(data[:size])
    refused(damaged, "not a safetensors file|is empty|bytes of data")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_byte_of_the_header_may_be_wrong(damaged: Path, data: st.DataObject) -> None:
    whole = bytearray((damaged / NAME).read_bytes())
    length = int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
    other = damaged.parent / "other"
    shutil.copytree(damaged, other, dirs_exist_ok=True)
    (other / NAME).unlink()
    (other / NAME).write_bytes(whole)
    try:
        model = fastattn.load(other)
        model.generate([[5, 9, 0]], max_new_tokens=2)
    except fastattn.LoadError as error:
        assert "\n" not in str(error)


def test_any_values_are_computed_with(damaged: Path) -> None:
    """NaN and infinite scales, and codes no conversion writes, give nonsense but nothing worse."""
    header, data = header_of(damaged / NAME)
    rng = np.random.default_rng(0)
    for fill in (b"\xff" * len(data), bytes(len(data)), rng.bytes(len(data)), b"\x00\x00\xc0\x7f" * (len(data) // 4)):
        rewrite(damaged / NAME, header, fill)
        model = fastattn.load(damaged)
        for beams in (1, 3):
            for result in model.generate(SOURCES, num_beams=beams, max_new_tokens=4):
                assert all(0 <= token < 101 for token in result.token_ids)


def test_the_checkpoint_says_what_it_is(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "converted" and checkpoint.converted is not None
    assert checkpoint.converted.compute_type == "int8"
    assert not checkpoint.tensors["model.shared.weight.packed"].flags.writeable


class Written(io.RawIOBase):
    """Takes at most `most` bytes at once, as a system may; remembers where each write began."""

    def __init__(self, most: int) -> None:
        self.most, self.data, self.begins = most, bytearray(), [0]

    def write(self, data: Any) -> int:
        taken = bytes(data[: self.most])
        self.data += taken
        self.begins.append(len(self.data))
        return len(taken)


@given(st.lists(st.integers(0, 300), max_size=12), st.integers(1, 64))
def test_weights_are_written_in_whole_blocks(sizes: list[int], most: int) -> None:
    class Small(container._Blocks):
        SIZE = 64

    file, pieces = Written(most), [os.urandom(size) for size in sizes]
    out = Small(file)
    for piece in pieces:
        out.write(np.frombuffer(piece, np.uint8))
    blocks = len(file.data)
    out.end()
    assert file.data == b"".join(pieces)
    assert blocks == len(file.data) // 64 * 64
    assert set(range(0, blocks, 64)) <= set(file.begins)
