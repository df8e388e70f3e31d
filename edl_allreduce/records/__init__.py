"""One door to the records of a job, whatever the format of its files: chunks, found once and read by their place.

Each format is a module with a `ChunkReader`, imported when the first file of that format is opened: RecordIO
(`edl_allreduce.recordio`), TFRecord, CSV and Parquet. docs/data.md says what a record of each format is.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edl_allreduce.errors import CorruptFile, DataError
from edl_allreduce.records.formats import AUTO, CUSTOM, FORMATS, ending_of, format_of

if TYPE_CHECKING:
    from edl_allreduce.recordio import ChunkRef
    from edl_allreduce.records.base import Chunk, ChunkReader

__all__ = [
    "AUTO",
    "CUSTOM",
    "FORMATS",
    "Chunk",
    "ChunkReader",
    "column_names",
    "format_of",
    "index_many",
    "open_reader",
]

_MODULES = {
    "recordio": "edl_allreduce.recordio",
    "tfrecord": "edl_allreduce.records.tfrecord",
    "csv": "edl_allreduce.records.csv_lines",
    "parquet": "edl_allreduce.records.parquet",
    CUSTOM: "edl_allreduce.records.custom",
}

Columns = tuple[tuple[str, str], ...]


def open_reader(path: str, data_format: str = AUTO) -> ChunkReader:
    """Opens a file for several reads: `with open_reader(path) as r: r.read_chunk(ref).take([3, 1])`.

    Args:
        path: a local path or URL.
        data_format: "recordio", "tfrecord", "csv" or "parquet"; "auto": what the file's ending says.

    Raises:
        CorruptFile: what has to be read first (the header row, the footer) is damaged.
        DataError: the file is compressed as a whole, so that nothing can be read from its middle.
        StorageError: it cannot be read.
        UsageError: a package that the format needs is not installed.
    """
    reader: ChunkReader = importlib.import_module(_MODULES[format_of(path, data_format)]).ChunkReader(path)
    return reader


def index_many(paths: Sequence[str], data_format: str = AUTO, workers: int = 16) -> list[tuple[ChunkRef, ...]]:
    """The chunks of each file, in the order of `paths`; the first error in that order is raised.

    Raises:
        CorruptFile: a file breaks its format.
        DataError: tables have different columns; see `open_reader`, too.
        StorageError, UsageError: see `open_reader`.
    """
    pool = ThreadPoolExecutor(max(1, min(workers, len(paths))))
    try:
        futures = [pool.submit(_inspect, path, data_format) for path in paths]
        found = [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
    _agree(paths, [columns for columns, _ in found])
    return [chunks for _, chunks in found]


def column_names(path: str, data_format: str = AUTO) -> tuple[str, ...] | None:
    """The names of a table's columns, in its order; None for RecordIO and TFRecord. Raises as `open_reader`."""
    if format_of(path, data_format) not in ("csv", "parquet"):
        return None
    with open_reader(path, data_format) as reader:
        columns = reader.columns()
        return None if columns is None else tuple(name for name, _ in columns)


def _inspect(path: str, data_format: str) -> tuple[Columns | None, tuple[ChunkRef, ...]]:
    with open_reader(path, data_format) as reader:
        try:
            return reader.columns(), reader.index()
        except CorruptFile as error:
            if error.offset == 0 and data_format == AUTO and not ending_of(path):
                known = ", ".join(FORMATS)
                problem = f"{error.problem}; if it is no RecordIO, --data_format says what it is ({known})"
                raise CorruptFile(path, 0, problem) from None
            raise


def _agree(paths: Sequence[str], found: Sequence[Columns | None]) -> None:
    """Raises DataError when a table's columns are not those of the first table."""
    tables = [(path, columns) for path, columns in zip(paths, found, strict=True) if columns is not None]
    for path, columns in tables[1:]:
        first_path, first = tables[0]
        if columns != first and dict(columns) != dict(first):
            theirs = ", ".join(_told(each) for each in columns if each not in first) or "fewer"
            ours = ", ".join(_told(each) for each in first if each not in columns) or "fewer"
            raise DataError(f"{path}: has other columns than {first_path}: {theirs} instead of {ours}")


def _told(column: tuple[str, str]) -> str:
    return " ".join(filter(None, column))
