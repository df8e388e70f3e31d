"""RecordIO's bytes, as constants and pure functions: everything that reads or writes a file agrees by using these.

A file is chunks, one after the other. A chunk is a header of five little-endian uint32 (magic number, CRC-32 of the
compressed payload, compressor, size of the compressed payload, number of records) and the compressed payload, in which
each record is a little-endian uint32 length and its bytes. Source: github.com/wangkuiyi/recordio, header.go, chunk.go.

The checksum covers the payload alone. The header's other fields are checked against each other, the file's size and
the decompressed payload, so that no damaged field yields a wrong record (docs/data.md says which check finds what).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from edl_allreduce.errors import CorruptFile, DataError
from edl_allreduce.recordio import codec
from edl_allreduce.recordio.codec import COMPRESSORS, MAX_EXPANSION, Damaged
from edl_allreduce.recordio.records import Buffer, Records

MAGIC = 0x01020304
HEADER = struct.Struct("<5I")
LENGTH = struct.Struct("<I")

# What a chunk may decompress to. Nobody writes chunks near this size (32 MiB is the default); a damaged or malicious
# file must not make us allocate more.
MAX_PAYLOAD_BYTES = 1 << 30

_WALK = 1 << 16  # records whose places are Python integers at a time


@dataclass(frozen=True)
class ChunkRef:
    """Where a chunk is in its file; of every format that a job can read (`edl_allreduce.records`).

    Attributes:
        offset: byte offset where it begins; no two chunks of a file share it.
        size: its bytes in the file, from `offset` on. Only Parquet gives more where a chunk takes more than three times
            as much memory (see `edl_allreduce.records.parquet`).
        records: number of records, at least 1.
    """

    offset: int
    size: int
    records: int


@dataclass(frozen=True)
class Header:
    """A chunk's header; `size` is that of the compressed payload, in bytes."""

    checksum: int
    compressor: int
    size: int
    records: int


def parse_header(raw: bytes, path: str, offset: int) -> Header:
    """The header in the first 20 bytes of `raw`.

    Args:
        path, offset: where `raw` was read, for the error.

    Raises:
        CorruptFile: it is cut short, or a field has a value that no intact chunk has.
    """
    if len(raw) < HEADER.size:
        raise CorruptFile(path, offset, f"the file ends after {len(raw)} of a chunk header's {HEADER.size} bytes")
    magic, checksum, compressor, size, records = HEADER.unpack_from(raw)
    problem = ""
    if magic != MAGIC:
        problem = f"no chunk begins here: expected the magic number {MAGIC:#010x}, found {magic:#010x}"
    elif compressor not in COMPRESSORS:
        known = ", ".join(f"{number} ({name})" for number, name in COMPRESSORS.items())
        problem = f"unknown compressor {compressor}: known are {known}"
    elif records == 0:
        problem = "the chunk claims to hold no record, and nobody writes such a chunk"
    elif LENGTH.size * records > min(MAX_EXPANSION[compressor] * size, MAX_PAYLOAD_BYTES):
        problem = f"the chunk claims {records} records, more than fit in its {size} {COMPRESSORS[compressor]} bytes"
    if problem:
        raise CorruptFile(path, offset, problem)
    return Header(checksum, compressor, size, records)


def decode_chunk(raw: bytes, path: str, ref: ChunkRef) -> Records:
    """The records of the chunk that `raw` holds from its header on.

    Raises:
        CorruptFile: the chunk is damaged, or is not the one that `ref` describes.
    """
    header = parse_header(raw, path, ref.offset)
    if (header.size + HEADER.size, header.records) != (ref.size, ref.records):
        found = f"{header.records} records in {header.size + HEADER.size} bytes"
        expected = f"{ref.records} records in {ref.size} bytes"
        raise CorruptFile(path, ref.offset, f"the chunk has {found}, the index says {expected}: has the file changed?")
    if len(raw) != ref.size:
        raise CorruptFile(path, ref.offset, f"the file ends after {len(raw)} of the chunk's {ref.size} bytes")
    stored = memoryview(raw)[HEADER.size :]
    checksum = crc32(stored)
    if checksum != header.checksum:
        problem = f"the payload's checksum is {checksum:#010x}, the header says {header.checksum:#010x}"
        raise CorruptFile(path, ref.offset, f"{problem}: get the file again")
    try:
        if header.compressor == codec.NONE:
            records = _split(raw, HEADER.size, header.records)
            _check_not_compressed(stored, header.records)
            return records
        return _split(codec.decompress(header.compressor, stored, MAX_PAYLOAD_BYTES), 0, header.records)
    except Damaged as damage:
        raise CorruptFile(path, ref.offset, str(damage)) from None


def encode_chunk(records: Iterable[bytes], compressor: int) -> bytes:
    """A whole chunk: header and compressed payload.

    Raises:
        DataError: the payload is larger than a reader accepts.
    """
    parts: list[bytes] = []
    for record in records:
        parts += (LENGTH.pack(len(record)), record)
    payload = b"".join(parts)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DataError(f"a RecordIO chunk holds at most {MAX_PAYLOAD_BYTES} bytes, got {len(payload)}")
    stored = codec.compress(compressor, payload)
    return HEADER.pack(MAGIC, crc32(stored), compressor, len(stored), len(parts) // 2) + stored


def _split(payload: Buffer, start: int, count: int) -> Records:
    """Finds the records in `payload[start:]`. Raises Damaged when they do not fill it exactly."""
    end = len(payload)
    if LENGTH.size * count > end - start:
        raise Damaged(_misfit(payload, start, count))
    width = LENGTH.size + int(LENGTH.unpack_from(payload, start)[0])
    if count * width == end - start:  # Probably records of one size, as numbers and images are: no need to walk.
        lengths = np.ndarray(count, "<u4", payload, offset=start, strides=(width,))
        if (lengths == width - LENGTH.size).all():
            return _between(payload, np.arange(start, end + 1, width))
    marks = np.empty(count + 1, np.int64)
    marks[0] = position = start
    unpack = LENGTH.unpack_from
    try:
        for done in range(0, count, _WALK):
            steps = min(_WALK, count - done)
            marks[done + 1 : done + 1 + steps] = [
                position := position + 4 + unpack(payload, position)[0] for _ in repeat(None, steps)
            ]
    except struct.error:
        position = end + 1
    if position != end:
        raise Damaged(_misfit(payload, start, count))
    return _between(payload, marks)


def _between(payload: Buffer, marks: npt.NDArray[np.int64]) -> Records:
    """The records whose lengths begin at `marks`, of which the last one is the end."""
    return Records(payload, marks[:-1] + LENGTH.size, marks[1:])


def _misfit(payload: Buffer, start: int, count: int) -> str:
    """Why `count` records do not fill `payload[start:]` exactly."""
    position, end = start, len(payload)
    for number in range(count):
        if end - position < LENGTH.size:
            return f"the payload ends after {number} records, the header says {count}"
        (length,) = LENGTH.unpack_from(payload, position)
        position += LENGTH.size + length
        if position > end:
            return f"record {number} claims {length} bytes, {position - end} more than the chunk has left"
    return f"{end - position} bytes are left in the payload after its {count} records"


def _check_not_compressed(stored: memoryview, count: int) -> None:
    """Raises Damaged when an `uncompressed` payload is a compressed chunk whose compressor field was damaged.

    No checksum covers that field, and a compressed payload may by bad luck look like records. That somebody's records
    look like an intact compressed chunk of as many records cannot happen by accident.
    """
    compressor = codec.looks_like(stored)
    if compressor != codec.NONE:
        try:
            _split(codec.decompress(compressor, stored, MAX_PAYLOAD_BYTES), 0, count)
        except Damaged:
            return
        raise Damaged(f"the header says uncompressed, but the payload is {COMPRESSORS[compressor]}")
