"""Writes predictions into the database: all of them, or the table stays as it was.

A SELECT that reads from the table gets them in a column of it, row by row, by the primary key. Any other gets a new
table of the selected columns and the prediction; where that is there already its rows are replaced.

MariaDB and MySQL end a transaction at every change of a table's columns. So there a new column is added before the
transaction and taken away again when that fails, and a new table is filled under another name, which it loses last.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

from edl_allreduce import recordio
from edl_allreduce.errors import DataError, EdlError, UsageError
from edl_allreduce.sql_source import SqlSource, sa
from launcher.sqlflow import kept_rows
from launcher.sqlflow.extract import Extracted, kept_files
from launcher.sqlflow.keys import Table, table_of
from launcher.sqlflow.names import unquoted
from launcher.sqlflow.predicted import PredictedColumn, predicted_columns, predicted_rows
from launcher.sqlflow.table_writer import COMMITS_AT_DDL, Rows, TableWriter, transaction

_ROWS_PER_LINE = 100_000

Columns = Sequence[PredictedColumn]


def write_back(
    database: str,
    select: str,
    table: str,
    column: str,
    predictions: str,
    extracted: Extracted,
    *,
    probabilities: bool,
    tell: Callable[[str], None],
) -> int:
    """Writes predictions into a table, in one transaction; the same call again gives the same.

    Args:
        database: its URL.
        select: what was extracted.
        table, column: the target, as the statement names it.
        predictions: the folder that `edl predict` has written, from the extracted records.
        extracted: by `extract(..., into=table)`.
        probabilities: also write COLUMN_CLASS for each class.
        tell: gets lines of progress.

    Returns:
        How many rows have got a prediction.

    Raises:
        UsageError: the table is there and not one that these predictions may go to.
        DataError: the predictions are not those of the extracted rows, or a row is there twice.
        StorageError: the database refuses; the table is then as it was.
    """
    with SqlSource(database, "SELECT") as source:
        goal = _goal(source, select, table, column, extracted, probabilities)
        rows = _rows(predictions, extracted, probabilities, tell)
        if extracted.key:
            count = _into_columns(source, goal.table, extracted.key, goal.columns, rows)
        else:
            count = _into_new_table(source, select, goal, rows)
    gone = f"; {extracted.rows - count:,} of the selected rows are no longer there" if count < extracted.rows else ""
    tell(f"wrote {count:,} predictions into {table}.{column}{gone}")
    return count


def check_target(
    database: str, select: str, table: str, column: str, extracted: Extracted, *, probabilities: bool
) -> None:
    """Raises, before there are predictions, what `write_back` would of the target."""
    with SqlSource(database, "SELECT") as source:
        _goal(source, select, table, column, extracted, probabilities)


@dataclass(frozen=True)
class _Goal:
    """Where predictions go.

    Attributes:
        table: it may not exist yet.
        columns: those of predictions.
        selected: for a new table, the SELECT's columns.
    """

    table: Table
    columns: Columns
    selected: tuple[str, ...]

    @property
    def others(self) -> list[str]:
        """The selected columns that go into a new table: a prediction takes the place of one of its name."""
        predicted = [column.name for column in self.columns]
        return [name for name in self.selected if name not in predicted]

    @property
    def names(self) -> list[str]:
        """Of all columns of a new table."""
        return [*self.others, *(column.name for column in self.columns)]


def _goal(source: SqlSource, select: str, table: str, column: str, extracted: Extracted, probabilities: bool) -> _Goal:
    """Raises UsageError when predictions may not go there, StorageError."""
    name = unquoted(column, source.backend)
    if name.casefold() in (each.name.casefold() for each in extracted.schema.inputs):
        raise UsageError(f"PREDICT: the model reads a column called {name!r}; choose another name for the prediction")
    target, columns = table_of(source, table), predicted_columns(extracted.schema, name, probabilities)
    if extracted.key:
        return _Goal(target, columns, ())
    with source.select(f"SELECT * {_no_rows(select)}", 1) as (names, _):
        goal = _Goal(target, columns, names)
    there = _column_names(source, target) if target.exists else goal.names
    if target.is_view or there != goal.names:
        raise UsageError(
            f"PREDICT: {table} is there already, with the columns {', '.join(there)}, and the SELECT does not read "
            f"from it; only one with the columns {', '.join(goal.names)} is filled anew: name another, or drop it"
        )
    return goal


def _no_rows(select: str) -> str:
    """FROM and WHERE of the SELECT's columns without its rows; in lines of its own, as it may end with a comment."""
    return f"FROM (\n{select.strip().rstrip(';')}\n) AS edl_rows WHERE 1 = 0"


def _rows(predictions: str, extracted: Extracted, probabilities: bool, tell: Callable[[str], None]) -> Rows:
    """Each row that was kept, with its prediction behind it."""
    kept = chain.from_iterable(recordio.Reader(file) for file in kept_files(extracted))
    values = predicted_rows(predictions, extracted.schema, extracted.rows, probabilities)
    for number, (record, predicted) in enumerate(zip(kept, values, strict=True), 1):
        yield [*kept_rows.decode(record), *predicted]
        if number % _ROWS_PER_LINE == 0:
            tell(f"wrote {number:,} of {extracted.rows:,} rows")


def _column_names(source: SqlSource, table: Table) -> list[str]:
    with source.errors():
        return [str(each["name"]) for each in sa.inspect(source.engine).get_columns(table.name, schema=table.schema)]


def _into_columns(source: SqlSource, target: Table, key: Sequence[str], columns: Columns, rows: Rows) -> int:
    there = _column_names(source, target)
    added: list[str] = []
    try:
        with transaction(source) as connection:
            writer = TableWriter(source, connection, target.schema)
            for column in columns:
                if column.name not in there:
                    writer.add(target.name, column)
                    added.append(column.name)
            return _update(source, writer, target.name, key, columns, rows)
    except BaseException:
        if source.backend in COMMITS_AT_DDL and added:
            with suppress(EdlError), transaction(source) as connection:
                writer = TableWriter(source, connection, target.schema)
                for name in added:
                    writer.run(f"ALTER TABLE {writer.name(target.name)} DROP COLUMN {source.quote(name)}")
        raise


def _update(
    source: SqlSource, writer: TableWriter, target: str, key: Sequence[str], columns: Columns, rows: Rows
) -> int:
    """The predictions go into a temporary table with the key, and from there into the target's columns at once."""
    q, name, temporary = source.quote, writer.name(target), f"edl_predicted_{secrets.token_hex(4)}"
    keys, values = [f"k{number}" for number in range(len(key))], [f"v{number}" for number in range(len(columns))]
    taken = ", ".join(f"{q(each)} AS {alias}" for each, alias in zip(key, keys, strict=True))
    last = " ON COMMIT DROP" if source.backend == "postgresql" else ""
    writer.run(f"CREATE TEMPORARY TABLE {temporary}{last} AS SELECT {taken} FROM {name} WHERE 1 = 0")
    filled = TableWriter(source, writer.connection, None)
    for column, alias in zip(columns, values, strict=True):
        filled.add(temporary, replace(column, name=alias))
    index = f"temp.{temporary}_i" if source.backend == "sqlite" else f"{temporary}_i"
    writer.run(f"CREATE UNIQUE INDEX {index} ON {temporary} ({', '.join(keys)})")
    try:
        filled.insert(temporary, [*keys, *values], rows)
    except sa.exc.IntegrityError as error:
        if "NULL" in str(error.orig).upper():
            raise
        raise DataError(f"PREDICT: the SELECT gives a row of {target} twice, so it has two predictions") from None
    found = " AND ".join(f"{name}.{q(each)} = p.{alias}" for each, alias in zip(key, keys, strict=True))
    pairs = zip(columns, values, strict=True)
    if source.backend in COMMITS_AT_DDL:
        sets = ", ".join(f"{name}.{q(column.name)} = p.{alias}" for column, alias in pairs)
        return int(writer.run(f"UPDATE {name} JOIN {temporary} AS p ON {found} SET {sets}").rowcount)
    sets = ", ".join(f"{q(column.name)} = p.{alias}" for column, alias in pairs)
    return int(writer.run(f"UPDATE {name} SET {sets} FROM {temporary} AS p WHERE {found}").rowcount)


def _into_new_table(source: SqlSource, select: str, goal: _Goal, rows: Rows) -> int:
    rows = _without(rows, [place for place, name in enumerate(goal.selected) if name not in goal.others])
    if not goal.table.exists:
        query = f"SELECT {', '.join(map(source.quote, goal.others))} {_no_rows(select)}"
        return _create(source, goal, query, rows)
    with transaction(source) as connection:
        writer = TableWriter(source, connection, goal.table.schema)
        writer.run(f"DELETE FROM {writer.name(goal.table.name)}")
        return writer.insert(goal.table.name, goal.names, rows)


def _create(source: SqlSource, goal: _Goal, query: str, rows: Rows) -> int:
    target, beside = goal.table, source.backend in COMMITS_AT_DDL
    made = f"edl_new_{secrets.token_hex(4)}" if beside else target.name
    try:
        with transaction(source) as connection:
            writer = TableWriter(source, connection, target.schema)
            writer.run(f"CREATE TABLE {writer.name(made)} AS {query}")
            for column in goal.columns:
                writer.add(made, column)
            count = writer.insert(made, goal.names, rows)
            if beside:
                connection.commit()
                writer.run(f"RENAME TABLE {writer.name(made)} TO {writer.name(target.name)}")
            return count
    except BaseException:
        if beside:
            with suppress(EdlError), transaction(source) as connection:
                writer = TableWriter(source, connection, target.schema)
                writer.run(f"DROP TABLE IF EXISTS {writer.name(made)}")
        raise


def _without(rows: Rows, places: Sequence[int]) -> Rows:
    """The rows without some columns."""
    return ([value for place, value in enumerate(row) if place not in places] for row in rows) if places else rows
