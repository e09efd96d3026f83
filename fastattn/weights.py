"""Checkpoint tensors → a model's parameters: renamed, checked as a whole, read as they are asked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastattn.errors import LoadError
from fastattn.loaders import Checkpoint, callpaths
from fastattn.loaders.tensors import TensorMap, Weight, same_values
from fastattn.packing import BFloat16Array, drop_pages

AnyArray = npt.NDArray[Any]
SHOWN = 12  # tensors spelled out per kind of fault; the error's attributes hold them all
_FAULTS = ("misshapen", "turned", "contradictory", "of another type")


def bind_weights(
    expected: Mapping[str, tuple[int, ...]],
    checkpoint: Checkpoint,
    rename: Sequence[tuple[str, str]] = (),
    optional: Collection[str] = (),
    ignore: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> BoundWeights:
    """Give every parameter of a model its tensor.

    Args:
        expected: parameter name -> shape.
        checkpoint: where the tensors come from.
        rename: (regular expression, replacement) pairs applied in order to each checkpoint name, as `re.sub` does.
            Several names may become one parameter (tied embeddings) if their values are equal.
        optional: parameters that may be absent; they are then absent from the result.
        ignore: regular expressions of checkpoint names (before or after renaming) that may stay unused.
        columns: regular expressions of parameters that products take as [in, out], all others as [out, in]: square matrices
            whose graph does otherwise are refused. None: the family does not say.

    Returns:
        Parameter name -> array of the expected shape, as the file holds it: nothing is copied here.

    Raises:
        LoadError: every missing, unexpected, misshapen or contradictory tensor, at once, in one line, with the nearest
            names. Integer and boolean tensors (position ids, masks) and the checkpoint's `constants` may stay unused.
    """
    plan = _Plan(expected, checkpoint, rename, ignore, columns)
    missing = sorted(name for name in expected if name not in plan.sources and name not in optional)
    faults = {name: fault for name in sorted(expected) if (fault := plan.fault(name))}
    unexpected = plan.unexpected()
    if missing or faults or unexpected:
        spare = [n for n in checkpoint.tensors if plan.target(n) not in expected]
        nearest = {n: _nearest(n, expected[n], spare, checkpoint) for n in missing[:SHOWN]}
        lines = [
            checkpoint.hint if missing else "",
            _listed("missing", [f"{n} {_shape(expected[n])}{nearest.get(n, '')}" for n in missing]),
            *(_listed(kind, [f"{name} {text}" for name, (k, text) in faults.items() if k == kind]) for kind in _FAULTS),
            _listed("unexpected", [f"{n} {_shape(_shape_of(checkpoint, n))}" for n in unexpected]),
            _quantized_elsewhere(checkpoint.config),
        ]
        raise LoadError(
            f"{checkpoint.path}: {'; '.join(line for line in lines if line)}",
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            misshapen=tuple(faults),
        )
    return BoundWeights(checkpoint, {name: plan.sources[name][0] for name in expected if name in plan.sources})


class BoundWeights(MutableMapping[str, AnyArray]):
    """Parameter name -> array: a read-only view of the mapped file where that is possible, made anew at each access.

    float32 and float16 as they are, bfloat16 as `BFloat16Array`; any strides (exports transpose). float64 and recurrent
    cells with gates in another order are copied on access. What is set replaces what the file has.
    """

    def __init__(self, checkpoint: Checkpoint, sources: Mapping[str, str]) -> None:
        self._checkpoint, self._sources = checkpoint, dict(sources)
        self._set: dict[str, AnyArray] = {}

    def __getitem__(self, name: str) -> AnyArray:
        return self._set[name] if name in self._set else _stored(self._checkpoint, self._sources[name])

    def __setitem__(self, name: str, array: AnyArray) -> None:
        self._sources.pop(name, None)
        self._set[name] = array

    def __delitem__(self, name: str) -> None:
        del (self._set if name in self._set else self._sources)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._set or name in self._sources

    def __iter__(self) -> Iterator[str]:
        yield from self._sources
        yield from self._set

    def __len__(self) -> int:
        return len(self._sources) + len(self._set)


def _stored(checkpoint: Checkpoint, name: str) -> AnyArray:
    """A tensor as it is stored, gates in PyTorch's order."""
    tensors = checkpoint.tensors
    if not isinstance(tensors, TensorMap):
        return tensors[name]
    weight = tensors.weight(name)
    array = weight.stored
    if weight.gates:
        blocks = np.split(array, len(weight.gates))
        array = np.concatenate([blocks[gate] for gate in weight.gates])
    if weight.bfloat16:
        return array.view(BFloat16Array)
    return array if array.dtype in (np.float32, np.float16) else Weight(array, "").read()


class _Plan:
    """Which checkpoint tensors stand for which parameter."""

    def __init__(
        self,
        expected: Mapping[str, tuple[int, ...]],
        checkpoint: Checkpoint,
        rename: Sequence[tuple[str, str]],
        ignore: Sequence[str],
        columns: Sequence[str] | None,
    ) -> None:
        self.expected, self.checkpoint = expected, checkpoint
        self.columns = None if columns is None else [re.compile(pattern) for pattern in columns]
        self.rename = [(re.compile(pattern), replacement) for pattern, replacement in rename]
        self.ignore = [re.compile(pattern) for pattern in ignore]
        self.prefix = ""
        self.settled: dict[str, str] = {}
        names = [n for n in checkpoint.tensors if n not in checkpoint.constants and ":" not in n]
        names = [n for n in names if _is_float(checkpoint, n)]
        while names and not any(self.target(n) in expected for n in names):
            longer = _common_root(names, self.prefix)
            if longer is None:
                self.prefix = ""
                break
            self.prefix = longer
        self.sources: dict[str, list[str]] = {}
        for name in checkpoint.tensors:
            self.sources.setdefault(self.target(name), []).append(name)
        for alias, name in checkpoint.aliases.items():
            if (target := self.target(alias)) in expected:
                self.sources.setdefault(target, [name])
        self._settle_call_paths()

    def target(self, name: str) -> str:
        """The parameter a checkpoint name stands for. A prefix that all names share (the attribute of a wrapper module
        that held the model when it was exported) is dropped."""
        if name in self.settled:
            return self.settled[name]
        name = name[len(self.prefix) :] if self.prefix and name.startswith(self.prefix) else name
        for pattern, replacement in self.rename:
            name = pattern.sub(replacement, name)
        return name

    def _settle_call_paths(self) -> None:
        """Give modules that are still without tensors those whose call path and shapes fit, where that leaves no
        choice: first those from a file of the module's role (encoder, decoder), then any."""
        wanted = _modules({n: tuple(s) for n, s in self.expected.items() if n not in self.sources})
        loose = {n: role for n, role in self.checkpoint.call_paths.items() if self.target(n) not in self.expected}
        offered = {
            role: _modules({n: _shape_of(self.checkpoint, n) for n, r in loose.items() if r == role})
            for role in set(loose.values())
        }
        settled = True
        while settled:
            settled = False
            for same_role in (True, False):
                pairs = [
                    (module, role, path)
                    for module, shapes in wanted.items()
                    for role, found in offered.items()
                    for path, shaped in found.items()
                    if shapes == shaped
                    and (role in module.split(".") or not same_role)
                    and callpaths.fits(path.rpartition(":")[2], module)
                    and callpaths.ends_alike(path.rpartition(":")[2], module)
                ]
                for module, role, path in pairs:
                    if sum(p[0] == module for p in pairs) == 1 and sum(p[1:] == (role, path) for p in pairs) == 1:
                        for leaf in wanted.pop(module):
                            self.sources[f"{module}.{leaf}"] = [f"{path}.{leaf}"]
                            self.settled[f"{path}.{leaf}"] = f"{module}.{leaf}"
                        del offered[role][path]
                        settled = True
                if settled:
                    break

    def fault(self, name: str) -> tuple[str, str] | None:
        """What is wrong with the tensors found for a parameter, one of `_FAULTS` and a text; None if nothing is."""
        found, shape = self.sources.get(name, []), tuple(self.expected[name])
        for source in found:
            actual = _shape_of(self.checkpoint, source)
            if actual != shape:
                called = "" if source == name else f" in {source}"
                return "misshapen", f"is {_shape(actual)}{called}, expected {_shape(shape)}"
            product, wanted = _weight(self.checkpoint, source).product, self._product(name)
            if product and wanted and product != wanted:
                return (
                    "turned",
                    f"gives an output with each of its {product} in {source}, expected with each of its {wanted}",
                )
            if not _is_float(self.checkpoint, source):
                return "of another type", f"in {source} holds no floating-point values"
        for source in found[1:]:
            first, other = _weight(self.checkpoint, found[0]), _weight(self.checkpoint, source)
            same = same_values(first, other)
            drop_pages(first.stored)
            drop_pages(other.stored)
            if not same:
                mixed = first.dtype != other.dtype
                names = [f"{n} ({w.dtype})" if mixed else n for n, w in ((found[0], first), (source, other))]
                return "contradictory", f"has different values in {' and '.join(names)}"
        return None

    def _product(self, name: str) -> str:
        """The `Weight.product` that a parameter's tensor should have, "" where any will do."""
        if self.columns is None:
            return ""
        return "columns" if any(pattern.search(name) for pattern in self.columns) else "rows"

    def unexpected(self) -> list[str]:
        names = []
        for name in self.checkpoint.tensors:
            target = self.target(name)
            if target in self.expected or name in self.checkpoint.constants:
                continue
            if any(p.search(name) or p.search(target) for p in self.ignore):
                continue
            if _is_float(self.checkpoint, name):
                names.append(name)
        return sorted(names)


def _modules(shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Tensor name -> shape, grouped: module path -> parameter -> shape."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = shape
    return modules


def _common_root(names: list[str], prefix: str) -> str | None:
    """`prefix` extended by one component, if all names share it."""
    head, dot, _ = names[0][len(prefix) :].partition(".")
    longer = prefix + head + dot
    return longer if dot and all(n.startswith(longer) for n in names) else None


def _weight(checkpoint: Checkpoint, name: str) -> Weight:
    tensors = checkpoint.tensors
    return tensors.weight(name) if isinstance(tensors, TensorMap) else Weight(tensors[name], name)


def _shape_of(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    return _weight(checkpoint, name).shape


def _is_float(checkpoint: Checkpoint, name: str) -> bool:
    return _weight(checkpoint, name).dtype.startswith(("float", "bfloat"))


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _nearest(name: str, shape: tuple[int, ...], spare: list[str], checkpoint: Checkpoint) -> str:
    """The unused tensors most like a missing one: by name, or the only one of its shape."""
    close = difflib.get_close_matches(name, [n for n in spare if len(n) < 200], 2, 0.6)
    alike = [n for n in spare if _shape_of(checkpoint, n) in (shape, shape[::-1])]
    if not close and len(alike) == 1:
        close = alike
    close.sort(key=lambda n: n not in alike)
    return f" (nearest: {', '.join(f'{n} {_shape(_shape_of(checkpoint, n))}' for n in close)})" if close else ""


def _quantized_elsewhere(config: Mapping[str, Any]) -> str:
    given = config.get("quantization_config")
    if not isinstance(given, Mapping):
        return ""
    method = str(given.get("quant_method", "unknown"))[:40]
    return f"its config.json names a quantization_config ({method}), which is not read: expected plain float tensors"


def _listed(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{len(items)} {kind}: {', '.join(items[:SHOWN])}{more}"
