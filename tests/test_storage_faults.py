"""Stores that fail for a while, and disks that are full: what can pass is waited for, the rest is one clear line."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edl_allreduce import recordio, storage, storage_retry
from edl_allreduce.errors import StorageError
from edl_allreduce.storage_retry import PassingError, no_persistence, persist
from tests import clouds
from tests.disks import full_disk
from tests.faulty import Faulty

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


class Clock:
    """Time that passes only in pauses, and in an action that takes some."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def failing(times: int, error: Exception) -> Callable[[], int]:
    left = iter(range(times))

    def action() -> int:
        if next(left, None) is not None:
            raise error
        return 7

    return action


def test_pauses_grow_and_the_patience_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    assert persist(failing(3, PassingError("x: busy")), clock.pause, clock) == 7
    assert clock.pauses == [0.5, 1, 2]
    assert caplog.messages[0] == "x: busy; trying again in 0.5 s" and len(caplog.messages) == 3
    clock = Clock()
    with pytest.raises(PassingError, match="busy"):
        persist(failing(99, PassingError("x: busy")), clock.pause, clock)
    assert clock.pauses == [0.5, 1, 2, 4, 8, 8] and sum(clock.pauses) <= storage_retry.PATIENCE_SECONDS


def test_what_took_long_to_fail_is_not_tried_for_as_long_again() -> None:
    clock = Clock()

    def action() -> None:  # gcsfs, that has tried for half a minute
        clock.now += 31
        raise PassingError("x")

    with pytest.raises(PassingError):
        persist(action, clock.pause, clock)
    assert clock.pauses == []


def test_what_cannot_pass_is_raised_at_once() -> None:
    clock = Clock()
    with pytest.raises(StorageError, match="no such file"):
        persist(failing(1, StorageError("no such file")), clock.pause, clock)
    with no_persistence(), pytest.raises(PassingError):
        persist(failing(1, PassingError("x")), clock.pause, clock)
    assert clock.pauses == []


@pytest.fixture(scope="module")
def s3_proxy() -> Iterator[Faulty]:
    with clouds.s3_server() as server, Faulty(server) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def gcs_proxy() -> Iterator[Faulty]:
    with clouds.gcs_server() as server, Faulty(server) as proxy:
        yield proxy


@pytest.fixture
def s3(s3_proxy: Faulty, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Faulty]]:
    """The packages' own patience is as short as can be, so that ours is what is tested, and quickly."""
    import s3fs

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3_proxy.heal()
    yield clouds.use_s3(s3_proxy.url, monkeypatch.setenv), s3_proxy
    s3_proxy.heal()
    clouds.forget()


@pytest.fixture
def gs(gcs_proxy: Faulty, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Faulty]]:
    gcs_proxy.heal()
    yield clouds.use_gcs(gcs_proxy.url, monkeypatch.setenv), gcs_proxy
    gcs_proxy.heal()
    clouds.forget()


def use_everything(folder: str) -> None:
    """Each kind of request once."""
    path, large = storage.join(folder, "b.recordio"), storage.join(folder, "large")
    storage.write_bytes_atomic(path, b"0123456789")
    with storage.writer_atomic(large) as out:
        out.write(bytes(6 << 20))  # gcsfs sends more than 5 MiB in several requests
    assert storage.expand(folder) == storage.expand(f"{folder}/*.recordio") == [path]
    assert (
        storage.exists(path)
        and storage.size(large) == 6 << 20
        and storage.names_in(folder)
        == [
            "b.recordio",
            "large",
        ]
    )
    assert storage.read_bytes(path) == b"0123456789" and storage.read_range(path, 3, 4) == b"3456"
    storage.remove(path)
    storage.remove_folder(folder)
    assert storage.names_in(folder) is None


@pytest.mark.parametrize("kind", ["503", "429", "500", "reset"])
def test_s3_that_fails_for_a_while(s3: tuple[str, Faulty], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, proxy = s3
    monkeypatch.setattr(storage_retry, "FIRST_PAUSE_SECONDS", 0.01)
    before = proxy.faulted
    proxy.fail(kind, requests=3)
    use_everything(f"{bucket}/{kind}")
    assert proxy.faulted == before + 3


def test_each_kind_of_request_to_s3_survives(s3: tuple[str, Faulty], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever request fails first."""
    bucket, proxy = s3
    monkeypatch.setattr(storage_retry, "FIRST_PAUSE_SECONDS", 0.01)
    start = proxy.requests
    use_everything(f"{bucket}/calm")
    for number in range(proxy.requests - start):
        proxy.fail("503", requests=2, after=number)
        use_everything(f"{bucket}/{number}")


def test_an_answer_of_s3_that_breaks_off(s3: tuple[str, Faulty]) -> None:
    bucket, proxy = s3
    storage.write_bytes_atomic(f"{bucket}/half", b"0123456789" * 1000)
    proxy.fail("half", requests=2)
    assert storage.read_range(f"{bucket}/half", 5, 5000) == b"5678901234" * 500


def test_gcs_that_fails_for_a_while(gs: tuple[str, Faulty]) -> None:
    """gcsfs itself goes on trying for half a minute: nothing of ours is needed, but it must stay so."""
    bucket, proxy = gs
    for kind in ("503", "reset"):
        proxy.fail(kind, requests=2)
        use_everything(f"{bucket}/{kind}")
        assert proxy.faulted >= 2
        proxy.heal()


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_reading_data_outlives_an_outage(store: str, request: pytest.FixtureRequest) -> None:
    bucket, proxy = request.getfixturevalue(store)
    records = [os.urandom(1000) for _ in range(1000)]
    path = storage.join(bucket, "data.recordio")
    with recordio.Writer(path, max_chunk_bytes=100_000) as writer:
        for record in records:
            writer.write(record)
    read = []
    with recordio.Reader(path) as reader:
        for number, record in enumerate(reader):
            read.append(record)
            if number == 150:
                proxy.fail("503", seconds=1.5)
    assert read == records and proxy.faulted >= 2


def test_a_listing_that_fails_is_not_an_empty_one(s3: tuple[str, Faulty], monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's own glob would leave out the folders that it could not list: a training on part of the data."""
    bucket, proxy = s3
    for name in ("a/1.recordio", "a/2.recordio", "b/3.recordio"):
        storage.write_bytes_atomic(f"{bucket}/listed/{name}", b"x")
    monkeypatch.setattr(storage_retry, "PATIENCE_SECONDS", 0.0)
    before = proxy.requests
    assert len(storage.expand(f"{bucket}/listed/*/*.recordio")) == 3
    for number in range(proxy.requests - before):
        proxy.fail("503", after=number)
        with pytest.raises(PassingError):
            storage.expand(f"{bucket}/listed/*/*.recordio")


def test_what_s3_refuses_is_asked_once(s3: tuple[str, Faulty]) -> None:
    bucket, proxy = s3
    storage.exists(f"{bucket}/a")  # connected
    proxy.fail("403")
    before, began = proxy.requests, time.monotonic()
    with pytest.raises(StorageError, match="permission denied"):
        storage.read_bytes(f"{bucket}/a")
    assert proxy.requests == before + 1 and time.monotonic() - began < 0.4


def test_s3_that_fails_for_good(s3: tuple[str, Faulty], monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, proxy = s3
    monkeypatch.setattr(storage_retry, "PATIENCE_SECONDS", 1.0)
    proxy.fail("503")
    with pytest.raises(PassingError, match=rf"^{bucket}/a: ") as error:
        storage.write_bytes_atomic(f"{bucket}/a", b"x")
    assert "\n" not in str(error.value)


def test_a_full_disk(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", kibibytes=256) as disk:
        storage.write_bytes_atomic(f"{disk}/a", b"old")
        with pytest.raises(
            PassingError, match=f"^{disk}/a: no space left on device: free some, or choose another folder$"
        ):
            storage.write_bytes_atomic(f"{disk}/a", bytes(1 << 20))
        assert os.listdir(disk) == ["a"] and storage.read_bytes(f"{disk}/a") == b"old"


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    program = f"from edl_allreduce import storage; storage.write_bytes_atomic({str(tmp_path / 'a')!r}, bytes(1 << 20))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == (
        f"edl_allreduce.errors.StorageError: {tmp_path}/a: file too large: "
        "the file system, or the limit of 'ulimit -f', allows no larger file"
    )
    assert os.listdir(tmp_path) == []


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may write anywhere, so it becomes somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    if before == 0:
        os.seteuid(0)


def test_a_folder_that_may_not_be_written(tmp_path: Path, nobody: None) -> None:
    if os.geteuid() != 65534:
        tmp_path.chmod(0o500)
    with pytest.raises(StorageError) as error:
        storage.write_bytes_atomic(str(tmp_path / "a"), b"")
    user = os.geteuid()
    assert str(error.value) == (
        f"{tmp_path}/a: permission denied: this process runs as user {user}, who may not do that there"
    )


def test_attempts_are_logged_with_what_failed(s3: tuple[str, Faulty], caplog: pytest.LogCaptureFixture) -> None:
    bucket, proxy = s3
    proxy.fail("503", requests=1)
    with caplog.at_level(logging.WARNING, logger="edl_allreduce"):
        assert not storage.exists(f"{bucket}/nothing")
    assert [message for message in caplog.messages if message.startswith(f"{bucket}/nothing: ")] and (
        "trying again in 0.5 s" in caplog.text
    )
