"""What a family file gives: graphs, the tensors they need, and how those are called elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from fastattn.errors import LoadError
from fastattn.graph import Graph

# Names of Hugging Face's ACT2FN -> activations of the engine. gelu_fast is gelu_new, written differently.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
Weights = MutableMapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Architecture:
    """graphs: "encoder" (where there is one) and "decoder". params: tensor name -> shape as in a checkpoint.

    rename: (regex, replacement) for names that vary; optional: tensors `prepare` can do without; ignore: regexes of tensors
    that are no weights; columns: regexes of matrices kept as [in, out], None where any may be; prepare: last touches to the
    bound tensors. They come as the file holds them (float32, float16, or bfloat16 as `BFloat16Array`): views and slices cost
    nothing, arithmetic makes a copy. max_source, max_target: longest input and output in tokens, 0 = unlimited. defaults:
    special tokens where config.json does not name them. computed: small tensors that follow from config.json alone; they take
    the place of what a converted model's file holds.
    """

    family: str
    graphs: Mapping[str, Graph]
    params: Mapping[str, tuple[int, ...]]
    vocabulary: int
    rename: Sequence[tuple[str, str]] = ()
    optional: Sequence[str] = ()
    ignore: Sequence[str] = ()
    columns: Sequence[str] | None = None
    prepare: Callable[[Weights], Weights] = lambda weights: weights
    source_vocabulary: int = 0
    max_source: int = 0
    max_target: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    computed: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def has_encoder(self) -> bool:
        """False for decoder-only models."""
        return "encoder" in self.graphs


def shown(value: Any) -> str:
    """A value of a config.json as messages show it, however long it is."""
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "an integer beyond 64 bits"
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


class Fields:
    """Reads a config.json: a missing or wrong entry is a LoadError naming the key, what was found and what was expected.

    where: what the entries stand in, for messages. aliases: another spelling -> the key it stands for, as in the attribute_map
    of transformers.
    """

    def __init__(
        self, config: Mapping[str, Any], where: str = "config.json", aliases: Mapping[str, str] | None = None
    ) -> None:
        self._config, self._where = dict(config), where
        for alias, key in (aliases or {}).items():
            given = config.get(alias)
            if given is None:
                continue
            if config.get(key) not in (None, given):
                raise LoadError(
                    f"{where}: {key!r} is {shown(config[key])}, but {alias!r}, another name for it, is {shown(given)}"
                )
            self._config[key] = given

    def has(self, key: str) -> bool:
        """Whether there is an entry other than null."""
        return self._config.get(key) is not None

    def null(self, key: str) -> bool:
        """Whether there is an entry and it is null."""
        return key in self._config and self._config[key] is None

    def _found(self, key: str, default: Any) -> Any:
        value = self._config.get(key, default)
        if value is None:
            found = "null" if key in self._config else "missing"
            raise LoadError(f"{self._where}: {key!r} is {found}")
        return value

    def integer(self, key: str, default: int | None = None, least: int = 1, most: int = 1 << 30) -> int:
        value = self._found(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise LoadError(f"{self._where}: {key!r} is {shown(value)}, expected an integer from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None, above: float = -math.inf) -> float:
        value = self._found(key, default)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not above < value <= sys.float_info.max or value < -sys.float_info.max:
            bound = "" if above == -math.inf else f" above {above:g}"
            raise LoadError(f"{self._where}: {key!r} is {shown(value)}, expected a finite number{bound}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._found(key, default)
        if not isinstance(value, bool):
            raise LoadError(f"{self._where}: {key!r} is {shown(value)}, expected true or false")
        return value

    def choice(self, key: str, options: Sequence[str], default: str | None = None) -> str:
        value = self._found(key, default)
        if value not in options:
            raise LoadError(f"{self._where}: {key!r} is {shown(value)}, expected one of {list(options)}")
        return str(value)

    def choices(self, key: str, options: Sequence[str], count: int) -> list[str]:
        """A list of `count` words, each one of `options`."""
        value = self._found(key, None)
        if not isinstance(value, list) or len(value) != count or not all(word in options for word in value):
            raise LoadError(f"{self._where}: {key!r} is {shown(value)}, expected {count} of {list(options)}")
        return list(value)
