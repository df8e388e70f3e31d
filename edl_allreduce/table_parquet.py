"""Parquet files as tables on their way to RecordIO: a row group at a time, whole batches of rows turned at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edl_allreduce import storage
from edl_allreduce.errors import DataError
from edl_allreduce.extras import Later
from edl_allreduce.records import arrow
from edl_allreduce.records.examples import Examples
from edl_allreduce.records.parquet import ChunkReader
from edl_allreduce.table import BYTES, FLOAT, INT64, MAX_CLASSES, Column, Scan, Wish, chosen

_BATCH_ROWS = 4096
pc: Any = Later("pyarrow.compute", "parquet", "Parquet")


class ParquetTable:
    """Parquet files; structs count as a column for each field, STRUCT.FIELD."""

    splittable = False

    def size(self, path: str) -> int:
        """The file's size. Raises StorageError."""
        return storage.size(path)

    def scan(self, path: str, wish: Wish, rows_per_file: int) -> Scan:
        """Reads the footer, and a text label's values. Raises DataError, StorageError."""
        with ChunkReader(path) as reader:
            types = dict(arrow.fields_of(reader.schema))
            columns = tuple((name, _type(path, name, types[name], wish)) for name in chosen(path, list(types), wish))
            texts: frozenset[str] | None = frozenset()
            if wish.label and dict(columns)[wish.label] == BYTES and not wish.type_of(wish.label):
                texts = _texts(path, reader, wish.label)
            return Scan(path, columns, reader.rows, (), texts)

    def rows(
        self, path: str, columns: Sequence[Column], start: tuple[int, int], first: int, count: int
    ) -> Iterator[bytes]:
        """`count` rows from the first one on, as serialized tf.Examples. Raises DataError, StorageError."""
        wanted = {column.name: (column.feature, column.type) for column in columns}
        with ChunkReader(path) as reader:
            done = 0
            for batch in reader.batches(_BATCH_ROWS, list(wanted)):
                table = arrow.flatten(batch)
                for column in columns:
                    if column.classes:
                        table = _numbered(path, table, column)
                try:
                    examples = Examples(arrow.features(table, wanted))
                except DataError as error:
                    raise DataError(f"{path}, after row {done}: {error}") from None
                yield from examples.take(range(min(len(examples), count - done)))
                done += len(examples)


def _type(path: str, name: str, dtype: Any, wish: Wish) -> str:
    found, given = arrow.kind_of(dtype), wish.type_of(name)
    if found is None:
        problem = f"column {name!r} has the type {dtype}, which has no place in a tf.Example"
        raise DataError(f"{path}: {problem}; choose others with --columns")
    found = found or given or BYTES  # a column of nulls may be called anything
    many = arrow.is_list(dtype)
    if given and (found, given) not in ((found, found), (INT64, FLOAT)) and (many or given != BYTES):
        raise DataError(f"{path}: column {name!r} has the type {dtype}, which cannot become {given}")
    if many and name == wish.label and found == BYTES and not given:
        raise DataError(f"{path}: column {name!r} has the type {dtype}; the texts of a label must not be lists")
    return given or found


def _texts(path: str, reader: ChunkReader, label: str) -> frozenset[str] | None:
    """The different values of a text column; None when there are too many."""
    texts: set[str] = set()
    for batch in reader.batches(_BATCH_ROWS, [label]):
        column = _as_text(path, arrow.flatten(batch).column(label), label)
        texts.update(text for text in column.unique().to_pylist() if text is not None)
        if len(texts) > MAX_CLASSES:
            return None
    return frozenset(texts)


def _numbered(path: str, table: Any, column: Column) -> Any:
    """The table with a label's texts replaced by their numbers."""
    texts = _as_text(path, table.column(column.name), column.name)
    numbers = pc.index_in(texts, value_set=arrow.pa.array(column.classes, arrow.pa.string()))
    return table.set_column(table.schema.get_field_index(column.name), column.name, numbers)


def _as_text(path: str, column: Any, name: str) -> Any:
    try:
        return column.cast(arrow.pa.string())
    except arrow.pa.ArrowInvalid as error:
        raise DataError(f"{path}: column {name!r}: {error}; --columns={name}:bytes keeps it as it is") from None
