"""Conversion of TFRecord, Parquet and databases: records as they are, types by values, NULLs, streams, and refusals."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edl_allreduce import recordio, sql_source, table_sql
from edl_allreduce.convert import Options, convert_parquet, convert_sql, convert_tfrecord
from edl_allreduce.errors import CorruptFile, DataError, StorageError, UsageError
from edl_allreduce.extras import Later
from edl_allreduce.table import Wish
from edl_allreduce.tf_example import read_example
from launcher.commands.data import convert
from tests import formats

sqlalchemy = pytest.importorskip("sqlalchemy", reason="not installed: pip install 'edl_allreduce[sql]'")
pa, pq = formats.pa, formats.pq
ROWS = 5000


def raw(files: Sequence[str]) -> list[bytes]:
    return [record for file in files for record in recordio.Reader(file)]


def records(files: Sequence[str]) -> list[dict[str, list[Any]] | None]:
    return [read_example(record) for record in raw(files)]


def test_tfrecords_are_kept_as_they_are(tmp_path: Path) -> None:
    made = [b"", b"\0\xff", *(b"record %d" % number for number in range(7))]
    plain, packed = tmp_path / "a.tfrecord", tmp_path / "b.tfrecord.gz"
    plain.write_bytes(b"".join(map(formats.tfrecord, made)))
    packed.write_bytes(gzip.compress(b"".join(map(formats.tfrecord, made[::-1]))))
    options = Options(records_per_file=4)
    done = convert_tfrecord([str(plain), str(packed)], str(tmp_path / "out"), options)
    assert raw(done.files) == made + made[::-1] and len(done.files) == 6
    assert (done.records, done.columns) == (18, ())
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(CorruptFile, match=r"b.tfrecord.gz, offset 0: the gzip data is damaged"):
        convert_tfrecord([str(packed)], str(tmp_path / "2"))
    plain.write_bytes(plain.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptFile, match=r"a.tfrecord, offset 0: record 8 of the chunk, at offset \d+: its checksum"):
        convert_tfrecord([str(plain)], str(tmp_path / "2"))
    assert not os.path.exists(tmp_path / "2") or os.listdir(tmp_path / "2") == []
    with pytest.raises(UsageError, match="^--label: the records of TFRecord files are kept as they are, got 'x'"):
        convert_tfrecord([str(plain)], str(tmp_path / "2"), Options(label="x"))


def test_parquet(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "kind": "b", "x": [1.5, 2.5], "when": datetime.date(1970, 1, 2), "s": {"y": 1.5}},
        {"id": None, "kind": "a", "x": [], "when": None, "s": None},
        {"id": 3, "kind": None, "x": None, "when": None, "s": {"y": None}},
    ]
    source = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=2)
    done = convert_parquet([source], str(tmp_path / "1"), Options(label="kind", records_per_file=2))
    assert [f"{column.feature}:{column.type}" for column in done.columns] == [
        "id:int64", "label:int64", "x:float", "when:int64", "s.y:float",
    ]  # fmt: skip
    assert len(done.files) == 2 and json.loads((tmp_path / "1" / "labels.json").read_text()) == ["a", "b"]
    assert records(done.files) == [
        {"id": [1], "label": [1], "x": [1.5, 2.5], "when": [1], "s.y": [1.5]},
        {"label": [0], "x": []},
        {"id": [3]},
    ]
    done = convert_parquet([source], str(tmp_path / "2"), Options(columns="id:float,when:bytes,s.y:bytes,kind"))
    assert records(done.files) == [
        {"id": [1.0], "when": [b"1970-01-02"], "s.y": [b"1.5"], "kind": [b"b"]},
        {"kind": [b"a"]},
        {"id": [3.0]},
    ]


def test_parquet_files_agree_on_types(tmp_path: Path) -> None:
    sources = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    pq.write_table(pa.table({"x": [1, 2]}), sources[0])
    pq.write_table(pa.table({"x": [0.5]}), sources[1])
    assert records(convert_parquet(sources, str(tmp_path / "out")).files) == [{"x": [1.0]}, {"x": [2.0]}, {"x": [0.5]}]


@pytest.mark.parametrize(
    ("values", "options", "problem"),
    [
        (["a"], {"columns": "x:int64"}, "column 'x' has the type string, which cannot become int64"),
        ([[1]], {"columns": "x:bytes"}, "column 'x' has the type list<element: int64>, which cannot become bytes"),
        ([["a"]], {"label": "x"}, "the texts of a label must not be lists"),
        ([[{"y": 1}]], {}, "has no place in a tf.Example; choose others with --columns"),
        ([1.0, 1e39], {}, "a.parquet, after row 0: column 'x': row 1: 1e+39 does not fit in 32 bits"),
        ([b"\xff"], {"label": "x"}, "column 'x': Invalid UTF8"),
        ([1], {"columns": "y"}, "a.parquet: has no column 'y'"),
        ([], {}, "a.parquet: no row"),
    ],
)
def test_parquet_files_that_are_refused(
    tmp_path: Path, values: list[Any], options: dict[str, str], problem: str
) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        convert_parquet([str(tmp_path / "a.parquet")], str(tmp_path / "out"), Options(**options))  # type: ignore[arg-type]
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of an SQLite file with one table of 5,000 rows."""
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, kind TEXT, x REAL, b BLOB, mixed, nulls)")
        rows = (
            (n, None if n == 3 else "ab"[n % 2], n / 4 if n % 5 else None, b"\0%d" % n, n if n % 2 else n / 2, None)
            for n in range(ROWS)
        )
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{tmp_path / 'a.db'}"


def test_a_select(database: str, tmp_path: Path) -> None:
    query = "SELECT x, id, kind, b, mixed, nulls FROM t WHERE kind IS NULL OR kind LIKE '%' ORDER BY id"
    told: list[tuple[str, int, int]] = []
    options = Options(label="kind", records_per_file=2000)
    done = convert_sql(database, query, str(tmp_path / "1"), options, lambda *args: told.append(args))
    assert [f"{column.feature}:{column.type}" for column in done.columns] == [
        "x:float", "id:int64", "label:int64", "b:bytes", "mixed:float", "nulls:bytes",
    ]  # fmt: skip
    made = records(done.files)
    assert len(made) == ROWS and len(done.files) == 3
    assert made[2:5] == [
        {"x": [0.5], "id": [2], "label": [0], "b": [b"\x002"], "mixed": [1.0]},
        {"x": [0.75], "id": [3], "b": [b"\x003"], "mixed": [3.0]},
        {"x": [1.0], "id": [4], "label": [0], "b": [b"\x004"], "mixed": [2.0]},
    ]
    assert json.loads((tmp_path / "1" / "labels.json").read_text()) == ["a", "b"]
    fetched = [done for stage, done, _ in told if stage == "fetched"]
    assert fetched == [2048, 4096, 5000]  # never more in memory than that
    again = convert_sql(database, query, str(tmp_path / "2" / "1"), options)
    assert [Path(one).read_bytes() for one in done.files] == [Path(other).read_bytes() for other in again.files]


def test_types_and_columns_can_be_given(database: str, tmp_path: Path) -> None:
    options = Options(columns="mixed:bytes,id:float")
    done = convert_sql(database, "SELECT * FROM t LIMIT 3", str(tmp_path / "out"), options)
    assert records(done.files) == [
        {"mixed": [b"0.0"], "id": [0.0]},
        {"mixed": [b"1"], "id": [1.0]},
        {"mixed": [b"1.0"], "id": [2.0]},
    ]


def test_several_processes_give_the_same_files(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "SELECT * FROM t ORDER BY id DESC"
    one = convert_sql(database, query, str(tmp_path / "1" / "set"), Options(records_per_file=1500, workers=1))
    monkeypatch.setattr("edl_allreduce.convert_processes._WORTH_PROCESSES", 0)
    two = convert_sql(database, query, str(tmp_path / "2" / "set"), Options(records_per_file=1500, workers=2))
    assert [Path(each).read_bytes() for each in one.files] == [Path(each).read_bytes() for each in two.files]


EPOCH = datetime.datetime(1970, 1, 1)
EAST = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([True, None, False], "int64", [1, None, 0]),
        ([1, 2**63], "float", [1, float(2**63)]),
        ([decimal.Decimal("1.5"), 2], "float", [1.5, 2]),
        ([float("nan"), 1.0], "float", ["nan", 1.0]),
        (["a", 1, 2.5], "bytes", ["a", 1, 2.5]),
        ([bytearray(b"a"), memoryview(b"b")], "bytes", [b"a", b"b"]),
        ([uuid.UUID(int=1)], "bytes", [str(uuid.UUID(int=1))]),
        ([EPOCH + datetime.timedelta(seconds=-1)], "int64", [-(10**6)]),
        ([EPOCH.replace(hour=1, tzinfo=EAST)], "int64", [0]),
        ([datetime.date(1969, 12, 31)], "int64", [-1]),
        ([datetime.time(0, 0, 1)], "int64", [10**6]),
        ([datetime.timedelta(days=1)], "int64", [86_400 * 10**6]),
        ([None, None], "bytes", [None, None]),
    ],
)
def test_what_drivers_give(values: list[Any], kind: str, expected: list[Any], tmp_path: Path) -> None:
    path = str(tmp_path / "rows.sqlite")
    batches = iter([[[value] for value in values]])
    table = table_sql._spool("db", path, ("x",), batches, Wish(None, ""), lambda rows: None)
    assert table.found.columns == (("x", kind),)
    with sqlite3.connect(path) as connection:
        assert [cell for (cell,) in connection.execute("SELECT * FROM result")] == expected
    connection.close()


def test_what_has_no_place(tmp_path: Path) -> None:
    batches: Iterator[list[list[Any]]] = iter([[[1], [[1, 2]]]])
    with pytest.raises(DataError, match="db: row 2, column 'x': a value of type list has no place in a tf.Example"):
        table_sql._spool("db", str(tmp_path / "x"), ("x",), batches, Wish(None, ""), lambda rows: None)


@pytest.mark.parametrize(
    ("query", "options", "kind", "problem"),
    [
        ("SELECT * FROM tt", {}, StorageError, "a.db: no such table: tt"),
        ("DELETE FROM t", {}, UsageError, "--query: gives no rows; expected a SELECT"),
        ("SELECT id, id FROM t", {}, UsageError, "--query: gives two columns named 'id'; rename one by AS"),
        ("SELECT id FROM t WHERE id < 0", {}, DataError, "a.db: no row, so there is nothing to convert"),
        ("SELECT id FROM t", {"label": "idd"}, DataError, "a.db: has no column 'idd' (did you mean 'id'?); it has id"),
        ("SELECT id, kind FROM t", {"columns": "kind:int64"}, DataError, "row 1, column 'kind': expected int64"),
        ("SELECT x FROM t", {"columns": "x:int64"}, DataError, "row 2, column 'x': expected int64, got 0.25; CAST it"),
        ("SELECT id, 'label' AS label FROM t", {"label": "id"}, DataError, "has a column 'label' already"),
    ],
)  # fmt: skip
def test_queries_that_are_refused(
    database: str, tmp_path: Path, query: str, options: dict[str, str], kind: type[Exception], problem: str
) -> None:
    with pytest.raises(kind) as caught:
        convert_sql(database, query, str(tmp_path / "out"), Options(**options))  # type: ignore[arg-type]
    assert problem in str(caught.value) and "\n" not in str(caught.value)
    assert not os.path.exists(tmp_path / "out")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (ROWS,)
    connection.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///{folder}/nothing.db", "there is no file"),
        ("nosuch://me:pass%2Fword@host/x", "nosuch://host/x: SQLAlchemy knows no such database"),
        ("me:pass/word@host/x", "host/x: is no URL of a database"),
        ("mysql+nosuchdriver://me:pass%2Fword@host/x?ssl=pass/word", "mysql+nosuchdriver://host/x: "),
        ("postgresql+pg8000://me:pass%2Fword@host/x", "needs pg8000: pip install pg8000"),
    ],
)
def test_databases_that_are_refused(tmp_path: Path, url: str, problem: str) -> None:
    with pytest.raises((UsageError, StorageError)) as caught:
        convert_sql(url.format(folder=tmp_path), "SELECT 1", str(tmp_path / "out"))
    told = str(caught.value)
    assert problem in told and "pass" not in told.replace("password", "") and "\n" not in told
    assert os.listdir(tmp_path) == []


def test_passwords_are_not_in_what_a_driver_says(database: str) -> None:
    with sql_source.SqlSource(database) as source:
        source._url = sqlalchemy.make_url("postgresql://me:se%2Fcret@host/x?key=hidden")
        assert source._without_secrets("no se/cret, no hidden") == "no ***, no ***"


def test_a_missing_package_is_asked_for(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_source, "sa", Later("sqlalchemy", "sql", "a database"))
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(UsageError, match=r"a database needs sqlalchemy, .* -m pip install 'edl_allreduce\[sql\]'"):
        convert_sql(database, "SELECT 1", str(tmp_path / "out"))


def test_from_the_command_line(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "set")
    convert(database, query="SELECT id, kind FROM t LIMIT 2", output=out, label="kind")
    assert capsys.readouterr().out.splitlines() == [
        "features: id:int64, label from kind:int64 (2 classes, see labels.json)",
        f"wrote 2 records in 1 file: {out}/*.recordio",
    ]
    (tmp_path / "part-0").write_bytes(formats.tfrecord(b"x"))
    convert(str(tmp_path / "part-0"), output=out, data_format="tfrecord", overwrite=True)
    assert capsys.readouterr().out == f"wrote 1 record in 1 file: {out}/*.recordio\n"
    pq.write_table(pa.table({"x": np.arange(3)}), tmp_path / "a.pq")
    convert(str(tmp_path / "a.pq"), output=out, overwrite=True)
    assert capsys.readouterr().out.splitlines()[1] == f"wrote 3 records in 1 file: {out}/*.recordio"
    refused = {
        "--query: required for postgresql://host/x; a SELECT": (["postgresql://me:secret@host/x"], {}),
        "--query: expected the URL of one database, got 2 inputs": ([database, database], {"query": "SELECT 1"}),
        "--data_format: expected auto, csv, npz, parquet, tfrecord, got 'tf'": (["a"], {"data_format": "tf"}),
        "got part-0; --data_format says what others are": ([str(tmp_path / "part-0")], {}),
    }
    for problem, (inputs, flags) in refused.items():
        with pytest.raises(UsageError) as caught:
            convert(*inputs, output=out, **flags)
        assert problem in str(caught.value)
