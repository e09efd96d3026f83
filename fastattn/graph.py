"""A `Graph` is a flat list of coarse ops, recorded by calling a model once on symbolic values.

It knows nothing of the model it came from: it can be printed, checked and run by any backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastattn.nn import Parameter

Attr = int | float | str

_current: ContextVar[Graph | None] = ContextVar("fastattn_graph", default=None)


@dataclass(frozen=True)
class Value:
    """A matrix [rows, cols] of a graph; `rows` names its row space, dtype is "f32" or "i32"."""

    index: int
    rows: str
    cols: int
    dtype: str = "f32"


@dataclass(frozen=True)
class Node:
    """One op: indices of its input and output values, the tensor names of its parameters by role, its attributes."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: Mapping[str, str]
    attrs: Mapping[str, Attr]


@dataclass
class Graph:
    """Values, nodes in execution order, the shapes of the parameters used, and the values named by `tap`."""

    name: str
    sequential: bool = False
    values: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    params: dict[str, tuple[int, ...]] = field(default_factory=dict)
    taps: dict[str, int] = field(default_factory=dict)
    input: int = 0

    def new_value(self, rows: str, cols: int, dtype: str = "f32") -> Value:
        value = Value(len(self.values), rows, cols, dtype)
        self.values.append(value)
        return value

    def tap(self, value: Value, name: str) -> Value:
        """Names a value that a session that captures returns in `StepResult.taps`."""
        self.taps[name] = value.index
        return value

    def __str__(self) -> str:
        lines = [f"graph {self.name}{' (one token a step)' if self.sequential else ''}"]
        for node in self.nodes:
            out = ", ".join(self._describe(i) for i in node.outputs)
            args = [f"%{i}" for i in node.inputs]
            args += [f"{role}={name}" for role, name in node.params.items()]
            args += [f"{key}={value}" for key, value in node.attrs.items()]
            lines.append(f"  {out + ' = ' if out else ''}{node.op}({', '.join(args)})")
        return "\n".join(lines)

    def _describe(self, index: int) -> str:
        value = self.values[index]
        return f"%{index}[{value.rows}, {value.cols}]"


@contextmanager
def tracing(name: str, sequential: bool = False) -> Iterator[tuple[Graph, Value]]:
    """Opens a graph for recording and gives it with its input, the token ids [tokens, 1].

    >>> with tracing("toy") as (graph, ids):
    ...     ids.rows
    'tokens'
    """
    graph = Graph(name, sequential)
    ids = graph.new_value("batch" if sequential else "tokens", 1, "i32")
    token = _current.set(graph)
    try:
        yield graph, ids
    finally:
        _current.reset(token)


def current_graph() -> Graph:
    graph = _current.get()
    if graph is None:
        raise RuntimeError("modules are called inside `with fastattn.graph.tracing(...)`: no graph is being recorded")
    return graph


def apply(
    op: str,
    inputs: Sequence[Value] = (),
    params: Mapping[str, Parameter | None] | None = None,
    **attrs: Attr,
) -> tuple[Value, ...]:
    """Appends one op to the graph being recorded, after checking it against its row in the op table."""
    from fastattn.ops.table import OPS

    graph = current_graph()
    given = {role: p for role, p in (params or {}).items() if p is not None}
    shapes = {role: p.shape for role, p in given.items()}
    row = OPS[op]
    full = row.check(inputs, shapes, attrs)
    results = row.infer(inputs, shapes, full)
    row.check_rows(inputs, graph.values[graph.input].rows)
    outputs = tuple(graph.new_value(*result) for result in results)
    for p in given.values():
        graph.params[p.name] = p.shape
    names = {role: p.name for role, p in given.items()}
    graph.nodes.append(Node(op, tuple(v.index for v in inputs), tuple(v.index for v in outputs), names, full))
    return outputs


def state_of(graphs: Sequence[Graph]) -> dict[str, Any]:
    """What the nodes of some graphs keep in a session: cache layers, memory layers, memory rows and states with their sizes."""
    kept: dict[str, Any] = {"cache": {}, "memory": {}, "rows": {}, "states": {}}
    for graph in graphs:
        for node in graph.nodes:
            width = [graph.values[i].cols for i in node.inputs]
            if node.op == "attention" and int(node.attrs["cache"]) >= 0:
                kept["cache"][int(node.attrs["cache"])] = (int(node.attrs["kv_heads"]), width[1], width[2])
            elif node.op == "memory_write":
                kept["memory"][int(node.attrs["layer"])] = (int(node.attrs["kv_heads"]), width[0], width[1])
            elif node.op == "memory_rows_write":
                kept["rows"][str(node.attrs["name"])] = width[0]
            elif node.op == "state_write":
                kept["states"][str(node.attrs["name"])] = width[0]
    return kept


def check_kept(graphs: Sequence[Graph]) -> None:
    """ValueError if a node reads a state, a memory or memory rows that no node writes, or of another size."""
    kept = state_of(graphs)
    for graph in graphs:
        for node in graph.nodes:
            for kind, key, size in _reads(graph, node):
                if key not in kept[kind]:
                    raise ValueError(f"{node.op} in graph {graph.name!r} reads {kind} {key!r}, which nothing writes")
                if kept[kind][key] != size:
                    written = f"as {size}, written as {kept[kind][key]}"
                    raise ValueError(f"{node.op} in graph {graph.name!r} reads {kind} {key!r} {written}")


def _reads(graph: Graph, node: Node) -> Iterator[tuple[str, Attr, Any]]:
    """(kind, key, size) as in `state_of` of what a node reads."""
    a = node.attrs
    if node.op == "state_read":
        yield "states", a["name"], a["width"]
    elif node.op == "rnn_attention":
        yield "rows", a["keys"], a["keys_width"]
        yield "rows", a["values"], a["values_width"]
    elif node.op == "cross_attention":
        kv_heads = int(a["kv_heads"])
        keys = graph.values[node.inputs[0]].cols // int(a["heads"]) * kv_heads
        yield "memory", a["layer"], (kv_heads, keys, kv_heads * int(a["value_size"]))
