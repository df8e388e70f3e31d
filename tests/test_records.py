"""Each format read through one door: what its own tools write is what we read, and damage is named or refused."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edl_allreduce import records, storage
from edl_allreduce.dataset import INFLATION, OPEN_BYTES, make_dataset
from edl_allreduce.errors import CorruptFile, DataError, StorageError, UsageError
from edl_allreduce.records import parquet_layout, tfrecord
from edl_allreduce.records.examples import varints
from edl_allreduce.records.formats import check_format, format_of
from edl_allreduce.tf_example import example_bytes, read_example
from tests import formats

pa, pq = formats.pa, formats.pq
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'edl_allreduce[worker]'")


@pytest.fixture
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edl_allreduce.records.base.CHUNK_BYTES", formats.CHUNK_BYTES)
        yield


def read(path: str, data_format: str = "auto") -> list[bytes]:
    """All records of a file, in its order."""
    with records.open_reader(path, data_format) as reader:
        return [record for ref in reader.index() for record in reader.read_chunk(ref).take(range(ref.records))]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.recordio", "recordio"), ("a.tfrecord", "tfrecord"), ("a.TFRecords", "tfrecord"), ("x/a.csv", "csv"),
        ("gs://b/a.parquet", "parquet"), ("a.tfrecord-00003-of-00010", "tfrecord"), ("part-00003-of-00010", "recordio"),
        ("data", "recordio"), ("my.csv/data", "recordio"),
    ],
)  # fmt: skip
def test_the_ending_says_the_format(path: str, expected: str) -> None:
    assert format_of(path) == expected
    assert format_of(path, "csv") == "csv"


def test_formats_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^--data_format: expected auto, .*, got 'parqet' \(did you mean 'parquet'\?\)$"
    ):
        check_format("parqet")
    with pytest.raises(DataError, match=r"a.tfrecord.gz: is compressed as a whole.*'edl convert' makes RecordIO"):
        format_of("a.tfrecord.gz")
    with pytest.raises(DataError, match=r"a.csv.gz: is compressed as a whole.*; decompress it"):
        format_of("a.csv.gz")
    formats.write(str(tmp_path / "a.tfrecord"), ["x"])
    os.rename(tmp_path / "a.tfrecord", tmp_path / "part-0")
    with pytest.raises(CorruptFile, match=r"part-0, offset 0: .*--data_format says what it is"):
        records.index_many([str(tmp_path / "part-0")])
    assert read(str(tmp_path / "part-0"), "tfrecord") == [b"x"]


@pytest.mark.parametrize("ending", formats.FORMATS)
def test_remote_files_read_as_local_ones(tmp_path: Path, ending: str, small_chunks: None) -> None:
    local, remote = str(tmp_path / f"a.{ending}"), f"memory://records/a.{ending}"
    texts = [f"text {number}" for number in range(100)]
    formats.write(local, texts)
    storage.write_bytes_atomic(remote, Path(local).read_bytes())
    assert records.index_many([remote]) == records.index_many([local])
    assert read(remote) == read(local) and [formats.text_of(local, each) for each in read(local)] == texts
    with pytest.raises(StorageError, match="nothing"):
        records.index_many([f"memory://records/nothing.{ending}"])


@pytest.mark.parametrize("ending", formats.FORMATS)
def test_chunks_are_taken_in_any_order(tmp_path: Path, ending: str, small_chunks: None) -> None:
    path = str(tmp_path / f"a.{ending}")
    formats.write(path, [f"{number}" for number in range(100)])
    with records.open_reader(path) as reader:
        refs = reader.index()
        assert len(refs) > 2 and len({ref.offset for ref in refs}) == len(refs)
        first, last = reader.read_chunk(refs[0]), reader.read_chunk(refs[-1])
        assert [formats.text_of(path, each) for each in first.take(np.array([3, 0, 3]))] == ["3", "0", "3"]
        assert formats.text_of(path, last.take([len(last) - 1])[0]) == "99" and first.take([]) == []
        for wrong in (-1, len(first)):
            with pytest.raises(IndexError):
                first.take([wrong])


@pytest.mark.parametrize("ending", formats.FORMATS)
def test_a_file_that_has_changed_since_it_was_indexed(tmp_path: Path, ending: str, small_chunks: None) -> None:
    path = str(tmp_path / f"a.{ending}")
    formats.write(path, [f"text {number}" for number in range(100)])
    (refs,) = records.index_many([path])
    formats.write(path, [f"other text {number}" for number in range(10)])
    with records.open_reader(path) as reader:
        for ref in refs[1:]:
            with pytest.raises(CorruptFile) as caught:
                reader.read_chunk(ref)
            assert (caught.value.path, caught.value.offset) == (path, ref.offset)


def test_tfrecord_is_tensorflows(tmp_path: Path) -> None:
    path, made = str(tmp_path / "a.tfrecord"), [b"", b"a", bytes(range(256)) * 1000, *(b"%d" % n for n in range(5000))]
    with tf.io.TFRecordWriter(path) as writer:
        for record in made:
            writer.write(record)
    assert read(path) == made
    assert Path(path).read_bytes() == b"".join(map(formats.tfrecord, made))
    assert all(ref.size <= 1 << 20 for ref in records.index_many([path])[0])


def test_large_tfrecords_are_walked_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.tfrecord")
    Path(path).write_bytes(b"".join(formats.tfrecord(bytes(300_000)) for _ in range(20)))
    asked: list[int] = []
    there = storage.open_ranges(path)

    class Counting:
        remote, size = False, there.size

        def read(self, offset: int, size: int) -> bytes:
            asked.append(size)
            return there.read(offset, size)

        def close(self) -> None:
            there.close()

    monkeypatch.setattr(storage, "open_ranges", lambda path: Counting())
    with records.open_reader(path) as reader:
        refs = reader.index()
    assert sum(asked) < 100_000 and [ref.records for ref in refs] == [3] * 6 + [2]


def test_every_changed_bit_of_a_tfrecord_is_noticed(tmp_path: Path, small_chunks: None) -> None:
    path = tmp_path / "a.tfrecord"
    formats.write(str(path), ["first", "", "third record"])
    content = path.read_bytes()
    (refs,) = records.index_many([str(path)])
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with records.open_reader(str(path)) as reader, pytest.raises(CorruptFile) as caught:
            reader.read_chunk(refs[0])
        assert caught.value.offset == 0 and f"offset {0 if bit < 168 else 21 if bit < 296 else 37}:" in str(
            caught.value
        )
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        if size not in (21, 37):
            with pytest.raises(CorruptFile, match=r"a.tfrecord, offset \d+: "):
                records.index_many([str(path)])
    path.write_bytes(content)
    damaged = bytearray(content)
    damaged[22] ^= 1  # a length: nothing behind it can be found
    path.write_bytes(damaged)
    with pytest.raises(CorruptFile, match="offset 21: no record begins here: the length's checksum is"):
        records.index_many([str(path)])


def test_a_stream_of_tfrecords() -> None:
    content = b"".join(map(formats.tfrecord, [b"a", b"", b"ccc"]))
    assert list(tfrecord.records_in_stream("x", io.BytesIO(content))) == [b"a", b"", b"ccc"]
    for size in range(1, len(content)):
        if size not in (17, 33):
            with pytest.raises(CorruptFile, match="^x, offset (0|17|33): "):
                list(tfrecord.records_in_stream("x", io.BytesIO(content[:size])))


Cells = st.text('ab"\n\r,é', max_size=4)


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(Cells, Cells), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    blanks=st.lists(st.integers(0, 12), max_size=3),
    whole=st.booleans(),
    block=st.integers(2, 60),
    chunk=st.integers(1, 80),
)
def test_csv_rows_are_pythons(
    rows: list[tuple[str, str]], end: str, blanks: list[int], whole: bool, block: int, chunk: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    lines = []
    for row in [("x", "y"), *rows]:
        text = io.StringIO()
        csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL).writerow(row)
        lines.append(text.getvalue())
    for place in blanks:
        lines.insert(1 + min(place, len(rows)), "")
    path.write_bytes((end.join(lines) + (end if whole else "")).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edl_allreduce.records.csv_lines._LOCAL_BLOCK_BYTES", block)
        patch.setattr("edl_allreduce.records.base.CHUNK_BYTES", chunk)
        found = read(str(path))
    assert records.column_names(str(path)) == ("x", "y")
    assert found == [line.encode() for line in lines[1:] if line]
    parsed = [tuple(next(csv.reader(io.StringIO(each.decode(), newline="")))) for each in found]
    assert parsed == rows


def test_tensorflow_decodes_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,"b ""1"""\r\n1,"x, ""y""\r\nz"\r\n\r\n2,\r\n')
    assert records.column_names(str(path)) == ("a", 'b "1"')
    number, text = tf.io.decode_csv(read(str(path)), [[0], [""]])
    assert number.numpy().tolist() == [1, 2] and text.numpy().tolist() == [b'x, "y"\r\nz', b""]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "offset 0: expected a header row"),
        (b"a,,b\n1,2,3\n", "header row: column 2 has no name"),
        (b"a,a\n1,2\n", "header row: two columns are named 'a'"),
        ("ä,b\n".encode("latin-1"), "the header row is not UTF-8"),
        (b"a\rb\rc\r", "the header row cannot be read as CSV"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "offset 8: the row that begins here has a quote that is not closed"),
        (b'a,"b\n1,2\n', "header row"),
    ],
)
def test_csv_files_that_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CorruptFile) as caught:
        records.index_many([str(tmp_path / "a.csv")])
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_tables_with_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("a,c\n1,2\n")
    with pytest.raises(DataError, match=r"2.csv: has other columns than .*1.csv: c instead of b$"):
        records.index_many([str(tmp_path / f"{name}.csv") for name in "12"])
    pq.write_table(pa.table({"a": [1, 2], "b": [1, 2]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": [1, 2], "a": [1, 2]}), tmp_path / "2.parquet")
    pq.write_table(
        pa.table({"a": [1, 2], "b": [1, None]}).cast(pa.schema({"a": pa.int64(), "b": pa.float64()})),
        tmp_path / "3.parquet",
    )
    assert len(records.index_many([str(tmp_path / f"{name}.parquet") for name in "12"])) == 2
    with pytest.raises(DataError, match=r"3.parquet: has other columns than .*1.parquet: b double instead of b int64$"):
        records.index_many([str(tmp_path / f"{name}.parquet") for name in "13"])


DAY, SECOND = datetime.date(1970, 1, 2), datetime.datetime(1970, 1, 1, 0, 0, 1)
COLUMNS: list[tuple[Any, list[Any], list[Any]]] = [
    (pa.int64(), [1, None, -(2**63)], [[1], None, [-(2**63)]]),
    (pa.uint8(), [0, None, 255], [[0], None, [255]]),
    (pa.bool_(), [True, None, False], [[1], None, [0]]),
    (pa.date32(), [DAY, None, DAY], [[1], None, [1]]),
    (pa.timestamp("ns"), [SECOND, None, SECOND], [[10**6], None, [10**6]]),
    (pa.timestamp("s", "Asia/Tokyo"), [SECOND, None, SECOND], [[10**6], None, [10**6]]),
    (pa.time32("s"), [datetime.time(0, 1), None, None], [[6 * 10**7], None, None]),
    (pa.duration("ms"), [datetime.timedelta(seconds=1), None, None], [[10**6], None, None]),
    (pa.float64(), [0.5, None, float("inf")], [[0.5], None, [float("inf")]]),
    (pa.float16(), [0.5, None, 2.0], [[0.5], None, [2.0]]),
    (pa.decimal128(5, 2), [decimal.Decimal("1.25"), None, decimal.Decimal(3)], [[1.25], None, [3.0]]),
    (pa.string(), ["grüße", None, ""], [["grüße".encode()], None, [b""]]),
    (pa.binary(), [b"\0\xff", None, b""], [[b"\0\xff"], None, [b""]]),
    (pa.large_string(), ["a" * 300, None, "b"], [[b"a" * 300], None, [b"b"]]),
    (pa.binary(2), [b"ab", None, b"cd"], [[b"ab"], None, [b"cd"]]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"], [[b"a"], None, [b"a"]]),
    (pa.list_(pa.int32()), [[1, 300], None, []], [[1, 300], None, []]),
    (pa.list_(pa.float32()), [[0.5], None, []], [[0.5], None, []]),
    (pa.large_list(pa.string()), [["a", ""], None, []], [[b"a", b""], None, []]),
    (pa.list_(pa.float32(), 2), [[1, 2], [0, 0], [3, 4]], [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]),
    (pa.list_(pa.list_(pa.int64())), [[[1], [], [2, 3]], None, [[]]], [[1, 2, 3], None, []]),
    (pa.null(), [None] * 3, [None] * 3),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "values", "expected"), COLUMNS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("per_group", [2, 3])
def test_parquet_columns_as_features(
    tmp_path: Path, dtype: Any, values: list[Any], expected: list[Any], per_group: int
) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": pa.array(values, dtype), "id": [7, 8, 9]}), path, row_group_size=per_group)
    found = read(path)
    wanted = [
        {"id": [number]} | ({} if each is None else {"x": each})
        for number, each in zip((7, 8, 9), expected, strict=True)
    ]
    assert list(map(read_example, found)) == wanted
    for record in found:  # TensorFlow's own message takes it, to the last byte
        assert len(tf.train.Example.FromString(record).SerializeToString()) == len(record)


Rows = st.lists(
    st.fixed_dictionaries(
        {
            "i": st.none() | st.integers(-(2**63), 2**63 - 1),
            "f": st.none() | st.floats(width=32, allow_nan=False),
            "s": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
            "li": st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
            "lb": st.none() | st.lists(st.binary(max_size=5), max_size=3),
        }
    ),
    min_size=1,
    max_size=9,
)
SCHEMA = pa.schema(
    {"i": pa.int64(), "f": pa.float64(), "s": pa.string(), "li": pa.list_(pa.int64()), "lb": pa.list_(pa.binary())}
)


@settings(max_examples=100)
@given(rows=Rows, part=st.sampled_from([50, 300, 1 << 28]))
def test_parquet_rows_are_the_examples_of_their_values(
    rows: list[dict[str, Any]], part: int, tmp_path_factory: Any
) -> None:
    path = str(tmp_path_factory.getbasetemp() / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=4)
    empty = {"li": np.zeros(0, np.int64), "lb": np.zeros(0, "S1")}
    wanted = [
        read_example(
            example_bytes(
                {name: empty[name] if value == [] else value for name, value in row.items() if value is not None}
            )
        )
        for row in rows
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_layout, "PART_BYTES", part)
        assert [read_example(record) for record in read(path)] == wanted


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)))
def test_varints_are_protobufs(values: list[int]) -> None:
    payload, marks = varints(np.array(values, np.int64))
    theirs = tf.train.Int64List(value=values).SerializeToString()
    assert theirs.endswith(payload) and len(marks) == len(values) + 1 and marks[-1] == len(payload)


def test_structs_become_a_feature_for_each_field(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    rows = [{"s": {"x": 1, "deep": {"y": "a"}}}, {"s": None}, {"s": {"x": None, "deep": {"y": "b"}}}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [read_example(record) for record in read(path)] == [
        {"s.x": [1], "s.deep.y": [b"a"]},
        None,
        {"s.deep.y": [b"b"]},
    ]
    assert records.column_names(path) == ("s",)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), "column 'x' has the type map<string, int8"),
        (pa.array([[{"y": 1}]]), "column 'x' has the type list<element: struct<y: int64>>"),
        (pa.array([1.0, 1e39]), "offset 4: row group 0: column 'x': row 1: 1e+39 does not fit in 32 bits"),
        (pa.array([2**63], pa.uint64()), "offset 4: row group 0: column 'x': Integer value 9223372036854775808 not in"),
        (pa.array([[1], [2, None]]), "offset 4: row group 0: column 'x': row 1 has a list with a null in it"),
    ],
)  # fmt: skip
def test_parquet_values_that_have_no_place(tmp_path: Path, values: Any, problem: str) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": values}), path)
    with pytest.raises(DataError) as caught:
        records.index_many([path])
        read(path)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.arange(1000)}), path, row_group_size=100, write_page_checksum=True)
    content, (refs,) = path.read_bytes(), records.index_many([str(path)])
    with records.open_reader(str(path)) as reader:
        intact = reader.read_chunk(refs[3]).take(range(100))
    noticed = 0
    for place in range(60):  # somewhere in the fourth row group
        damaged = bytearray(content)
        damaged[refs[3].offset + place * (refs[3].size - 1) // 59] ^= 0x41
        path.write_bytes(damaged)
        with records.open_reader(str(path)) as reader:
            assert len(reader.read_chunk(refs[2])) == 100
            try:
                harmless = reader.read_chunk(refs[3]).take(range(100)) == intact
            except CorruptFile as error:
                noticed += 1
                assert error.offset == refs[3].offset and "row group 3" in str(error)
            else:
                assert harmless, place  # checksums do not cover a page's header, in which there are statistics
    assert noticed > 40
    for broken in (
        b"",
        b"PAR1",
        content[:-1],
        content[:100],
        b"text\n" * 100,
        content[-8:],
        b"x" * 99 + content[-8:],
    ):
        path.write_bytes(broken)
        with pytest.raises(CorruptFile, match=r"a.parquet, offset \d+: (is no Parquet, or has been cut|the footer)"):
            records.index_many([str(path)])


def test_large_row_groups_are_cut_and_count_by_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rows = str(tmp_path / "a.parquet"), 10_000
    pq.write_table(pa.table({"x": np.zeros(rows, np.int64), "y": ["the same"] * rows}), path)
    (whole,) = records.index_many([path])[0]
    assert whole.size * INFLATION >= rows * 2 * 16 > 10 * os.path.getsize(path)
    assert make_dataset([path], [[whole]], 1).lanes == min(64, OPEN_BYTES // (whole.size * INFLATION))
    everything = read(path)
    monkeypatch.setattr(parquet_layout, "PART_BYTES", 100_000)
    refs = records.index_many([path])[0]
    assert len(refs) == 4 and sum(ref.records for ref in refs) == rows
    assert read(path) == everything


def test_nothing_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    formats.write(str(tmp_path / "a.csv"), ["x"])
    formats.write(str(tmp_path / "a.tfrecord"), ["x"])
    code = (
        "import sys\n"
        "from edl_allreduce import convert, records, sql_source, table_sql, table_parquet\n"
        "import edl_allreduce.records.arrow, launcher.commands.data, rendezvous.__main__\n"
        f"print(records.index_many([{str(tmp_path / 'a.csv')!r}, {str(tmp_path / 'a.tfrecord')!r}]))\n"
        "print({'pyarrow', 'sqlalchemy', 'pandas', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_missing_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats.write(str(tmp_path / "a.parquet"), ["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        UsageError, match=r"reading .*a.parquet needs pyarrow, .* -m pip install 'edl_allreduce\[parquet\]'"
    ):
        records.index_many([str(tmp_path / "a.parquet")])
