"""CSV files as records: each is the text of one row, as `tf.io.decode_csv` takes it; the first row names the columns.

A row ends at a line break that is not inside quotes (RFC 4180); its own line break is not part of the record, blank
lines are no records. CSV has no checksums: what can be noticed is that a chunk no longer has its number of rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edl_allreduce import storage
from edl_allreduce.errors import CorruptFile
from edl_allreduce.recordio.format import ChunkRef
from edl_allreduce.recordio.records import Records
from edl_allreduce.records.base import Cutter

_LOCAL_BLOCK_BYTES, _REMOTE_BLOCK_BYTES = 1 << 20, 8 << 20
# A larger row has lost a closing quote; a broken file must not make us allocate more.
_MAX_ROW_BYTES = 256 << 20
_MAX_HEADER_BYTES = 8 << 20
_BOM = b"\xef\xbb\xbf"
_LINE_FEED, _RETURN, _QUOTE = b'\n\r"'

Array = NDArray[np.int64]


class ChunkReader:
    """A CSV file held open for several reads; a context manager. Threads may share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = storage.open_ranges(path)
        self._block = _REMOTE_BLOCK_BYTES if self._source.remote else _LOCAL_BLOCK_BYTES

    def columns(self) -> tuple[tuple[str, str], ...]:
        """The columns' names; CSV knows no types. Raises CorruptFile, StorageError."""
        header, _ = self._header()
        return tuple((name, "") for name in column_names(self._path, header))

    def index(self) -> tuple[ChunkRef, ...]:
        """All chunks of the file, from one pass over it. Raises CorruptFile, StorageError."""
        _, begin = self._header()
        cutter = Cutter(begin)
        chunks = [chunk for rows in self._rows(begin) for chunk in cutter.add(*rows)]
        return (*chunks, *cutter.finish())

    def _header(self) -> tuple[bytes, int]:
        """The header row without its line break, and where the next row begins."""
        head = self._source.read(0, self._block)
        if not _row_ends(head, 0).size and self._source.size > len(head):
            head = self._source.read(0, _MAX_HEADER_BYTES)
        ends = _row_ends(head, 0)
        if not ends.size and self._source.size > len(head):
            raise CorruptFile(self._path, 0, f"the header row does not end within {len(head)} bytes: is this CSV?")
        end = int(ends[0]) if ends.size else len(head)
        return head[:end].rstrip(b"\r\n").removeprefix(_BOM), end

    def _rows(self, begin: int) -> Iterator[tuple[Array, NDArray[np.bool_]]]:
        """Where each row from `begin` on ends, line break included, and whether it is not blank; a block at a time."""
        offset, size, inside, row, before = begin, self._source.size, 0, begin, 0
        while offset < size:
            block = self._source.read(offset, self._block)
            if not block:
                raise CorruptFile(self._path, offset, f"the file ends here, it had {size} bytes: has it been cut?")
            ends = _row_ends(block, inside) + offset
            if offset + len(block) >= size and (not ends.size or ends[-1] < size):
                if (inside + block.count(_QUOTE)) % 2:
                    last = int(ends[-1]) if ends.size else row
                    raise CorruptFile(self._path, last, "the row that begins here has a quote that is not closed")
                ends = np.append(ends, size)
            begins = np.append(row, ends)[:-1]
            yield ends, _not_blank(block, offset, before, begins, ends)
            inside, row, before = (inside + block.count(_QUOTE)) % 2, int(ends[-1]) if ends.size else row, block[-1]
            offset += len(block)
            if offset - row > _MAX_ROW_BYTES:
                raise CorruptFile(self._path, row, f"a row of more than {_MAX_ROW_BYTES} bytes: is a quote not closed?")

    def read_chunk(self, ref: ChunkRef) -> Records:
        """The rows of one chunk, by one ranged read. Raises CorruptFile, StorageError."""
        data = self._source.read(ref.offset, ref.size)
        if len(data) < ref.size:
            problem = f"the file ends after {len(data)} of the chunk's {ref.size} bytes: has it been cut?"
            raise CorruptFile(self._path, ref.offset, problem)
        ends = _row_ends(data, 0)
        if not ends.size or ends[-1] < len(data):
            ends = np.append(ends, len(data))
        begins = np.append(0, ends)[:-1]
        kept = _not_blank(data, 0, 0, begins, ends)
        if int(kept.sum()) != ref.records or data.count(_QUOTE) % 2:
            quote = " and a quote that is not closed" if data.count(_QUOTE) % 2 else ""
            problem = (
                f"the chunk has {int(kept.sum())} rows{quote}, the index says {ref.records}: has the file changed?"
            )
            raise CorruptFile(self._path, ref.offset, problem)
        begins, ends = begins[kept], ends[kept]
        return Records(data, begins, _without_break(data, ends))

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def column_names(path: str, header: bytes) -> list[str]:
    """The names in a header row. Raises CorruptFile."""
    try:
        names = [name.strip() for name in next(csv.reader([header.decode()], strict=True), [])]
    except UnicodeDecodeError as error:
        raise CorruptFile(path, 0, f"the header row is not UTF-8 text ({error.reason})") from None
    except csv.Error as error:
        raise CorruptFile(path, 0, f"the header row cannot be read as CSV ({error})") from None
    if not names:
        raise CorruptFile(path, 0, "expected a header row that names the columns, got none")
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            problem = f"column {number + 1} has no name" if not name else f"two columns are named {name!r}"
            raise CorruptFile(path, 0, f"header row: {problem}; the first row has to name the columns")
    return names


def _row_ends(data: bytes, inside: int) -> Array:
    """Behind which line breaks of `data` a row has ended; `inside`: 1 when `data` begins inside quotes."""
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values == _LINE_FEED)
    if inside or _QUOTE in data:
        quotes = np.flatnonzero(values == _QUOTE)
        ends = ends[(np.searchsorted(quotes, ends) + inside) % 2 == 0]
    return (ends + 1).astype(np.int64)


def _not_blank(data: bytes, offset: int, before: int, begins: Array, ends: Array) -> NDArray[np.bool_]:
    """Which rows are more than a line break.

    Args:
        data: a block of the file, in which every row ends; the first may begin before it.
        offset: where in the file the block begins.
        before: the byte before the block.
        begins, ends: where in the file the rows lie, line breaks included; shape [n].
    """
    values = np.frombuffer(data, np.uint8)
    sizes = ends - begins
    first = np.where(begins >= offset, values[np.clip(begins - offset, 0, max(0, len(values) - 1))], before)
    blank = (sizes == 1) & ((first == _LINE_FEED) | (first == _RETURN))
    blank |= (sizes == 2) & (first == _RETURN) & (values[ends - 1 - offset] == _LINE_FEED)
    return np.asarray(~blank, np.bool_)


def _without_break(data: bytes, ends: Array) -> Array:
    """Where the rows end without their line breaks, LF or CR LF."""
    values = np.frombuffer(data, np.uint8)
    ends = ends - (values[ends - 1] == _LINE_FEED)
    return np.asarray(ends - ((ends > 0) & (values[np.maximum(ends - 1, 0)] == _RETURN)), np.int64)
