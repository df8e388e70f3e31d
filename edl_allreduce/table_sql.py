"""What a SELECT gives as a table on its way to RecordIO, from any database that SQLAlchemy reaches.

The query runs once, and its rows stream into a temporary SQLite file: types can then be inferred from all rows, and the
output files be written in parallel, without a second query that may give other rows and with little memory.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edl_allreduce.errors import DataError, StorageError
from edl_allreduce.sql_source import SqlSource
from edl_allreduce.sql_values import Cell, plain
from edl_allreduce.table import BYTES, FLOAT, INT64, MAX_CLASSES, TYPES, Column, Scan, Wish, chosen
from edl_allreduce.tf_example import Value

_FETCH_ROWS = 2048
_MOST_COLUMNS = 2000  # SQLite's limit


@dataclass(frozen=True)
class SqlTable:
    """The rows of a query, in a temporary file.

    Attributes:
        source: the database, for errors.
        path: the SQLite file.
        names: the query's columns.
        found: what the rows have shown; see `Scan`.
    """

    source: str
    path: str
    names: tuple[str, ...]
    found: Scan

    splittable = True

    def size(self, path: str) -> int:
        """Of the temporary file."""
        return os.path.getsize(self.path)

    def scan(self, path: str, wish: Wish, rows_per_file: int) -> Scan:
        """What fetching has found."""
        starts = ((0, 0),) * -(-self.found.rows // rows_per_file)
        return Scan(self.source, self.found.columns, self.found.rows, starts, self.found.texts)

    def rows(
        self, path: str, columns: Sequence[Column], start: tuple[int, int], first: int, count: int
    ) -> Iterator[dict[str, Value]]:
        """The features of `count` rows from row `first` on; a NULL gives no feature."""
        numbers = [{text: number for number, text in enumerate(column.classes)} for column in columns]
        cells = ", ".join(f"c{self.names.index(column.name)}" for column in columns)
        order = f"SELECT {cells} FROM result WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
        with closing(sqlite3.connect(f"file:{quote(self.path)}?mode=ro", uri=True)) as spool:
            for row in spool.execute(order, (first, first + count)):
                yield {
                    column.feature: _feature(cell, column.type, classes)
                    for cell, column, classes in zip(row, columns, numbers, strict=True)
                    if cell is not None
                }


def _feature(cell: int | float | str | bytes, kind: str, classes: dict[str, int]) -> Value:
    if classes:
        return classes[_text(cell)]
    if kind == FLOAT:
        return float(cell)  # "nan", too: SQLite would take NaN for NULL
    if kind == BYTES and not isinstance(cell, bytes):
        return str(cell).encode()
    return cell


def _text(cell: Cell) -> str:
    return cell.decode(errors="backslashreplace") if isinstance(cell, bytes) else str(cell)


@contextmanager
def fetched(url: str, query: str, wish: Wish, told: Callable[[int], None]) -> Iterator[SqlTable]:
    """The rows of a query, until the `with` block ends.

    Whole numbers and booleans are int64, other numbers (DECIMAL, too) float, texts and binary values bytes: each column
    by all of its values. Dates become days since 1970; timestamps (UTC where they know no zone), times of day and
    intervals microseconds.

    Args:
        url: of the database, as SQLAlchemy has it.
        wish: the wanted columns; the others are fetched, too.
        told: hears how many rows have been fetched.

    Raises:
        UsageError: the URL or the query is no good, or a package is not installed.
        StorageError: the database cannot be reached, or ends the query; or the temporary file cannot be written.
        DataError: there is no such column, or a value has no place in a tf.Example.
    """
    with SqlSource(url) as source, tempfile.TemporaryDirectory(prefix="edl-sql-") as folder:
        path = os.path.join(folder, "rows.sqlite")
        with source.select(query, _FETCH_ROWS) as (names, batches):
            table = _spool(source.name, path, names, batches, wish, told)
        yield table


def _spool(
    source: str,
    path: str,
    names: tuple[str, ...],
    batches: Iterator[Sequence[Sequence[Any]]],
    wish: Wish,
    told: Callable[[int], None],
) -> SqlTable:
    if len(names) > _MOST_COLUMNS:
        raise DataError(f"{source}: the query gives {len(names)} columns; at most {_MOST_COLUMNS} are possible")
    wanted = chosen(source, names, wish)
    seen = [_Seen(source, name, wish.type_of(name)) for name in names]
    texts: set[str] | None = set() if wish.label else None
    rows = 0
    with _spool_errors(folder := os.path.dirname(path)), closing(sqlite3.connect(path)) as spool:
        spool.execute("PRAGMA journal_mode = OFF")
        spool.execute("PRAGMA synchronous = OFF")
        spool.execute(f"CREATE TABLE result ({', '.join(f'c{place}' for place in range(len(names)))})")
        insert = f"INSERT INTO result VALUES ({', '.join('?' * len(names))})"
        for batch in batches:
            columns = [each.see(cells, rows) for each, cells in zip(seen, zip(*batch, strict=True), strict=True)]
            with _spool_errors(folder):
                spool.executemany(insert, zip(*columns, strict=True))
            if texts is not None:
                texts.update(_text(cell) for cell in set(columns[names.index(wish.label)]) if cell is not None)
                texts = texts if len(texts) <= MAX_CLASSES else None
            rows += len(batch)
            told(rows)
        spool.commit()
    types = tuple((name, seen[names.index(name)].type) for name in wanted)
    return SqlTable(source, path, names, Scan(source, types, rows, (), None if texts is None else frozenset(texts)))


@contextmanager
def _spool_errors(folder: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        advice = "TMPDIR chooses another place for the temporary copy of the rows"
        raise StorageError(f"{folder}: {error}; {advice}") from None


class _Seen:
    """The type of one column as far as its values have been seen: int64, else float, else bytes."""

    def __init__(self, source: str, name: str, given: str) -> None:
        self._source, self._name, self._given = source, name, given
        self._kind = -1

    @property
    def type(self) -> str:
        """The type; a column of NULLs alone is bytes."""
        return self._given or (TYPES[self._kind] if self._kind >= 0 else BYTES)

    def see(self, cells: Sequence[Any], first: int) -> Sequence[Cell]:
        """The cells of the rows from `first` (from 0) on as SQLite keeps them. Raises DataError."""
        kinds = set(map(type, cells))
        if not kinds <= {str, bytes, type(None)}:
            cells = [self._plain(cell, first + place) for place, cell in enumerate(cells)]
            kinds = set(map(type, cells))
        kind = max((_KINDS[kind] for kind in kinds if kind is not type(None)), default=-1)
        if self._given and kind > TYPES.index(self._given):
            place = next(place for place, cell in enumerate(cells) if _KINDS.get(type(cell), -1) == kind)
            raise DataError(
                f"{self._source}: row {first + place + 1}, column {self._name!r}: expected {self._given}, "
                f"got {cells[place]!r}; CAST it in the SELECT"
            )
        self._kind = max(self._kind, kind)
        return [str(cell) if cell != cell else cell for cell in cells] if float in kinds else cells

    def _plain(self, value: Any, row: int) -> Cell:
        try:
            return plain(value)
        except TypeError as error:
            raise DataError(f"{self._source}: row {row + 1}, column {self._name!r}: {error}") from None


_KINDS = {int: TYPES.index(INT64), float: TYPES.index(FLOAT), str: TYPES.index(BYTES), bytes: TYPES.index(BYTES)}
