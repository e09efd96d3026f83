"""Rotary position embeddings as config.json describes them: frequencies and a factor for cosines and sines.

Su et al. (2021), arXiv:2104.09864; stretched to longer contexts linearly (kaiokendev 2023; Chen et al. 2023,
arXiv:2306.15595), as LLaMA 3.1 does (Dubey et al. 2024, arXiv:2407.21783) or by YaRN (Peng et al. 2023, arXiv:2309.00071).
Arithmetic is float32 in the order of Hugging Face transformers; powers are rounded from float64, which gives its numbers but for
a last bit here and there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.errors import LoadError
from fastattn.models.architecture import Fields

FloatArray = NDArray[np.float32]
LARGEST = 1 << 16  # columns of a head; beyond, a damaged file would take memory before its tensors are looked at
Scaled = tuple[FloatArray, float]


def read_rope(config: Mapping[str, Any], size: int, positions: int) -> Scaled:
    """inv_freq float32 [size / 2] for heads of `size`, and the factor for cosines and sines. positions: how many the model
    was made for. LoadError for what is missing, wrong or unknown."""
    given = config.get("rope_parameters")  # transformers 5 keeps everything there
    scaling = config.get("rope_scaling") if given is None else given
    scaling = {"rope_type": "default"} if scaling is None else scaling
    if not isinstance(scaling, Mapping):
        raise LoadError(f"config.json: 'rope_scaling' is {scaling!r}, expected an object or null")
    theta = Fields({"rope_theta": 10000.0, **config, **(given or {})}).number("rope_theta", above=0.0)
    for place in (config, scaling):
        if Fields(place).number("partial_rotary_factor", 1.0) != 1:
            raise LoadError("config.json: 'partial_rotary_factor' is not 1: heads that turn in part are not supported")
    if size % 2 or size > LARGEST:
        raise LoadError(
            f"config.json: heads of {size} columns, expected an even number up to {LARGEST}: they turn in pairs"
        )
    kind = scaling.get("type", scaling.get("rope_type"))
    if scaling.get("rope_type", kind) != kind:  # transformers believes one or the other, by the family
        raise LoadError(f"config.json: 'rope_scaling' has type {kind!r} and rope_type {scaling['rope_type']!r}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise LoadError(
            f"config.json: 'rope_scaling' of type {kind!r} is not supported, expected one of {list(_KINDS)}"
        )
    exponents = np.arange(0, size, 2).astype(np.float32) / np.float32(size)
    with np.errstate(over="ignore"):  # refused below
        powers = np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
    f = Fields(scaling, "config.json, rope_scaling")
    try:
        with np.errstate(all="ignore"):
            inv_freq, factor = _KINDS[kind](f, powers, theta, positions)
    except (ArithmeticError, ValueError) as error:  # ValueError: floor and ceil of what is no number
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"config.json: 'rope_theta' or 'rope_scaling' cannot be computed with: {error}") from None
    if not np.isfinite(inv_freq).all() or not abs(factor) <= np.finfo(np.float32).max:
        raise LoadError("config.json: 'rope_theta' or 'rope_scaling' gives frequencies that are not finite in float32")
    return inv_freq, factor


def _default(f: Fields, powers: FloatArray, theta: float, positions: int) -> Scaled:
    return _reciprocal(powers), 1.0


def _linear(f: Fields, powers: FloatArray, theta: float, positions: int) -> Scaled:
    return _reciprocal(powers) / np.float32(f.number("factor", above=0.0)), 1.0


def _llama3(f: Fields, powers: FloatArray, theta: float, positions: int) -> Scaled:
    """Long waves are stretched by `factor`, short ones kept, those between in between."""
    factor = np.float32(f.number("factor", above=0.0))
    low, high = f.number("low_freq_factor", above=0.0), f.number("high_freq_factor", above=0.0)
    if low >= high:
        raise LoadError(f"config.json, rope_scaling: 'high_freq_factor' is {high:g}, expected more than {low:g}")
    context = f.integer("original_max_position_embeddings")
    kept = _reciprocal(powers)
    waves = _reciprocal(kept) * np.float32(2 * math.pi)
    stretched = np.where(waves > np.float32(context / low), kept / factor, kept)
    smooth = (_reciprocal(waves) * np.float32(context) - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1) - smooth) * stretched / factor + smooth * stretched
    medium = (waves >= np.float32(context / high)) & (waves <= np.float32(context / low))
    return np.where(medium, between, stretched), 1.0


def _yarn(f: Fields, powers: FloatArray, theta: float, positions: int) -> Scaled:
    """Columns that turn often are kept, those that turn less than once in the context are stretched."""
    factor = f.number("factor", above=0.0)
    context = f.integer("original_max_position_embeddings") if f.has("original_max_position_embeddings") else positions
    fast = f.number("beta_fast", above=0.0) if f.has("beta_fast") else 32.0
    slow = f.number("beta_slow", above=0.0) if f.has("beta_slow") else 1.0
    size = 2 * len(powers)
    if theta <= 1:
        raise LoadError(f"config.json: 'rope_theta' is {theta:g}, expected more than 1 for 'yarn'")

    def column(turns: float) -> float:
        return (size * math.log(context / (turns * 2 * math.pi))) / (2 * math.log(theta))

    first, last = column(fast), column(slow)
    if f.flag("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    last = last + 0.001 if first == last else last
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - np.float32(first)) / np.float32(last - first), 0, 1)
    kept = np.float32(1) - ramp
    stretched = _reciprocal(np.float32(factor) * powers)
    return stretched * (np.float32(1) - kept) + _reciprocal(powers) * kept, _yarn_factor(f, factor)


def _yarn_factor(f: Fields, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if f.has("attention_factor"):
        return f.number("attention_factor", above=0.0)
    first, second = (f.number(name) if f.has(name) else 0.0 for name in ("mscale", "mscale_all_dim"))
    return magnitude(first) / magnitude(second) if first and second else magnitude(1.0)


def _reciprocal(x: FloatArray) -> FloatArray:
    inverse: FloatArray = np.float32(1) / x
    return inverse


_KINDS: dict[Any, Callable[[Fields, FloatArray, float, int], Scaled]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
