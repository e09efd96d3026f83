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


def as_list(inputs: Any) -> tuple[bool, list[Any]]:
    """Whether many inputs were given, and they as a list: a string or a row of integers is one."""
    if isinstance(inputs, str):
        return False, [inputs]
    if isinstance(inputs, np.ndarray):
        return inputs.ndim != 1, list(inputs) if inputs.ndim != 1 else [inputs]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise InputError(f"inputs: found {type(inputs).__name__}, expected text, token ids or a list of them")
    one = len(inputs) > 0 and all(isinstance(i, (int, np.integer)) for i in inputs)
    return not one, [inputs] if one else list(inputs)


def token_ids(given: Any, what: str) -> IntArray:
    """A row of token ids; InputError calling it `what` if it is none."""
    try:
        ids = np.asarray(given)
    except ValueError:
        raise InputError(f"{what}: expected a row of token ids, found rows of different lengths") from None
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        found = type(given).__name__ if ids.dtype == object or ids.ndim == 0 else f"{ids.dtype} {list(ids.shape)}"
        raise InputError(f"{what}: expected text or a row of token ids, found {found}")
    if not ids.size:
        raise InputError(f"{what}: expected at least one token id, found none")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise InputError(f"{what}: token id {int(ids.min() if ids.min() < 0 else ids.max())} is outside the vocabulary")
    return ids.astype(np.int32)


def unpadded(rows: Sequence[Any], attention_mask: Any) -> list[Any]:
    """Rows without the padding behind them; InputError for a mask of another form."""
    mask = np.asarray(attention_mask)
    if mask.ndim != 2 or len(mask) != len(rows):
        raise InputError(f"attention_mask: found shape {list(mask.shape)}, expected one row per input ({len(rows)})")
    lengths = mask.astype(bool).sum(axis=1)
    for i, (row, length) in enumerate(zip(mask, lengths, strict=True)):
        if len(row) != len(rows[i]) or not row[:length].all():
            raise InputError(f"attention_mask: row {i} must be ones, then zeros, {len(rows[i])} in all")
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
