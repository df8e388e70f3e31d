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
        target = table_of(source, table)
        name = unquoted(column, source.backend)
        _check_column(extracted, name)
        columns = predicted_columns(extracted.schema, name, probabilities)
        rows = _rows(predictions, extracted, probabilities, tell)
        if extracted.key:
            count = _into_columns(source, target, extracted.key, columns, rows)
        else:
            count = _into_new_table(source, select, target, table, columns, rows)
    gone = f"; {extracted.rows - count:,} of the selected rows are no longer there" if count < extracted.rows else ""
    tell(f"wrote {count:,} predictions into {table}.{column}{gone}")
    return count


def _check_column(extracted: Extracted, name: str) -> None:
    if name.casefold() in (column.name.casefold() for column in extracted.schema.inputs):
        raise UsageError(f"PREDICT: the model reads a column called {name!r}; choose another name for the prediction")


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
    wanted = zip([*key, *(column.name for column in columns)], [*keys, *values], strict=True)
    taken = ", ".join(f"{q(each)} AS {alias}" for each, alias in wanted)
    last = " ON COMMIT DROP" if source.backend == "postgresql" else ""
    writer.run(f"CREATE TEMPORARY TABLE {temporary}{last} AS SELECT {taken} FROM {name} WHERE 1 = 0")
    index = f"temp.{temporary}_i" if source.backend == "sqlite" else f"{temporary}_i"
    writer.run(f"CREATE UNIQUE INDEX {index} ON {temporary} ({', '.join(keys)})")
    try:
        TableWriter(source, writer.connection, None).insert(temporary, [*keys, *values], rows)
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


def _into_new_table(source: SqlSource, select: str, target: Table, named: str, columns: Columns, rows: Rows) -> int:
    predicted = [column.name for column in columns]
    # In a line of its own: the SELECT may end with a comment.
    query = f"FROM (\n{select.strip().rstrip(';')}\n) AS edl_rows WHERE 1 = 0"
    with source.select(f"SELECT * {query}", 1) as (names, _):
        selected = list(names)
    others = [name for name in selected if name not in predicted]
    rows = _without(rows, [place for place, name in enumerate(selected) if name in predicted])
    if target.exists:
        _check_same(source, target, named, [*others, *predicted])
        with transaction(source) as connection:
            writer = TableWriter(source, connection, target.schema)
            writer.run(f"DELETE FROM {writer.name(target.name)}")
            return writer.insert(target.name, [*others, *predicted], rows)
    query = f"SELECT {', '.join(map(source.quote, others))} {query}"
    return _create(source, target, query, columns, [*others, *predicted], rows)


def _create(source: SqlSource, target: Table, query: str, columns: Columns, names: Sequence[str], rows: Rows) -> int:
    beside = source.backend in COMMITS_AT_DDL
    made = f"edl_new_{secrets.token_hex(4)}" if beside else target.name
    try:
        with transaction(source) as connection:
            writer = TableWriter(source, connection, target.schema)
            writer.run(f"CREATE TABLE {writer.name(made)} AS {query}")
            for column in columns:
                writer.add(made, column)
            count = writer.insert(made, names, rows)
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


def _check_same(source: SqlSource, target: Table, named: str, wanted: Sequence[str]) -> None:
    """Refuses a table that an earlier run of the same statement would not have made."""
    there = _column_names(source, target)
    if target.is_view or there != list(wanted):
        raise UsageError(
            f"PREDICT: {named} is there already, with the columns {', '.join(there)}, and the SELECT does not read "
            f"from it; only one with the columns {', '.join(wanted)} is filled anew: choose another name, or drop it"
        )
