"""A job on this machine is followed, scaled and stopped, and whatever happens no process of it is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edl_allreduce.errors import JobFailed, ModelError, StorageError, UsageError
from launcher import followed
from launcher.handle import RUNNING
from launcher.interrupt import Interruption
from launcher.local import runner
from launcher.local.plan import Plan
from tests.fakes import alive, enter, gone, planned


@pytest.fixture(autouse=True)
def work_in_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


@contextlib.contextmanager
def running(plan: Plan) -> Iterator[runner.LocalJob]:
    """The job, once it trains; whatever happens it is gone afterwards."""
    job = runner.start(plan)
    try:
        assert any(status.phase in RUNNING for status in job.watch()), "the job never trained"
        yield job
    finally:
        job.kill()


def test_a_job_is_followed_to_its_end() -> None:
    plan = planned("train")
    job = runner.start(plan)
    phases = [status.phase for status in job.watch()]
    order = ["starting", "training", "exporting", "done"]
    assert phases == sorted(phases, key=order.index) and phases[-1] == "done"
    final = job.wait()
    assert (final.phase, final.position.step, len(final.rounds), job.exit_code) == ("done", 40, 2, 0)
    assert job.name == plan.folder.name and job.logs_hint == f"logs in {plan.folder.logs}"
    assert [status.phase for status in job.watch()] == ["done"], "an ended job still tells how it ended"
    assert gone(job.pid)


def test_several_may_watch() -> None:
    job = runner.start(planned("train"))
    ends: list[str] = []
    watchers = [threading.Thread(target=lambda: ends.append(list(job.watch())[-1].phase)) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join(30)
    assert ends == ["done"] * 3


def test_stopping_ends_every_process() -> None:
    with running(planned("forever")) as job:
        assert len(alive(job.pid)) == 4, "a supervisor, a coordinator and two workers"
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.05 seconds$"):
            job.wait(0.05)
        assert job.exit_code is None
        job.stop()
        assert gone(job.pid)
        assert job.wait().phase == "stopped", "who stopped it is not surprised by that"
        assert job.exit_code == JobFailed.exit_code
        job.stop()


def test_a_coordinator_that_does_not_obey_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STOP_SECONDS", 0.3)
    with running(planned("deaf")) as job:
        job.stop()
        assert gone(job.pid)
        assert job.status().phase == "stopped"


def test_a_job_survives_its_coordinator() -> None:
    job = runner.start(planned("vanish_once"))
    statuses = list(job.watch())
    assert job.wait().position.step == 40 and gone(job.pid)
    messages = list(dict.fromkeys(status.message for status in statuses if status.phase == "training"))
    assert set(messages) == {"", followed.AWAY} and statuses[-2].message == ""
    workers = {tuple(worker.pid for worker in status.workers) for status in statuses if status.phase == "training"}
    assert len(workers) == 1, "the same workers have gone on"
    steps = [status.position.step for status in statuses]
    assert steps == sorted(steps) and [status.coordinator_restarts for status in statuses[-2:]] == [1, 1]


def test_nothing_survives_coordinators_that_die_again_and_again() -> None:
    job = runner.start(planned("vanish"))
    with pytest.raises(
        JobFailed, match=r"^the coordinator ended .* 5 times in a row \(killed by SIGKILL\); the end of "
    ):
        job.wait(60)
    assert gone(job.pid)
    assert (job.status().phase, job.exit_code) == ("failed", JobFailed.exit_code) and job.status().position.step >= 9


def test_a_killed_supervisor_is_told_and_nothing_stays() -> None:
    with running(planned("forever")) as job:
        os.kill(job.pid, signal.SIGKILL)
        with pytest.raises(
            JobFailed, match=r"^the supervisor of job .* ended unexpectedly \(killed by SIGKILL\); the end"
        ):
            job.wait(30)
        assert gone(job.pid) and job.status().position.step > 0


def test_a_crash_shows_the_end_of_the_log() -> None:
    job = runner.start(planned("crash"))
    with pytest.raises(JobFailed) as caught:
        job.wait(60)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("the coordinator ended unexpectedly 5 times in a row (exit code 1); the end of ")
    assert "    RuntimeError: the fake coordinator was told to crash" in rest


def test_a_job_can_be_stopped_before_it_serves() -> None:
    job = runner.start(planned("mute"))
    assert next(job.watch()).message == "indexing the data"
    with pytest.raises(TimeoutError):
        job.wait(0.5)
    job.stop()
    assert job.wait().phase == "stopped" and gone(job.pid)


def test_the_users_error_has_its_own_type_and_code() -> None:
    job = runner.start(planned("model_error"))
    with pytest.raises(ModelError) as caught:
        job.wait(30)
    assert str(caught.value) == f"model_zoo/digits.py:12: NameError: name 'x' is not defined; {job.logs_hint}"
    assert job.exit_code == ModelError.exit_code


def test_scaling() -> None:
    with running(planned("forever")) as job:
        assert job.scale(4) == 2
        assert any(len(status.workers) == 4 and status.target_workers == 4 for status in job.watch())
        with pytest.raises(UsageError, match=r"^num_workers: expected a whole number from 1 to 100,000, got 0$"):
            job.scale(0)
    with pytest.raises(JobFailed, match=r"^job .* has ended: all its processes were killed; logs in "):
        job.scale(3)


def test_a_name_that_is_taken() -> None:
    runner.start(planned("train", job_name="mine")).wait(30)
    with pytest.raises(UsageError, match=r"^--job_name: 'mine' is taken by the job in .*/jobs/mine; choose another$"):
        runner.start(planned("train", job_name="mine"))


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDL_HOME", "/dev/null/home")
    with pytest.raises(
        StorageError, match=r"^/dev/null/home/jobs/.*: Not a directory; EDL_HOME may name another folder"
    ):
        runner.start(planned("train"))


def test_proxies_are_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert runner.start(planned("train")).wait(30).phase == "done"


LAUNCH = """
import os, signal, sys
from launcher.local import runner
from tests.fakes import planned
job = runner.start(planned("forever"), detach=DETACH)
next(status for status in job.watch() if status.phase == "training")
print(job.pid, flush=True)
END
"""


@pytest.mark.parametrize(
    ("detach", "end", "survives"),
    [
        (False, "os.kill(os.getpid(), signal.SIGKILL)", False),
        (False, "os.kill(job.pid, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)", False),
        (False, "sys.exit()", False),
        (False, "raise RuntimeError('the launching script fails')", False),
        (True, "sys.exit()", True),
        (True, "os.kill(job.pid, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)", False),
    ],
)
def test_a_job_ends_with_its_launcher_unless_it_is_detached(detach: bool, end: str, survives: bool) -> None:
    script = LAUNCH.replace("DETACH", str(detach)).replace("END", end)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stdout, ran.stderr
    group = int(ran.stdout)
    try:
        if survives:
            time.sleep(0.3)
            assert len(alive(group)) == 4
            os.kill(group, signal.SIGTERM)
        assert gone(group), ran.stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def test_signals_stop_then_kill() -> None:
    notes: list[str] = []
    with running(planned("deaf")) as job, Interruption() as interruption:
        interruption.guard(job, notes.append)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(TimeoutError):
            job.wait(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        assert job.wait(30).phase == "stopped" and gone(job.pid)
        assert [note.split()[0] for note in notes] == ["stopping", "ending"]
        with pytest.raises(SystemExit) as caught:
            interruption.raise_if_interrupted()
        assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_before_the_job_is_known_is_not_lost() -> None:
    with running(planned("forever")) as job, Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        interruption.guard(job, lambda note: None)
        assert job.wait(30).phase == "stopped" and gone(job.pid)
        with pytest.raises(KeyboardInterrupt):
            interruption.raise_if_interrupted()
