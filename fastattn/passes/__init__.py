"""Passes rewrite a graph into one that gives the same values in fewer ops. Values keep their indices.

A backend that runs ops one by one needs none of them; the engine's sessions run `optimise`d graphs. Each pass states what
it takes for granted; float32 results stay the same to the bit.
"""

from __future__ import annotations

from fastattn.graph import Graph
from fastattn.passes.linears import gate_linears, join_linears, project_output
from fastattn.passes.rows import select_early

PASSES = (gate_linears, project_output, join_linears, select_early)


def optimise(graph: Graph) -> Graph:
    """All passes, in their order; the graph given is left as it is.

    >>> from fastattn.graph import apply, tracing
    >>> from fastattn.nn import Embedding, Linear, Module
    >>> class Toy(Module):
    ...     def __init__(self):
    ...         self.embed, self.q, self.k = Embedding(5, 4), Linear(4, 4), Linear(4, 4)
    >>> toy = Toy()
    >>> shapes = toy.finalise()
    >>> with tracing("decoder") as (graph, ids):
    ...     x = toy.embed(ids)
    ...     _ = apply("add", [toy.q(x), toy.k(x)])
    >>> [node.op for node in optimise(graph).nodes]
    ['embedding', 'projections', 'add']
    """
    for run in PASSES:
        graph = run(graph)
    return graph
