"""Attention in fewer bits, beside weights that have fewer."""

from __future__ import annotations

from dataclasses import replace

from fastattn.graph import Graph
from fastattn.ops.table import sees_all


def round_attention(graph: Graph) -> Graph:
    """Self-attention that keeps no keys, an encoder's, multiplies bfloat16: queries, keys, values and the softmax's powers are
    rounded, sums stay float32. Where a row must not see all keys it stays as it is: values that are not seen take part with
    weight zero, which a NaN would show.

    Not one of `PASSES`, as results change: docs/decisions/bfloat16-attention.md.
    """
    nodes = [
        replace(node, attrs={**node.attrs, "rounded": 1}) if node.op == "attention" and sees_all(node.attrs) else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=nodes)
