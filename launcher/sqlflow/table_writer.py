"""Changes tables of a database: columns are added and rows inserted in its own dialect, every name quoted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeAlias

from edl_allreduce.sql_source import SqlSource, sa
from launcher.sqlflow.predicted import PredictedColumn

COMMITS_AT_DDL = ("mysql", "mariadb")
"""Databases that end a transaction at every change of a table's columns."""

_BATCH_ROWS = 2000
_TYPES: dict[str, Callable[[PredictedColumn], Any]] = {
    "float": lambda column: sa.Double(),
    "integer": lambda column: sa.BigInteger(),
    "decimal": lambda column: sa.Numeric(38, column.scale),
    "boolean": lambda column: sa.Boolean(),
    "text": lambda column: sa.Text(),
}

Rows: TypeAlias = Iterator[Sequence[Any]]


@contextmanager
def transaction(source: SqlSource) -> Iterator[Any]:
    """A connection whose work counts when the block ends without an error, and else not.

    Raises:
        StorageError: for every error of the database.
    """
    with source.errors():
        connection = source.engine.connect()
        try:
            if source.backend == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # else the driver begins at the first INSERT only
            yield connection
            connection.commit()
        finally:
            connection.close()


class TableWriter:
    """Statements on an open connection.

    Args:
        source: the database.
        connection: SQLAlchemy's.
        schema: of the tables; None: the default one.
    """

    def __init__(self, source: SqlSource, connection: Any, schema: str | None) -> None:
        self.connection = connection
        self._source, self._schema = source, schema

    def name(self, table: str) -> str:
        """A table's name, quoted."""
        quoted = self._source.quote(table)
        return f"{self._source.quote(self._schema)}.{quoted}" if self._schema else quoted

    def run(self, statement: str) -> Any:
        """Its result; a % in it is a %."""
        return self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def add(self, table: str, column: PredictedColumn) -> None:
        """Adds a column."""
        kind = _TYPES[column.type](column).compile(dialect=self._source.engine.dialect)
        self.run(f"ALTER TABLE {self.name(table)} ADD COLUMN {self._source.quote(column.name)} {kind}")

    def insert(self, table: str, columns: Sequence[str], rows: Rows) -> int:
        """Inserts rows; returns how many."""
        if self._source.engine.dialect.driver == "psycopg":
            return self._copy(
                f"COPY {self.name(table)} ({', '.join(map(self._source.quote, columns))}) FROM STDIN", rows
            )
        fields = [sa.column(sa.quoted_name(name, True)) for name in columns]
        schema = self._schema and sa.quoted_name(self._schema, True)
        into = sa.table(sa.quoted_name(table, True), *fields, schema=schema)
        places = [f"p{number}" for number in range(len(columns))]
        values = {field: sa.bindparam(place) for field, place in zip(fields, places, strict=True)}
        statement, count = sa.insert(into).values(values), 0
        while batch := [dict(zip(places, row, strict=True)) for row in islice(rows, _BATCH_ROWS)]:
            self.connection.execute(statement, batch)
            count += len(batch)
        return count

    def _copy(self, statement: str, rows: Rows) -> int:
        """PostgreSQL's own way, several times as fast."""
        count, errors = 0, self._source.engine.dialect.loaded_dbapi.Error
        try:
            with self.connection.connection.cursor() as cursor, cursor.copy(statement) as copying:
                for row in rows:
                    copying.write_row(row)
                    count += 1
        except errors as error:
            raise sa.exc.DBAPIError.instance(statement, None, error, errors) from None
        return count
