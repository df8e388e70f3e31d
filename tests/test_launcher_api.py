"""`launcher.train` in Python: the same flags, the same errors, and nothing heavy on import."""

from __future__ import annotations

import inspect
import os
import pydoc
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import launcher
from edl_allreduce.errors import JobFailed, ModelError, UsageError
from launcher.display import progress
from launcher.local import runner
from launcher.local.plan import Plan
from launcher.settings import TRAIN_FLAGS
from tests.fakes import FLAGS, enter, gone

HEAVY = ("tensorflow", "keras", "horovod", "kubernetes", "docker", "fsspec", "numpy", "grpc", "rich", "fire")


@pytest.fixture(autouse=True)
def work_in_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


def train(**values: Any) -> launcher.JobHandle:
    job = launcher.train(**(FLAGS | values))
    assert job is not None
    return job


def test_training_shows_progress_and_returns_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    job = train()
    assert (job.exit_code, job.status().phase) == (0, "done")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"model in out, {job.logs_hint}"
    assert "round 2 with 2 workers: worker 1 was lost, paused 0.17 s" in lines


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(quiet="true").exit_code == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("scenario", "error"), [("model_error", ModelError), ("crash", JobFailed)])
def test_a_failure_is_raised(monkeypatch: pytest.MonkeyPatch, scenario: str, error: type[Exception]) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", scenario)
    with pytest.raises(error):
        train()


def test_without_wait_the_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "forever")
    job = train(wait=False)
    assert job.exit_code is None and job.status().phase == "training"
    job.scale(3)
    assert any(len(status.workers) == 3 for status in job.watch())
    launcher.attach(job.name).stop()
    with pytest.raises(JobFailed, match="was stopped"):
        job.wait(20)
    assert job.exit_code == JobFailed.exit_code


def test_without_wait_a_job_that_never_trains_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "model_error")
    with pytest.raises(ModelError):
        train(wait=False)


def test_a_dry_run_only_prints(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert launcher.train(**FLAGS, dry_run=True) is None
    assert capsys.readouterr().out.startswith("job     digits-")
    assert not (tmp_path / "home").exists()
    with pytest.raises(UsageError, match="defines no"):
        launcher.train(**(FLAGS | {"model_def": "digits.Missing", "dry_run": True}))


def test_ctrl_c_stops_the_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "forever")
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        train()
    lines = capsys.readouterr().out.splitlines()
    assert "stopping the job … (again to end it at once)" in lines and lines[-1].startswith("stopped after ")


def test_it_works_outside_the_main_thread() -> None:
    codes: list[int | None] = []
    thread = threading.Thread(target=lambda: codes.append(train().exit_code))
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_an_error_of_the_display_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "forever")
    started: list[runner.LocalJob] = []
    really_start = runner.start

    def start(plan: Plan, detach: bool) -> runner.LocalJob:
        started.append(really_start(plan, detach))
        return started[0]

    monkeypatch.setattr(runner, "start", start)
    monkeypatch.setattr(progress, "changes", lambda before, now: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train()
    assert gone(started[0].pid)


def test_signature_and_help_show_every_flag() -> None:
    parameters = inspect.signature(launcher.train).parameters
    assert list(parameters) == [each.name for each in TRAIN_FLAGS]
    assert parameters["model_zoo"].default is inspect.Parameter.empty
    assert (parameters["num_workers"].default, parameters["num_workers"].annotation) == (1, int)
    assert parameters["batch_size"].annotation == int | None
    text = pydoc.plain(pydoc.render_doc(launcher.train))
    assert "num_workers: how many workers to keep alive (default 1)." in text
    assert all(f"{each.name}: " in text for each in TRAIN_FLAGS)
    assert max(len(line) for line in text.splitlines()[2:] if not line.startswith("train(")) <= 120


def test_the_package_shows_what_it_offers() -> None:
    assert {"train", "attach", "JobHandle"} <= set(dir(launcher))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        launcher.trian  # noqa: B018


def test_importing_the_launcher_imports_nothing_heavy() -> None:
    code = "import launcher, sys; launcher.train, launcher.JobHandle; print(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in ran.stdout.split()} & set(HEAVY)
