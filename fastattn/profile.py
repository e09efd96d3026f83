"""Where the time of a model goes: every op's time, traffic and arithmetic beside what the machine could do at most."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from fastattn.graph import Graph, Node
from fastattn.roofline import roofline
from fastattn.runtime import NativeSession, OpCost


@dataclass(frozen=True)
class ProfileRow:
    """One op of a graph, or several taken together.

    graph: "encoder" or "decoder". op: its name in the op table. name: the module it belongs to, from the names of its
    parameters. calls; barriers: behind them; seconds: in the op, on the first thread; waiting: seconds in the barriers.
    weight_bytes, kept_bytes (keys, values, memories) and value_bytes (activations, in and out): what it moves at least.
    flops: additions and multiplications. limit: seconds the machine needs at least for as many bytes or flops.
    """

    graph: str
    op: str
    name: str
    calls: int
    barriers: int
    seconds: float
    waiting: float
    weight_bytes: float
    kept_bytes: float
    value_bytes: float
    flops: float
    limit: float

    @property
    def total(self) -> float:
        """Seconds, waiting included."""
        return self.seconds + self.waiting

    @property
    def bytes(self) -> float:
        """All bytes moved."""
        return self.weight_bytes + self.kept_bytes + self.value_bytes

    @property
    def gbs(self) -> float:
        """10⁹ bytes a second."""
        return self.bytes / self.total / 1e9 if self.total else 0.0

    @property
    def gflops(self) -> float:
        """10⁹ floating-point operations a second."""
        return self.flops / self.total / 1e9 if self.total else 0.0

    @property
    def share(self) -> float:
        """Of the machine's limit (Williams et al. 2009): 1 is all; more if what it reads comes from a cache, or if products of
        int8 or bfloat16 are quicker than the multiply-adds of float32 that the limit is made of."""
        return self.limit / self.total if self.total else 0.0


@dataclass(frozen=True)
class Profile:
    """What one call of `generate` cost.

    rows: an entry per op and graph in order of execution. steps: decoder steps; tokens: fed to the decoder, all sequences
    together. seconds: of the whole call, from token ids to token ids; native: of these, inside the engine (both graphs). limits:
    what `fastattn.roofline` measured.

    >>> import fastattn
    >>> profile = fastattn.load("en-fr-transformer").profile("I am eating an apple")
    >>> profile.total.flops > 0 and profile.seconds > profile.native > profile.total.total > 0
    True
    """

    rows: Sequence[ProfileRow]
    steps: int
    tokens: int
    seconds: float
    native: float
    limits: Mapping[str, float]

    @property
    def total(self) -> ProfileRow:
        """All ops together."""
        return _sum(self.rows, "all", "all", "all")

    @property
    def outside_kernels(self) -> float:
        """Seconds per decoder step outside the ops and their barriers: Python, and the engine's own bookkeeping."""
        return (self.seconds - self.total.total) / max(self.steps, 1)

    @property
    def in_python(self) -> float:
        """Seconds per decoder step outside the engine."""
        return (self.seconds - self.native) / max(self.steps, 1)

    def by_op(self) -> list[ProfileRow]:
        """Rows of the same graph and op together, the most expensive first."""
        return self._grouped(lambda row: (row.graph, row.op, ""))

    def by_name(self, depth: int | None = None) -> list[ProfileRow]:
        """Rows of the same graph and name together, the most expensive first; depth: parts of the name that count."""
        return self._grouped(lambda row: (row.graph, "", ".".join(row.name.split(".")[:depth])))

    def _grouped(self, key: Callable[[ProfileRow], tuple[str, str, str]]) -> list[ProfileRow]:
        groups: dict[tuple[str, str, str], list[ProfileRow]] = {}
        for row in self.rows:
            groups.setdefault(key(row), []).append(row)
        found = [_sum(rows, graph, op or rows[0].op, name) for (graph, op, name), rows in groups.items()]
        return sorted(found, key=lambda row: -row.total)

    def __str__(self) -> str:
        steps = max(self.steps, 1)
        head = [
            f"{self.steps} decoder steps, {self.tokens} tokens, {1e3 * self.seconds:.2f} ms: "
            f"{1e6 * self.seconds / steps:.1f} µs a step",
            f"outside kernels {1e6 * self.outside_kernels:.1f} µs a step, of which Python {1e6 * self.in_python:.1f} µs; "
            f"waiting for threads {1e6 * self.total.waiting / steps:.1f} µs in {self.total.barriers / steps:.0f} barriers",
            f"limits: {self.limits['read_gbs']:.1f} GB/s, {self.limits['fma_gflops']:.0f} GFLOP/s "
            f"on {self.limits['threads']:.0f} threads",
        ]
        names, most = self.by_name(), 24
        rest = [f"… and {len(names) - most} more"] if len(names) > most else []
        return "\n".join([*head, "", _table(self.by_op(), steps), "", _table(names[:most], steps), *rest])


_NUMBERS = tuple(field.name for field in fields(ProfileRow))[3:]


def _sum(rows: Sequence[ProfileRow], graph: str, op: str, name: str) -> ProfileRow:
    return ProfileRow(graph, op, name, *(sum(getattr(row, field) for row in rows) for field in _NUMBERS))


def _table(rows: Sequence[ProfileRow], steps: int) -> str:
    """Times are per decoder step; `limit` is the share of the machine's limit."""
    titles = ("", "calls", "µs/step", "wait", "MB/step", "GB/s", "GFLOP/s", "limit")
    lines = [titles]
    for row in rows:
        lines.append(
            (
                f"{row.graph}  {row.name or row.op}",
                f"{row.calls}",
                f"{1e6 * row.seconds / steps:.1f}",
                f"{1e6 * row.waiting / steps:.1f}",
                f"{row.bytes / steps / 1e6:.3f}",
                f"{row.gbs:.1f}",
                f"{row.gflops:.1f}",
                f"{100 * row.share:.0f} %",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    return "\n".join(
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def collect(session: NativeSession, seconds: float, num_threads: int) -> Profile:
    """The profile of what a session did since `session.profile(True)`, in a call that took `seconds`."""
    limits = _limits(num_threads)
    rows: list[ProfileRow] = []
    costs = session.profiled()
    for graph_name, graph in session.graphs.items():
        names = node_names(graph)
        for node, name, cost in zip(graph.nodes, names, costs[graph_name].ops, strict=True):
            rows.append(_row(graph_name, node, name, cost, limits))
    decoder = costs["decoder"]
    native = sum(cost.seconds for cost in costs.values())
    return Profile(rows, decoder.steps, decoder.rows, seconds, native, limits)


def _row(graph: str, node: Node, name: str, cost: OpCost, limits: Mapping[str, float]) -> ProfileRow:
    moved = cost.weight_bytes + cost.kept_bytes + cost.value_bytes
    limit = max(moved / limits["read_gbs"], cost.flops / limits["fma_gflops"]) / 1e9
    return ProfileRow(graph, node.op, name, **asdict(cost), limit=limit)


@functools.cache
def _limits(num_threads: int) -> Mapping[str, float]:
    """Measured once a process."""
    return roofline(num_threads)


def node_names(graph: Graph) -> list[str]:
    """A name per node: the module its parameters have in common; without parameters, that of its neighbours.

    A parameter that several nodes of an op read (as all layers of T5 do one table of biases) names none of them.

    >>> from fastattn.graph import apply, tracing
    >>> from fastattn.nn import Embedding, LayerNorm, Module
    >>> class Toy(Module):
    ...     def __init__(self):
    ...         self.embed, self.norm = Embedding(5, 3), LayerNorm(3)
    >>> toy = Toy()
    >>> shapes = toy.finalise()
    >>> with tracing("decoder") as (graph, ids):
    ...     _ = apply("select_rows", [toy.norm(toy.embed(ids))])
    >>> node_names(graph)
    ['embed', 'norm', 'select_rows']
    """
    readers = Counter((node.op, name) for node in graph.nodes for name in set(node.params.values()))
    own = [[name for name in node.params.values() if readers[node.op, name] == 1] for node in graph.nodes]
    names = []
    for params in own:
        modules = [name.rpartition(".")[0] for name in params]
        names.append(_common(modules) or next((name for name in modules if name), ""))
    producer = {value: i for i, node in enumerate(graph.nodes) for value in node.outputs}
    found = list(names)
    for i, node in enumerate(graph.nodes):
        if own[i]:
            continue
        before = [names[producer[value]] for value in node.inputs if value in producer]
        after = [names[j] for j, reader in enumerate(graph.nodes) if set(reader.inputs) & set(node.outputs)]
        near = [name for name in before + after if name]
        common = _common(near)
        found[i] = common if len(near) > 1 and "." in common else node.op
    return [name or node.op for name, node in zip(found, graph.nodes, strict=True)]


def _common(names: Sequence[str]) -> str:
    """The dotted parts that all names begin with."""
    parts = [name.split(".") for name in names]
    if not parts:
        return ""
    same = 0
    while all(len(p) > same and p[same] == parts[0][same] for p in parts):
        same += 1
    return ".".join(parts[0][:same])
