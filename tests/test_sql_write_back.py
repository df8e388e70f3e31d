"""Predictions go back into the database: by primary key or into a new table, all of them or none, twice the same."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edl_allreduce import predictions, storage
from edl_allreduce.errors import DataError, EdlError, StorageError, UsageError
from edl_allreduce.prediction_files import write_recordio
from edl_allreduce.schema import Schema, SchemaColumn
from launcher.sqlflow import kept_rows, table_writer
from launcher.sqlflow.extract import Extracted, extract
from launcher.sqlflow.names import split_table, unquoted
from launcher.sqlflow.write_back import write_back
from tests.databases import KINDS, Database, Servers, database, sqlalchemy

sa = sqlalchemy
X = SchemaColumn("x", "number", "integer", mean=1.0, std=1.0)
NUMBER = Schema((X, SchemaColumn("y", "number", "float", mean=1.0, std=1.0)), "y", 10)
ROWS = 7


def classes(kind: str, *names: str) -> Schema:
    return Schema((X, SchemaColumn("y", "vocabulary", kind, vocabulary=names)), "y", 10)


@pytest.fixture(params=KINDS)
def db(request: pytest.FixtureRequest, database_servers: Servers, tmp_path: Path) -> Iterator[Database]:
    with database(database_servers, request.param, str(tmp_path)) as made:
        yield made


@pytest.fixture
def table(db: Database) -> Database:
    """A database with a table t: id from 0 to 6, x ten times that, name."""
    columns = {"id": sa.Integer(), "x": sa.Integer(), "name": sa.String(20)}
    db.load("t", columns, [[n, n * 10, f"it's {n}%; --"] for n in range(ROWS)])
    return db


def taken(db: Database, select: str, folder: Path, into: str, schema: Schema = NUMBER) -> Extracted:
    name = str(folder / f"rows{len(list(folder.iterdir()))}")
    asked: dict[str, Any] = {"label": None, "target": "", "columns": {}, "schema": schema}
    return extract(db.url, select, name, **asked, tell=lambda line: None, into=into)


def predicted(folder: Path, values: Sequence[Any], cut: int = 3) -> str:
    """A folder of predictions as `edl predict` writes it, in files of `cut`."""
    url, array = str(folder / f"predicted{len(list(folder.iterdir()))}"), np.array(values, np.float32)
    tasks = -(-len(array) // cut)
    manifest = predictions.Predictions("model", "1", "2", "recordio", tasks, len(array))
    for task, name in enumerate(manifest.parts):
        write_recordio(storage.join(url, name), {"prediction": array[task * cut : (task + 1) * cut]})
    predictions.write(url, manifest)
    predictions.complete(url)
    return url


def written(
    db: Database, select: str, target: str, folder: Path, values: Sequence[Any], schema: Schema = NUMBER, **more: Any
) -> tuple[int, list[str]]:
    told: list[str] = []
    name, column = target.rsplit(".", 1)
    found = taken(db, select, folder, name, schema)
    settings: dict[str, Any] = {"probabilities": False, "tell": told.append} | more
    return write_back(db.url, select, name, column, predicted(folder, values), found, **settings), told


def halves(ids: Sequence[int]) -> list[list[float]]:
    return [[n / 2] for n in ids]


def test_into_a_column_of_the_table_by_its_key(table: Database, tmp_path: Path) -> None:
    select = "SELECT x, name FROM t WHERE id <> 3 ORDER BY id DESC"
    for _ in range(2):  # twice gives the same
        count, told = written(table, select, "t.guess", tmp_path, halves([6, 5, 4, 2, 1, 0]))
        assert count == 6 and told[-1] == "wrote 6 predictions into t.guess"
        expected = [(n, None if n == 3 else n / 2) for n in range(ROWS)]
        assert table.rows("SELECT id, guess FROM t ORDER BY id") == expected
    whole = [(n, n * 10, f"it's {n}%; --", None if n == 3 else n / 2) for n in range(ROWS)]
    assert table.rows("SELECT * FROM t ORDER BY id") == whole


def test_the_key_is_added_to_the_select_as_it_stands(table: Database, tmp_path: Path) -> None:
    table.run("CREATE TABLE other (id INTEGER PRIMARY KEY, t_id INTEGER)", "INSERT INTO other VALUES (70, 0), (71, 6)")
    select = "SELECT 'FROM t' AS s, /*FROM*/ u.*, a.x -- FROM t;\n FROM other u JOIN t a ON a.id = u.t_id ORDER BY x;"
    found = taken(table, select, tmp_path, "T" if table.kind == "sqlite" else "t")
    assert found.key == ("id",)
    count = write_back(
        table.url, select, "t", "guess", predicted(tmp_path, [[5], [6]]), found, probabilities=False, tell=print
    )
    assert count == 2 and table.rows("SELECT id, guess FROM t WHERE guess IS NOT NULL ORDER BY id") == [(0, 5), (6, 6)]
    with pytest.raises(DataError, match="PREDICT: the SELECT gives a row of t twice, so it has two predictions"):
        written(table, "SELECT t.x FROM t, other WHERE t.id < 1", "t.guess", tmp_path, [[1], [2]])
    assert table.rows("SELECT guess FROM t WHERE id = 0") == [(5,)]


@pytest.mark.parametrize(
    ("select", "reads"),
    [
        ("SELECT DISTINCT x FROM t", None),
        ("SELECT max(x) AS x FROM t GROUP BY name", None),
        ("SELECT max(x) AS x FROM t", None),
        ("SELECT x FROM t UNION ALL SELECT x FROM t", None),
        ("SELECT x FROM (SELECT * FROM t) AS q", None),
        ("SELECT a.x FROM t a, t b", None),
        ("SELECT x FROM u WHERE id IN (SELECT id FROM u)", False),
        ("WITH t AS (SELECT x FROM u) SELECT x FROM t", False),
        ("SELECT x, (SELECT max(id) FROM u) AS most FROM t", True),
        ("SELECT x, sum(x) OVER () AS total FROM t", True),
    ],
)
def test_what_counts_as_reading_from_the_table(
    database_servers: Servers, tmp_path: Path, select: str, reads: bool | None
) -> None:
    with database(database_servers, "sqlite", str(tmp_path)) as db:
        for name in ("t", "u"):
            db.run(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, x INTEGER, name TEXT)")
            db.run(f"INSERT INTO {name} VALUES (1, 1, 'a')")
        if reads is None:
            with pytest.raises(
                UsageError, match="PREDICT: the SELECT reads from t, but not row by row; read from it once"
            ):
                taken(db, select, tmp_path, "t")
        else:
            assert taken(db, select, tmp_path, "t").key == (("id",) if reads else ())


def test_a_key_of_several_columns_and_none(db: Database, tmp_path: Path) -> None:
    db.run("CREATE TABLE pairs (a VARCHAR(5), b INTEGER, x INTEGER, PRIMARY KEY (a, b))")
    db.run("INSERT INTO pairs VALUES ('u', 1, 1), ('u', 2, 2), ('v', 1, 3)", "CREATE TABLE keyless (x INTEGER)")
    db.run("INSERT INTO keyless VALUES (1), (1)")
    written(db, "SELECT x FROM pairs ORDER BY x", "pairs.guess", tmp_path, [[1], [2], [3]])
    assert sorted(db.rows("SELECT a, b, guess FROM pairs")) == [("u", 1, 1.0), ("u", 2, 2.0), ("v", 1, 3.0)]
    if db.kind == "sqlite":
        written(db, "SELECT x FROM keyless ORDER BY rowid", "keyless.guess", tmp_path, [[1], [2]])
        assert db.rows("SELECT guess FROM keyless ORDER BY rowid") == [(1.0,), (2.0,)]
    else:
        with pytest.raises(
            UsageError, match="PREDICT: keyless has no primary key, so the rows of the SELECT cannot be"
        ):
            written(db, "SELECT x FROM keyless", "keyless.guess", tmp_path, [[1], [2]])


def test_into_a_new_table(table: Database, tmp_path: Path) -> None:
    select = "SELECT name, x, x AS y FROM t WHERE name LIKE '%' ORDER BY id; "
    for _ in range(2):  # twice gives the same
        assert written(table, select, "guesses.y", tmp_path, halves(range(ROWS)))[0] == ROWS
        expected = [(f"it's {n}%; --", n * 10, n / 2) for n in range(ROWS)]
        assert sorted(table.rows("SELECT * FROM guesses")) == expected
    with pytest.raises(
        UsageError, match="PREDICT: guesses is there already, with the columns name, x, y, and the SELECT"
    ):
        written(table, "SELECT x FROM t", "guesses.guess", tmp_path, halves(range(ROWS)))
    with pytest.raises(UsageError, match="PREDICT: the model reads a column called 'x'; choose another name"):
        written(table, select, "others.x", tmp_path, halves(range(ROWS)))
    assert sorted(table.rows("SELECT * FROM guesses")) == expected


def test_a_new_table_has_the_types_of_the_columns(db: Database, tmp_path: Path) -> None:
    day = datetime.date(2020, 2, 29)
    values: dict[str, tuple[Any, Any]] = {
        "id": (sa.Integer(), 1),
        "flag": (sa.Boolean(), True),
        "raw": (sa.LargeBinary(), b"\0\xff"),
        "big": (sa.BigInteger(), 2**62 + 1),
        "x": (sa.Integer(), 3),
    }
    if db.kind != "sqlite":
        values |= {"n": (sa.Numeric(20, 6), decimal.Decimal("12345678901234.000001")), "d": (sa.Date(), day)}
        values |= {"ts": (sa.DateTime(), datetime.datetime(2020, 1, 2, 3, 4, 5))}
    rows = [[value for _, value in values.values()], [2, *[None] * (len(values) - 1)]]
    db.load("source", {name: kind for name, (kind, _) in values.items()}, rows)
    query = "SELECT * FROM source ORDER BY id"
    before = db.rows(query)
    written(db, query, "made.guess", tmp_path, [[1], [2]])
    assert [row[:-1] for row in db.rows("SELECT * FROM made ORDER BY id")] == before
    if db.kind != "sqlite":
        (kind,) = db.rows(
            "SELECT data_type FROM information_schema.columns WHERE table_name = 'made' AND column_name = 'd'"
        )
        assert kind == ("date",)


@pytest.mark.parametrize(
    ("kind", "names", "value"),
    [
        ("text", ("no", "o'\"yes%; --"), "o'\"yes%; --"),
        ("integer", ("-1", "7"), 7),
        ("decimal", ("0.25", "1.5"), decimal.Decimal("1.5")),
        ("boolean", ("0", "1"), True),
        ("float", ("0.0", "1.5"), 1.5),
    ],
)
def test_classes_as_they_stood_in_the_training_table(
    table: Database, tmp_path: Path, kind: str, names: tuple[str, str], value: Any
) -> None:
    if kind == "decimal" and table.kind == "sqlite":
        pytest.skip("has no decimals")
    outputs = [[1.0, 3.0]] * ROWS
    for target in ("t.class", "made.class"):
        written(table, "SELECT x FROM t ORDER BY id", target, tmp_path, outputs, classes(kind, *names))
        assert set(table.rows(f"SELECT class FROM {target.partition('.')[0]}")) == {(value,)}


def test_probabilities(table: Database, tmp_path: Path) -> None:
    schema = classes("text", "a b", "c")
    for outputs in ([[np.log(1.0), np.log(3.0)]] * ROWS, [[0.25, 0.75]] * ROWS):
        written(table, "SELECT x FROM t", "t.p", tmp_path, outputs, schema, probabilities=True)
        quote = "`" if table.kind == "mariadb" else '"'
        found = table.rows(f"SELECT p, {quote}p_a b{quote}, p_c FROM t")
        assert len(found) == ROWS and all(row == ("c", pytest.approx(0.25), pytest.approx(0.75)) for row in found)
    with pytest.raises(UsageError, match="probabilities: the label 'y' is a number, so there are none"):
        written(table, "SELECT x FROM t", "t.p", tmp_path, halves(range(ROWS)), probabilities=True)


@pytest.mark.parametrize(
    ("values", "schema", "problem"),
    [
        (halves(range(6)), NUMBER, "holds 6 predictions, but the SELECT gave 7 rows"),
        ([*halves(range(6)), [np.nan]], NUMBER, "prediction 7: expected numbers, got [nan]; has training diverged?"),
        ([[1.0, 2.0]] * 7, NUMBER, "prediction 1: expected one number, got 2"),
        ([[1.0, 2.0]] * 7, classes("text", "a", "b", "c"), "expected one number for each of the 3 classes, got 2"),
    ],
)
@pytest.mark.parametrize("target", ["t.guess", "made.guess"])
def test_a_failure_leaves_the_database_as_it_was(
    table: Database, tmp_path: Path, values: list[Any], schema: Schema, problem: str, target: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(table_writer, "_BATCH_ROWS", 2)
    before = table.rows("SELECT * FROM t ORDER BY id")
    with pytest.raises(DataError) as raised:
        written(table, "SELECT x FROM t ORDER BY id", target, tmp_path, values, schema)
    assert problem in str(raised.value)
    assert table.rows("SELECT * FROM t ORDER BY id") == before and tables(table) == ["t"]


def tables(db: Database) -> list[str]:
    with db.connected() as connection:
        return sorted(sa.inspect(connection).get_table_names())


def test_a_table_that_is_filled_anew_keeps_its_rows_when_that_fails(table: Database, tmp_path: Path) -> None:
    select = "SELECT name, x FROM t ORDER BY id"
    written(table, select, "made.guess", tmp_path, halves(range(ROWS)))
    before = table.rows("SELECT * FROM made ORDER BY x")
    with pytest.raises(DataError, match="prediction 7"):
        written(table, select, "made.guess", tmp_path, [*halves(range(6)), [np.inf]])
    assert table.rows("SELECT * FROM made ORDER BY x") == before


def test_what_the_database_refuses_is_one_line(table: Database, tmp_path: Path) -> None:
    if table.kind == "sqlite":
        pytest.skip("takes every value in every column")
    table.run("ALTER TABLE t ADD COLUMN guess INTEGER CHECK (guess < 100)")
    with pytest.raises(StorageError) as raised:
        written(table, "SELECT x FROM t ORDER BY id", "t.guess", tmp_path, [[n * 50.0] for n in range(ROWS)])
    told = str(raised.value)
    assert "guess" in told and "\n" not in told and "se/cret" not in told
    assert table.rows("SELECT count(*) FROM t WHERE guess IS NULL") == [(ROWS,)]


def test_rows_that_have_gone_meanwhile_are_counted(table: Database, tmp_path: Path) -> None:
    found = taken(table, "SELECT x FROM t ORDER BY id", tmp_path, "t")
    table.run("DELETE FROM t WHERE id = 3", "UPDATE t SET x = -x")
    told: list[str] = []
    outputs = predicted(tmp_path, halves(range(ROWS)))
    count = write_back(table.url, "", "t", "guess", outputs, found, probabilities=False, tell=told.append)
    assert count == 6 and told == ["wrote 6 predictions into t.guess; 1 of the selected rows are no longer there"]
    assert table.rows("SELECT guess FROM t WHERE id = 4") == [(2.0,)]


def test_names_of_tables() -> None:
    assert split_table('shop."my ""t"".x".`a``b`.[c d]') == ("shop", 'my "t".x', "a`b", "c d")
    assert split_table('Shop."My Table"', "postgresql") == ("shop", "My Table")
    assert unquoted("Pred", "postgresql") == "pred" and unquoted('"Pred"', "postgresql") == unquoted("Pred") == "Pred"
    for wrong in ("", ".", "a.", ".a", 'a"b', 'a b"'):
        with pytest.raises(UsageError, match="PREDICT: expected the name of a table"):
            split_table(wrong)


def test_predictions_of_another_kind(table: Database, tmp_path: Path) -> None:
    found = taken(table, "SELECT x FROM t", tmp_path, "t")
    unfinished = tmp_path / "unfinished"
    with pytest.raises(EdlError, match="holds no complete predictions"):
        write_back(table.url, "", "t", "guess", str(unfinished), found, probabilities=False, tell=print)


def test_kept_rows_are_what_they_were() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=-3))
    row = [
        None, True, 2**70, -1.5, "it's \u65e5", b"\0\xff", decimal.Decimal("1.10"), datetime.date(2020, 1, 2),
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, zone), datetime.time(1, 2, 3),
        -datetime.timedelta(days=3, microseconds=1),
    ]  # fmt: skip
    assert kept_rows.decode(kept_rows.encode(row)) == row
    assert kept_rows.decode(kept_rows.encode([{"a": [1]}])) == ['{"a": [1]}']
    for wrong in ([[1]], [object()]):
        with pytest.raises(TypeError, match="cannot be written back; leave it out, or CAST it"):
            kept_rows.encode(wrong)
