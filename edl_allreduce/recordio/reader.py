"""Reading RecordIO: the index from headers alone, chunks by their place, records in a row with a position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from edl_allreduce import storage
from edl_allreduce.errors import CorruptFile, DataError
from edl_allreduce.recordio.format import HEADER, ChunkRef, Header, decode_chunk, parse_header
from edl_allreduce.recordio.records import Records

# A header read over the network brings this much along: with small chunks the next headers are in it already.
_REMOTE_BLOCK_BYTES = 64 << 10


class ChunkReader:
    """A RecordIO file held open for several reads; a context manager. Threads may share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = storage.open_ranges(path)

    def headers(self) -> Iterator[tuple[int, Header]]:
        """Each chunk's offset and header, read by ranged reads that skip the payloads.

        Raises:
            CorruptFile: a header is damaged, or its chunk reaches past the end of the file.
            StorageError: the file cannot be read.
        """
        offset, file_size = 0, self._source.size
        window, window_offset = b"", 0
        while offset < file_size:
            if offset + HEADER.size > window_offset + len(window):
                window_offset = offset
                window = self._source.read(offset, _REMOTE_BLOCK_BYTES if self._source.remote else HEADER.size)
            header = parse_header(window[offset - window_offset :][: HEADER.size], self._path, offset)
            left = file_size - offset - HEADER.size
            if header.size > left:
                problem = f"the chunk's payload has {header.size} bytes, but the file ends after {left} of them"
                raise CorruptFile(self._path, offset, problem)
            yield offset, header
            offset += HEADER.size + header.size

    def columns(self) -> None:
        """Records have none."""

    def index(self) -> tuple[ChunkRef, ...]:
        """All chunks of the file. Raises CorruptFile, StorageError."""
        return tuple(ChunkRef(at, HEADER.size + header.size, header.records) for at, header in self.headers())

    def read_chunk(self, ref: ChunkRef) -> Records:
        """The records of one chunk, by one ranged read; checksum and structure are verified.

        Raises:
            CorruptFile: the chunk is damaged, or is not the one that `ref` describes.
            StorageError: the file cannot be read.
        """
        if not self._source.remote and ref.offset + ref.size > self._source.size:
            problem = f"the chunk ends at {ref.offset + ref.size}, the file at {self._source.size}: has it been cut?"
            raise CorruptFile(self._path, ref.offset, problem)
        return decode_chunk(self._source.read(ref.offset, ref.size), self._path, ref)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_reader(path: str) -> ChunkReader:
    """Opens a file for several reads: `with open_reader(path) as r: r.read_chunk(ref)`. Raises StorageError."""
    return ChunkReader(path)


def index(path: str) -> tuple[ChunkRef, ...]:
    """All chunks of a file, from its headers alone. Raises CorruptFile, StorageError."""
    with open_reader(path) as reader:
        return reader.index()


def index_many(paths: Sequence[str], workers: int = 16) -> list[tuple[ChunkRef, ...]]:
    """`index` of each path, in the order of `paths`; the first error in that order is raised."""
    pool = ThreadPoolExecutor(max(1, min(workers, len(paths))))
    try:
        return [found.result() for found in [pool.submit(index, path) for path in paths]]
    finally:
        pool.shutdown(cancel_futures=True)


def read_chunk(path: str, ref: ChunkRef) -> Records:
    """The records of one chunk of a file. Raises CorruptFile, StorageError."""
    with open_reader(path) as reader:
        return reader.read_chunk(ref)


class Reader(Iterator[bytes]):
    """The records of a file one after the other; a context manager.

    `position` is the next record as (chunk, record in the chunk), both from 0: a Reader made with it gives the
    identical remainder. As JSON it becomes a list, which is accepted too.

    Raises:
        CorruptFile, StorageError: the file cannot be read; also while iterating, and again when asked again.
        DataError: the file has no such position.
    """

    def __init__(self, path: str, position: Sequence[int] = (0, 0)) -> None:
        self._path = path
        self._chunks = open_reader(path)
        try:
            self._refs = self._chunks.index()
            self._chunk, self._record = self._checked(position)
        except BaseException:
            self.close()
            raise
        self._records: Iterator[bytes] | None = None

    def _checked(self, position: Sequence[int]) -> tuple[int, int]:
        chunk, record = position
        counts = [ref.records for ref in self._refs]
        if (chunk, record) == (len(counts), 0):
            return chunk, record
        if not 0 <= chunk < len(counts) or not 0 <= record <= counts[chunk]:
            raise DataError(f"{self._path}: has no position ({chunk}, {record}); it has {len(counts)} chunks")
        return (chunk, record) if record < counts[chunk] else (chunk + 1, 0)

    @property
    def position(self) -> tuple[int, int]:
        """(chunk, record in the chunk) of the next record; (number of chunks, 0) at the end."""
        return self._chunk, self._record

    def __next__(self) -> bytes:
        if self._chunk == len(self._refs):
            self.close()
            raise StopIteration
        ref = self._refs[self._chunk]
        if self._records is None:
            self._records = self._chunks.read_chunk(ref).since(self._record)
        record = next(self._records)
        self._record += 1
        if self._record == ref.records:
            self._chunk, self._record, self._records = self._chunk + 1, 0, None
        return record

    def close(self) -> None:
        self._chunks.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
