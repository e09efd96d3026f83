"""The profile adds up: every op is there, work is what the shapes say, and timing changes no result."""

from __future__ import annotations

import dataclasses
import json
import timeit
from pathlib import Path

import numpy as np
import pytest
from toys import TOYS, VOCABULARY, transformer

import fastattn
from fastattn import cli
from fastattn.profile import node_names
from fastattn.runtime import NativeSession, Select

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("threads", [1, 2])
def test_work_is_counted_from_the_shapes(threads: int) -> None:
    toy = transformer(8, memory=False, layers=2)  # 15 wide, 33 in the feed-forward layers, all products of 32 columns
    session = NativeSession(toy.graphs, toy.weights, num_threads=threads)
    session.profile(True)
    session.start(2)
    steps = 5
    for _ in range(steps):
        session.step(np.array([1, 2], np.int32), Select(k=1))
    cost = session.profiled()["decoder"]
    nodes = session.graphs["decoder"].nodes
    assert (cost.steps, cost.rows, len(cost.ops)) == (steps, 2 * steps, len(nodes))
    assert all(op.calls == steps and op.seconds >= 0 <= op.waiting for op in cost.ops)
    assert 0 < sum(op.seconds + op.waiting for op in cost.ops) <= cost.seconds
    products_of = ("linear", "projections", "output")
    linears = [op for node, op in zip(nodes, cost.ops, strict=True) if node.op in products_of]
    products = 2 * (4 * 15 * 15 + 2 * 15 * 33) + 15 * VOCABULARY
    choosing = 20 * VOCABULARY  # flops of a row
    assert sum(op.flops for op in linears) == 2 * (2 * products + choosing) * steps
    assert sum(op.weight_bytes for op in linears) >= 4 * products * steps  # panels are padded
    attention = [op for node, op in zip(nodes, cost.ops, strict=True) if node.op == "attention"]
    keys = sum(range(1, steps + 1))
    assert all(op.kept_bytes == 2 * keys * 2 * 15 * 4 for op in attention)  # sequences, keys and values, width, float32
    assert all(op.flops == 2 * keys * 2 * (15 + 15) for op in attention)
    session.profile(False)
    session.step(np.array([1, 2], np.int32))
    assert all(op.calls == 0 for op in session.profiled()["decoder"].ops)


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_attention_counts_the_pairs_that_are_seen(name: str) -> None:
    model = fastattn.load(Path(__file__).parent / "golden" / "decoders" / name)
    config = model.config
    heads = config.get("num_attention_heads", config.get("n_head"))
    width = config.get("head_dim") or config["n_embd"] // heads
    window = config.get("sliding_window", 20)
    rows = [row for row in model.profile(list(range(1, 21)), max_new_tokens=1).rows if row.op == "attention"]
    pairs = sum(min(t, window) for t in range(1, 21))
    assert rows and all(row.flops == 2 * pairs * heads * 2 * width for row in rows)


@pytest.mark.parametrize("name", TOYS)
def test_a_profiled_session_gives_the_same(name: str) -> None:
    toy, results = TOYS[name](), []
    for on in (False, True):
        session = NativeSession(toy.graphs, toy.weights, num_threads=2)
        session.profile(on)
        if toy.has_encoder:
            session.encode([np.arange(9, dtype=np.int32)])
        else:
            session.start(1)
        results.append(session.step(np.array([3], np.int32), Select(logits=True)).logits)
    np.testing.assert_array_equal(*results)


def test_names_come_from_the_parameters() -> None:
    model = fastattn.load("en-fr-transformer")
    names = node_names(model._architecture.graphs["decoder"])
    by_op = dict(zip((node.op for node in model._architecture.graphs["decoder"].nodes), names, strict=True))
    assert by_op["attention"].endswith("decoder.layers.1.self_attn")
    assert by_op["cross_attention"].endswith("decoder.layers.1.encoder_attn")
    assert by_op["embedding"] == "model.shared" and by_op["select_rows"] == "select_rows"
    assert all(names)


def test_a_shared_parameter_names_no_layer() -> None:
    """All layers of a T5 read the first one's table of biases."""
    model = fastattn.load(GOLDEN / "t5" / "gated")
    for graph, layers in (("encoder", 3), ("decoder", 2)):
        nodes = model.graphs()[graph]
        found = [name for node, name in zip(nodes.nodes, node_names(nodes), strict=True) if node.op == "attention"]
        assert found == [f"{graph}.block.{i}.layer.0.SelfAttention" for i in range(layers)]
    profile = model.profile([5, 6, 7])
    names = {row.name: row.calls for row in profile.by_name(3) if row.graph == "decoder"}
    assert names["decoder.block.0"] == names["decoder.block.1"]


@pytest.mark.parametrize("name", ["en-fr-transformer", "en-fr-bahdanau"])
def test_a_profile_of_a_model(name: str) -> None:
    model = fastattn.load(name)
    profile = model.profile(["I am eating an apple", "she sees a dog"], num_beams=2)
    assert profile.seconds >= profile.native >= profile.total.total > 0
    assert profile.outside_kernels >= profile.in_python > 0
    assert {row.graph for row in profile.rows} == {"encoder", "decoder"}
    for rows in (profile.by_op(), profile.by_name(), profile.by_name(3)):
        assert sum(row.total for row in rows) == pytest.approx(profile.total.total)
        assert [row.total for row in rows] == sorted((row.total for row in rows), reverse=True)
    text = str(profile)
    assert "outside kernels" in text and "decoder  output" in text and "GB/s" in text
    assert model.generate("I am eating an apple").text == "je mange une pomme"


def slowness() -> float:
    """How much longer this machine takes now for a loop that takes 20 µs on a server's CPU; at least 1."""
    best = min(timeit.repeat(lambda: [i * i for i in range(500)], number=1, repeat=20))
    return max(1.0, best / 20e-6)


@pytest.mark.parametrize("name", fastattn.bundled_models())
@pytest.mark.parametrize(("beams", "outside", "python"), [(1, 40e-6, 20e-6), (4, 60e-6, 40e-6)])
def test_a_step_costs_little_outside_the_kernels(name: str, beams: int, outside: float, python: float) -> None:
    """Seconds in all, and in Python; the best of several, as the machine may be busy."""
    model, best, best_python = fastattn.load(name), 1.0, 1.0
    for _ in range(30):
        profile = model.profile("I am eating an apple", num_beams=beams, max_new_tokens=48, eos_token_id=None)
        best, best_python = min(best, profile.outside_kernels), min(best_python, profile.in_python)
        if best < outside and best_python < python:
            break
    limit = slowness()
    assert best < outside * limit and best_python < python * limit


def test_a_profile_keeps_to_the_length_asked_for() -> None:
    model = fastattn.load(GOLDEN / "models" / "marian")
    steps = [model.profile(max_length=5, eos_token_id=None).steps, model.profile(eos_token_id=None).steps]
    assert steps == [4, 32]


@pytest.mark.parametrize("name", ["decoders/gpt2", "models/marian"])
def test_a_profile_fits_a_model_with_few_positions(name: str) -> None:
    model = fastattn.load(GOLDEN / name)
    limit = 20
    model._architecture = dataclasses.replace(model._architecture, max_source=limit, max_target=limit)
    assert model.profile(eos_token_id=None).steps == (limit if model.has_encoder else limit // 2 + 1)
    assert model.profile([[1] * limit, [1]], eos_token_id=None).steps == (limit if model.has_encoder else 1)


def test_only_native_ops_are_timed() -> None:
    with pytest.raises(fastattn.OptionError, match="backend: found 'reference', expected 'native'"):
        fastattn.load("en-fr-luong", backend="reference").profile()


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--profile", "en-fr-luong"]) == 0
    assert "decoder  lstm_cell" in capsys.readouterr().out
    assert cli.main(["bench", "--profile", "en-fr-luong", "--json", "--beams", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] > 0 and found["rows"][0]["graph"] == "encoder"
