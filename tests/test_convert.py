"""Conversion of CSV and .npz: TensorFlow parses what is encoded; types, labels, files, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edl_allreduce import recordio, storage
from edl_allreduce.convert import Options, convert_csv, convert_npz, example_bytes
from edl_allreduce.errors import DataError, StorageError, UsageError
from edl_allreduce.table import Column
from edl_allreduce.tf_example import example_json, read_example

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'edl_allreduce[worker]'")


def parsed(record: bytes) -> dict[str, list[Any]]:
    """What TensorFlow itself finds in a record."""
    example = tf.train.Example.FromString(record)
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def records(*files: str) -> list[dict[str, list[Any]]]:
    return [parsed(record) for file in files for record in recordio.Reader(file)]


def csv_file(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_tensorflow_parses_what_is_encoded() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    record = example_bytes({"image": image, "label": 7, "name": "grüße", "raw": b"\0\xff", "weights": [0.5, 1.5]})
    parsed = tf.io.parse_single_example(
        record,
        {
            "image": tf.io.FixedLenFeature([3, 4], tf.int64),
            "label": tf.io.FixedLenFeature([], tf.int64),
            "name": tf.io.FixedLenFeature([], tf.string),
            "raw": tf.io.FixedLenFeature([], tf.string),
            "weights": tf.io.VarLenFeature(tf.float32),
        },
    )
    assert parsed["image"].numpy().tolist() == image.tolist() and parsed["label"].numpy() == 7
    assert parsed["name"].numpy() == "grüße".encode() and parsed["raw"].numpy() == b"\0\xff"
    assert parsed["weights"].values.numpy().tolist() == [0.5, 1.5]


Int64s = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)
Floats = st.lists(st.floats(width=32, allow_nan=False), min_size=1)
Values = Int64s | Floats | st.lists(st.binary(), min_size=1)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), Values, max_size=5))
def test_every_example_is_tensorflows(features: dict[str, Any]) -> None:
    record = example_bytes(features)
    assert parsed(record) == features
    assert example_bytes(dict(reversed(features.items()))) == record
    theirs = tf.train.Example.FromString(record).SerializeToString(deterministic=True)
    assert theirs == record
    assert read_example(record) == (features or None)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (True, "int64_list", [1]),
        (np.float16(1.5), "float_list", [1.5]),
        (np.uint64(2**63 - 1), "int64_list", [2**63 - 1]),
        (np.array([[True], [False]]), "int64_list", [1, 0]),
        (np.array(["a", "bc"]), "bytes_list", [b"a", b"bc"]),
        (np.array([b"a\0b", "ü"], object), "bytes_list", [b"a\0b", "ü".encode()]),
        ([b"ends in zero\0"], "bytes_list", [b"ends in zero\0"]),
        ((1, 2.5), "float_list", [1.0, 2.5]),
        (float("inf"), "float_list", [float("inf")]),
        (np.array([], np.int8), "int64_list", []),
        (np.array([], "S1"), "bytes_list", []),
        (np.array([], np.float32), "float_list", []),
        (np.arange(6).reshape(2, 3).T, "int64_list", [0, 3, 1, 4, 2, 5]),
    ],
)
def test_values(value: Any, kind: str, expected: list[Any]) -> None:
    feature = tf.train.Example.FromString(example_bytes({"x": value})).features.feature["x"]
    assert feature.WhichOneof("kind") == kind and list(getattr(feature, kind).value) == expected


@pytest.mark.parametrize(
    "value", [None, 2**63, [2**70], np.uint64(2**63), 1e39, np.array([1e39]), [1, "a"], [[1], [2, 3]], {}, 1j, "\ud800"]
)
def test_values_that_have_no_place(value: Any) -> None:
    with pytest.raises(DataError, match=r"^feature 'x': "):
        example_bytes({"fine": 1, "x": value})


def test_examples_as_json() -> None:
    values: dict[str, Any] = {
        "f": [0.1, float("nan"), float("-inf")],
        "b": [b"text\n", b"\xff", b"bell\x07"],
        "i": [-1],
        "none": [],
    }
    shown = example_json(example_bytes(values))
    assert json.loads(json.dumps(shown)) == {
        "f": [0.1, "nan", "-inf"],
        "b": ["text\n", {"base64": "/w=="}, {"base64": "YmVsbAc="}],
        "i": [-1],
        "none": [],
    }
    for record in (b"", b"text", bytes(20), b"\n\0", b"\x12\x03abc", example_bytes({"a": 1}) + b"\x12\x01x"):
        assert example_json(record) is None


def test_our_messages_live_beside_tensorflows() -> None:
    program = (
        "from edl_allreduce.convert import example_bytes; record = example_bytes({'a': [1, 2]})\n"
        "import sys; assert 'tensorflow' not in sys.modules\n"
        "import tensorflow as tf\n"
        "print(tf.io.parse_single_example(record, {'a': tf.io.FixedLenFeature([2], tf.int64)})['a'].numpy())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "[1 2]\n", done.stderr


def test_csv(tmp_path: Path) -> None:
    source = csv_file(
        tmp_path,
        "\ufeffid,size,when,text,empty\r\n"
        '1,2,2020,"a, ""quoted""\nlong",\r\n'
        "\r\n"
        "-2,2.5,,grüße,\r\n"
        "9223372036854775807,nan,2021,,\r\n",
    )
    done = convert_csv([source], str(tmp_path / "out"))
    assert [(column.feature, column.type) for column in done.columns] == [
        ("id", "int64"), ("size", "float"), ("when", "int64"), ("text", "bytes"), ("empty", "bytes"),
    ]  # fmt: skip
    assert done.files == (str(tmp_path / "out" / "out-00000-of-00001.recordio"),) and done.records == 3
    first, second, third = records(*done.files)
    assert first == {"id": [1], "size": [2.0], "when": [2020], "text": [b'a, "quoted"\nlong'], "empty": [b""]}
    assert second == {"id": [-2], "size": [2.5], "text": ["grüße".encode()], "empty": [b""]}
    assert third["id"] == [2**63 - 1] and np.isnan(third["size"][0]) and third["text"] == [b""]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ("1 -5 +7 007", "int64"), ("1 2.0", "float"), ("1e5 .5", "float"), ("9223372036854775808 1", "float"),
        ("1_000", "bytes"), ("1 x", "bytes"), ("٣", "bytes"), ("true", "bytes"), ("0x10", "bytes"),
    ],
)  # fmt: skip
def test_inferred_types(tmp_path: Path, cells: str, kind: str) -> None:
    source = csv_file(tmp_path, "\n".join(["a", *cells.split()]) + "\n")
    assert convert_csv([source], str(tmp_path / "out")).columns == (Column("a", "a", kind),)


def test_a_type_is_inferred_from_all_rows_of_all_files(tmp_path: Path) -> None:
    rows = [str(number) for number in range(10_000)]
    one = csv_file(tmp_path, "a,b,c\n" + "".join(f"{n},{n},{n}\n" for n in rows), "1.csv")
    two = csv_file(tmp_path, "a,b,c\n" + "".join(f"{n},{n},{n}\n" for n in [*rows[:-1], "0.5"]), "2.csv")
    three = csv_file(tmp_path, "a,b,c\n1,2,3\n\n1,2,N/A\n", "3.csv")
    done = convert_csv([one, two, three], str(tmp_path / "out"), Options(records_per_file=3000))
    assert [column.type for column in done.columns] == ["float", "float", "bytes"]
    assert done.notes == (f"{three}, line 4: 'N/A' makes column 'c' text, not numbers",)
    assert [sum(ref.records for ref in recordio.index(file)) for file in done.files] == [3000, 3000, 3000, 1000] * 2 + [
        2
    ]
    assert [os.path.basename(file) for file in done.files[::4]] == [f"out-0000{n}-of-00009.recordio" for n in (0, 4, 8)]
    assert records(done.files[5])[0] == {"a": [3000.0], "b": [3000.0], "c": [b"3000"]}
    assert records(done.files[7])[-1] == {"a": [0.5], "b": [0.5], "c": [b"0.5"]}


def test_columns_and_labels(tmp_path: Path) -> None:
    source = csv_file(tmp_path, "id,kind,x\n1,b,1\n2,a,2\n3,,3\n4,b,4\n")
    done = convert_csv([source], str(tmp_path / "1"), Options(columns="x:float,id:bytes", label="kind"))
    assert records(*done.files) == [
        {"x": [1.0], "id": [b"1"], "label": [1]},
        {"x": [2.0], "id": [b"2"], "label": [0]},
        {"x": [3.0], "id": [b"3"]},
        {"x": [4.0], "id": [b"4"], "label": [1]},
    ]
    assert json.loads((tmp_path / "1" / "labels.json").read_text()) == ["a", "b"]
    done = convert_csv([source], str(tmp_path / "2"), Options(columns="kind:bytes", label="kind"))
    assert records(*done.files)[0] == {"label": [b"b"]} and not (tmp_path / "2" / "labels.json").exists()
    done = convert_csv([source], str(tmp_path / "3"), Options(label="id"))
    assert records(*done.files)[0] == {"label": [1], "kind": [b"b"], "x": [1]}


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("", {}, "table.csv: is empty; expected a header row"),
        ("a,b\n", {}, "table.csv: no row, so there is nothing to convert"),
        ("a,,c\n1,2,3\n", {}, "table.csv, header row: column 2 has no name"),
        ("a,b,a\n1,2,3\n", {}, "table.csv, header row: two columns are named 'a'"),
        ("a,b\n1,2\n1,2,3\n", {}, "table.csv, line 3: expected 2 cells as in the header, got 3"),
        ('a,b\n1,2\n1,"2\n', {}, "table.csv, line 3: cannot be read as CSV (unexpected end of data)"),
        ("a\nx\n", {"columns": "a:int64"}, "table.csv, line 2, column 'a': expected int64, got 'x'"),
        ("a\n1\n\n2\n3.5\n", {"columns": "a:int64"}, "table.csv, line 5, column 'a': expected int64, got '3.5'"),
        ("age,b\n1,2\n", {"columns": "aeg"}, "table.csv: has no column 'aeg' (did you mean 'age'?); it has age, b"),
        ("a,b\n1,2\n", {"label": "c"}, "table.csv: has no column 'c'"),
        ("a,label\n1,2\n", {"label": "a"}, "has a column 'label' already"),
        ("a\n1e39\n", {}, "feature 'a': overflow"),
        ("a\n" + "\n".join(map("t{}".format, range(10_001))), {"label": "a"}, "more than 10000 different texts"),
    ],
)
def test_csv_files_that_are_refused(tmp_path: Path, text: str, options: dict[str, Any], problem: str) -> None:
    source = csv_file(tmp_path, text)
    with pytest.raises(DataError) as error:
        convert_csv([source], str(tmp_path / "out"), Options(**options))
    assert problem in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    one, two = csv_file(tmp_path, "a,b\n1,2\n", "1.csv"), csv_file(tmp_path, "a,c\n1,2\n", "2.csv")
    with pytest.raises(DataError, match=r"2.csv: has the columns a, c, but .*1.csv has a, b"):
        convert_csv([one, two], str(tmp_path / "out"))
    (tmp_path / "3.csv").write_bytes("a\ngrüße\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"3.csv, line 2: is not UTF-8 text"):
        convert_csv([str(tmp_path / "3.csv")], str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"columns": "a:int"}, "--columns: expected NAME:TYPE with a type of int64, float, bytes, got 'a:int'"),
        ({"columns": "a,a"}, "--columns: 'a' is named twice"),
        ({"columns": ":int64"}, "--columns: a name is missing"),
        ({"records_per_file": 0}, "--records_per_file: expected a whole number greater than 0, got 0"),
        ({"workers": -1}, "--workers: expected"),
        ({"compressor": "zip"}, "compressor: expected none, snappy, gzip, got 'zip'"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as error:
        Options(**options)
    assert problem in str(error.value)


def test_npz(tmp_path: Path) -> None:
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    source = str(tmp_path / "a.npz")
    names, scores = np.array(["x", "yy", "ü", "", "z"]), np.linspace(0, 1, 5)
    np.savez_compressed(
        source, images=images, y=np.arange(5) % 2 == 1, names=names, scores=scores, two=np.stack([scores] * 2, 1)
    )
    done = convert_npz([source], str(tmp_path / "1"), Options(label="y", records_per_file=2))
    assert len(done.files) == 3 and done.records == 5
    made = records(*done.files)
    assert [row["images"] for row in made] == images.reshape(5, 6).tolist()
    assert [row["label"] for row in made] == [[0], [1], [0], [1], [0]]
    assert [row["names"] for row in made] == [[name.encode()] for name in names.tolist()]
    assert [row["scores"] for row in made] == [[float(np.float32(score))] for score in scores]
    assert made[1]["two"] == [0.25, 0.25]
    done = convert_npz([source], str(tmp_path / "2"), Options(columns="images:bytes,y:float", label="names"))
    made = records(*done.files)
    assert tf.io.decode_raw(made[3]["images"][0], tf.uint8).numpy().tolist() == images[3].ravel().tolist()
    assert made[3]["y"] == [1.0]
    classes = json.loads((tmp_path / "2" / "labels.json").read_text())
    assert [classes[row["label"][0]] for row in made] == names.tolist() and classes == sorted(names.tolist())


def test_npz_files_that_are_refused(tmp_path: Path) -> None:
    source = str(tmp_path / "a.npz")
    out = str(tmp_path / "out")
    np.savez(source, a=np.zeros(3), b=np.zeros((4, 2)), c=np.zeros(()))
    with pytest.raises(DataError, match=r"first dimensions differ: a \(3,\), b \(4, 2\); choose some with --columns"):
        convert_npz([source], out, Options(columns="a,b"))
    with pytest.raises(DataError, match=r"c \(\)"):
        convert_npz([source], out)
    with pytest.raises(DataError, match="array 'a' holds float64, which cannot become int64"):
        convert_npz([source], out, Options(columns="a:int64"))
    np.savez(source, a=np.array([{}], object))
    with pytest.raises(DataError, match="'a' holds Python objects, which are never unpickled"):
        convert_npz([source], out)
    np.savez(source, a=np.array(["2020-01-01"], "M8[D]"))
    with pytest.raises(DataError, match="not numbers, bytes or text"):
        convert_npz([source], out)
    np.savez(source)
    with pytest.raises(DataError, match="holds no array"):
        convert_npz([source], out)
    Path(source).write_bytes(b"PK not really")
    with pytest.raises(DataError, match=r"a.npz: is not an .npz archive"):
        convert_npz([source], out)
    np.savez(source, a=np.arange(1000))
    content = bytearray(Path(source).read_bytes())
    content[500] ^= 1
    Path(source).write_bytes(content)
    with pytest.raises(DataError, match=r"array 'a' is damaged \(Bad CRC-32"):
        convert_npz([source], out)
    assert not os.path.exists(out) or not os.listdir(out)


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source, out = csv_file(tmp_path, "a\n1\n2\n3\n"), str(tmp_path / "out")
    convert_csv([source], out, Options(records_per_file=1))
    with pytest.raises(StorageError, match="holds 3 RecordIO files already; --overwrite replaces them"):
        convert_csv([source], out)
    done = convert_csv([source], out, Options(overwrite=True))
    assert storage.expand(out) == list(done.files) and len(done.files) == 1


def test_when_writing_fails_nothing_is_left(tmp_path: Path) -> None:
    source, out = csv_file(tmp_path, "a\n1\n2\n1e39\n"), str(tmp_path / "out")
    with pytest.raises(DataError, match="overflow"):
        convert_csv([source], out, Options(records_per_file=1))
    assert os.listdir(out) == []


def test_to_and_from_a_url(tmp_path: Path) -> None:
    storage.write_bytes_atomic("memory://convert/in.csv", b"a,b\n1,x\n2,y\n")
    done = convert_csv(["memory://convert/in.csv"], "memory://convert/out/")
    assert done.files == ("memory://convert/out/out-00000-of-00001.recordio",)
    assert records(*done.files) == [{"a": [1], "b": [b"x"]}, {"a": [2], "b": [b"y"]}]


def test_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f'{n},{n / 7},"text\n{n % 13}"\n' for n in range(9000))
    sources = [csv_file(tmp_path, "a,b,c\n" + rows, f"{name}.csv") for name in "12"]
    said: list[tuple[str, int, int]] = []
    done = convert_csv(sources, str(tmp_path / "1" / "set"), Options(label="c", records_per_file=2000, workers=1))
    monkeypatch.setattr("edl_allreduce.convert_processes._WORTH_PROCESSES", 0)
    options = Options(label="c", records_per_file=2000, workers=2)
    many = convert_csv(sources, str(tmp_path / "2" / "set"), options, lambda *args: said.append(args))
    for one, other in zip(done.files, many.files, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
    assert said[0] == ("read", 0, 2) and said[-1] == ("written", 18_000, 18_000) and len(said) == 3 + 11
    csv_file(tmp_path, "a,b,c\n" + rows + "1,1e39,\n", "1.csv")
    with pytest.raises(DataError, match="overflow"):
        convert_csv(sources, str(tmp_path / "3" / "set"), options)
    assert os.listdir(tmp_path / "3" / "set") == []
