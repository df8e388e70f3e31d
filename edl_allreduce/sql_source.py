"""A database behind an SQLAlchemy URL: connecting, streaming one SELECT, and errors of one line without passwords."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.extras import Later

_URL = re.compile(
    r"(sqlite|postgres|postgresql|mysql|mariadb|oracle|mssql|duckdb|cockroachdb|redshift|snowflake|bigquery|clickhouse|"
    r"trino|presto|hive|db2|ibm_db_sa|firebird)(\+\w+)?://",
    re.IGNORECASE,
)
# What a URL without a driver means.
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"} | {
    name: f"{name}+pymysql" for name in ("mysql", "mariadb")
}
# The packages that pip knows by another name than Python.
_PIP_NAMES = {"MySQLdb": "mysqlclient", "psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary"}
_HIDDEN = "***"

sa: Any = Later("sqlalchemy", "sql", "a database")


def is_database(url: str) -> bool:
    """Whether `url` is one of a database, as far as its scheme is known."""
    return bool(_URL.match(url))


def shown(url: str) -> str:
    """The URL without what may be secret: user, password and options."""
    scheme, separator, rest = url.partition("?")[0].rpartition("://")
    return scheme + separator + (rest if scheme.lower().startswith("sqlite") else rest.rpartition("@")[2])


def _own_file(url: Any) -> dict[str, str]:
    """Has PyMySQL read ~/.my.cnf for what the URL leaves out, as MariaDB's own programs do."""
    file = os.path.expanduser("~/.my.cnf")
    wanted = url.get_driver_name() == "pymysql" and "read_default_file" not in url.query and os.path.isfile(file)
    return {"read_default_file": file} if wanted else {}


class SqlSource:
    """A database; a context manager.

    Args:
        url: e.g. sqlite:///file.db, postgresql://user:password@host/name.
        statement: what a query is called in errors.

    Attributes:
        name: the URL as it may be shown.
        engine: SQLAlchemy's.

    Raises:
        UsageError: the URL is no good, or a package is not installed.
        StorageError: there is no such SQLite file.
    """

    def __init__(self, url: str, statement: str = "--query") -> None:
        self.name, self._statement = shown(url), statement
        try:
            self._url = sa.make_url(url)
            self._url = self._url.set(drivername=_DRIVERS.get(self._url.drivername, self._url.drivername))
            self.engine = sa.create_engine(self._url, connect_args=_own_file(self._url))
        except ModuleNotFoundError as error:
            package = _PIP_NAMES.get(error.name or "", error.name)
            raise UsageError(f"{self.name}: needs {package}: pip install {package}") from None
        except sa.exc.NoSuchModuleError:
            raise UsageError(f"{self.name}: SQLAlchemy knows no such database; is its package installed?") from None
        except (sa.exc.ArgumentError, ValueError):
            expected = "DATABASE://USER@HOST/NAME or sqlite:///FILE"
            raise UsageError(f"{self.name}: is no URL of a database, expected {expected}") from None
        self._check_file()

    def _check_file(self) -> None:
        """Raises StorageError when an SQLite file is not there: SQLite would make it."""
        file = self._url.database or ""
        if self._url.get_backend_name() != "sqlite" or file.startswith("file:") or file in ("", ":memory:"):
            return
        if not os.path.isfile(file):
            slashes = "; an absolute path has four slashes, sqlite:////path" if os.path.isfile(f"/{file}") else ""
            raise StorageError(f"{self.name}: there is no file {file!r}{slashes}")

    @property
    def backend(self) -> str:
        """SQLAlchemy's name of the kind of database, such as sqlite or postgresql."""
        return str(self._url.get_backend_name())

    def quote(self, name: str) -> str:
        """A name as the database quotes it."""
        return str(self.engine.dialect.identifier_preparer.quote_identifier(name))

    @contextmanager
    def select(self, query: str, rows: int) -> Iterator[tuple[tuple[str, ...], Iterator[Sequence[Sequence[Any]]]]]:
        """The names of the query's columns, and its rows in batches of at most `rows`; they stream.

        What the query changes is rolled back.

        Raises:
            UsageError: it gives no rows, or names two columns the same.
            StorageError: the database cannot be reached, or ends the query; also while iterating.
        """
        with self.errors():
            connection = self.engine.connect()
        result: Any = None
        try:
            with self.errors():
                # no_parameters: a % in the query is a %.
                streaming = connection.execution_options(yield_per=rows, stream_results=True, no_parameters=True)
                result = streaming.exec_driver_sql(query)
            if not result.returns_rows:
                raise UsageError(f"{self._statement}: gives no rows; expected a SELECT")
            names = tuple(map(str, result.keys()))
            for number, name in enumerate(names):
                if name in names[:number]:
                    raise UsageError(
                        f"{self._statement}: gives two columns named {name!r}; rename one by AS in the SELECT"
                    )
            yield names, self._batches(result, rows)
        finally:
            with self.errors():
                if result is not None:
                    result.close()  # before the connection: a driver may still be sent rows
                connection.close()

    def _batches(self, result: Any, rows: int) -> Iterator[Sequence[Sequence[Any]]]:
        with self.errors():
            yield from result.partitions(rows)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns the database's errors into one line without the password."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())
            raise StorageError(f"{self.name}: {self._without_secrets(said)}") from None

    def _without_secrets(self, text: str) -> str:
        options = [value for value in self._url.query.values() if isinstance(value, str)]
        for secret in filter(None, [self._url.password, *options]):
            text = text.replace(str(secret), _HIDDEN)
        return text

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> SqlSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
