"""Tracing: modules record ops, each checked against its row of the op table; a graph can be read and printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastattn import graph as g
from fastattn import nn
from fastattn.ops.table import OPS
from fastattn.runtime import NativePrograms


def parameter(*shape: int) -> nn.Parameter:
    p = nn.Parameter(*shape)
    p.name = "p" + "x".join(map(str, shape))
    return p


def matrix(ids: g.Value, width: int) -> g.Value:
    return g.apply("embedding", [ids], {"weight": parameter(9, width)})[0]


def three() -> g.Value:
    return matrix(g.Value(0, "tokens", 1, "i32"), 3)


class Block(nn.Module):
    def __init__(self) -> None:
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 6, bias=False), nn.Linear(6, 4)
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]

    def __call__(self, x: g.Value) -> g.Value:
        for layer in self.layers:
            x = layer(x)
        return self.down(self.up(self.norm(x), activation="relu"), residual=x)


def test_an_attribute_path_is_the_name_of_a_tensor() -> None:
    assert Block().finalise() == {
        "norm.weight": (4,), "norm.bias": (4,), "up.weight": (6, 4), "down.weight": (4, 6), "down.bias": (4,),
        "layers.0.weight": (4, 4), "layers.0.bias": (4,), "layers.1.weight": (4, 4), "layers.1.bias": (4,),
    }  # fmt: skip


def test_a_shared_parameter_keeps_its_first_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    assert model.finalise() == {"embed.weight": (5, 3)}
    with g.tracing("tied") as (graph, ids):
        model.head(model.embed(ids))
    assert graph.params == {"embed.weight": (5, 3)}
    assert [dict(node.params) for node in graph.nodes] == [{"weight": "embed.weight"}] * 2


def test_a_trace_records_values_nodes_and_parameters() -> None:
    block = Block()
    block.finalise()
    with g.tracing("toy") as (graph, ids):
        out = graph.tap(block(matrix(ids, 4)), "hidden")
    assert (out.rows, out.cols, out.dtype) == ("tokens", 4, "f32")
    assert [node.op for node in graph.nodes] == ["embedding", "linear", "linear", "layer_norm", "linear", "linear"]
    assert graph.nodes[-1].inputs == (graph.nodes[4].outputs[0], graph.nodes[2].outputs[0])  # the residual comes second
    assert graph.nodes[4].attrs == {"activation": "relu"}
    assert graph.params["up.weight"] == (6, 4)
    assert graph.taps == {"hidden": out.index} and graph.input == ids.index == 0
    assert graph.values[ids.index].dtype == "i32"


def test_a_graph_prints_what_it_does() -> None:
    with g.tracing("toy", sequential=True) as (graph, ids):
        nn.state_write(matrix(ids, 4), "h")
    text = str(graph).splitlines()
    assert text[0] == "graph toy (one token a step)"
    assert text[1].strip() == "%1[batch, 4] = embedding(%0, weight=p9x4, scale=1.0)"
    assert text[2].strip() == "state_write(%1, name=h)"


def test_row_spaces() -> None:
    with g.tracing("encoder") as (_, ids):
        assert ids.rows == "tokens"
        x = matrix(ids, 4)
        out, last = g.apply("gru_sequence", [x], {"weight_ih": parameter(9, 4), "weight_hh": parameter(9, 3)})
        assert (out.rows, out.cols, last.rows, last.cols) == ("tokens", 3, "batch", 3)
        assert g.apply("select_rows", [x])[0].rows == "last"
        with pytest.raises(ValueError, match=r"concat: row spaces .* differ"):
            nn.concat([out, last])
    with g.tracing("decoder", sequential=True) as (_, ids):
        assert ids.rows == "batch" == matrix(ids, 2).rows


def test_a_stacked_bidirectional_network_uses_pytorchs_names() -> None:
    model = nn.Recurrent("lstm", 4, 3, 2, bidirectional=True)
    shapes = model.finalise()
    assert shapes["weight_ih_l0_reverse"] == (12, 4) and shapes["weight_ih_l1"] == (12, 6)
    assert len(shapes) == 16
    with g.tracing("encoder") as (_, ids):
        out, states = model.sequence(matrix(ids, 4))
    assert out.cols == 6 and [[s.cols for s in layer] for layer in states] == [[6, 6], [6, 6]]


def test_modules_need_a_trace_and_traces_nest_cleanly() -> None:
    with pytest.raises(RuntimeError, match="no graph is being recorded"):
        g.apply("add", [])
    with g.tracing("outer") as (outer, _):
        with g.tracing("inner") as (inner, ids):
            matrix(ids, 2)
        assert g.current_graph() is outer and not outer.nodes and len(inner.nodes) == 1
    with pytest.raises(ZeroDivisionError), g.tracing("failing"):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError):
        g.current_graph()


def test_what_a_session_keeps_is_read_from_the_nodes() -> None:
    with g.tracing("encoder") as (encoder, ids):
        g.apply("memory_write", [matrix(ids, 4), matrix(ids, 6)], layer=1, kv_heads=2)
        g.apply("memory_rows_write", [matrix(ids, 5)], name="keys")
    with g.tracing("decoder") as (decoder, ids):
        q, k, v = matrix(ids, 8), matrix(ids, 4), matrix(ids, 6)
        out = g.apply("attention", [q, k, v], heads=4, kv_heads=2, scale=1.0, layer=0, cache=0, causal=1)[0]
        assert out.cols == 12  # heads · value size
        weights = {"weight_ih": parameter(9, 8), "weight_hh": parameter(9, 3)}
        nn.state_write(g.apply("gru_sequence", [q], weights)[1], "h")
    kept = g.state_of([encoder, decoder])
    assert kept == {"cache": {0: (2, 4, 6)}, "memory": {1: (2, 4, 6)}, "rows": {"keys": 5}, "states": {"h": 3}}


HEADS = {"heads": 2, "kv_heads": 2, "scale": 1.0, "layer": 0}
GRU = {"weight_ih": parameter(8, 4), "weight_hh": parameter(8, 2)}  # not 3 gates
LSTM = {"weight_ih": parameter(8, 5), "weight_hh": parameter(8, 2)}  # not 4 columns
RNN = {"keys": "k", "values": "v", "keys_width": 4, "values_width": 4}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda x: g.apply("linear", [x], {"weight": parameter(3, 5)}), r"linear: weight \(3, 5\) for .* 4 columns"),
        (lambda x: g.apply("linear", [x], {"weight": parameter(3, 4), "bias": parameter(4)}), r"linear: bias \(4,\)"),
        (lambda x: g.apply("linear", [x, x], {"weight": parameter(3, 4)}), "linear: residual and result differ"),
        (lambda x: g.apply("linear", [x], {"weight": parameter(3, 4)}, activation="softmax"), "activation"),
        (lambda x: g.apply("linear", [x]), "linear: parameter 'weight' is missing"),
        (lambda x: g.apply("linear", [], {"weight": parameter(3, 4)}), r"linear: takes inputs .*, got 0"),
        (lambda x: g.apply("linear", [x, x, x], {"weight": parameter(4, 4)}), r"linear: takes inputs .*, got 3"),
        (lambda x: g.apply("add", [x, three()]), "elementwise: .*4.* against .*3"),
        (lambda x: g.apply("embedding", [x], {"weight": parameter(3, 4)}), "embedding: takes int32 ids"),
        (lambda x: g.apply("layer_norm", [x], {"weight": parameter(5), "bias": parameter(5)}), r"norm: weight \(5,\)"),
        (lambda x: g.apply("rms_norm", [x], {"weight": parameter(4), "bias": parameter(4)}), "has no parameter 'bias'"),
        (lambda x: g.apply("position_embedding", [x], {"weight": parameter(9, 5)}), "position_embedding"),
        (lambda x: g.apply("activation", [x], kind="mish"), "activation: kind is one of .*, got 'mish'"),
        (lambda x: g.apply("activation", [x]), r"attribute 'kind' \(str\) is missing"),
        (lambda x: g.apply("add", [x, x], eps=1.0), "add: has no attribute 'eps'"),
        (lambda x: g.apply("attention", [x, x, x], **HEADS | {"heads": 3}), "3 heads are no multiple of 2"),
        (lambda x: g.apply("attention", [x, three(), x], **HEADS), "attention: q 4, k 3"),
        (lambda x: g.apply("gru_sequence", [x], GRU), "weight_hh"),
        (lambda x: g.apply("lstm_sequence", [x], LSTM), "weight_ih"),
        (lambda x: g.apply("rnn_attention", [x], score="additive", **RNN), "v belongs to the additive score"),
        (lambda x: g.apply("rnn_attention", [x], score="dot", **RNN | {"keys_width": 5}), "query 4, keys 5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_when_it_is_recorded(record: Callable[[g.Value], Any], message: str) -> None:
    with g.tracing("toy") as (graph, ids):
        x = matrix(ids, 4)
        before = len(graph.nodes)
        with pytest.raises(ValueError, match=message):
            record(x)
    assert [node.op for node in graph.nodes[before:]] in ([], ["embedding"])


def decoder(record: Callable[[g.Value], g.Value], sequential: bool = True) -> g.Graph:
    with g.tracing("decoder", sequential) as (graph, ids):
        record(matrix(ids, 4))
    return graph


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda x: nn.state_read("h", 4), "state_read in graph 'decoder' reads states 'h', which nothing writes"),
        (lambda x: [nn.state_write(x, "h"), nn.state_read("h", 5)], "reads states 'h' as 5, written as 4"),
        (lambda x: g.apply("rnn_attention", [x], score="dot", **RNN), "reads rows 'k', which nothing writes"),
        (lambda x: g.apply("cross_attention", [x], value_size=2, **HEADS), "reads memory 0, which nothing writes"),
    ],
)
def test_what_is_read_must_be_written(record: Callable[[g.Value], Any], message: str) -> None:
    graph = decoder(record)
    with pytest.raises(ValueError, match=message):
        g.check_kept([graph])
    with pytest.raises(ValueError, match=message):  # and the engine does not take such a graph
        NativePrograms({"decoder": graph}, {"p9x4": np.ones((9, 4), np.float32)}, 1)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            lambda x: g.apply("attention", [last(x), x, x], causal=1, **HEADS),
            "attention: takes rows of tokens, got last",
        ),
        (lambda x: g.apply("memory_rows_write", [last(x)], name="k"), "takes rows of tokens, got last"),
        (lambda x: nn.state_write(x, "h"), "state_write: takes rows of batch, got tokens"),
        (lambda x: g.apply("rnn_attention", [x], score="dot", **RNN), "takes rows of batch, got tokens"),
        (lambda x: g.apply("output", [x]), "output: takes rows of last, got tokens"),
        (lambda x: g.apply("select_rows", [last(x)]), "takes rows of tokens, got last"),
    ],
)
def test_an_op_takes_only_the_rows_it_understands(record: Callable[[g.Value], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(record, sequential=False)


def last(x: g.Value) -> g.Value:
    return g.apply("select_rows", [x])[0]


def test_the_table_is_well_formed() -> None:
    for name, row in OPS.items():
        assert row.name == name
        roles = [role.rstrip("?*") for role in (*row.inputs, *row.params)]
        assert len(roles) == len(set(roles)), name
