"""Modules: a model is written as a tree of them, and an attribute's path is the name of its tensor.

Calling a module inside `fastattn.graph.tracing` records ops; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastattn.graph import Value, apply


class Parameter:
    """A weight by name and shape; its name is the attribute path, set by `Module.finalise`."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.name = ""


class Module:
    """Base of all modules: attributes that are modules, parameters or lists of modules form the tree."""

    def children(self) -> Iterator[tuple[str, Module | Parameter]]:
        for key, item in vars(self).items():
            if isinstance(item, (Module, Parameter)):
                yield key, item
            elif isinstance(item, list):
                yield from ((f"{key}.{i}", child) for i, child in enumerate(item) if isinstance(child, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        for key, item in self.children():
            if isinstance(item, Parameter):
                yield prefix + key, item
            else:
                yield from item.named_parameters(f"{prefix}{key}.")

    def finalise(self) -> dict[str, tuple[int, ...]]:
        """Names every parameter by its first path; gives name -> shape. Shared (tied) parameters appear once."""
        shapes: dict[str, tuple[int, ...]] = {}
        seen: set[int] = set()
        for name, parameter in self.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                parameter.name = name
                shapes[name] = parameter.shape
        return shapes


class Linear(Module):
    """y = act(x Wᵀ + b) + residual; weight [out, in] as in PyTorch."""

    def __init__(self, width: int, out: int, bias: bool = True) -> None:
        self.weight = Parameter(out, width)
        self.bias = Parameter(out) if bias else None

    def __call__(self, x: Value, activation: str = "none", residual: Value | None = None) -> Value:
        inputs = [x] if residual is None else [x, residual]
        return apply("linear", inputs, {"weight": self.weight, "bias": self.bias}, activation=activation)[0]


class Embedding(Module):
    """weight [V, C]; ids -> rows, scaled."""

    def __init__(self, vocabulary: int, width: int) -> None:
        self.weight = Parameter(vocabulary, width)

    def __call__(self, ids: Value, scale: float = 1.0) -> Value:
        return apply("embedding", [ids], {"weight": self.weight}, scale=scale)[0]


class PositionEmbedding(Module):
    """weight [P, C]: added to x by each token's position in its sequence."""

    def __init__(self, positions: int, width: int) -> None:
        self.weight = Parameter(positions, width)

    def __call__(self, x: Value, offset: int = 0) -> Value:
        return apply("position_embedding", [x], {"weight": self.weight}, offset=offset)[0]


class LayerNorm(Module):
    """Ba et al. 2016: (x - mean) / sqrt(var + eps) * weight + bias over the columns."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        self.weight, self.bias, self._eps = Parameter(width), Parameter(width), eps

    def __call__(self, x: Value) -> Value:
        return apply("layer_norm", [x], {"weight": self.weight, "bias": self.bias}, eps=self._eps)[0]


class RMSNorm(Module):
    """Zhang and Sennrich 2019, arXiv:1910.07467: x / sqrt(mean(x²) + eps) * weight over the columns."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        self.weight, self._eps = Parameter(width), eps

    def __call__(self, x: Value) -> Value:
        return apply("rms_norm", [x], {"weight": self.weight}, eps=self._eps)[0]


class Rotary(Module):
    """Rotary positions for heads of `size`: called once for a step's turns, which `turn` then gives to queries and keys."""

    def __init__(self, size: int, scale: float = 1.0) -> None:
        self.inv_freq, self._scale = Parameter(size // 2), scale

    def __call__(self, ids: Value) -> Value:
        return apply("rotations", [ids], {"inv_freq": self.inv_freq}, scale=self._scale)[0]

    def turn(self, x: Value, turns: Value, heads: int) -> Value:
        return apply("rope", [x, turns], heads=heads)[0]


_GATES = {"gru": 3, "lstm": 4}


class Recurrent(Module):
    """nn.GRU / nn.LSTM of PyTorch by its tensor names (`weight_ih_l0_reverse` …), stacked and perhaps bidirectional."""

    def __init__(self, cell: str, width: int, hidden: int, layers: int, bidirectional: bool = False) -> None:
        self._cell, self._layers = cell, layers
        self._directions = ("", "_reverse") if bidirectional else ("",)
        for layer in range(layers):
            inside = width if layer == 0 else hidden * len(self._directions)
            for direction in self._directions:
                rows, tail = _GATES[cell] * hidden, f"_l{layer}{direction}"
                setattr(self, "weight_ih" + tail, Parameter(rows, inside))
                setattr(self, "weight_hh" + tail, Parameter(rows, hidden))
                setattr(self, "bias_ih" + tail, Parameter(rows))
                setattr(self, "bias_hh" + tail, Parameter(rows))

    def _params(self, tail: str) -> dict[str, Parameter | None]:
        return {role: getattr(self, role + tail) for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}

    def sequence(self, x: Value) -> tuple[Value, list[list[Value]]]:
        """Runs whole sequences from zero states: the top layer's outputs, and per layer its last states [h, (c)].

        A bidirectional layer's states are the two directions side by side.
        """
        states: list[list[Value]] = []
        for layer in range(self._layers):
            runs = [
                apply(f"{self._cell}_sequence", [x], self._params(f"_l{layer}{d}"), reverse=int(d != ""))
                for d in self._directions
            ]
            x, *last = (concat(parts) for parts in zip(*runs, strict=True))
            states.append(last)
        return x, states

    def step(self, x: Value, states: Sequence[Sequence[Value]]) -> tuple[Value, list[list[Value]]]:
        """One token: the top layer's new h, and every layer's new states [h, (c)]."""
        new: list[list[Value]] = []
        for layer, state in enumerate(states):
            new.append(list(apply(f"{self._cell}_cell", [x, *state], self._params(f"_l{layer}"))))
            x = new[-1][0]
        return x, new


def multiply(a: Value, b: Value) -> Value:
    return apply("multiply", [a, b])[0]


def concat(values: Sequence[Value]) -> Value:
    return values[0] if len(values) == 1 else apply("concat", values)[0]


def state_read(name: str, width: int) -> Value:
    return apply("state_read", name=name, width=width)[0]


def state_write(value: Value, name: str) -> None:
    apply("state_write", [value], name=name)
