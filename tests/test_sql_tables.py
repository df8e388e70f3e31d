"""Extraction: what a SELECT gives becomes records and a schema, the same from SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import datetime
import decimal
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edl_allreduce import recordio, storage
from edl_allreduce.errors import DataError, EdlError, StorageError, UsageError
from edl_allreduce.params import parse_params
from edl_allreduce.schema import HASH_SIZE, ColumnWish, Schema, SchemaColumn
from edl_allreduce.tf_example import example_bytes, read_example
from edl_allreduce.tf_example_rows import example_rows
from launcher.sqlflow import extract as extraction
from launcher.sqlflow.extract import Extracted, extract
from tests.databases import KINDS, Database, Servers, database, sqlalchemy

sa = sqlalchemy
mysql: Any = pytest.importorskip("sqlalchemy.dialects.mysql")


@pytest.fixture(params=KINDS)
def db(request: pytest.FixtureRequest, database_servers: Servers, tmp_path: Path) -> Iterator[Database]:
    with database(database_servers, request.param, str(tmp_path)) as made:
        yield made


@pytest.fixture
def lite(database_servers: Servers, tmp_path: Path) -> Iterator[Database]:
    with database(database_servers, "sqlite", str(tmp_path)) as made:
        yield made


def taken(db: Database, select: str, folder: Path, **asked: Any) -> Extracted:
    defaults: dict[str, Any] = {"label": None, "target": "", "columns": {}, "schema": None, "tell": lambda line: None}
    return extract(db.url, select, str(folder), **defaults | asked)


def records(found: Extracted) -> list[dict[str, list[Any]]]:
    return [read_example(record) or {} for file in storage.expand(found.data) for record in recordio.Reader(file)]


EAST = datetime.timezone(datetime.timedelta(hours=2))
WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5, 678901)
TYPES: dict[str, tuple[Any, Any]] = {
    "i": (lambda: sa.Integer(), 7),
    "big": (lambda: sa.BigInteger(), -(2**63)),
    "x": (lambda: sa.Double(), 0.5),
    "flag": (lambda: sa.Boolean(), True),
    "s": (lambda: sa.String(50), "naïve 'q\"; DROP TABLE t; -- 日本 TRAIN"),
    "raw": (lambda: sa.LargeBinary(), b"\0\xff"),
    "n": (lambda: sa.Numeric(12, 3), decimal.Decimal("12.125")),
    "d": (lambda: sa.Date(), WHEN.date()),
    "ts": (lambda: sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"), WHEN),
    "t": (lambda: sa.Time(), datetime.time(0, 0, 2)),
    "tz": (lambda: sa.DateTime(timezone=True), WHEN.replace(tzinfo=EAST)),
    "iv": (lambda: sa.Interval(), datetime.timedelta(days=1, seconds=1)),
    "u": (lambda: sa.Uuid(), uuid.UUID(int=1)),
}
SQLITE = ("i", "big", "x", "flag", "s", "raw")
MARIADB = (*SQLITE, "n", "d", "ts", "t")
DAY, MICROSECONDS = 18263, 1577934245678901
FEATURES: dict[str, tuple[str, str, Any]] = {
    "i": ("number", "integer", 7),
    "big": ("number", "integer", -(2**63)),
    "x": ("number", "float", 0.5),
    "flag": ("number", "boolean", 1),
    "s": ("vocabulary", "text", "naïve 'q\"; DROP TABLE t; -- 日本 TRAIN".encode()),
    "raw": ("hash", "blob", b"\0\xff"),
    "n": ("number", "decimal", 12.125),
    "d": ("number", "date", DAY),
    "ts": ("number", "timestamp", MICROSECONDS),
    "t": ("number", "time", 2_000_000),
    "tz": ("number", "timestamp", MICROSECONDS - 7_200_000_000),
    "iv": ("number", "interval", 86_401_000_000),
    "u": ("vocabulary", "text", b"00000000-0000-0000-0000-000000000001"),
}


def test_every_type_with_nulls(db: Database, tmp_path: Path) -> None:
    names = {"sqlite": SQLITE, "mariadb": MARIADB, "postgresql": tuple(TYPES)}[db.kind]
    row = [TYPES[name][1] for name in names]
    db.load("every", {name: TYPES[name][0]() for name in names}, [row, [None] * len(names), row])
    told: list[str] = []
    found = taken(db, "SELECT * FROM every", tmp_path / "out", label="", tell=told.append)
    by_name = {column.name: column for column in found.schema.columns}
    for name in names:
        kind, type_name, _ = FEATURES[name]
        if db.kind != "postgresql" and name == "flag":
            type_name = "integer"  # there a BOOLEAN is a small number
        if db.kind == "mariadb" and name == "t":
            type_name = "interval"
        assert (by_name[name].kind, by_name[name].type, by_name[name].nulls) == (kind, type_name, 1), name
    assert by_name["s"].vocabulary == (TYPES["s"][1],) and by_name["raw"].size == HASH_SIZE
    expected = {name: [FEATURES[name][2]] for name in names}
    assert sorted(records(found), key=len) == [{}, expected, expected] and found.rows == 3
    assert told == [f"extracted 3 rows into {tmp_path / 'out'}"]
    again = taken(db, "SELECT * FROM every", tmp_path / "again", schema=found.schema, into="elsewhere")
    assert records(again) == records(found)
    assert sorted(os.listdir(tmp_path / "out")) == ["_done", "data-00000.recordio", "schema.json"]


def test_not_a_number_is_a_null(db: Database, tmp_path: Path) -> None:
    if db.kind != "postgresql":
        pytest.skip("has no NaN")
    found = taken(db, "SELECT x FROM (VALUES (1.0::float8), ('NaN'), (3)) AS t(x)", tmp_path / "out", label="")
    assert found.schema.columns == (SchemaColumn("x", "number", "float", nulls=1, mean=2.0, std=1.0),)
    assert records(found) == [{"x": [1.0]}, {}, {"x": [3.0]}]
    with pytest.raises(DataError, match="row 2, column 'x': inf is no number that can be learned from; leave"):
        taken(db, "SELECT x FROM (VALUES (1.0::float8), ('Infinity')) AS t(x)", tmp_path / "2", label="")
    with pytest.raises(DataError, match="row 1, column 'a': a value of type list has no place in a tf.Example; "):
        taken(db, "SELECT ARRAY[1, 2] AS a", tmp_path / "3", label="")


def test_statistics_and_shards(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_ROWS_PER_SHARD", 2048)
    monkeypatch.setattr(extraction, "_ROWS_PER_LINE", 2000)
    values = [1e9 + n / 4 for n in range(5000)]
    db.load("t", {"id": sa.Integer(), "x": sa.Double()}, list(enumerate(values)))
    told: list[str] = []
    found = taken(db, "SELECT x, id FROM t WHERE 'a%b' LIKE '%%' ORDER BY id", tmp_path / "out", tell=told.append)
    column = found.schema.columns[0]
    assert column.mean == pytest.approx(np.mean(values), rel=1e-12) and column.std == pytest.approx(np.std(values))
    assert [record["id"] for record in records(found)] == [[n] for n in range(5000)]
    assert [path.name for path in sorted((tmp_path / "out").glob("data-*"))] == [
        f"data-0000{number}.recordio" for number in range(3)
    ]
    assert told[:2] == ["extracted 2,048 rows", "extracted 4,096 rows"]
    again = taken(db, "SELECT something else", tmp_path / "out", tell=told.append)
    assert again == found


def test_names_full_of_quotes(db: Database, tmp_path: Path) -> None:
    odd = 'a "b" `c`; % TRAIN'
    db.load("odd;table", {"id": sa.Integer(), odd: sa.String(20)}, [[1, "x"], [2, "y%s"]])
    quote = "`" if db.kind == "mariadb" else '"'
    name = quote + odd.replace(quote, quote * 2) + quote
    found = taken(db, f"SELECT {name}, id FROM {quote}odd;table{quote}", tmp_path / "out")
    assert found.schema.inputs == (SchemaColumn(odd, "vocabulary", "text", vocabulary=("x", "y%s")),)
    assert Schema.from_params(parse_params(f"schema={found.schema.to_params()}")["schema"]) == found.schema
    assert Schema.from_json(found.schema.to_json()) == found.schema


def test_the_same_is_made_of_the_columns_for_a_trained_model(lite: Database, tmp_path: Path) -> None:
    lite.run("CREATE TABLE t (age INTEGER, role TEXT, class TEXT)")
    lite.run("INSERT INTO t VALUES (1, 'a', 'yes'), (3, 'b', 'no')")
    schema = taken(lite, "SELECT * FROM t", tmp_path / "train", target="class").schema
    assert schema.classes == ("no", "yes")
    select = "SELECT 'c' AS role, 5.0 AS age, 1 AS more, NULL AS class"
    found = taken(lite, select, tmp_path / "predict", schema=schema)
    assert records(found) == [{"age": [5], "role": [b"c"]}] and found.schema == schema
    problems = {
        "SELECT 1 AS agee": "the SELECT has no column 'age' (did you mean 'agee'?), 'role', which the model was",
        "SELECT 1.5 AS age, 'a' AS role": "row 1, column 'age': 1.5, but the model was trained with whole numbers",
        "SELECT 'x' AS age, 'a' AS role": "row 1, column 'age': text ('x'), but the model was trained with an in",
        "SELECT 1 AS age, 2 AS role": "row 1, column 'role': an integer (2), but the model was trained with text; CAST",
    }
    for number, (select, problem) in enumerate(problems.items()):
        with pytest.raises(DataError) as raised:
            taken(lite, select, tmp_path / str(number), schema=schema)
        assert problem in str(raised.value)
    evaluated = taken(lite, "SELECT * FROM t", tmp_path / "evaluate", schema=schema, label="class")
    assert [record["class"] for record in records(evaluated)] == [[b"yes"], [b"no"]]
    with pytest.raises(DataError, match="row 2, column 'class': 'maybe' is none of the model's classes: no, yes"):
        changed = "SELECT age, role, CASE age WHEN 1 THEN 'no' ELSE 'maybe' END AS class FROM t"
        taken(lite, changed, tmp_path / "maybe", schema=schema, label="class")


def test_whole_numbers_and_then_others(lite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "_FETCH_ROWS", 2)
    lite.run("CREATE TABLE t (x, y)", "INSERT INTO t VALUES (1, 1), (NULL, 2), (3, 3), (0.5, 4)")
    found = taken(lite, "SELECT * FROM t", tmp_path / "out")
    assert [record.get("x") for record in records(found)] == [[1.0], None, [3.0], [0.5]]
    assert found.schema.columns[0].type == "float" and found.schema.columns[1].type == "integer"
    with pytest.raises(DataError, match=r"row 3, column 'x': text \('n/a'\), where the rows before have an integer"):
        taken(lite, "SELECT 1 AS x UNION ALL SELECT NULL UNION ALL SELECT 'n/a'", tmp_path / "2", label="")


def test_what_a_column_clause_says(lite: Database, tmp_path: Path) -> None:
    rows = ", ".join(f"({n}, 't{n}', '{n}.5', {n % 2})" for n in range(20))
    lite.run("CREATE TABLE t (n INTEGER, s TEXT, f TEXT, y INTEGER)", f"INSERT INTO t VALUES {rows}")
    wishes = {"n": ColumnWish("vocabulary"), "s": ColumnWish("hash", 8), "f": ColumnWish("number")}
    found = taken(lite, "SELECT * FROM t", tmp_path / "1", columns=wishes, target="class")
    vocabulary = tuple(map(str, range(20)))  # in the order of the numbers
    assert found.schema.columns[0] == SchemaColumn("n", "vocabulary", "integer", vocabulary=vocabulary)
    assert found.schema.columns[1] == SchemaColumn("s", "hash", "text", size=8)
    assert found.schema.columns[2].mean == 10.0 and found.schema.classes == ("0", "1")
    assert records(found)[1] == {"n": [b"1"], "s": [b"t1"], "f": [1.5], "y": [b"1"]}
    found = taken(lite, "SELECT * FROM t", tmp_path / "2", columns={"s": ColumnWish("vocabulary", 10)})
    assert [column.name for column in found.schema.columns] == ["s", "y"] and found.schema.columns[0].kind == "hash"
    with pytest.raises(DataError, match="column 's': 't0' is no number"):
        taken(lite, "SELECT * FROM t", tmp_path / "3", columns={"s": ColumnWish("number")})


@pytest.mark.parametrize(
    ("select", "asked", "kind", "problem"),
    [
        ("SELECT * FROM t WHERE id < 0", {}, DataError, "the SELECT gives no row"),
        ("SELECT * FROM tt", {}, StorageError, "tt"),
        ("SELECT name FROM t", {}, DataError, "gives the label 'name' alone; select columns to learn from, too"),
        ("SELECT * FROM t", {"label": "nam"}, DataError, "has no column 'nam' (did you mean 'name'?); it has id, "),
        ("SELECT id, name FROM t", {"target": "number"}, DataError, "label is text ('a'); a regressor needs numbers"),
        ("SELECT id, y FROM t", {}, DataError, "row 2, column 'y': the label is NULL; leave such rows out: WHERE y IS"),
        ("SELECT id, 'a' AS c FROM t", {"target": "class"}, DataError, "'c' has one value only, so they are no"),
        ("SELECT id, id FROM t", {}, UsageError, "SELECT: gives two columns named 'id'; rename one by AS"),
        ("DELETE FROM t", {}, EdlError, ""),
        ("SELECT * FROM t", {"columns": {"no": ColumnWish()}}, DataError, "the SELECT has no column 'no'"),
    ],
)  # fmt: skip
def test_mistakes(
    db: Database, tmp_path: Path, select: str, asked: dict[str, Any], kind: type[Exception], problem: str
) -> None:
    db.load("t", {"id": sa.Integer(), "name": sa.String(9), "y": sa.Integer()}, [[1, "a", 1], [2, "b", None]])
    with pytest.raises(kind) as raised:
        taken(db, select, tmp_path / "out", **asked)
    told = str(raised.value)
    assert problem in told and "\n" not in told and "se/cret" not in told and "se%2Fcret" not in told
    assert not (tmp_path / "out" / "_done").exists() and db.rows("SELECT count(*) FROM t") == [(2,)]


def test_a_wrong_password_is_not_shown(db: Database, tmp_path: Path) -> None:
    if db.kind == "sqlite":
        pytest.skip("has no passwords")
    wrong = Database(db.url.replace("se%2Fcret", "wr%2Fong"), db.kind)
    with pytest.raises(StorageError) as raised:
        taken(wrong, "SELECT 1 AS a", tmp_path / "out")
    assert "edl" in str(raised.value) and "wr/ong" not in str(raised.value) and "wr%2Fong" not in str(raised.value)


def test_passwords_where_the_drivers_look_for_them(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if db.kind == "sqlite":
        pytest.skip("has no passwords")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".my.cnf").write_text("[client]\npassword=se/cret\n")
    (tmp_path / ".pgpass").write_text("*:*:*:edl:se/cret\n")
    (tmp_path / ".pgpass").chmod(0o600)
    bare = Database(db.url.replace(":se%2Fcret", ""), db.kind)
    assert taken(bare, "SELECT 1 AS a", tmp_path / "out", label="").rows == 1


def test_what_an_attempt_before_has_left_does_not_count(lite: Database, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "data-00007.recordio").write_bytes(b"half")
    assert records(taken(lite, "SELECT 1 AS a", out, label="")) == [{"a": [1]}]


VALUES = st.one_of(
    st.tuples(st.just("int64"), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3)),
    st.tuples(st.just("float"), st.lists(st.none() | st.floats(width=32), min_size=3, max_size=3)),
    st.tuples(st.just("bytes"), st.lists(st.none() | st.binary(max_size=300), min_size=3, max_size=3)),
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=200), VALUES, min_size=1, max_size=4))
def test_many_examples_at_once_are_those_of_one_by_one(columns: dict[str, tuple[str, list[Any]]]) -> None:
    rows = [{name: values[row] for name, (_, values) in columns.items()} for row in range(3)]
    expected = [example_bytes({name: value for name, value in row.items() if value is not None}) for row in rows]
    assert example_rows(columns) == expected


def test_examples_that_are_refused() -> None:
    with pytest.raises(DataError, match="feature 'x': .*1e\\+39.* does not fit in a float of 32 bits"):
        example_rows({"x": ("float", [1.0, 1e39])})
    with pytest.raises(DataError, match=f"feature 'x': {2**63} does not fit in 64 bits"):
        example_rows({"x": ("int64", [2**63])})
