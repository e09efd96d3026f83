"""Passes: the same values in fewer ops. In NumPy to rounding of the order of sums, natively to the bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from families import GOLDEN
from toys import TOYS, VOCABULARY, Backend, Toy, backends

import fastattn
from fastattn import cli, nn, runtime
from fastattn import graph as g
from fastattn.passes import PASSES, optimise
from fastattn.runtime import Capture, Select

NATIVE = [backend for backend in backends() if backend.exact]


class Gates(nn.Module):
    """Gated feed-forward layers in every form a model may write them, and near misses."""

    def __init__(self, width: int, ffn: int) -> None:
        self.embed, self.positions = nn.Embedding(VOCABULARY, width), nn.PositionEmbedding(300, width)
        self.gate, self.up = nn.Linear(width, ffn), nn.Linear(width, ffn, bias=False)
        self.down, self.other = nn.Linear(ffn, width), nn.Linear(width, ffn)
        self.head = nn.Linear(width, VOCABULARY)

    def __call__(self, form: str) -> g.Graph:
        with g.tracing("decoder") as (graph, ids):
            x = self.positions(self.embed(ids))
            first, second = self.gate(x, activation="silu"), self.up(x)
            if form == "both activated":
                second = self.up(x, activation="relu")
            elif form == "two inputs":
                second = self.up(self.positions(x))
            elif form == "tapped":
                graph.tap(first, "gate")
            pair = [second, first] if form == "swapped" else [first, second]
            y = g.apply("multiply", pair)[0]
            if form == "read twice":
                y = g.apply("add", [y, second])[0]
            logits = self.head(g.apply("select_rows", [self.down(y, residual=x)])[0])
            if form == "tapped logits":
                graph.tap(logits, "logits")
            g.apply("output", [logits])
        return graph


FORMS = ("plain", "swapped", "both activated", "two inputs", "tapped", "read twice", "tapped logits")


def gates(form: str, width: int = 15, ffn: int = 70) -> Toy:
    model = Gates(width, ffn)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in model.finalise().items()}
    return Toy({"decoder": model(form)}, weights)


ALL: dict[str, Any] = {**TOYS, **{form: lambda form=form: gates(form) for form in FORMS}}


def run(backend: Backend, toy: Toy, all_rows: bool) -> list[np.ndarray]:
    """Logits, best tokens and taps of some steps; of a tap only the rows that want an output, which every graph computes."""
    session = backend.session(toy)
    session.capture = Capture.ATTENTION
    found = []
    if toy.has_encoder:
        taps = session.encode([np.arange(11, dtype=np.int32), np.arange(3, dtype=np.int32)]).taps
        found += [taps[name] for name in sorted(taps)]
    else:
        session.start(2)
    for step in range(3):
        tokens = np.array([step, 7 * step + 1], np.int32)
        feed = tokens if toy.sequential or step else [tokens, tokens[:1]]
        result = session.step(feed, Select(k=3, log_probs=True, logits=step > 0), all_rows)
        wanted = slice(None) if all_rows else slice(-2, None)  # the first sequence's last row and the second's only one
        found += [
            result.scores,
            result.tokens,
            result.log_sum_exp,
            *(result.taps[name][wanted] for name in sorted(result.taps)),
        ]
        if result.logits is not None:
            found.append(result.logits)
    return found


@pytest.mark.parametrize("all_rows", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_a_graph_gives_the_same_after_the_passes(name: str, all_rows: bool) -> None:
    toy = ALL[name]()
    reference = Backend("reference")
    after = replace(toy, graphs={key: optimise(graph) for key, graph in toy.graphs.items()})
    for a, b in zip(run(reference, toy, all_rows), run(reference, after, all_rows), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("all_rows", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_the_engine_gives_the_same_bits(name: str, all_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ALL[name]()
    for backend in NATIVE:
        with backend.active():
            fused = run(backend, toy, all_rows)
            with monkeypatch.context() as without:
                without.setattr(runtime, "optimise", lambda graph: graph)
                plain = run(backend, toy, all_rows)
        for a, b in zip(fused, plain, strict=True):
            np.testing.assert_array_equal(a, b, backend.name)


@pytest.mark.parametrize("form", FORMS)
def test_gates_are_found_only_where_nobody_else_reads_them(form: str) -> None:
    ops = Counter(node.op for node in optimise(gates(form).graphs["decoder"]).nodes)
    assert ops["gated_linear"] == (form in ("plain", "swapped", "tapped logits"))
    assert ops["multiply"] == 1 - ops["gated_linear"]
    assert ops["output"] == 1 and ops["linear"] >= 3 - 2 * ops["gated_linear"]


@pytest.mark.parametrize(
    ("name", "linears", "joined"),
    [("en-fr-transformer", {"encoder": 6, "decoder": 10}, {"encoder": 4, "decoder": 2}), ("en-fr-luong", {}, {})],
)
def test_what_the_bundled_models_run(name: str, linears: dict[str, int], joined: dict[str, int]) -> None:
    graphs = fastattn.load(name)._architecture.graphs
    for key, graph in graphs.items():
        before, text = len(graph.nodes), str(graph)
        after = optimise(graph)
        ops = Counter(node.op for node in after.nodes)
        assert str(graph) == text and len(graph.nodes) == before, "the graph given is left as it is"
        if name == "en-fr-transformer":
            assert (ops["linear"], ops["projections"]) == (linears[key], joined[key])
        assert ops["output"] == (key == "decoder")
        assert str(optimise(after)) == str(after), "nothing is left to do"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_last_layer_of_a_decoder_computes_only_wanted_rows(name: str) -> None:
    graph = optimise(fastattn.load(GOLDEN / "decoders" / name)._architecture.graphs["decoder"])
    last = max(i for i, node in enumerate(graph.nodes) if node.op == "attention")
    later = graph.nodes[last + 1 :]
    assert [node.op for node in later].count("select_rows") == 2, "of the context and of the residual"
    assert {graph.values[v].rows for node in later for v in node.outputs} == {"last"}
    assert all(graph.values[v].rows == "tokens" for node in graph.nodes[: last + 1] for v in node.outputs)
    assert graph.values[graph.taps["context"]].rows == "tokens"


def test_inspect_prints_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "en-fr-transformer", "--graph", "--json"]) == 2
    assert "--json: not allowed with argument --graph" in capsys.readouterr().err
    assert cli.main(["inspect", "en-fr-transformer", "--graph"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("graph encoder") and "\n\ngraph decoder" in text
    assert "projections(" in text and "output(" in text and "weight=model.shared.weight" in text


def test_every_pass_keeps_inputs_before_their_readers() -> None:
    for toy in (make() for make in ALL.values()):
        for graph in toy.graphs.values():
            for run_pass in PASSES:
                graph = run_pass(graph)
                known = {graph.input}
                for node in graph.nodes:
                    assert known >= set(node.inputs), f"{run_pass.__name__}: {node}"
                    known |= set(node.outputs)
                assert known >= set(graph.taps.values())
