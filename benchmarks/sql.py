"""How fast a SELECT becomes records, in how much memory, and how fast predictions go back; beside the database's COPY.

    python -m benchmarks.sql [postgresql://me@host/name] [--rows=1000000]

Makes the table edl_benchmark in that database, or in a file of SQLite (whole numbers, fractions, a decimal, a date, a
text of 50 kinds, NULLs), measures, and drops it again. Each measurement runs in a process of its own, so that its
memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edl_allreduce import predictions, storage
from edl_allreduce.errors import EdlError
from edl_allreduce.prediction_files import write_recordio
from edl_allreduce.sql_source import SqlSource, sa
from launcher.sqlflow.extract import Extracted, extract
from launcher.sqlflow.table_writer import TableWriter, transaction
from launcher.sqlflow.write_back import write_back

TABLE = "edl_benchmark"
COLUMNS = (
    "id INTEGER PRIMARY KEY",
    "n BIGINT",
    "x DOUBLE PRECISION",
    "d DECIMAL(10, 2)",
    "day DATE",
    "kind VARCHAR(20)",
)
PREDICTIONS_PER_FILE = 65536
LEAST_ROWS, SHORT_ROWS = 1000, 10_000


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line of JSON per measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sql", description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("database", nargs="?", help="its URL; without one, a file of SQLite is made and removed")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table (%(default)s)")
    parser.add_argument("--short", action="store_true", help=f"a look at it: {SHORT_ROWS} rows")
    arguments = parser.parse_args(argv)
    rows = SHORT_ROWS if arguments.short else arguments.rows
    if rows < LEAST_ROWS:
        parser.error(f"--rows: expected at least {LEAST_ROWS}, since a tenth of them is read as well, got {rows}")
    with tempfile.TemporaryDirectory(prefix="edl-sql-") as folder:
        try:
            measure(arguments.database or _sqlite(folder), rows, folder)
        except EdlError as error:
            raise SystemExit(f"error: {error}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def measure(database: str, rows: int, folder: str) -> None:
    """Reads the whole table, makes records of a tenth and of all of it, and writes predictions back."""
    make(database, rows)
    try:
        for work, number in ((_copy, rows), (_extract, rows // 10), (_extract, rows), (_write_back, rows)):
            print(json.dumps(measured(work, database, number, folder)))
    finally:
        run(database, f"DROP TABLE {TABLE}")


def _sqlite(folder: str) -> str:
    """The URL of a new, empty database."""
    file = Path(folder, "benchmark.db")
    file.touch()
    return f"sqlite:///{file}"


def run(database: str, *statements: str) -> None:
    """Runs statements in one transaction."""
    with SqlSource(database) as source, transaction(source) as connection:
        for statement in statements:
            TableWriter(source, connection, None).run(statement)


def make(database: str, rows: int) -> None:
    """Makes the table and fills it, the same at every call."""
    import datetime

    random = np.random.default_rng(0)
    xs, kinds = random.normal(size=rows).tolist(), random.integers(0, 50, rows).tolist()
    day = datetime.date(2020, 1, 1)
    made = (
        (i, i * 1000, None if i % 17 == 0 else x, i % 9999, day + datetime.timedelta(days=i % 1000), f"kind {kind}")
        for i, (x, kind) in enumerate(zip(xs, kinds, strict=True), 1)
    )
    with SqlSource(database) as source, transaction(source) as connection:
        writer = TableWriter(source, connection, None)
        writer.run(f"CREATE TABLE {TABLE} ({', '.join(COLUMNS)})")
        writer.insert(TABLE, [column.split()[0] for column in COLUMNS], iter(made))


def measured(work: Callable[..., None], database: str, rows: int, folder: str) -> dict[str, Any]:
    """Runs `work` in a new process; its seconds, rows per second, and greatest memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        seconds, found = pool.submit(_timed, work, database, rows, folder).result()
    name = work.__name__.lstrip("_")
    return {"what": name, "rows": rows, "seconds": round(seconds, 2), "rows_per_second": round(rows / seconds), **found}


def _timed(work: Callable[..., None], database: str, rows: int, folder: str) -> tuple[float, dict[str, Any]]:
    start, own_start, before = time.perf_counter(), time.process_time(), _memory()
    work(database, rows, folder)
    own = round(time.process_time() - own_start, 2)
    found = {"own_cpu_seconds": own, "megabytes": _memory(), "megabytes_at_start": before}
    return time.perf_counter() - start, found


def _memory() -> int:
    """The greatest resident memory of this process, in MiB; getrusage would count its parent's in."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM"))


def _copy(database: str, rows: int, folder: str) -> None:
    """COPY TO of the whole table, where the database has that; else a plain SELECT by its driver."""
    with SqlSource(database) as source, source.engine.connect() as connection:
        cursor = connection.connection.cursor()
        if source.backend == "postgresql":
            with open(f"{folder}/copy", "wb") as out, cursor.copy(f"COPY {TABLE} TO STDOUT") as copied:
                for block in copied:
                    out.write(block)
        else:
            found = connection.execution_options(stream_results=True).execute(sa.text(f"SELECT * FROM {TABLE}"))
            assert sum(1 for _ in found) == rows
        cursor.close()


def _extracted(database: str, rows: int, folder: str) -> Extracted:
    select = f"SELECT n, x, d, day, kind, id % 3 AS y FROM {TABLE} WHERE id <= {rows}"
    asked: dict[str, Any] = {"label": "y", "columns": {}, "schema": None, "tell": lambda line: None}
    return extract(database, select, f"{folder}/rows{rows}", target="class", **asked, into=TABLE)


def _extract(database: str, rows: int, folder: str) -> None:
    assert _extracted(database, rows, folder).rows == rows


def _write_back(database: str, rows: int, folder: str) -> None:
    """Writes made-up predictions into a new column by the primary key; making them is a small part of the time."""
    found, url = _extracted(database, rows, folder), str(Path(folder) / "predicted")
    tasks = -(-rows // PREDICTIONS_PER_FILE)
    manifest = predictions.Predictions("", "", "", "recordio", tasks, rows)
    outputs = np.random.default_rng(0).normal(size=[rows, 3]).astype(np.float32)
    for task, name in enumerate(manifest.parts):
        part = outputs[task * PREDICTIONS_PER_FILE : (task + 1) * PREDICTIONS_PER_FILE]
        write_recordio(storage.join(url, name), {"prediction": part})
    predictions.write(url, manifest)
    predictions.complete(url)
    count = write_back(database, "", TABLE, "told", url, found, probabilities=False, tell=lambda line: None)
    assert count == rows


if __name__ == "__main__":
    main()
