"""CSV, .npz, Parquet, TFRecord and databases to RecordIO, so that one's own data trains here; without TensorFlow.

All sources are looked at first: what is wrong with them is said before anything is written. Output files are then
written in parallel, each atomically; when anything fails, none of them is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from edl_allreduce import recordio, storage, table_sql
from edl_allreduce.convert_processes import each, pool_for
from edl_allreduce.errors import DataError, StorageError, UsageError
from edl_allreduce.table import Column, Scan, Table, Wish, agree, parse_columns
from edl_allreduce.table_csv import CsvTable
from edl_allreduce.table_npz import NpzTable
from edl_allreduce.table_parquet import ParquetTable
from edl_allreduce.table_tfrecord import TfRecordTable
from edl_allreduce.tf_example import example_bytes

__all__ = [
    "Conversion",
    "Options",
    "convert_csv",
    "convert_npz",
    "convert_parquet",
    "convert_sql",
    "convert_tfrecord",
    "example_bytes",
]

CLASSES_FILE = "labels.json"
# Far below the writer's 32 MiB: while training, many places of a dataset are open at once, a chunk each.
CHUNK_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How to convert.

    Attributes:
        columns: the wanted columns as "name:type,name:type" (int64, float, bytes; a type may be left out); "": all.
        label: the column that becomes the feature "label". Texts are numbered in alphabetical order, and labels.json
            beside the output files lists them; unless `columns` gives a type.
        records_per_file: at most so many in one output file.
        compressor: "none", "snappy" or "gzip".
        workers: processes; 0 for as many as there are CPUs. Small inputs are converted in this process; for others a
            script needs its `if __name__ == "__main__":`.
        overwrite: replace the RecordIO files that the output folder holds already.
    """

    columns: str = ""
    label: str = ""
    records_per_file: int = 65536
    compressor: str = "snappy"
    workers: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.records_per_file < 1:
            raise UsageError(f"--records_per_file: expected a whole number greater than 0, got {self.records_per_file}")
        if self.workers < 0:
            raise UsageError(f"--workers: expected 0 (one per CPU) or more, got {self.workers}")
        recordio.Writer("", self.compressor)  # refuses a compressor that does not exist
        parse_columns(self.columns)


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        files: the RecordIO files, in the order of the rows.
        records: number of records in all of them.
        columns: what each column became; empty for TFRecord.
        notes: what a person should know about the sources.
    """

    files: tuple[str, ...]
    records: int
    columns: tuple[Column, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A run of rows of one source, for output files of `per_file` rows each."""

    source: str
    start: tuple[int, int]
    first: int
    rows: int
    per_file: int
    files: tuple[str, ...]


def convert_csv(
    paths: Sequence[str], output: str, options: Options | None = None, progress: Progress | None = None
) -> Conversion:
    """CSV files with the same header row to RecordIO of tf.Example.

    A column is int64 where every cell of every file is a whole number of 64 bits, else float where every cell is a
    number, else bytes. An empty cell gives no feature (in a bytes column an empty value).

    Args:
        paths: the files.
        output: a folder or URL; gets NAME-00000-of-00007.recordio and so on, NAME being its own last part.
        progress: called with what is being done ("read" or "written"), how much of it is, and of how much.

    Raises:
        DataError: a file is not what it should be; names file, line and column.
        StorageError: something cannot be read or written, or `output` holds RecordIO files already.
    """
    return _convert(CsvTable(), paths, output, options or Options(), progress or _ignore)


def convert_npz(
    paths: Sequence[str], output: str, options: Options | None = None, progress: Progress | None = None
) -> Conversion:
    """.npz archives, whose arrays have the same first dimension, to RecordIO of tf.Example.

    Whole numbers and booleans become int64 lists, other numbers float lists, text and bytes bytes lists; a row's shape
    is flattened in C order. The type bytes for an array of numbers gives each row as one value of raw little-endian
    bytes, for tf.io.decode_raw. Everything else is as in `convert_csv`.
    """
    return _convert(NpzTable(), paths, output, options or Options(), progress or _ignore)


def convert_parquet(
    paths: Sequence[str], output: str, options: Options | None = None, progress: Progress | None = None
) -> Conversion:
    """Parquet files to RecordIO of tf.Example; which type becomes what is said in `records.arrow`.

    A null gives no feature. Numbers whose type is to be bytes become their texts. Everything else is as in
    `convert_csv`.

    Raises:
        UsageError: pyarrow is not installed.
    """
    return _convert(ParquetTable(), paths, output, options or Options(), progress or _ignore)


def convert_tfrecord(
    paths: Sequence[str], output: str, options: Options | None = None, progress: Progress | None = None
) -> Conversion:
    """TFRecord files, also such as are compressed by gzip, to RecordIO; every record is kept as it is.

    Raises:
        UsageError: the options choose columns or a label.
    """
    options = options or Options()
    for flag in ("columns", "label"):
        if value := getattr(options, flag):
            raise UsageError(f"--{flag}: the records of TFRecord files are kept as they are, got {value!r}")
    return _convert(TfRecordTable(), paths, output, options, progress or _ignore)


def convert_sql(
    url: str, query: str, output: str, options: Options | None = None, progress: Progress | None = None
) -> Conversion:
    """What a SELECT gives to RecordIO of tf.Example, in the order of its rows; see `table_sql.fetched`.

    Args:
        url: of the database, as SQLAlchemy has it: sqlite:///file.db, postgresql://user@host/name.
        query: one statement in the database's own SQL; nothing that it changes is kept.

    Raises:
        UsageError: the URL or the query is no good, or a package is not installed.
        StorageError: the database cannot be reached, or ends the query.
    """
    options, progress = options or Options(), progress or _ignore
    _check_output(output, options)
    with table_sql.fetched(url, query, _wish(options), partial(_fetched, progress)) as table:
        return _convert(table, [table.source], output, options, progress)


def _fetched(progress: Progress, rows: int) -> None:
    progress("fetched", rows, rows)


def _wish(options: Options) -> Wish:
    return Wish(parse_columns(options.columns), options.label)


def _ignore(stage: str, done: int, total: int) -> None:
    """Reports to nobody."""


def _convert(table: Table, paths: Sequence[str], output: str, options: Options, progress: Progress) -> Conversion:
    there = _check_output(output, options)
    wish = _wish(options)
    with pool_for(table, paths, options.workers) as pool:
        scan = partial(table.scan, wish=wish, rows_per_file=options.records_per_file)
        scans = each(pool, scan, paths, _Count(progress, "read", len(paths)).one)
        columns = agree(scans, wish)
        records = sum(scan.rows for scan in scans)
        if not records:
            raise DataError(f"{', '.join(paths)}: no row, so there is nothing to convert")
        tasks = plan(scans, output, options.records_per_file, table.splittable)
        files = tuple(file for task in tasks for file in task.files)
        count = _Count(progress, "written", records)
        write = partial(_write, table, columns, options.compressor)
        try:
            if pool is None:
                each(None, partial(write, wrote=count.add), tasks, lambda rows: None)
            else:
                each(pool, write, tasks, count.add)
            _write_classes(output, columns)
            for stale in set(there) - set(files):
                storage.remove(stale)
            if there and not any(column.classes for column in columns):
                storage.remove(storage.join(output, CLASSES_FILE))
        except BaseException:
            for file in files:
                storage.remove(file)
            raise
    return Conversion(files, records, columns, tuple(note for scan in scans for note in scan.notes))


def _check_output(output: str, options: Options) -> list[str]:
    """The RecordIO files that `output` holds already. Raises StorageError when they are not to be replaced."""
    there = storage.matches(output)
    if there and not options.overwrite:
        raise StorageError(f"{output}: holds {len(there)} RecordIO files already; --overwrite replaces them")
    return there


def plan(scans: Sequence[Scan], output: str, per_file: int, splittable: bool) -> list[Task]:
    """Which rows go into which files: each source's rows in order, a source never sharing a file with the next."""
    counts = [-(-scan.rows // per_file) for scan in scans]
    name = storage.basename(output if storage.is_remote(output) else os.path.abspath(output))
    files = iter([storage.join(output, f"{name}-{i:05d}-of-{sum(counts):05d}.recordio") for i in range(sum(counts))])
    tasks = []
    for scan, count in zip(scans, counts, strict=True):
        if not splittable:
            tasks.append(Task(scan.path, (0, 0), 0, scan.rows, per_file, tuple(islice(files, count))))
            continue
        for i in range(count):
            rows = min(per_file, scan.rows - i * per_file)
            tasks.append(Task(scan.path, scan.starts[i], i * per_file, rows, per_file, (next(files),)))
    return [task for task in tasks if task.files]


def _write(
    table: Table,
    columns: Sequence[Column],
    compressor: str,
    task: Task,
    wrote: Callable[[int], None] | None = None,
) -> int:
    """Writes a task's files; returns its number of rows. Runs in other processes too."""
    rows = table.rows(task.source, columns, task.start, task.first, task.rows)
    total = 0
    for file in task.files:
        with recordio.Writer(file, compressor, CHUNK_BYTES) as writer:
            for row in islice(rows, task.per_file):
                writer.write(row if isinstance(row, bytes) else example_bytes(row))
        total += writer.records
        if wrote:
            wrote(writer.records)
    if total != task.rows:
        raise DataError(f"{task.source}: has changed while it was converted; convert it again")
    return total


def _write_classes(output: str, columns: Sequence[Column]) -> None:
    for column in columns:
        if column.classes:
            text = json.dumps(column.classes, ensure_ascii=False, indent=1) + "\n"
            storage.write_bytes_atomic(storage.join(output, CLASSES_FILE), text.encode())


class _Count:
    """Adds up what is done, and reports it."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self._progress, self._stage, self._done, self._total = progress, stage, 0, total
        progress(stage, 0, total)

    def add(self, amount: int) -> None:
        self._done += amount
        self._progress(self._stage, self._done, self._total)

    def one(self, _: object) -> None:
        self.add(1)
