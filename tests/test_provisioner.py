"""Workers of this machine: started, watched, killed, and found again by the next coordinator."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edl_allreduce.errors import StorageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import Process, environment, pids, process_of
from rendezvous.provisioner import Provisioner, Recovered, local
from rendezvous.provisioner.ledger import Ledger, find_worker
from rendezvous.provisioner.local import LocalProvisioner

WORKER = """\
import os, pathlib, signal, sys
tmp, behaviour = pathlib.Path(os.environ["TMPDIR"]), os.environ["FAKE_WORKER"]
if behaviour == "fork" and os.fork() == 0:
    signal.pause()
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
(tmp / "up").touch()
if behaviour.isdecimal():
    sys.exit(int(behaviour))
if behaviour == "input":
    assert sys.stdin.read() == ""
else:
    signal.pause()
"""

COORDINATOR = """\
import asyncio, os, pathlib, signal, sys
from edl_allreduce.job_folder import JobFolder
from rendezvous.provisioner.local import LocalProvisioner
async def main():
    provisioner = LocalProvisioner(JobFolder(pathlib.Path(sys.argv[1])), "127.0.0.1:1", 2, print)
    await provisioner.recover()
    for id in map(int, sys.argv[2:]):
        provisioner.start(id)
    print("started", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobFolder]:
    """A job's folder; `python -m edl_allreduce.worker` is a program that does what FAKE_WORKER says."""
    package = tmp_path / "fakes" / "edl_allreduce"
    package.mkdir(parents=True)
    extend = "import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n"
    (package / "__init__.py").write_text(extend)
    (package / "worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fakes'}:{Path(__file__).parent.parent}")
    monkeypatch.setenv("FAKE_WORKER", "wait")
    monkeypatch.chdir(tmp_path)
    folder = JobFolder(tmp_path / "jobs" / "a")
    folder.create("{}", "secret")
    yield folder
    for pid in pids():
        if environment(pid).get("EDL_TOKEN_FILE") == str(folder.token):
            os.kill(pid, signal.SIGKILL)  # a test has failed


class Site:
    """A provisioner as a coordinator has it, and what it has told."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.ends: asyncio.Queue[tuple[int, str, bool]] = asyncio.Queue()
        self.provisioner: Provisioner = LocalProvisioner(folder, "127.0.0.1:1", 2, self.note)

    def note(self, *end: Any) -> None:
        self.ends.put_nowait(end)

    async def start(self, *ids: int) -> dict[int, psutil.Process]:
        for id in ids:
            self.provisioner.start(id)
        return await up(self.folder, *ids)

    async def end(self) -> tuple[int, str, bool]:
        return await asyncio.wait_for(self.ends.get(), 10)


async def up(folder: JobFolder, *ids: int) -> dict[int, psutil.Process]:
    """The processes of these workers, once they run."""
    await until(lambda: all((folder.worker_tmp(id) / "up").exists() for id in ids))
    recorded = json.loads(folder.workers.read_text())["workers"]
    return {id: psutil.Process(recorded[str(id)]["pid"]) for id in ids}


async def until(done: Callable[[], bool]) -> None:
    async def look() -> None:
        while not done():
            await asyncio.sleep(0.01)  # other processes' doings: there is no event to await

    await asyncio.wait_for(look(), 20)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_a_minute() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(within_a_minute())


def orphans(folder: JobFolder, *ids: int) -> dict[int, psutil.Process]:
    """Workers whose coordinator has been killed."""
    command = [sys.executable, "-c", COORDINATOR, str(folder.path), *map(str, ids)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as coordinator:
        assert coordinator.stdout and coordinator.stdout.readline() == b"started\n"
        coordinator.kill()
    return asyncio.run(up(folder, *ids))


def test_a_worker_has_a_log_and_a_temporary_folder_of_its_own(folder: JobFolder) -> None:
    async def test() -> None:
        site = Site(folder)
        assert await site.provisioner.recover() == Recovered(next_id=0, alive=())
        processes = await site.start(0, 1)
        assert folder.worker_log(1).read_text() == "up\n"
        environ = environment(processes[1].pid)
        assert environ["TMPDIR"] == str(folder.tmp / "worker-1") and environ["EDL_TOKEN_FILE"] == str(folder.token)
        site.provisioner.kill(1)
        assert await site.end() == (1, "was ended by SIGKILL", False)
        await until(lambda: not folder.worker_tmp(1).exists())
        assert folder.worker_tmp(0).exists() and not psutil.pid_exists(processes[1].pid)
        site.provisioner.kill(1)
        await site.provisioner.close(0)
        assert await site.end() == (0, "was ended by SIGKILL", False) and not folder.tmp.exists()
        assert Ledger(folder.workers, folder.token).read() == {}

    run(test)


@pytest.mark.parametrize(
    ("behaviour", "why", "told_to_go"),
    [
        ("0", "ended with exit code 0", True),
        ("3", "ended with exit code 3", False),
        ("wait", "was ended by SIGTERM", True),
        ("deaf", "was ended by SIGKILL", False),
    ],
)
def test_how_a_worker_ended(
    behaviour: str, why: str, told_to_go: bool, folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", behaviour)

    async def test() -> None:
        site = Site(folder)
        site.provisioner.start(7)
        if behaviour in ("wait", "deaf"):
            (await up(folder, 7))[7].send_signal(signal.SIGTERM)
        await site.provisioner.close(10 if behaviour != "deaf" else 0.2)
        assert await site.end() == (7, why, told_to_go) and site.ends.empty()

    run(test)


def test_a_new_coordinator_takes_the_workers_over(folder: JobFolder) -> None:
    left = orphans(folder, 0, 1, 2)
    left[1].kill()

    async def test() -> None:
        await until(lambda: not left[1].is_running() or left[1].status() == psutil.STATUS_ZOMBIE)
        site = Site(folder)
        recovered = await site.provisioner.recover()
        assert recovered.next_id == 3 and {0, 2} <= set(recovered.alive)
        if 1 in recovered.alive:  # whoever adopts orphans here has not asked yet how it ended
            assert await site.end() == (1, "ended", False)
        assert left[0].is_running() and left[2].is_running()
        site.provisioner.kill(2)
        assert await site.end() == (2, "ended", False)
        await site.start(3)
        left[0].terminate()
        assert await site.end() == (0, "ended", False)
        await site.provisioner.close(0)
        assert await site.end() == (3, "was ended by SIGKILL", False)

    run(test)
    assert not [process for process in left.values() if process.is_running() and process.status() != "zombie"]


def test_ids_are_never_used_again(folder: JobFolder) -> None:
    orphans(folder, 0, 1)

    async def end(*expected: int) -> None:
        site = Site(folder)
        assert await site.provisioner.recover() == Recovered(2, expected)
        await site.provisioner.close(0)

    asyncio.run(end(0, 1))
    asyncio.run(end())
    ledger = Ledger(folder.workers, folder.token)
    ledger.read()
    ledger.reserve(2)  # and there the coordinator is killed, before the worker is started
    again = Ledger(folder.workers, folder.token)
    assert again.read() == {} and again.next_id == 3


@pytest.mark.parametrize("behaviour", ["wait", "fork"])
def test_a_worker_whose_process_was_not_noted_in_time_is_found(
    behaviour: str, folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WORKER", behaviour)
    left = orphans(folder, 0, 1)
    children = left[1].children()
    assert len(children) == (behaviour == "fork")
    ledger = json.loads(folder.workers.read_text())
    folder.workers.write_text(json.dumps({"next_id": 2, "workers": ledger["workers"] | {"1": None}}))
    assert Ledger(folder.workers, folder.token).read() == {id: process_of(left[id].pid) for id in (0, 1)}
    assert find_worker(1, folder.path / "token of another job") is None and find_worker(2, folder.token) is None

    async def test() -> None:
        site = Site(folder)
        assert await site.provisioner.recover() == Recovered(2, (0, 1))
        await site.provisioner.close(0)

    run(test)
    for process in children:
        process.kill()
    for process in left.values():
        process.wait(10)


def test_another_process_with_the_same_number_is_left_alone(folder: JobFolder) -> None:
    me = process_of(os.getpid())
    assert me
    stranger = Process(me.pid, me.birth + "0")
    folder.workers.write_text(json.dumps({"next_id": 1, "workers": {"0": dataclasses.asdict(stranger)}}))

    async def test() -> None:
        site = Site(folder)
        assert await site.provisioner.recover() == Recovered(1, ())
        site.provisioner.kill(0)
        await site.provisioner.close(0)

    run(test)
    assert process_of(os.getpid()) == me != stranger


def test_a_worker_that_cannot_be_started_is_told_like_one_that_has_ended(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "AGAIN_SECONDS", 0.05)

    async def test() -> None:
        site = Site(folder)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nonexistent/python")
            site.provisioner.start(0)
        assert site.ends.empty(), "not while the coordinator is about something else"
        assert await site.end() == (0, "could not be started: No such file or directory", False)
        folder.workers.unlink()
        folder.workers.mkdir()
        site.provisioner.start(1)
        assert await site.end() == (1, "could not be started: Is a directory", False)
        assert find_worker(1, folder.token) is None
        await site.provisioner.close(0)

    run(test)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"next_id": 1, "workers": {"0": {"pid": 1}}}'])
def test_a_damaged_record_is_an_error(text: str, folder: JobFolder) -> None:
    folder.workers.write_text(text)
    with pytest.raises(StorageError, match=r"/workers\.json: cannot be read; it says which workers there are: "):
        Ledger(folder.workers, folder.token).read()


def test_an_orphan_sees_when_the_launcher_has_ended_too(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "input")
    command = [sys.executable, "-c", COORDINATOR, str(folder.path), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as coordinator:
        assert coordinator.stdout and coordinator.stdout.readline() == b"started\n"
        worker = asyncio.run(up(folder, 0))[0]
        coordinator.kill()
        with pytest.raises(psutil.TimeoutExpired):
            worker.wait(0.2)
    worker.wait(10)  # with the end of the `with` block our end of the pipe is closed
