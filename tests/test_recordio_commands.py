"""The data commands as the command line calls them: every argument a string, output on stdout, errors of one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edl_allreduce import recordio
from edl_allreduce.errors import DataError, StorageError, UsageError
from edl_allreduce.tf_example import example_bytes
from launcher.commands.data import convert, recordio_cat, recordio_info, recordio_verify
from launcher.commands.data_progress import progress_bar

ORIGINAL = Path(__file__).parent / "data" / "recordio"
EDL = [sys.executable, "-c", "import sys; from launcher.cli import main; sys.exit(main())"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two RecordIO files, which is the current one."""
    monkeypatch.chdir(tmp_path)
    kinds = [[b"text", b"\xff\0", b""], [example_bytes({"x": [1, 2], "name": "grüße"}), b"a", b"b"]]
    for number, records in enumerate(kinds):
        with recordio.Writer(f"{number}.recordio", max_chunk_bytes=1) as writer:
            for record in records:
                writer.write(record)
    return tmp_path


def edl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDL, *words], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordio_info("1.recordio", ".", json="true")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == ["1.recordio", "./0.recordio", "./1.recordio"]
    assert {key: lines[1][key] for key in ("records", "chunks", "bytes", "compressor", "largest_chunk_records")} == {
        "records": 3, "chunks": 3, "bytes": os.path.getsize("0.recordio"), "compressor": "snappy",
        "largest_chunk_records": 1,
    }  # fmt: skip
    recordio_info("*.recordio")
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["records", "chunks", "bytes", "compressor", "file"]
    assert table[1][:2] == ["3", "3"] and table[3][:2] == ["6", "6"] and table[3][-2:] == ["2", "files"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ['text', 'ff00', '', '{"name": ["grüße"], "x": [1, 2]}', 'a', 'b']),
        ({"skip": "3", "limit": "1", "format": "example"}, ['{"name": ["grüße"], "x": [1, 2]}']),
        ({"limit": "2", "format": "hex"}, ["74657874", "ff00"]),
        ({"skip": "1", "limit": "1", "format": "base64"}, ["/wA="]),
        ({"skip": "4", "format": "raw"}, ["a", "b"]),
        ({"skip": "6"}, []), ({"skip": "600"}, []), ({"limit": "0"}, []),
    ],
)  # fmt: skip
def test_cat(folder: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, str], expected: list[str]) -> None:
    recordio_cat("0.recordio", "1.recordio", **arguments)
    assert capsys.readouterr().out.splitlines() == expected


def test_cat_does_not_read_what_it_skips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(Path("0.recordio").read_bytes())
    content[recordio.index("0.recordio")[0].offset + 25] ^= 1
    Path("0.recordio").write_bytes(content)
    recordio_cat("0.recordio", skip="1", format="hex")
    assert capsys.readouterr().out.splitlines() == ["ff00", ""]


def test_cat_of_what_is_no_example(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^0.recordio, chunk at offset 0, record 0: is not a tf.Example"):
        recordio_cat("0.recordio", format="example")


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordio_verify("*.recordio", str(ORIGINAL))
    assert capsys.readouterr().out == "5 files: 9 intact chunks with 3,021 records\n"


def test_verify_lists_every_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(Path("0.recordio").read_bytes())
    refs, last = recordio.index("0.recordio"), recordio.index("1.recordio")[-1]
    content[refs[0].offset + 25] ^= 1
    content[refs[2].offset + 25] ^= 1
    Path("0.recordio").write_bytes(content)
    Path("1.recordio").write_bytes(Path("1.recordio").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"^3 damaged places in 2 of 3 files$"):
        recordio_verify("*.recordio", str(ORIGINAL / "plain.recordio"))
    said = capsys.readouterr()
    assert said.out == "3 files: 4 intact chunks with 1,008 records\n"
    problems = said.err.splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in problems] == [
        "0.recordio, offset 0",
        f"0.recordio, offset {refs[2].offset}",
        f"1.recordio, offset {last.offset}",
    ]
    assert problems[2].endswith("nothing after it was checked")


def test_convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("x,kind\n1,b\n2,a\n3.5,b\n")
    convert("a.csv", output="set", label="kind", records_per_file="2", workers="1", compressor="gzip")
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "features: x:float, label from kind:int64 (2 classes, see labels.json)",
        "wrote 3 records in 2 files: set/*.recordio",
    ]
    recordio_cat("set")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"x": [1.0], "label": [1]}, {"x": [2.0], "label": [0]}, {"x": [3.5], "label": [1]},
    ]  # fmt: skip
    with pytest.raises(StorageError, match="--overwrite"):
        convert("a.csv", output="set")
    Path("b.csv").write_text("x,kind\nten,c\n")
    convert("a.csv", "b.csv", output="set", overwrite="true")
    said_all = capsys.readouterr()
    assert said_all.out.splitlines()[0] == "features: x:bytes, kind:bytes"
    assert recordio.index_many(["set/set-00000-of-00002.recordio", "set/set-00001-of-00002.recordio"])
    assert sorted(os.listdir("set")) == ["set-00000-of-00002.recordio", "set-00001-of-00002.recordio"]


def test_what_is_refused(folder: Path) -> None:
    Path("a.csv").write_text("x\n1\n")
    Path("a.npz").write_text("")
    refused: list[tuple[Callable[[], None], str]] = [
        (lambda: recordio_info(), "a file is missing"),
        (lambda: recordio_info("0.recordio", json="maybe"), "--json: expected true or false, got 'maybe'"),
        (lambda: recordio_cat("0.recordio", format="exmaple"), "--format: .*did you mean 'example'"),
        (lambda: recordio_cat("0.recordio", limit="few"), "--limit: expected a whole number, 0 or more, got 'few'"),
        (lambda: recordio_cat("0.recordio", skip="-1"), "--skip: expected"),
        (lambda: convert("a.csv"), "--output: required"),
        (
            lambda: convert("a.csv", "a.npz", output="o"),
            "all end in one of .csv, .npz, .parquet, .tfrecord, got .csv, .npz",
        ),
        (lambda: convert("0.recordio", output="o"), "got .recordio"),
        (lambda: convert("a.csv", output="o", workers="two"), "--workers: expected"),
    ]
    for call, text in refused:
        with pytest.raises(UsageError, match=text):
            call()
    with pytest.raises(StorageError, match=r"no file matches '\*.tsv'"):
        convert("*.tsv", output="o")


def test_from_the_command_line(folder: Path) -> None:
    done = edl("recordio", "cat", "0.recordio", "1.recordio", "--skip", "3", "--limit=2")
    assert (done.stdout, done.stderr, done.returncode) == ('{"name": ["grüße"], "x": [1, 2]}\na\n', "", 0)
    done = edl("recordio", "info", "--json", ".")
    assert len(done.stdout.splitlines()) == 2 and done.returncode == 0
    Path("1.recordio").write_bytes(b"garbage, but more than a header")
    done = edl("recordio", "verify", "1.recordio")
    assert done.returncode == DataError.exit_code
    assert done.stderr.splitlines()[-1] == "error: 1 damaged place in 1 of 1 file"
    assert "Traceback" not in done.stderr
    Path("a.csv").write_text("x\n1\n")
    done = edl("convert", "a.csv", "--output=o")
    assert (done.stdout, done.returncode) == ("features: x:int64\nwrote 1 record in 1 file: o/*.recordio\n", 0)


def test_a_reader_that_has_enough(folder: Path) -> None:
    with recordio.Writer("many.recordio") as writer:
        for number in range(200_000):
            writer.write(b"record %d" % number)
    words, pipe = ["recordio", "cat", "many.recordio"], subprocess.PIPE
    with subprocess.Popen([*EDL, *words], stdout=pipe, stderr=pipe, env=ENVIRONMENT) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"record 0\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) != 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_pipe_and_on_a_terminal() -> None:
    out, now = io.StringIO(), [0.0]
    with progress_bar("records", out, lambda: now[0]) as progress:
        for second in range(8):
            now[0] = float(second)
            progress.report("read" if second < 6 else "written", second, 2000)
    assert out.getvalue() == "read 5 of 2,000 files\n"
    terminal = Terminal()
    with progress_bar("records", terminal) as progress:
        progress.report("read", 1, 1)
        progress.report("written", 500, 1000)
        progress.note("note: [x] stays")
    shown = terminal.getvalue()
    assert "written" in shown and "50%" in shown and "note: [x] stays" in shown
