"""Storage on local paths and memory://: what a pattern names, atomic writes, ranges, and the errors a user meets."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pytest

from edl_allreduce import storage
from edl_allreduce.errors import StorageError


@pytest.fixture(params=["local", "file", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder of its own on each kind of storage that needs no server."""
    if request.param == "memory":
        import fsspec

        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()
    else:
        yield str(tmp_path) if request.param == "local" else f"file://{tmp_path}"


def plain(path: str) -> str:
    return path.removeprefix("file://")


def test_a_file_from_birth_to_end(base: str) -> None:
    path = storage.join(base, "sub", "a.bin")
    assert not storage.exists(path)
    storage.write_bytes_atomic(path, b"0123456789")
    assert storage.exists(path) and storage.exists(storage.join(base, "sub"))
    assert storage.size(path) == 10 and storage.read_bytes(path) == b"0123456789"
    assert storage.read_range(path, 3, 4) == b"3456" and storage.read_range(path, 8, 100) == b"89"
    storage.write_bytes_atomic(path, b"new")
    assert storage.read_bytes(path) == b"new"
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)


def test_streams(base: str) -> None:
    path = storage.join(base, "a.txt")
    with storage.writer_atomic(path) as out:
        for number in range(50_000):
            out.write(b"line %d\n" % number)
        assert not storage.exists(path)
    with storage.open_read(path) as lines:
        assert sum(1 for _ in lines) == 50_000
        lines.seek(-6, os.SEEK_END)
        assert lines.read() == b"49999\n"
        lines.seek(7)
        assert lines.readline() == b"line 1\n" and lines.tell() == 14


def test_what_fails_while_written_leaves_nothing(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    path = storage.join(base, "out", "a.bin")
    storage.write_bytes_atomic(path, b"old")
    with pytest.raises(KeyboardInterrupt), storage.writer_atomic(path) as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert storage.read_bytes(path) == b"old"
    assert storage.expand(storage.join(base, "out", "*")) == [plain(path)]
    assert not os.listdir(spool)
    if not storage.is_remote(base):
        assert os.listdir(tmp_path / "out") == ["a.bin"]


def test_expand(base: str) -> None:
    for name in ("b.recordio", "a.recordio", "c.csv", "deep/d.recordio", "deep/er/e.recordio"):
        storage.write_bytes_atomic(storage.join(base, name), b"x")

    def names(*patterns: str) -> list[str]:
        found = storage.expand(" , ".join(storage.join(base, pattern) for pattern in patterns))
        assert all(storage.exists(path) for path in found)
        return [path.removeprefix(plain(base) + "/") for path in found]

    assert names("*.recordio") == names("") == names("[ab].recordio") == ["a.recordio", "b.recordio"]
    assert names("c.csv") == ["c.csv"]
    assert names("deep", "b.recordio", "*.recordio") == ["a.recordio", "b.recordio", "deep/d.recordio"]
    assert names("**/*.recordio") == ["a.recordio", "b.recordio", "deep/d.recordio", "deep/er/e.recordio"]


def test_an_expansion_that_finds_nothing(base: str) -> None:
    for name in ("train/a.csv", "train/b.csv", *(f"many/{i}.txt" for i in range(9)), "other/x.recordio"):
        storage.write_bytes_atomic(storage.join(base, name), b"x")
    there = plain(base)
    cases = {
        "train/*.recordio": f"no file matches '{there}/train/*.recordio': folder '{there}/train' holds a.csv, b.csv",
        "train": f"no file matches '{there}/train/*.recordio': folder '{there}/train' holds a.csv, b.csv",
        "many/*.recordio": f"folder '{there}/many' holds 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 4 more",
        "trian/*.recordio": f"there is no folder '{there}/trian' (did you mean 'train'?)",
        "trian/deep/*/x.recordio": f"there is no folder '{there}/trian' (did you mean 'train'?)",
        "train/a.cvs": f"'{there}/train/a.cvs': no such file or folder (did you mean 'a.csv'?)",
    }
    for pattern, text in cases.items():
        with pytest.raises(StorageError) as error:
            storage.expand(storage.join(base, "other") + "," + storage.join(base, pattern))
        assert text in str(error.value) and "\n" not in str(error.value)


def test_an_expansion_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for pattern in ("", " , "):
        with pytest.raises(StorageError, match="no file is named"):
            storage.expand(pattern)
    with pytest.raises(StorageError, match=r"no file matches '\*.recordio': folder '.' is empty"):
        storage.expand("*.recordio")
    (tmp_path / "a.recordio").touch()
    assert storage.expand("*.recordio") == ["a.recordio"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.expand("~/*.recordio") == [str(tmp_path / "a.recordio")]


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run[1]" / "a.recordio").touch()
    assert storage.expand(str(tmp_path / "run[1]")) == [str(tmp_path / "run[1]" / "a.recordio")]


def test_errors_of_local_files(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for action in (storage.read_bytes, storage.size, storage.open_read):
        with pytest.raises(StorageError, match=f"^{missing}: no such file or directory$"):
            action(missing)
    with pytest.raises(StorageError, match="is a folder"):
        storage.read_bytes(str(tmp_path))
    with pytest.raises(StorageError, match="is a folder, not a file"):
        storage.write_bytes_atomic(str(tmp_path), b"")
    Path(missing).touch()
    with pytest.raises(StorageError, match=r"not a directory|file exists"):
        storage.write_bytes_atomic(missing + "/x", b"")
    with pytest.raises(StorageError, match=r"is a directory|not permitted"):
        storage.remove(str(tmp_path))


def test_a_full_disk_and_errors_that_are_not_ours(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with pytest.raises(StorageError, match=f"^{path}: no space left on device: free some"), storage.writer_atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), storage.writer_atomic(path):
        open(tmp_path / "what the caller wanted to copy").close()
    assert os.listdir(tmp_path) == []


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    storage.write_bytes_atomic(str(tmp_path / "a"), b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_upload_tree(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "bundle"
    for name in ("model.pb", "weights/a", "weights/b", "zz"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    order: list[str] = []
    real = storage._copy

    def copy(file: str, url: str) -> None:
        real(file, url)
        order.append(os.path.relpath(file, source))

    monkeypatch.setattr(storage, "_copy", copy)
    target = storage.join(base, "out")
    storage.upload_tree(str(source), target, last=["weights/b", "model.pb"])
    assert order[2:] == ["weights/b", "model.pb"] and sorted(order[:2]) == ["weights/a", "zz"]
    for name in ("model.pb", "weights/a", "weights/b", "zz"):
        assert storage.read_bytes(storage.join(target, name)) == name.encode()
    with pytest.raises(StorageError, match="has no file 'nope'"):
        storage.upload_tree(str(source), target, last=["nope"])
    with pytest.raises(StorageError, match="no such folder"):
        storage.upload_tree(str(source / "nope"), target)


def test_paths() -> None:
    assert storage.join("gs://bucket/", "a/", "b") == "gs://bucket/a/b"
    assert storage.join("out", "a", "b") == "out/a/b" and storage.join("/", "a") == "/a"
    assert storage.basename("gs://bucket/train/") == "train" and storage.basename("a/b.csv") == "b.csv"
    remote = {"gs://b/x": True, "memory://x": True, "file:///x": False, "/x": False, "x": False, "a:b": False}
    assert {path: storage.is_remote(path) for path in remote} == remote


def test_storage_that_does_not_exist() -> None:
    with pytest.raises(StorageError, match=r"^gs3://b/x: there is no storage for gs3:// \(did you mean '(s3|gs)'\?\)$"):
        storage.read_bytes("gs3://b/x")


def test_a_storage_that_a_url_does_not_describe_is_refused() -> None:
    with pytest.raises(StorageError, match=r"^ftp://host/x: ftp:// is not served: it needs more than a URL \(host\)$"):
        storage.exists("ftp://host/x")


def test_a_long_story_of_a_library_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(path: str) -> Any:
        raise OSError("looked in here, and there\n" * 1000)

    monkeypatch.setattr(fsspec.filesystem("memory"), "info", info)
    with pytest.raises(StorageError, match=r"^memory://x: looked in here, and there looked .* …$") as raised:
        storage.exists("memory://x")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("gs://b/x", "gs:// needs gcsfs: pip install 'edl_allreduce[gcs]'"),
        ("s3://b/x", "s3:// needs s3fs: pip install 'edl_allreduce[s3]'"),
    ],
)
def test_an_extra_that_is_not_installed(url: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("gcsfs", "s3fs") else real(name))
    write = lambda url: storage.write_bytes_atomic(url, b"")  # noqa: E731
    for action in (storage.read_bytes, storage.expand, storage.exists, write):
        with pytest.raises(StorageError) as error:
            action(url)
        assert str(error.value) == text


def test_local_files_need_no_fsspec(tmp_path: Path) -> None:
    (tmp_path / "a.recordio").touch()
    program = (
        "import sys; from edl_allreduce import recordio, storage; "
        f"recordio.index(storage.expand({str(tmp_path)!r})[0]); "
        "print(sorted({'fsspec', 'tensorflow', 'gcsfs', 's3fs', 'google', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_stream_is_a_binary_file(tmp_path: Path) -> None:
    storage.write_bytes_atomic(str(tmp_path / "a"), b"text")
    stream: BinaryIO = storage.open_read(str(tmp_path / "a"))
    with stream:
        assert stream.readable() and stream.seekable() and stream.read() == b"text" and stream.read() == b""
    assert stream.closed


def test_what_a_killed_write_has_left_is_removed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from edl_allreduce import storage
with storage.writer_atomic({str(tmp_path / "model")!r}) as out:
    out.write(b"half")
    out.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "mine.tmp").touch()
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    left = [name for name in storage.names_in(str(tmp_path)) or () if storage.is_temporary(name)]
    assert len(left) == 1
    storage.remove_temporary(str(tmp_path))
    assert storage.names_in(str(tmp_path)) == ["mine.tmp"]
