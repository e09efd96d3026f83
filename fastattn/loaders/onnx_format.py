"""The part of onnx.proto that holds weights: graphs, nodes, attributes, tensors; everything else is skipped.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Tensor payloads stay in the mapped
file as spans; `onnx_constants` turns them into arrays once they have been checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastattn.errors import LoadError
from fastattn.loaders.files import map_file
from fastattn.loaders.protobuf import BYTES, FIXED32, VARINT, Reader, Span, signed

MAX_NESTING = 16  # graphs inside graphs (If, Loop, Scan); real exports use one level


@dataclass
class TensorRecord:
    """A TensorProto whose data has not been looked at."""

    name: str = ""
    dims: tuple[int, ...] = ()
    data_type: int = 0
    raw: Span | None = None
    typed: dict[int, list[tuple[int, int, Span]]] = field(default_factory=dict)  # *_data field -> (wire, value, span)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False


@dataclass
class Attribute:
    name: str = ""
    f: float = 0.0
    i: int = 0
    s: str = ""
    ints: list[int] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    tensor: TensorRecord | None = None
    graphs: list[GraphRecord] = field(default_factory=list)


@dataclass
class Node:
    op: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Attribute] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def integer(self, name: str, default: int) -> int:
        return self.attributes[name].i if name in self.attributes else default

    def integers(self, name: str) -> list[int] | None:
        return self.attributes[name].ints if name in self.attributes else None

    def number(self, name: str, default: float) -> float:
        return self.attributes[name].f if name in self.attributes else default


@dataclass
class GraphRecord:
    nodes: list[Node] = field(default_factory=list)
    initializers: list[TensorRecord] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    value_metadata: dict[str, dict[str, str]] = field(default_factory=dict)  # value name -> the exporter's notes on it


@dataclass
class OnnxFile:
    path: Path
    reader: Reader
    graph: GraphRecord


def read_onnx(path: Path) -> OnnxFile:
    """Parse the structure of one .onnx file; no tensor data is read."""
    reader = Reader(map_file(path), str(path))
    graph = None
    for number, wire, _, span in reader.fields(reader.whole()):
        if number == 7 and wire == BYTES:
            graph = _graph(reader, span, 0)
    if graph is None:
        raise reader.fail("it holds no graph")
    return OnnxFile(path, reader, graph)


def _graph(reader: Reader, whole: Span, depth: int) -> GraphRecord:
    if depth > MAX_NESTING:
        raise reader.fail(f"graphs nested more than {MAX_NESTING} deep")
    graph = GraphRecord()
    for number, wire, _, span in reader.fields(whole):
        if wire != BYTES:
            continue
        if number == 1:
            graph.nodes.append(_node(reader, span, depth))
        elif number == 5:
            graph.initializers.append(_tensor(reader, span))
        elif number == 12:
            graph.outputs.append(_value(reader, span)[0])
        elif number == 13:
            name, notes = _value(reader, span)
            if notes:
                graph.value_metadata[name] = notes
        elif number == 15:
            raise LoadError(f"{reader.label}: sparse initializers are not supported; export the weights as dense")
    return graph


def _node(reader: Reader, whole: Span, depth: int) -> Node:
    node = Node()
    for number, wire, _, span in reader.fields(whole):
        if wire != BYTES:
            continue
        if number == 1:
            node.inputs.append(reader.text(span))
        elif number == 2:
            node.outputs.append(reader.text(span))
        elif number == 3:
            node.name = reader.text(span)
        elif number == 4:
            node.op = reader.text(span)
        elif number == 5:
            attribute = _attribute(reader, span, depth)
            node.attributes[attribute.name] = attribute
        elif number == 9:
            key, value = _entry(reader, span)
            node.metadata[key] = value
    return node


def _attribute(reader: Reader, whole: Span, depth: int) -> Attribute:
    attribute = Attribute()
    for number, wire, value, span in reader.fields(whole):
        if number == 1 and wire == BYTES:
            attribute.name = reader.text(span)
        elif number == 2 and wire == FIXED32:
            attribute.f = reader.float32(span)
        elif number == 3 and wire == VARINT:
            attribute.i = signed(value)
        elif number == 4 and wire == BYTES:
            attribute.s = reader.text(span)
        elif number == 5 and wire == BYTES:
            attribute.tensor = _tensor(reader, span)
        elif number in (6, 11) and wire == BYTES:
            attribute.graphs.append(_graph(reader, span, depth + 1))
        elif number == 7 and wire == FIXED32:
            attribute.floats.append(reader.float32(span))
        elif number == 8:
            attribute.ints.extend([signed(value)] if wire == VARINT else reader.varints(span).tolist())
        elif number == 9 and wire == BYTES:
            attribute.strings.append(reader.text(span))
    return attribute


def _tensor(reader: Reader, whole: Span) -> TensorRecord:
    tensor = TensorRecord()
    dims: list[int] = []
    for number, wire, value, span in reader.fields(whole):
        if number == 1:
            dims.extend([signed(value)] if wire == VARINT else reader.varints(span).tolist())
        elif number == 2 and wire == VARINT:
            tensor.data_type = value
        elif number in (4, 5, 7, 10, 11):
            tensor.typed.setdefault(number, []).append((wire, value, span))
        elif number == 8 and wire == BYTES:
            tensor.name = reader.text(span)
        elif number == 9 and wire == BYTES:
            tensor.raw = span
        elif number == 13 and wire == BYTES:
            key, text = _entry(reader, span)
            tensor.external[key] = text
        elif number == 14 and wire == VARINT:
            tensor.is_external = value == 1
    tensor.dims = tuple(dims)
    return tensor


def _value(reader: Reader, whole: Span) -> tuple[str, dict[str, str]]:
    """A ValueInfoProto's name and metadata."""
    name, notes = "", {}
    for number, wire, _, span in reader.fields(whole):
        if number == 1 and wire == BYTES:
            name = reader.text(span)
        elif number == 4 and wire == BYTES:
            key, value = _entry(reader, span)
            notes[key] = value
    return name, notes


def _entry(reader: Reader, whole: Span) -> tuple[str, str]:
    """A StringStringEntryProto."""
    key = value = ""
    for number, wire, _, span in reader.fields(whole):
        if number == 1 and wire == BYTES:
            key = reader.text(span)
        elif number == 2 and wire == BYTES:
            value = reader.text(span)
    return key, value
