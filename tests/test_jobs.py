"""A running job is found by its name, and watched, scaled and stopped by whoever has not started it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import launcher
from edl_allreduce.errors import EdlError, JobFailed, UsageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import Process, process_of
from launcher import client, followed, history
from launcher.handle import RUNNING
from launcher.jobs import attach, match, places, summaries
from launcher.local import jobs as local_jobs
from launcher.local import runner, way
from tests.fakes import FLAGS, enter, gone, planned


@pytest.fixture(autouse=True)
def work_in_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


@pytest.fixture
def forever() -> Iterator[runner.LocalJob]:
    job = runner.start(planned("forever", job_name="digits-1"))
    assert any(status.phase in RUNNING for status in job.watch()), "the job never trained"
    yield job
    job.kill()


def folder(name: str, home: Path, supervisor: Process | None = None) -> JobFolder:
    """A job's folder; it is running if the supervisor is."""
    made = JobFolder.of(name, {"EDL_HOME": str(home)})
    made.create("{}", "secret")
    if supervisor:
        made.supervisor.write_text(json.dumps(dataclasses.asdict(supervisor)))
    return made


def test_a_job_is_watched_scaled_and_stopped_by_another(forever: runner.LocalJob) -> None:
    job = attach("dig")
    assert (job.name, job.logs_hint) == (forever.name, forever.logs_hint)
    assert any(status.phase == "training" for status in job.watch()) and job.exit_code is None
    assert (job.scale(4), job.scale(1)) == (2, 4)
    with pytest.raises(TimeoutError):
        job.wait(0.1)
    job.stop()
    assert job.wait().phase == "stopped" and gone(forever.pid)
    assert [status.phase for status in forever.watch()][-1] == "stopped"


def test_temporary_files_of_a_job_that_was_killed_as_a_whole_are_removed_when_another_is_started(
    tmp_path: Path,
) -> None:
    me = process_of(os.getpid())
    assert me
    killed, lives = folder("a", tmp_path, Process(me.pid, "before")), folder("b", tmp_path, me)
    for each in (killed, lives):
        each.worker_tmp(0).mkdir(parents=True)
    local_jobs.clear_up({"EDL_HOME": str(tmp_path)})
    assert not killed.tmp.exists() and lives.tmp.exists() and killed.spec.exists()


def test_whoever_only_watches_is_told_how_the_job_ended(forever: runner.LocalJob) -> None:
    job = attach("digits-1")
    forever.stop()
    with pytest.raises(JobFailed, match=r"^job digits-1 was stopped: asked to; logs in "):
        job.wait(20)
    assert [status.phase for status in job.watch()] == ["stopped"] and job.exit_code == JobFailed.exit_code


def test_a_job_killed_as_a_whole_is_told_too(forever: runner.LocalJob) -> None:
    job = attach("digits-1")
    os.killpg(forever.pid, signal.SIGKILL)
    with pytest.raises(JobFailed, match=r"^the supervisor of job digits-1 ended unexpectedly; the end of "):
        job.wait(20)
    left = attach("digits-1")
    assert left.exit_code == JobFailed.exit_code and left.status().position.step >= 1, (
        "its history tells how far it was"
    )
    with pytest.raises(JobFailed, match=r"^all its processes were killed; logs in "):
        left.wait()
    with pytest.raises(JobFailed, match=r"^job digits-1 has ended: all its processes were killed; logs in "):
        left.scale(2)


def test_attaching_while_the_coordinator_is_away() -> None:
    starter = runner.start(planned("vanish_once", job_name="digits-2"))
    assert any(status.message == followed.AWAY for status in starter.watch())
    job = attach("digits-2")
    assert job.status().phase and job.scale(3) == 2, "retried until the next coordinator answers"
    assert job.wait(30).phase == "done"


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDL_HOME", str(tmp_path / "h"))
    me = process_of(os.getpid())
    assert me
    with pytest.raises(UsageError, match=r"^there is no job 'a' in .*/h/jobs; no job is running; edl jobs lists all$"):
        attach("a")
    for name in ("digits-0", "digits-1", "digits-12", "iris-7"):
        folder(name, tmp_path / "h", me if name != "digits-0" else Process(me.pid, "before the last boot"))
    folder("text-0", tmp_path / "h").supervisor.write_text("{")
    running = {each.name: not each.ended for each in local_jobs.summaries(os.environ)}
    assert running == {"digits-0": False, "digits-1": True, "digits-12": True, "iris-7": True, "text-0": False}
    for wrong in ("", ".", "../h", "wide"):
        with pytest.raises(UsageError, match=rf"^there is no job {wrong!r} in .*; running are digits-1, digits-12, "):
            attach(wrong)
    with pytest.raises(UsageError, match=r"\(did you mean 'digits-0'\?\); running are"):
        attach("digit-0")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("digits-1", "digits-1"),
        ("i", "iris-7"),
        ("digits-0", "digits-0"),
        ("text", "text-0"),
        ("wide", None),
        ("", None),
    ],
)
def test_a_beginning_is_enough_and_running_jobs_come_first(name: str, found: str | None) -> None:
    running = {"digits-0": False, "digits-1": True, "digits-12": True, "iris-7": True, "iris-8": False, "text-0": False}
    assert match(name, running) == found
    with pytest.raises(UsageError, match=r"^'digits' may be digits-1, digits-12; give more of the job's name$"):
        match("digits", running)


@pytest.mark.parametrize(
    ("given", "environ", "found"),
    [
        (("", "", ""), {}, ("local",)),
        (("", "", ""), {"KUBECONFIG": "config"}, ("local", "kubernetes")),
        (("", "", ""), {"KUBECONFIG": "config", "EDL_BACKEND": "local"}, ("local",)),
        (("local", "", ""), {"EDL_BACKEND": "kubernetes"}, ("local",)),
        (("", "team", ""), {}, ("kubernetes",)),
        (("", "", "prod"), {}, ("kubernetes",)),
    ],
)
def test_where_jobs_are_looked_for(
    given: tuple[str, str, str], environ: dict[str, str], found: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "config").touch()
    assert places(*given, {"HOME": str(tmp_path)} | environ) == found


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: far, cluster: {server: "https://127.0.0.1:PORT"}}]
users: [{name: me, user: {token: secret}}]
contexts: [{name: far, context: {cluster: far, user: me}}]
current-context: far
"""


def hang_up_at_once(server: socket.socket) -> None:
    """It does not speak TLS; returns when the server is shut down."""
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


@pytest.mark.parametrize(
    ("kubeconfig", "problem"),
    [
        ("{", "the kubeconfig cannot be used: "),
        ("[1]", "the kubeconfig cannot be used: "),
        (KUBECONFIG, "the cluster at https://127.0.0.1:"),
    ],
)
def test_a_cluster_that_is_no_use_hides_no_job_of_this_machine(
    kubeconfig: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kubernetes", reason="kubernetes is not installed: pip install 'edl_allreduce[kubernetes]'")
    folder("digits-1", tmp_path / "home")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "config").write_text(kubeconfig.replace("PORT", str(server.getsockname()[1])))
        hanging_up = threading.Thread(target=hang_up_at_once, args=(server,))
        hanging_up.start()
        found, [note] = summaries()
        server.shutdown(socket.SHUT_RDWR)
        hanging_up.join()
    assert [each.name for each in found] == ["digits-1"] and note.startswith("jobs on Kubernetes are not listed: ")
    assert problem in note and "\n" not in note
    with pytest.raises(EdlError, match=problem):
        summaries(backend="kubernetes")


def test_an_unknown_backend() -> None:
    with pytest.raises(UsageError, match=r"^--backend: expected local or kubernetes, got 'yarn'$"):
        attach("digits", backend="yarn")


@pytest.mark.parametrize("listens", [False, True])
def test_a_coordinator_that_does_not_answer(listens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(way.LocalWay, "patience", 0.5)
    made = folder("a", tmp_path)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        made.address.write_text(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(
            JobFailed, match=r"^job a: its coordinator at 127\.0\.0\.1:\d+ has not answered for 0\.5 s; see "
        ):
            client.Client(way.LocalWay(made), threading.Event().wait).scale(2)


def test_events_are_not_waited_for_without_end_where_no_coordinator_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HUNG_SECONDS", 0.3)
    monkeypatch.setattr(way.LocalWay, "patience", 0.2)
    made = folder("a", tmp_path)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        made.address.write_text(f"127.0.0.1:{silent.getsockname()[1]}")
        ended = threading.Event()
        lines = history.told(client.Client(way.LocalWay(made), ended.wait), ended.wait, True, False)
        with pytest.raises(
            JobFailed, match=r"^job a: its coordinator at 127\.0\.0\.1:\d+ has not answered for 0\.5 s; "
        ):
            list(lines)


def test_a_wrong_token_is_said_so(forever: runner.LocalJob) -> None:
    token = JobFolder.of(forever.name, os.environ).token
    token.write_text("wrong")
    with pytest.raises(JobFailed, match=r"^job digits-1: its coordinator answers UNAUTHENTICATED: wrong token$"):
        attach("digits-1").scale(2)


def test_two_jobs_do_not_write_to_the_same_output(
    forever: runner.LocalJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "zoo")
    for output in ("../out", "../out/", tmp_path / "link" / "out"):
        flags = FLAGS | {"model_zoo": ".", "data": "../data", "output": str(output)}
        with pytest.raises(UsageError, match=f"--output: job digits-1 is writing to {output}; choose another, or end"):
            launcher.train(**flags)
    assert local_jobs.writer_of("out", os.environ) is None  # of another folder
    forever.kill()
    assert local_jobs.writer_of(str(tmp_path / "out"), os.environ) is None
