"""Attention in fewer bits, beside weights that have fewer."""

from __future__ import annotations

from dataclasses import replace

from fastattn.graph import Graph, Node


def round_attention(graph: Graph) -> Graph:
    """Self-attention that keeps no keys, an encoder's, multiplies bfloat16: queries, keys, values and the softmax's powers are
    rounded, sums stay float32. Where a row must not see all keys it stays as it is: values that are not seen take part with
    weight zero, which a NaN would show.

    Not one of `PASSES`, as results change: docs/decisions/bfloat16-attention.md.
    """
    return replace(graph, nodes=[_rounded(node) if _sees_all(node) else node for node in graph.nodes])


def _sees_all(node: Node) -> bool:
    if node.op != "attention":
        return False
    attrs = node.attrs
    unbounded = attrs["window_left"] == attrs["window_right"] == -1
    return attrs["cache"] == -1 and not attrs["causal"] and unbounded


def _rounded(node: Node) -> Node:
    return replace(node, attrs={**node.attrs, "rounded": 1})
