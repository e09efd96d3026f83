"""Matrix products that belong together: gates, products of one input, the final projection with the choice of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fastattn.graph import Graph, Node

MOST_JOINED = 3  # as `projections` takes


def _with_nodes(graph: Graph, nodes: Iterable[Node]) -> Graph:
    return replace(graph, nodes=list(nodes))


def _readers(graph: Graph) -> Counter[int]:
    """How often each value is read, by nodes or from outside."""
    readers = Counter(value for node in graph.nodes for value in node.inputs)
    readers.update(graph.taps.values())
    return readers


def _producers(graph: Graph) -> dict[int, int]:
    """Value -> position of the node that makes it."""
    return {value: i for i, node in enumerate(graph.nodes) for value in node.outputs}


def _renamed(node: Node, tail: str) -> dict[str, str]:
    return {role + tail: name for role, name in node.params.items()}


def gate_linears(graph: Graph) -> Graph:
    """multiply(act(x W₁ᵀ + b₁), x W₂ᵀ + b₂) becomes gated_linear(x), where nobody else reads the factors."""
    readers, producers = _readers(graph), _producers(graph)
    gone: set[int] = set()
    made: dict[int, Node] = {}
    for i, node in enumerate(graph.nodes):
        if node.op != "multiply" or any(readers[value] != 1 for value in node.inputs):
            continue
        at = [producers.get(value, -1) for value in node.inputs]
        parts = [graph.nodes[j] for j in at if j >= 0 and _is_plain(graph.nodes[j], any_activation=True)]
        if len(parts) != 2 or parts[0].inputs != parts[1].inputs:
            continue
        if sum(part.attrs["activation"] == "none" for part in parts) != 1:
            continue
        gate, up = sorted(parts, key=lambda part: part.attrs["activation"] == "none")
        params = _renamed(gate, "_gate") | _renamed(up, "_up")
        made[i] = Node("gated_linear", gate.inputs, node.outputs, params, {"activation": gate.attrs["activation"]})
        gone.update(at)
    return _with_nodes(graph, (made.get(i, node) for i, node in enumerate(graph.nodes) if i not in gone))


def _is_plain(node: Node, any_activation: bool = False) -> bool:
    """A linear without residual and, unless any will do, without activation."""
    return node.op == "linear" and len(node.inputs) == 1 and (any_activation or node.attrs["activation"] == "none")


def project_output(graph: Graph) -> Graph:
    """output(x Wᵀ + b) becomes one op, so that logits are looked at while they are in the cache, and not computed at all in
    steps that want none; only where nobody else reads them."""
    readers, producers = _readers(graph), _producers(graph)
    nodes = list(graph.nodes)
    for i, node in enumerate(graph.nodes):
        at = producers.get(node.inputs[0], -1) if node.op == "output" and not node.params else -1
        if at >= 0 and readers[node.inputs[0]] == 1 and _is_plain(graph.nodes[at]):
            linear = graph.nodes[at]
            nodes[i] = Node("output", linear.inputs, node.inputs, linear.params, node.attrs)
            del nodes[at]
            break
    return _with_nodes(graph, nodes)


def join_linears(graph: Graph) -> Graph:
    """Linears of one input (queries, keys and values; what all layers remember of an encoder's output) become
    `projections`, up to three at a time: x is read, and in small types quantised, once."""
    found: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        if _is_plain(node):
            found.setdefault(node.inputs[0], []).append(i)
    joined = {group[0]: group for same in found.values() for group in _even_groups(same) if len(group) > 1}
    gone = {i for group in joined.values() for i in group[1:]}
    nodes = []
    for i, node in enumerate(graph.nodes):
        if i in joined:
            nodes.append(_join([graph.nodes[j] for j in joined[i]]))
        elif i not in gone:
            nodes.append(node)
    return _with_nodes(graph, nodes)


def _even_groups(items: list[int]) -> list[list[int]]:
    """As few groups of at most MOST_JOINED as possible, of nearly equal size: four items are two pairs."""
    count = -(-len(items) // MOST_JOINED)
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def _join(parts: list[Node]) -> Node:
    params: Mapping[str, str] = {
        role: name
        for part, tail in zip(parts, ("_a", "_b", "_c"), strict=False)
        for role, name in _renamed(part, tail).items()
    }
    return Node("projections", parts[0].inputs, tuple(part.outputs[0] for part in parts), params, {})
