"""TFRecord files: runs of whole records as chunks, found by walking the headers, every checksum verified when read.

A record is its length (uint64, little-endian), the masked CRC-32C of the length, the data, and the masked CRC-32C of
the data. Source: tensorflow/core/lib/io/record_writer.h; the mask is that of crc32c.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from edl_allreduce import storage
from edl_allreduce.errors import CorruptFile
from edl_allreduce.recordio.format import ChunkRef
from edl_allreduce.recordio.records import Records
from edl_allreduce.records.base import Cutter

HEADER_BYTES, FOOTER_BYTES = 12, 4
_LENGTH = struct.Struct("<Q")
_MASK = np.uint64(0xA282EAD8)

# How much is read at once while walking the headers, as long as records are smaller than that.
_LOCAL_BLOCK_BYTES, _REMOTE_BLOCK_BYTES = 64 << 10, 8 << 20
# Nobody writes records of this size; a damaged file must not make us allocate more.
_MAX_RECORD_BYTES = 1 << 30


class ChunkReader:
    """A TFRecord file held open for several reads; a context manager. Threads may share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = storage.open_ranges(path)

    def columns(self) -> None:
        """Records have none."""

    def index(self) -> tuple[ChunkRef, ...]:
        """All chunks of the file. Raises CorruptFile, StorageError."""
        cutter = Cutter(0)
        chunks = [chunk for ends in self._ends() for chunk in cutter.add(ends)]
        return (*chunks, *cutter.finish())

    def _ends(self) -> Iterator[NDArray[np.int64]]:
        """Where each record ends, a block of the file at a time; data that does not lie in a block is not read."""
        block = _REMOTE_BLOCK_BYTES if self._source.remote else _LOCAL_BLOCK_BYTES
        offset, size, wanted = 0, self._source.size, block
        while offset < size:
            window = self._source.read(offset, wanted)
            begins, end = _walk(window)
            if (problem := _first_problem(window, begins)) is not None:
                raise CorruptFile(self._path, offset + problem[0], problem[1])
            if offset + end > size:
                left = size - offset - begins[-1]
                problem_text = f"the record takes {end - begins[-1]} bytes, but the file ends after {left} of them"
                raise CorruptFile(self._path, offset + begins[-1], problem_text)
            if end - begins[-1] > _MAX_RECORD_BYTES:
                raise CorruptFile(
                    self._path, offset + begins[-1], f"the record has more than {_MAX_RECORD_BYTES} bytes"
                )
            yield offset + np.array([*begins[1:], end], np.int64)
            wanted = HEADER_BYTES if len(begins) == 1 and end > block else block
            offset += end

    def read_chunk(self, ref: ChunkRef) -> Records:
        """The records of one chunk, by one ranged read; checksums are verified. Raises CorruptFile, StorageError."""
        data = self._source.read(ref.offset, ref.size)
        begins, end = _walk(data)
        if (problem := _first_problem(data, begins) or _first_damage(data, begins)) is not None:
            number, at = begins.index(problem[0]), ref.offset + problem[0]
            raise CorruptFile(self._path, ref.offset, f"record {number} of the chunk, at offset {at}: {problem[1]}")
        if (end, len(begins)) != (ref.size, ref.records):
            found, expected = f"{len(begins)} records in {end} bytes", f"{ref.records} records in {ref.size} bytes"
            problem_text = f"the chunk has {found}, the index says {expected}: has the file changed?"
            raise CorruptFile(self._path, ref.offset, problem_text)
        marks = np.array([*begins, end], np.int64)
        return Records(data, marks[:-1] + HEADER_BYTES, marks[1:] - FOOTER_BYTES)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def is_header(head: bytes) -> bool:
    """Whether the first 12 bytes of a file begin a record."""
    return _first_problem(head, [0]) is None


def records_in_stream(path: str, stream: Any) -> Iterator[bytes]:
    """The records of a stream that can only be read from its beginning, such as a decompressed one.

    Args:
        path: what is read, for errors; their offsets are those in the stream.
        stream: a binary file.

    Raises:
        CorruptFile: a checksum is wrong, or the stream ends inside a record.
    """
    offset = 0
    while header := stream.read(HEADER_BYTES):
        if (problem := _first_problem(header, [0])) is not None:
            raise CorruptFile(path, offset, problem[1])
        (length,) = _LENGTH.unpack_from(header)
        if length > _MAX_RECORD_BYTES:
            raise CorruptFile(path, offset, f"the record has {length} bytes, more than {_MAX_RECORD_BYTES}")
        rest = stream.read(length + FOOTER_BYTES)
        if len(rest) < length + FOOTER_BYTES:
            raise CorruptFile(path, offset, f"the file ends after {len(rest)} of the record's {length} bytes")
        if (problem := _first_damage(header + rest, [0])) is not None:
            raise CorruptFile(path, offset, problem[1])
        offset += len(header) + len(rest)
        yield rest[:length]


def _walk(data: bytes) -> tuple[list[int], int]:
    """Where in `data` each record begins, and where the last one ends: perhaps behind `data`, if lengths say so.

    The first record begins at 0; it is listed even if its header is not whole.
    """
    begins, at, last = [0], 0, len(data) - HEADER_BYTES
    unpack = _LENGTH.unpack_from
    if last < 0:
        return begins, HEADER_BYTES
    at += HEADER_BYTES + FOOTER_BYTES + unpack(data, at)[0]
    while at <= last:
        begins.append(at)
        at += HEADER_BYTES + FOOTER_BYTES + unpack(data, at)[0]
    return begins, at


def _first_problem(data: bytes, begins: list[int]) -> tuple[int, str] | None:
    """The first record whose header is cut off or damaged, and what is wrong with it."""
    if len(data) < HEADER_BYTES:
        return 0, f"the file ends after {len(data)} of a record header's {HEADER_BYTES} bytes"
    crc = google_crc32c.value
    found = _masked([crc(data[at : at + 8]) for at in begins])
    stored = _numbers_at(data, np.array(begins, np.int64) + 8)
    if (found == stored).all():
        return None
    wrong = int(np.flatnonzero(found != stored)[0])
    problem = f"no record begins here: the length's checksum is {found[wrong]:#010x}, stored is {stored[wrong]:#010x}"
    return begins[wrong], problem


def _first_damage(data: bytes, begins: list[int]) -> tuple[int, str] | None:
    """The first record whose data is cut off or damaged, and what is wrong with it; headers are intact."""
    marks = np.array(begins, np.int64)
    firsts = (marks + HEADER_BYTES).tolist()
    ends = [first + _LENGTH.unpack_from(data, at)[0] for first, at in zip(firsts, begins, strict=True)]
    if ends[-1] + FOOTER_BYTES > len(data):
        return begins[
            -1
        ], f"it has {ends[-1] - firsts[-1]} bytes, {ends[-1] + FOOTER_BYTES - len(data)} more than there are"
    crc = google_crc32c.value
    found = _masked([crc(data[first:end]) for first, end in zip(firsts, ends, strict=True)])
    stored = _numbers_at(data, np.array(ends, np.int64))
    if (found == stored).all():
        return None
    wrong = int(np.flatnonzero(found != stored)[0])
    return begins[wrong], f"its checksum is {found[wrong]:#010x}, stored is {stored[wrong]:#010x}: get the file again"


def _masked(checksums: list[int]) -> NDArray[np.uint32]:
    crc = np.array(checksums, np.uint64)
    rotated = (crc >> np.uint64(15)) | (crc << np.uint64(17))
    return np.asarray(rotated + _MASK).astype(np.uint32)


def _numbers_at(data: bytes, places: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The uint32 at each place of `data`."""
    four = np.frombuffer(data, np.uint8)[places[:, None] + np.arange(4)]
    return np.frombuffer(four.tobytes(), "<u4").astype(np.uint32)
