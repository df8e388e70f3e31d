"""Rows of columns as serialized tf.Examples, many at once: many times as fast as `example_bytes` for each row.

A feature's bytes before its values depend on the values' size alone, so they are made once per size. The format is
protobuf's (protobuf.dev/programming-guides/encoding) for the messages of tf_example.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_KIND_TAGS = {"bytes": b"\x0a", "float": b"\x12", "int64": b"\x1a"}
_VARINT_BITS = 7


class FeatureColumn:
    """The values of one feature in n rows.

    Args:
        name: of the feature.
        kind: "int64", "float" or "bytes".
        payload: all values: numbers as they are packed (`varints`, or little-endian float32), bytes as they are.
        begins, ends: where in `payload` each row's values lie; int64 [n].
        valid: which rows have the feature; bool [n], None: all.
        framed: for bytes: whether each value stands behind its own tag and length (`frame`), as it has to where rows
            have any number of values. Otherwise each row has one.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        payload: bytes,
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
        valid: NDArray[np.bool_] | None = None,
        framed: bool = False,
    ) -> None:
        self.name, self._payload, self._begins, self._ends, self._valid = name, payload, begins, ends, valid
        self._heads = _Heads(name.encode(), kind, one_value=kind == "bytes" and not framed)

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the values occupy."""
        return len(self._payload) + self._begins.nbytes + self._ends.nbytes

    def entries(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The feature as an entry of the map of features, for each of `rows`; b"" where a row has it not."""
        payload, heads = self._payload, self._heads
        begins, ends = self._begins[rows].tolist(), self._ends[rows].tolist()
        made = [heads[end - begin] + payload[begin:end] for begin, end in zip(begins, ends, strict=True)]
        if self._valid is not None:
            for place in np.flatnonzero(~self._valid[rows]).tolist():
                made[place] = b""
        return made


class Examples:
    """Rows as serialized tf.Examples, made when they are taken.

    Args:
        columns: at least one; all with the same number of rows.
    """

    def __init__(self, columns: Sequence[FeatureColumn]) -> None:
        self._columns = sorted(columns, key=lambda column: column.name.encode())  # the same bytes whatever the order
        self._length = len(self._columns[0])

    def __len__(self) -> int:
        return self._length

    def take(self, indices: ArrayLike) -> list[bytes]:
        """The rows at `indices` (from 0), in the order of `indices`. Raises IndexError."""
        rows: NDArray[Any] = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self._length):
            raise IndexError(f"row numbers from 0 to {self._length - 1} exist, got {rows.min()} to {rows.max()}")
        entries = [column.entries(rows) for column in self._columns]
        made = [b"".join(row) for row in zip(*entries, strict=True)]
        return [b"\x0a" + varint(len(features)) + features for features in made]


class _Heads(dict[int, bytes]):
    """What precedes a feature's values, by their size: the map entry's tags and lengths, and the name."""

    def __init__(self, name: bytes, kind: str, one_value: bool) -> None:
        super().__init__()
        self._key = b"\x0a" + varint(len(name)) + name
        self._tag = _KIND_TAGS[kind]
        self._packed, self._one_value = kind != "bytes", one_value

    def __missing__(self, size: int) -> bytes:
        inner = b"\x0a" + varint(size) if self._one_value or (self._packed and size) else b""
        kind = self._tag + varint(len(inner) + size) + inner
        value = b"\x12" + varint(len(kind) + size) + kind
        head = b"\x0a" + varint(len(self._key) + len(value) + size) + self._key + value
        self[size] = head
        return head


def varint(number: int) -> bytes:
    """A number, at least 0, in protobuf's encoding of variable length."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= _VARINT_BITS
    made.append(number)
    return bytes(made)


def varints(values: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """All `values` encoded one after the other, and where each begins; the marks have shape [n + 1]."""
    unsigned = values.astype("<i8", copy=False).view("<u8")
    sizes = np.ones(len(values), np.int64)
    largest = int(unsigned.max()) if len(values) else 0
    widest = max(1, -(-largest.bit_length() // _VARINT_BITS))
    for size in range(1, widest):
        sizes += unsigned >= np.uint64(1 << _VARINT_BITS * size)
    marks = np.append(0, np.cumsum(sizes))
    encoded = np.empty(int(marks[-1]), np.uint8)
    for place in range(widest):
        here = np.flatnonzero(sizes > place)
        bits = (unsigned[here] >> np.uint64(_VARINT_BITS * place)) & np.uint64(0x7F)
        encoded[marks[here] + place] = bits | (sizes[here] > place + 1).astype(np.uint64) << np.uint64(_VARINT_BITS)
    return encoded.tobytes(), marks


def frame(payload: bytes, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
    """Bytes values, each behind its tag and length, and where each begins; the marks have shape [n + 1]."""
    parts = [
        b"\x0a" + varint(end - begin) + payload[begin:end]
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    return b"".join(parts), np.append(0, np.cumsum([len(part) for part in parts], dtype=np.int64))
