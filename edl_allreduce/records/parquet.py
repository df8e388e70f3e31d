"""Parquet files as records: each row is a serialized tf.Example of its columns; a chunk is a row group.

A row group that would take more than 256 MiB of memory is cut into several chunks; to read one of them, the row group
is decoded from its beginning (pyarrow knows no other way in). `ChunkRef.size` of a chunk is a third of the memory that
it takes where that is more than its bytes in the file: what opens many chunks at once goes by it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import CorruptFile, DataError, StorageError
from edl_allreduce.extras import need
from edl_allreduce.recordio.format import ChunkRef
from edl_allreduce.records import arrow, parquet_layout
from edl_allreduce.records.examples import Examples
from edl_allreduce.storage_ranges import RangeStream

TAIL = struct.Struct("<I4s")  # the metadata's length and the magic number, the last bytes of a file
_MAGIC = b"PAR1"
_FIRST_READ_BYTES = 64 << 10
_READ_BYTES = 4 << 20
_BATCH_ROWS = 16384


class _Stream(RangeStream):
    """A file as pyarrow wants it; the file stays open when this is closed."""

    def close(self) -> None:
        io.RawIOBase.close(self)


class ChunkReader:
    """A Parquet file held open for several reads; a context manager. Threads may share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._parquet = need("pyarrow.parquet", "parquet", f"reading {path}")
        self._source = storage.open_ranges(path)
        try:
            footer, offset = self._footer()
            with self._errors(offset, "the footer is damaged"):
                self._layout = parquet_layout.layout_of(footer, parquet_layout.PART_BYTES)
        except BaseException:
            self._source.close()
            raise
        self._metadata = self._layout.metadata

    def _footer(self) -> tuple[bytes, int]:
        """The last bytes of the file, from the metadata on, and where they begin."""
        size = self._source.size
        begin = max(0, size - _FIRST_READ_BYTES)
        end = self._source.read(begin, size - begin)
        if len(end) < TAIL.size or TAIL.unpack(end[-TAIL.size :])[1] != _MAGIC:
            raise CorruptFile(self._path, begin, f"is no Parquet, or has been cut: it does not end in {_MAGIC!r}")
        whole = TAIL.unpack(end[-TAIL.size :])[0] + TAIL.size
        if whole > size:
            raise CorruptFile(self._path, size - TAIL.size, f"the footer claims {whole} bytes, the file has {size}")
        return (end[-whole:] if whole <= len(end) else self._source.read(size - whole, whole)), size - whole

    @property
    def schema(self) -> Any:
        """The Arrow schema."""
        return self._metadata.schema.to_arrow_schema()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._metadata.num_rows)

    def columns(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each column. Raises DataError when one has no place in a tf.Example."""
        arrow.check(self._path, self.schema)
        return tuple((field.name, str(field.type)) for field in self.schema)

    def index(self) -> tuple[ChunkRef, ...]:
        """All chunks of the file, from its footer alone."""
        return tuple(self._layout.parts)

    def read_chunk(self, ref: ChunkRef) -> Examples:
        """The rows of one chunk; pages that have checksums are verified. Raises CorruptFile, StorageError."""
        part = self._layout.parts.get(ref)
        if part is None:
            problem = f"no chunk of {ref.records} rows begins here: has the file changed?"
            raise CorruptFile(self._path, ref.offset, problem)
        with self._errors(ref.offset, f"row group {part.group} cannot be read"):
            table = self._read(part)
        if table.num_rows != ref.records:
            problem = f"row group {part.group} has {table.num_rows} rows, the footer says {ref.records}"
            raise CorruptFile(self._path, ref.offset, problem)
        try:
            return Examples(arrow.features(arrow.flatten(table)))
        except DataError as error:
            raise CorruptFile(self._path, ref.offset, f"row group {part.group}: {error}") from None

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[Any]:
        """These columns of the whole file, as tables of at most `rows` rows. Raises CorruptFile, StorageError."""
        for number, offset in parquet_layout.groups_of(self._metadata):
            with (
                self._errors(offset, f"row group {number} cannot be read"),
                self._open(pre_buffer=False, buffer_size=_READ_BYTES) as file,
            ):
                for batch in file.iter_batches(rows, row_groups=[number], columns=list(columns), use_threads=False):
                    yield arrow.pa.Table.from_batches([batch])

    def _read(self, part: parquet_layout.Part) -> Any:
        if part.rows == self._metadata.row_group(part.group).num_rows:
            with self._open(pre_buffer=True) as file:
                return file.read_row_group(part.group, use_threads=False)
        batches, first = [], part.first
        with self._open(pre_buffer=False, buffer_size=_READ_BYTES) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[part.group], use_threads=False):
                wanted = batch.slice(max(0, first), max(0, min(len(batch), first + part.rows) - max(0, first)))
                first -= len(batch)
                if wanted.num_rows:
                    batches.append(wanted)
                if first + part.rows <= 0:
                    break
        return arrow.pa.Table.from_batches(batches)

    def _open(self, **options: Any) -> Any:
        stream = _Stream(self._source)
        texts = list(self._layout.texts)
        return self._parquet.ParquetFile(
            stream, metadata=self._metadata, read_dictionary=texts, page_checksum_verification=True, **options
        )

    @contextmanager
    def _errors(self, offset: int, problem: str) -> Iterator[None]:
        """Turns what pyarrow raises about a file's content into CorruptFile."""
        try:
            yield
        except (StorageError, MemoryError):
            raise
        except (OSError, ValueError, NotImplementedError, OverflowError) as error:  # ArrowInvalid is a ValueError
            raise CorruptFile(self._path, offset, f"{problem} ({' '.join(str(error).split())})") from None

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
