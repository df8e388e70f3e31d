"""Parquet files as records: each row is a serialized tf.Example of its columns; a chunk is a row group.

A row group that would take more than 256 MiB of memory is cut into several chunks; to read one of them, the row group
is decoded from its beginning (pyarrow knows no other way in). `ChunkRef.size` of a chunk is a third of the memory that
it takes where that is more than its bytes in the file: what opens many chunks at once goes by it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import CorruptFile, DataError, StorageError
from edl_allreduce.extras import need
from edl_allreduce.recordio.format import ChunkRef
from edl_allreduce.records import arrow
from edl_allreduce.records.examples import Examples
from edl_allreduce.storage_ranges import RangeStream

PART_BYTES = 256 << 20
FOOTER_BYTES = 8  # its length and the magic number, the last bytes of a file
_INFLATION = 3  # what `dataset.INFLATION` takes for granted
_VALUE_BYTES = 16  # of a number in memory: it and where it lies
_READ_BYTES = 4 << 20
_BATCH_ROWS = 16384


@dataclass(frozen=True)
class Part:
    """Some rows of a row group; `first` is the first one's number in the group."""

    group: int
    first: int
    rows: int


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
            with self._errors(max(0, self._source.size - FOOTER_BYTES), "the footer is damaged, or this is no Parquet"):
                self._metadata = self._parquet.read_metadata(_Stream(self._source))
                self._parts = dict(_parts(self._metadata))
        except BaseException:
            self._source.close()
            raise

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
        return tuple(self._parts)

    def read_chunk(self, ref: ChunkRef) -> Examples:
        """The rows of one chunk; pages that have checksums are verified. Raises CorruptFile, StorageError."""
        part = self._parts.get(ref)
        if part is None:
            problem = f"no chunk of {ref.records} rows begins here: has the file changed?"
            raise CorruptFile(self._path, ref.offset, problem)
        with self._errors(ref.offset, f"row group {part.group} is damaged"):
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
        for number, offset in _groups(self._metadata):
            with (
                self._errors(offset, f"row group {number} is damaged"),
                self._open(pre_buffer=False, buffer_size=_READ_BYTES) as file,
            ):
                for batch in file.iter_batches(rows, row_groups=[number], columns=list(columns), use_threads=False):
                    yield arrow.pa.Table.from_batches([batch])

    def _read(self, part: Part) -> Any:
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
        texts = _dictionaries(self._metadata)
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


def _parts(metadata: Any) -> Iterator[tuple[ChunkRef, Part]]:
    """The chunks of a file by its footer; the same one gives the same."""
    for number, offset in _groups(metadata):
        group = metadata.row_group(number)
        columns = [group.column(each) for each in range(group.num_columns)]
        stored, memory = sum(each.total_compressed_size for each in columns), sum(map(_memory, columns))
        parts = max(1, min(-(-memory // PART_BYTES), group.num_rows, stored))
        for part in range(parts):
            first, after = (group.num_rows * each // parts for each in (part, part + 1))
            begin, end = (stored * each // parts for each in (part, part + 1))
            size = max(end - begin, memory // parts // _INFLATION)
            yield ChunkRef(offset + begin, size, after - first), Part(number, first, after - first)


def _groups(metadata: Any) -> Iterator[tuple[int, int]]:
    """The row groups that have rows, each with where it begins in the file."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(each) for each in range(group.num_columns)]
        if group.num_rows and columns:
            yield number, min(each.dictionary_page_offset or each.data_page_offset for each in columns)


def _memory(column: Any) -> int:
    """About how many bytes a column of a row group takes in memory."""
    values = column.total_uncompressed_size if column.physical_type.endswith("BYTE_ARRAY") else 0
    return int(column.num_values * _VALUE_BYTES + values)


def _dictionaries(metadata: Any) -> list[str]:
    """The columns of texts that are stored as numbers of different ones; kept so, they take little memory."""
    found = set()
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for each in range(group.num_columns):
            column = group.column(each)
            if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page:
                found.add(column.path_in_schema)
    return sorted(found)
