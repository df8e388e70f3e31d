"""Records that a model's own `custom_data_reader` reads (ElasticDL's): its shards stand for files, ranges for chunks.

ElasticDL's reader has `create_shards() -> {name: (first record, number of records)}` and `read_records(task)`, which
gives the records from `task.start` to `task.end` of the shard `task.shard_name`; see its AbstractDataReader.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from edl_allreduce.errors import CorruptFile, DataError
from edl_allreduce.recordio.format import ChunkRef
from edl_allreduce.recordio.records import Records

BETWEEN = "::"  # a data origin and a shard's name, in the name of a "file"
CHUNK_RECORDS = 1024

_readers: dict[str, Any] = {}


@dataclass(frozen=True)
class Task:
    """What `read_records` is asked for."""

    shard_name: str
    start: int
    end: int


def use(origin: str, reader: Any) -> None:
    """Reads what comes from a data origin by this reader, from now on."""
    _readers[origin] = reader


def file_of(origin: str, shard: str) -> str:
    """The name under which a shard is known."""
    return f"{origin}{BETWEEN}{shard}"


def chunks_of(first: int, records: int) -> tuple[ChunkRef, ...]:
    """A shard's records in chunks; an offset is a record's number, a size a number of records."""
    end = first + records
    return tuple(
        ChunkRef(begin, min(CHUNK_RECORDS, end - begin), min(CHUNK_RECORDS, end - begin))
        for begin in range(first, end, CHUNK_RECORDS)
    )


class ChunkReader:
    """A shard; a context manager."""

    def __init__(self, path: str) -> None:
        origin, _, self._shard = path.rpartition(BETWEEN)
        self._path, self._reader = path, _readers[origin]

    def columns(self) -> None:
        """Nothing is known of the records."""

    def index(self) -> tuple[ChunkRef, ...]:
        """All chunks of the shard."""
        first, records = self._reader.create_shards()[self._shard]
        return chunks_of(first, records)

    def read_chunk(self, ref: ChunkRef) -> Records:
        """The records of one chunk.

        Raises:
            CorruptFile: the reader gives fewer than it has promised.
            DataError: it gives something else than serialized records.
        """
        task = Task(self._shard, ref.offset, ref.offset + ref.records)
        records = [self._bytes(record) for record in islice(self._reader.read_records(task), ref.records)]
        if len(records) != ref.records:
            told = f"read_records gave {len(records)} records from {task.start} to {task.end}"
            raise CorruptFile(self._path, ref.offset, told)
        ends = np.cumsum([len(record) for record in records], dtype=np.int64)
        return Records(b"".join(records), np.append(0, ends[:-1]), ends)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _bytes(self, record: Any) -> bytes:
        if isinstance(record, str):
            return record.encode()
        if isinstance(record, bytes):
            return record
        kind = type(record).__name__
        raise DataError(f"{self._path}: read_records gave a {kind}; expected bytes or str, such as a tf.Example")


def shards(reader: Any) -> Iterable[tuple[str, int, int]]:
    """Name, first record and number of records of each shard, by name."""
    return ((str(name), int(first), int(count)) for name, (first, count) in sorted(reader.create_shards().items()))
