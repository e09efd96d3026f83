"""What users hand to a model, as the decoders take it: lists, rows of token ids, padding, batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.errors import InputError

IntArray = NDArray[np.int32]
TokenIds = Sequence[int] | NDArray[np.integer[Any]]
Input = str | TokenIds

TOGETHER = 1 << 14  # tokens of the inputs of a batch: what is computed of them at once takes memory


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of inputs that are decoded together: of similar length, as they finish together, at most `most` of them, and
    not more tokens than `TOGETHER` unless one input alone has them.

    >>> list(batches([5, 1, 4, 2], 3))
    [[1, 3, 2], [0]]
    """
    batch: list[int] = []
    tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == most or tokens + lengths[i] > TOGETHER):
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += lengths[i]
    if batch:
        yield batch


def as_list(inputs: Any, what: str = "inputs") -> tuple[bool, list[Any]]:
    """Whether many inputs were given, and they as a list: a string or a row of integers is one. what: the argument's name."""
    if isinstance(inputs, np.ndarray) and not inputs.ndim:
        inputs = inputs.item()
    if isinstance(inputs, str):
        return False, [inputs]
    if isinstance(inputs, np.ndarray):
        return inputs.ndim != 1, list(inputs) if inputs.ndim != 1 else [inputs]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise InputError(f"{what}: found {type(inputs).__name__}, expected text, token ids or a list of them")
    one = len(inputs) > 0 and all(isinstance(i, (int, np.integer)) for i in inputs)
    return not one, [inputs] if one else list(inputs)


def token_ids(given: Any, what: str) -> IntArray:
    """A row of token ids; InputError calling it `what` if it is none."""
    try:
        ids = np.asarray(given)
    except ValueError:
        raise InputError(f"{what}: expected a row of token ids, found rows of different lengths") from None
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        if ids.dtype.kind == "U" and ids.ndim:
            raise InputError(f"{what}: expected one text or row of token ids, found a list of {len(ids)}")
        found = type(given).__name__ if ids.dtype == object or ids.ndim == 0 else f"{ids.dtype} {list(ids.shape)}"
        raise InputError(f"{what}: expected text or a row of token ids, found {found}")
    if not ids.size:
        raise InputError(f"{what}: expected at least one token id, found none")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise InputError(f"{what}: token id {int(ids.min() if ids.min() < 0 else ids.max())} is outside the vocabulary")
    return ids.astype(np.int32)


def unpadded(rows: Sequence[Any], attention_mask: Any) -> list[Any]:
    """Rows without the padding behind them; InputError for a mask of another form. Each row of the mask is as long as its
    row of the input.

    >>> unpadded([[5, 6, 3], [5, 3]], [[1, 1, 0], [1, 1]])
    [[5, 6], [5, 3]]
    """
    masks = attention_mask if isinstance(attention_mask, Sequence) else np.atleast_1d(np.asarray(attention_mask))
    if len(masks) != len(rows):
        raise InputError(f"attention_mask: found {len(masks)} rows, expected one per input ({len(rows)})")
    return [_unpadded(row, mask, i) for i, (row, mask) in enumerate(zip(rows, masks, strict=True))]


def _unpadded(given: Any, attention_mask: Any, i: int) -> Any:
    row = given if isinstance(given, Sequence) else np.asarray(given)
    if isinstance(row, np.ndarray) and not row.ndim:
        raise InputError(f"input_ids: row {i}: expected a row of token ids, found {type(given).__name__}")
    try:
        mask = np.asarray(attention_mask)
    except ValueError:
        raise InputError(f"attention_mask: row {i}: found rows of different lengths") from None
    if mask.ndim != 1 or mask.dtype.kind not in "biuf":
        raise InputError(f"attention_mask: row {i} must be ones, then zeros, found {mask.dtype} {list(mask.shape)}")
    length = int(mask.astype(bool).sum())
    if len(mask) != len(row) or not mask[:length].all():
        raise InputError(f"attention_mask: row {i} must be ones, then zeros, {len(row)} in all")
    return row[:length]
