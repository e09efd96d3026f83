"""Rows that nobody wants are not computed: of a prompt, a decoder's last layer is only asked for its last row."""

from __future__ import annotations

from dataclasses import replace

from fastattn.graph import Graph, Node, Value

# Each row of the result comes from that row of the inputs alone, wherever it stands.
ROW_BY_ROW = frozenset(
    ("linear", "projections", "gated_linear", "layer_norm", "rms_norm", "activation", "add", "multiply", "concat")
)


def select_early(graph: Graph) -> Graph:
    """select_rows goes up before the ops that work row by row and are read by nothing else, to where rows still depend on
    each other: the last layer's attention and, by the residual, the result of the layer before. Values named by a tap go
    along, and then hold the rows that want an output."""
    late = _only_for_selected(graph)
    if not late:
        return graph
    values, nodes = list(graph.values), list[Node]()
    chosen: dict[int, int] = {}  # value of all rows -> of the wanted ones
    renamed: dict[int, int] = {}  # what select_rows gave -> the value that took its place

    def choose(value: int) -> int:
        if values[value].rows == "last":
            return value
        if value not in chosen:
            chosen[value] = len(values)
            values.append(Value(len(values), "last", values[value].cols))
            nodes.append(Node("select_rows", (value,), (chosen[value],), {}, {}))
        return chosen[value]

    for i, node in enumerate(graph.nodes):
        if node.op == "select_rows":
            renamed[node.outputs[0]] = choose(node.inputs[0])
            continue
        inputs = tuple(choose(value) if i in late else renamed.get(value, value) for value in node.inputs)
        for value in node.outputs if i in late else ():
            values[value] = replace(values[value], rows="last")
        nodes.append(replace(node, inputs=inputs))
    taps = {name: renamed.get(value, value) for name, value in graph.taps.items()}
    return replace(graph, values=values, nodes=nodes, taps=taps)


def _only_for_selected(graph: Graph) -> set[int]:
    """Positions of the nodes of which only selected rows are wanted."""
    readers: dict[int, set[int]] = {}
    for i, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, set()).add(i)
    found = {i for i, node in enumerate(graph.nodes) if node.op == "select_rows"}
    sinks = set(found)
    for i, node in reversed(list(enumerate(graph.nodes))):
        read = set().union(*(readers.get(value, set()) for value in node.outputs))
        if (
            node.op in ROW_BY_ROW
            and read
            and read <= found
            and all(graph.values[v].rows == "tokens" for v in node.inputs)
        ):
            found.add(i)
    return found - sinks
