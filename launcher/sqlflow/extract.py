"""Streams what a SELECT gives into RecordIO of tf.Example, in one pass, with the schema of its columns beside it.

FOLDER/data-00000.recordio   the records, in the order of the rows
       rows-00000.recordio   for a prediction: what goes into the table with it, row by row (see kept_rows)
       schema.json           see edl_allreduce.schema
       _done                 written last; a folder without it counts for nothing
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from edl_allreduce import recordio, storage
from edl_allreduce.convert import CHUNK_BYTES
from edl_allreduce.errors import DataError, did_you_mean
from edl_allreduce.schema import ColumnWish, Schema, within_limits
from edl_allreduce.sql_source import SqlSource
from edl_allreduce.tf_example import example_bytes, read_example
from edl_allreduce.tf_example_rows import example_rows
from launcher.sqlflow import kept_rows
from launcher.sqlflow.column_scan import ColumnScan
from launcher.sqlflow.keys import KeyedSelect, with_key

SCHEMA, DONE = "schema.json", "_done"
_FETCH_ROWS = 2048
_ROWS_PER_SHARD = 65536
_ROWS_PER_LINE = 100_000  # of progress


@dataclass(frozen=True)
class Extracted:
    """What a SELECT has given.

    Attributes:
        data: glob of the records' files.
        schema: of its columns.
        rows: how many.
        folder: where all of that is.
        key: the columns of the primary key that every row is found by in the table that gets predictions; empty when
            they go into a new table.
    """

    data: str
    schema: Schema
    rows: int
    folder: str
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """What is wanted of the SELECT's columns; see `extract`."""

    label: str | None
    target: str
    columns: Mapping[str, ColumnWish]
    schema: Schema | None


def extract(
    database: str,
    select: str,
    folder: str,
    *,
    label: str | None,
    target: Literal["number", "class", ""],
    columns: Mapping[str, ColumnWish],
    schema: Schema | None,
    tell: Callable[[str], None],
    into: str = "",
) -> Extracted:
    """Writes the SELECT's rows as records; a folder that holds them already is taken as it is.

    Args:
        database: its URL.
        select: in the database's own language.
        folder: path or URL; a place of its own.
        label: the label's column; None: the last one, or none when there is a schema; "": none.
        target: what the label is to be; "": texts and booleans are classes, all else is a number.
        columns: the inputs, with what a COLUMN clause says of them; empty: all but the label.
        schema: of the model that is evaluated or predicts; its columns are taken, and made the same of.
        tell: gets lines of progress.
        into: the table that predictions go to: what has to be written there is kept.

    Raises:
        UsageError: the SELECT is no good, or not for `into`.
        DataError: it gives no row, has no such column, or a value is not what it should be.
        StorageError: the database or the folder cannot be reached.
    """
    done = _done(folder)
    if done is not None:
        return done
    for name in storage.names_in(folder) or ():
        if name == SCHEMA or name.startswith(("data-", "rows-")):
            storage.remove(storage.join(folder, name))
    asked = _Asked(label, target, columns, schema)
    with SqlSource(database, "SELECT") as source:
        keyed = with_key(source, select, into) if into else KeyedSelect(select, ())
        with source.select(keyed.select, _FETCH_ROWS) as (names, batches):
            rows = _Rows(source.name, names, asked, len(keyed.key))
            with _Shards(folder, "data") as data, ExitStack() as stack:
                kept = stack.enter_context(_Shards(folder, "rows")) if into else None
                for batch in batches:
                    rows.write(batch, data, kept)
                    if rows.count // _ROWS_PER_LINE > (rows.count - len(batch)) // _ROWS_PER_LINE:
                        tell(f"extracted {rows.count:,} rows")
    found = rows.schema()
    for path in data.files if rows.became_float else ():
        _widen(path, rows.became_float)
    storage.write_bytes_atomic(storage.join(folder, SCHEMA), found.to_json().encode())
    note = json.dumps({"rows": rows.count, "key": keyed.key})
    storage.write_bytes_atomic(storage.join(folder, DONE), note.encode())
    tell(f"extracted {rows.count:,} rows into {folder}")
    return Extracted(_glob(folder, "data"), found, rows.count, folder, keyed.key)


def kept_files(extracted: Extracted) -> list[str]:
    """The files of the rows that were kept for a table, in their order. Raises StorageError."""
    return storage.expand(_glob(extracted.folder, "rows"))


def _glob(folder: str, kind: str) -> str:
    return storage.join(folder, f"{kind}-*.recordio")


def _done(folder: str) -> Extracted | None:
    if not storage.exists(storage.join(folder, DONE)):
        return None
    schema = Schema.from_json(storage.read_bytes(storage.join(folder, SCHEMA)))
    note = json.loads(storage.read_bytes(storage.join(folder, DONE)))
    return Extracted(_glob(folder, "data"), schema, note["rows"], folder, tuple(note["key"]))


class _Shards:
    """Files of about as many records each, one after the other; those that are finished stay when an error comes."""

    def __init__(self, folder: str, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._open = ExitStack()
        self._writer: recordio.Writer | None = None
        self.files: list[str] = []

    def write(self, records: Sequence[bytes]) -> None:
        if self._writer is None or self._writer.records >= _ROWS_PER_SHARD:
            self._open.close()
            self.files.append(storage.join(self._folder, f"{self._kind}-{len(self.files):05d}.recordio"))
            self._writer = self._open.enter_context(recordio.Writer(self.files[-1], "snappy", CHUNK_BYTES))
        for record in records:
            self._writer.write(record)

    def __enter__(self) -> _Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


class _Rows:
    """Turns batches of rows into records.

    Args:
        source: the database, for errors.
        names: of the SELECT's columns; the last `keys` of them are a key that was added.
        asked: what is wanted of them.
        keys: how many.
    """

    def __init__(self, source: str, names: Sequence[str], asked: _Asked, keys: int) -> None:
        self._source, self._keys, self.count = source, keys, 0
        self._names = tuple(names[: len(names) - keys])
        self._label = _label(source, self._names, asked)
        self._scans = [
            ColumnScan(
                source,
                name,
                asked.columns.get(name, ColumnWish()),
                (asked.target or "label") if name == self._label else "",
                _known(asked.schema, name),
            )
            for name in _wanted(source, self._names, self._label, asked)
        ]
        self._places = [self._names.index(scan.name) for scan in self._scans]
        self._schema = asked.schema

    def write(self, batch: Sequence[Sequence[Any]], data: _Shards, kept: _Shards | None) -> None:
        """Raises DataError."""
        columns = list(zip(*batch, strict=True))
        features = [
            (scan, scan.see(columns[place], self.count)) for scan, place in zip(self._scans, self._places, strict=True)
        ]
        data.write(example_rows({scan.name: (scan.feature, values) for scan, values in features}))
        if kept is not None:
            kept.write([self._kept(row, self.count + number) for number, row in enumerate(batch)])
        self.count += len(batch)

    def _kept(self, row: Sequence[Any], number: int) -> bytes:
        wanted = tuple(row)[-self._keys :] if self._keys else tuple(row)
        if self._keys and None in wanted:
            raise DataError(f"{self._source}: row {number + 1}: its primary key is NULL; leave such rows out")
        try:
            return kept_rows.encode(wanted)
        except TypeError as error:
            raise DataError(f"{self._source}: row {number + 1}: {error}") from None

    @property
    def became_float(self) -> frozenset[str]:
        """Columns that have whole numbers in some records, and others in later ones."""
        return frozenset(scan.name for scan in self._scans if scan.became_float)

    def schema(self) -> Schema:
        """What the rows have shown. Raises DataError when there was none."""
        if not self.count:
            raise DataError(f"{self._source}: the SELECT gives no row")
        if self._schema is not None:
            return self._schema
        columns = within_limits([scan.column() for scan in self._scans], self._label)
        return Schema(columns, self._label, self.count)


def _known(schema: Schema | None, name: str) -> Any:
    return next((column for column in schema.columns if column.name == name), None) if schema else None


def _label(source: str, names: Sequence[str], asked: _Asked) -> str:
    """The label's column, or ""."""
    if asked.label is None:
        return "" if asked.schema else names[-1]
    if asked.schema and asked.label and asked.label != asked.schema.label:
        raise DataError(f"{source}: the model's label is {asked.schema.label!r}, got {asked.label!r}")
    return asked.label


def _wanted(source: str, names: Sequence[str], label: str, asked: _Asked) -> list[str]:
    """The columns that records are made of, in order. Raises DataError when one is not there."""
    chosen = [column.name for column in asked.schema.inputs] if asked.schema else list(asked.columns) or list(names)
    wanted = [name for name in chosen if name != label]
    missing = [name for name in [*wanted, *filter(None, [label])] if name not in names]
    if missing:
        told = ", ".join(f"{name!r}{did_you_mean(name, names)}" for name in missing)
        why = ", which the model was trained with" if asked.schema else ""
        raise DataError(f"{source}: the SELECT has no column {told}{why}; it has {', '.join(names)}")
    if not wanted:
        raise DataError(f"{source}: the SELECT gives the label {label!r} alone; select columns to learn from, too")
    return [*wanted, *filter(None, [label])]


def _widen(path: str, names: frozenset[str]) -> None:
    """Writes a file again, with floats in these columns where it has whole numbers."""
    records = list(recordio.Reader(path))
    with recordio.Writer(path, "snappy", CHUNK_BYTES) as writer:
        for record in records:
            features = read_example(record) or {}
            for name in names & features.keys():
                features[name] = [float(value) for value in features[name]]
            writer.write(example_bytes(features))
