"""Database servers of a test's own: each started on a free port in a folder of its own, and ended with the tests."""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import pytest

sqlalchemy: Any = pytest.importorskip("sqlalchemy", reason="not installed: pip install 'edl_allreduce[sql]'")

KINDS = ("sqlite", "postgresql", "mariadb")

PASSWORD = "se%2Fcret"  # as it stands in a URL; se/cret
_SECONDS_TO_START = 60
_READY = re.compile("ready (to accept|for) connections")  # in a server's log


@dataclass(frozen=True)
class Database:
    """A database that is there for one test.

    Attributes:
        url: as SQLAlchemy has it, with a password where there is one.
        kind: sqlite, postgresql or mariadb.
    """

    url: str
    kind: str

    @contextmanager
    def connected(self, autocommit: bool = False) -> Iterator[Any]:
        """A connection of SQLAlchemy; what is done is committed."""
        drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
        settings = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        url = self.url.replace(self.kind, drivers[self.kind], 1)
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **settings)
        with engine.connect() as connection:
            yield connection
            connection.commit()

    def run(self, *statements: str) -> None:
        """Runs statements, one after the other; a % is a %."""
        with self.connected() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a SELECT gives."""
        with self.connected() as connection:
            found = connection.exec_driver_sql(query, execution_options={"no_parameters": True})
            return [tuple(row) for row in found]

    def load(self, table: str, columns: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> None:
        """Makes a table and fills it; `columns` are SQLAlchemy's types by name, a column called id the primary key."""
        made = sqlalchemy.Table(
            table,
            sqlalchemy.MetaData(),
            *(
                sqlalchemy.Column(name, kind, primary_key=name == "id", autoincrement=False)
                for name, kind in columns.items()
            ),
        )
        with self.connected() as connection:
            made.create(connection)
            connection.execute(made.insert(), [dict(zip(columns, row, strict=True)) for row in rows])


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server, without a database's name. Skips where it is not installed."""
    bins = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    found = shutil.which("initdb")
    folder = os.path.dirname(found) if found else bins[-1] if bins else ""
    if not folder:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with _folder("postgres") as (home, user):
        port, data, password = _free_port(), f"{home}/data", f"{home}/password"
        with open(password, "w", encoding="utf-8") as file:
            file.write("se/cret")
        os.chmod(password, 0o644)
        made = [f"{folder}/initdb", "-D", data, "-U", "edl", "-A", "scram-sha-256", f"--pwfile={password}", "-N"]
        _run([*made, "-E", "UTF8", "--locale=C"], user, home)
        settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off"]
        server = [f"{folder}/postgres", "-D", data, *(part for each in settings for part in ("-c", each))]
        with _running(server, user, port, home):
            yield f"postgresql://edl:{PASSWORD}@127.0.0.1:{port}"


@contextmanager
def mariadb() -> Iterator[str]:
    """The URL of a MariaDB server, without a database's name. Skips where it is not installed."""
    install, server = (shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") for name in _MARIADB)
    if not install or not server:
        pytest.skip("MariaDB is not installed: apt-get install mariadb-server")
    with _folder("mysql") as (home, user):
        port, data, first = _free_port(), f"{home}/data", f"{home}/first.sql"
        with open(first, "w", encoding="utf-8") as file:
            file.write("CREATE USER 'edl'@'%' IDENTIFIED BY 'se/cret';\nGRANT ALL ON *.* TO 'edl'@'%';\n")
        os.chmod(first, 0o644)
        make = [install, "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        make += ["--auth-root-authentication-method=normal", *([f"--user={user}"] if user else [])]
        _run(make, None, home)
        options = [f"--datadir={data}", f"--socket={home}/s", f"--port={port}", "--bind-address=127.0.0.1"]
        options += ["--character-set-server=utf8mb4"]
        options += [f"--init-file={first}", "--skip-name-resolve", "--debug-no-sync"]
        with _running([server, "--no-defaults", *options], user, port, home):
            yield f"mariadb://edl:{PASSWORD}@127.0.0.1:{port}"


_MARIADB = ("mariadb-install-db", "mariadbd")


class Servers:
    """Starts each server when it is first asked for; a context manager."""

    def __init__(self) -> None:
        self._stack, self._urls = ExitStack(), dict[str, str]()

    def url(self, kind: str) -> str:
        """Of a database on the server; skips the test where that is not installed."""
        if kind not in self._urls:
            server = self._stack.enter_context({"postgresql": postgresql, "mariadb": mariadb}[kind]())
            main = "postgres" if kind == "postgresql" else "mysql"
            with Database(f"{server}/{main}", kind).connected(True) as admin:
                admin.exec_driver_sql("CREATE DATABASE edl")
            self._urls[kind] = f"{server}/edl"
        return self._urls[kind]

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


@contextmanager
def database(servers: Servers, kind: str, folder: str) -> Iterator[Database]:
    """A database with nothing in it: on a server, or for SQLite a file in `folder`."""
    if kind == "sqlite":
        sqlite3.connect(f"{folder}/t.db").close()
        yield Database(f"sqlite:///{folder}/t.db", kind)
        return
    made = Database(servers.url(kind), kind)
    yield made
    with made.connected() as connection:
        for name in sqlalchemy.inspect(connection).get_table_names():
            connection.execute(sqlalchemy.schema.DropTable(sqlalchemy.Table(name, sqlalchemy.MetaData())))


@contextmanager
def _folder(owner: str) -> Iterator[tuple[str, str | None]]:
    """A new folder, and who a server there runs as: root must not run one."""
    home = tempfile.mkdtemp(prefix="edl-db-", dir="/tmp")  # a socket's path must be short
    user = owner if os.geteuid() == 0 else None
    try:
        os.chmod(home, 0o755)
        if user:
            shutil.chown(home, user)
        yield home, user
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _environ(home: str) -> dict[str, str]:
    """The tests' own folder for temporary files is not for other users."""
    return os.environ | {"TMPDIR": home}


def _run(command: list[str], user: str | None, home: str) -> None:
    done = subprocess.run(
        command, user=user, cwd="/", env=_environ(home), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


@contextmanager
def _running(command: list[str], user: str | None, port: int, home: str) -> Iterator[None]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, user=user, cwd="/", env=_environ(home), stdout=log, stderr=log)
        try:
            _await(process, port, log)
            yield
        finally:
            process.kill()  # what it holds goes with its folder
            process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: TextIO) -> None:
    """Waits until a server says that it is ready: PostgreSQL listens before, and refuses whoever comes then."""
    end, said = time.monotonic() + _SECONDS_TO_START, ""
    while process.poll() is None and time.monotonic() < end:
        said = os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")  # the server writes where the file stands
        with socket.socket() as probe:
            if _READY.search(said) and probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the database did not start: {said[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
