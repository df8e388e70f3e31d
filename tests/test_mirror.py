"""The history's second copy in the output: whole lines only, in parts, continued by the next coordinator."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edl_allreduce import storage
from edl_allreduce.errors import StorageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import EvaluateSpec, PredictSpec, from_flags
from rendezvous import mirror
from rendezvous.mirror import Mirror


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PART_BYTES", 200)
    monkeypatch.setattr(mirror, "FLUSH_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(mirror, "RETRY_SECONDS", 0.02)


def a_folder(path: Path) -> JobFolder:
    folder = JobFolder(path / "digits")
    folder.create("{}", "secret")
    folder.history.touch()
    return folder


def url_in(path: Path) -> str:
    flags = {"model_zoo": "zoo", "model_def": "m.M", "data": "d", "output": path / "out", "num_epochs": 1}
    return mirror.url_of(JobSpec.from_flags(flags), "digits")


def write(folder: JobFolder, *steps: int, end: str = "\n") -> None:
    with open(folder.history, "a", encoding="utf-8") as history:
        history.write("".join(json.dumps({"step": step, "loss": 0.5}) + end for step in steps))


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # another thread's files


def parts(url: str) -> list[str]:
    return sorted(name for name in storage.names_in(url) or () if name.startswith("history"))


def test_a_history_is_there_again_in_another_pod(tmp_path: Path) -> None:
    folder, url = a_folder(tmp_path / "first"), url_in(tmp_path)
    folder.dataset.write_bytes(b"dataset")
    kept: list[int] = []
    copy = Mirror(url, folder, kept.append)
    write(folder, *range(1, 20))
    until(lambda: kept[-1:] == [19])
    write(folder, 20, 21)
    assert copy.close(10) and kept[-1] == 21
    assert len(parts(url)) == 3 and (tmp_path / "out" / "_runs" / "digits" / "spec.json").read_text() == "{}"
    second = JobFolder(tmp_path / "second" / "digits")
    second.create("{}", "secret")
    mirror.recall(url, second, restarts=1)
    assert second.history.read_bytes() == folder.history.read_bytes()
    assert second.dataset.read_bytes() == b"dataset" and not second.validation.exists()
    assert "secret" not in "".join((Path(url) / name).read_text() for name in os.listdir(url))


def test_the_next_coordinator_goes_on_with_the_newest_part(tmp_path: Path) -> None:
    folder, url = a_folder(tmp_path), url_in(tmp_path)
    write(folder, *range(1, 20))
    assert Mirror(url, folder).close(10)
    before = {name: os.stat(Path(url) / name).st_mtime_ns for name in parts(url)}
    write(folder, 20)
    kept: list[int] = []
    assert Mirror(url, folder, kept.append).close(10)
    after = {name: os.stat(Path(url) / name).st_mtime_ns for name in parts(url)}
    assert after.keys() == before.keys() and kept == [20]
    assert [name for name in after if after[name] != before[name]] == [max(after)], "what is complete is left alone"
    assert b"".join(storage.read_bytes(storage.join(url, name)) for name in parts(url)) == folder.history.read_bytes()


def test_a_line_that_is_being_written_is_not_copied(tmp_path: Path) -> None:
    folder, url = a_folder(tmp_path), url_in(tmp_path)
    write(folder, 1)
    write(folder, 2, end="")
    assert Mirror(url, folder).close(10)
    assert storage.read_bytes(storage.join(url, parts(url)[0])) == b'{"step": 1, "loss": 0.5}\n'


@pytest.mark.parametrize("bytes_of_a_part", range(20, 120, 7))
def test_parts_end_with_lines_wherever_they_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_of_a_part: int
) -> None:
    monkeypatch.setattr(mirror, "PART_BYTES", bytes_of_a_part)
    folder, url = a_folder(tmp_path), url_in(tmp_path)
    write(folder, *range(1, 15))
    assert Mirror(url, folder).close(10)
    texts = [storage.read_bytes(storage.join(url, name)) for name in parts(url)]
    assert b"".join(texts) == folder.history.read_bytes()
    assert all(text.endswith(b"\n") for text in texts)
    assert all(len(text) >= bytes_of_a_part for text in texts[:-1])


def test_a_store_that_fails_is_tried_again_and_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, url = a_folder(tmp_path), url_in(tmp_path)
    works, tried = threading.Event(), threading.Event()
    write_whole = storage.write_bytes_atomic

    def failing(path: str, data: bytes) -> None:
        tried.set()
        if not works.is_set():
            raise StorageError(f"{path}: 503")
        write_whole(path, data)

    monkeypatch.setattr(storage, "write_bytes_atomic", failing)
    kept: list[int] = []
    copy = Mirror(url, folder, kept.append)
    write(folder, 1)
    began = time.monotonic()
    copy.note({"round": 1})
    assert time.monotonic() - began < 0.1
    assert tried.wait(10) and not kept
    assert not copy.close(0.05), "it is not all there"
    works.set()
    until(lambda: kept == [1])


def test_the_end_of_a_job_is_kept_as_well(tmp_path: Path) -> None:
    folder, url = a_folder(tmp_path), url_in(tmp_path)
    copy = Mirror(url, folder)
    write(folder, 1)
    copy.end('{"phase": "done"}', 10)
    assert json.loads(storage.read_bytes(storage.join(url, "status.json"))) == {"phase": "done"}
    assert parts(url) == ["history-000001.jsonl"]


def test_nothing_to_bring_back(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    folder.history.unlink()
    mirror.recall(str(tmp_path / "nowhere"), folder, restarts=1)
    mirror.recall("", folder, restarts=0)
    assert not folder.history.exists()


def test_the_record_of_another_job_of_that_name_gives_way_to_the_first_coordinator(tmp_path: Path) -> None:
    before, url = a_folder(tmp_path), url_in(tmp_path)
    write(before, 1)
    assert Mirror(url, before).close(10)
    folder = JobFolder(tmp_path / "again" / "digits")
    folder.create("{}", "secret")
    mirror.recall(url, folder, restarts=0)
    assert parts(url) == [] and not folder.history.exists()


def test_what_a_pod_has_on_its_own_disk_is_newer(tmp_path: Path) -> None:
    folder, url = a_folder(tmp_path), url_in(tmp_path)
    write(folder, 1)
    assert Mirror(url, folder).close(10)
    write(folder, 2)
    mirror.recall(url, folder, restarts=1)
    assert len(folder.history.read_text().splitlines()) == 2


def test_every_job_with_a_folder_of_output_is_recorded_in_it(tmp_path: Path) -> None:
    assert url_in(tmp_path) == str(tmp_path / "out" / "_runs" / "digits")
    flags = {"trained_model": "m", "data": "d", "output": "s3://bucket/out"}
    assert mirror.url_of(from_flags(PredictSpec, flags), "digits") == "s3://bucket/out/_runs/digits"
    assert mirror.url_of(from_flags(EvaluateSpec, flags), "digits") == ""
