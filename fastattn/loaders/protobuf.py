"""Protocol-buffer wire format, read in place.

A message is a run of fields, each a varint key `number << 3 | wire type` and a payload. Only positions are handed
out for the payloads, so a tensor of a gigabyte costs as much as one of ten bytes: nothing is copied out of the mapped
file. See https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastattn.errors import LoadError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Span(NamedTuple):
    """A half-open range of byte positions in the file."""

    start: int
    end: int


class Reader:
    """One mapped file. `data` is any object that yields ints when indexed and bytes when sliced (mmap, bytes)."""

    def __init__(self, data: memoryview, label: str) -> None:
        self.data = data
        self.label = label  # how errors name the file

    def whole(self) -> Span:
        return Span(0, len(self.data))

    def fail(self, what: str) -> LoadError:
        return LoadError(f"{self.label}: not a readable ONNX file: {what}")

    def fields(self, span: Span) -> Iterator[tuple[int, int, int, Span]]:
        """Yield (field number, wire type, varint value, payload span) for each field of the message in `span`."""
        data, at, end = self.data, span.start, span.end
        while at < end:
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            value, payload = 0, Span(at, at)
            if wire == VARINT:
                value, stop = self._varint(at, end)
                payload = Span(at, stop)
            elif wire == BYTES:
                size = data[at] if at < end else 128
                if size < 128:  # the common case, kept off the function call
                    at += 1
                else:
                    size, at = self._varint(at, end)
                payload = Span(at, at + size)
            elif wire == FIXED32:
                payload = Span(at, at + 4)
            elif wire == FIXED64:
                payload = Span(at, at + 8)
            else:
                raise self.fail(f"wire type {wire} at byte {at}")
            at = payload.end
            if at > end:
                size = payload.end - payload.start
                raise self.fail(f"a field of {size} bytes at byte {payload.start} ends past byte {end}")
            if number == 0:
                raise self.fail(f"field number 0 at byte {payload.start}")
            yield number, wire, value, payload

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        data, value, shift = self.data, 0, 0
        while at < end:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise self.fail(f"a varint longer than 10 bytes at byte {at}")
        raise self.fail(f"truncated at byte {at}")

    def text(self, span: Span) -> str:
        """The payload as text; bytes that are not UTF-8 are kept visible rather than fatal."""
        return bytes(self.data[span.start : span.end]).decode("utf-8", "backslashreplace")

    def float32(self, span: Span) -> float:
        return float(np.frombuffer(self.data[span.start : span.end], "<f4")[0])

    def varints(self, span: Span) -> npt.NDArray[np.int64]:
        """Decode a packed run of varints as int64 [n], without a Python loop over the values."""
        octets = np.frombuffer(self.data[span.start : span.end], np.uint8)
        if not octets.size:
            return np.zeros(0, np.int64)
        last = np.flatnonzero(octets < 128)
        if not last.size or last[-1] != octets.size - 1:
            raise self.fail(f"truncated at byte {span.end}")
        first = np.concatenate([[0], last[:-1] + 1])
        widest = int((last - first).max()) + 1
        if widest > 10:
            raise self.fail(f"a varint longer than 10 bytes in the field at byte {span.start}")
        values = np.zeros(last.size, np.uint64)
        for k in range(widest):
            here = np.minimum(first + k, last)
            part = (octets[here].astype(np.uint64) & np.uint64(127)) << np.uint64(7 * k)
            values |= np.where(first + k <= last, part, np.uint64(0))
        return values.view(np.int64)


def signed(value: int) -> int:
    """The int64 that a varint's 64 bits stand for."""
    return value - (1 << 64) if value >> 63 else value
