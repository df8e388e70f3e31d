"""The commands on jobs: whoever has started a job, while it runs, when it has ended, and when it was killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce.errors import JobFailed, ModelError, UsageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import process_of
from launcher import history
from launcher.cli import main
from launcher.handle import RUNNING
from launcher.jobs import attach
from launcher.local import logs, runner
from tests.fakes import enter, planned

EDL = [sys.executable, "-m", "edl_allreduce.launch"]


@pytest.fixture(autouse=True)
def work_in_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))  # no kubeconfig
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("TZ", "UTC")


@contextlib.contextmanager
def running(scenario: str = "forever", name: str = "digits-1") -> Iterator[runner.LocalJob]:
    """The job, once it trains; whatever happens it is gone afterwards."""
    job = runner.start(planned(scenario, job_name=name))
    try:
        assert any(status.phase in RUNNING for status in job.watch()), "the job never trained"
        yield job
    finally:
        job.kill()


def ended(scenario: str = "train", name: str = "digits-1") -> runner.LocalJob:
    """A job that has ended by itself."""
    job = runner.start(planned(scenario, job_name=name))
    for _ in job.watch():
        pass
    return job


def lines_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    """What a command prints."""
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    assert err == "" or code, err
    return (out or err).splitlines()


def test_jobs_lists_the_newest_first_and_marks_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(capsys, "jobs") == ["there are no jobs; edl train --help explains how to start one"]
    ended("model_error", "text-1")
    with running():
        head, first, second = lines_of(capsys, "jobs")
        assert head.split() == ["job", "kind", "where", "phase", "workers", "began"]
        assert first.startswith("●  digits-1  train  local  training  2")
        assert second.split()[:4] == ["text-1", "train", "local", "failed"] and second.endswith("'x' is not defined")
        found = [json.loads(line) for line in lines_of(capsys, "jobs", "--json")]
        assert [each["name"] for each in found] == ["digits-1", "text-1"] and found[0]["phase"] == "training"


def test_status_of_a_running_job(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as job:
        head, bar, summary, *rest = lines_of(capsys, "status", "dig")
        assert head.startswith("digits-1") and head.endswith("training") and bar.endswith("%")
        assert " · step " in summary and any(line.split()[:2] == ["1", "training"] for line in rest)
        told = json.loads("".join(lines_of(capsys, "status", "digits-1", "--json")))
        assert (told["phase"], told["total_steps"], len(told["workers"])) == ("training", 40, 2)
        assert isinstance(told["position"]["step"], int) and told["checkpoint"] is None
        with subprocess.Popen([*EDL, "status", "dig", "--watch", "--json"], stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdout and json.loads(watch.stdout.readline())["phase"] == "training"
            job.stop()
            *_, last = watch.stdout.read().splitlines()
            assert json.loads(last)["phase"] == "stopped" and watch.wait() == 0


def test_a_job_that_has_ended_is_told_from_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    ended()
    head, *screen = lines_of(capsys, "status", "digits-1", "--watch")
    assert head.endswith("done") and any(line.startswith("2 ") and "worker 1 was lost" in line for line in screen)
    assert lines_of(capsys, "wait", "digits-1")[-1].startswith("model in out, logs in ")
    events = lines_of(capsys, "events", "digits-1")
    assert [line[21:] for line in events] == [
        "round 1 with 2 workers begins at step 1",
        "round 2 with 2 workers begins at step 20: worker 1 was lost",
        "round 2: nobody was stepping for 0.17 s",
    ]
    assert sum("loss" in json.loads(line) for line in lines_of(capsys, "events", "dig", "--steps", "--json")) == 40
    for words in (["scale", "digits-1", "3"], ["stop", "digits-1"]):
        assert lines_of(capsys, *words, code=6) == ["error: job digits-1 has ended: done"]


def test_a_job_that_was_killed_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as job:
        os.killpg(job.pid, signal.SIGKILL)
        with pytest.raises(JobFailed):
            job.wait(20)
    assert lines_of(capsys, "jobs")[1].endswith("all its processes were killed")
    status = attach("digits-1").status()
    assert status.position.step >= 1 and len(status.rounds) == 1 and status.num_epochs == 1
    assert "all its processes were killed" in lines_of(capsys, "status", "digits-1")
    [error] = lines_of(capsys, "wait", "digits-1", "--quiet", code=6)
    assert error.startswith("error: all its processes were killed; logs in ")


def test_events_go_on_over_a_restart_of_the_coordinator() -> None:
    runner.start(planned("vanish_once", job_name="digits-1"))
    lines = list(attach("digits-1").events(follow=True, steps=True))
    written = [json.loads(line) for line in JobFolder.of("digits-1", os.environ).history.read_text().splitlines()]
    assert lines == written
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 10)) + list(range(11, 41))


def test_following_the_events_ends_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    runner.start(planned("train", job_name="digits-1"))
    lines = lines_of(capsys, "events", "digits-1", "-f")
    assert lines[-1].strip() == "the job has ended: done" and "round 2" in lines[-2]


def test_waiting_shows_progress_and_has_the_jobs_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    runner.start(planned("train", job_name="digits-1"))
    assert lines_of(capsys, "wait", "digits-1")[-1].startswith("model in out, logs in ")
    runner.start(planned("model_error", job_name="digits-2"))
    [error] = lines_of(capsys, "wait", "digits-2", "--quiet", code=ModelError.exit_code)
    assert error.startswith("error: model_zoo/digits.py:12: NameError: name 'x' is not defined; logs in ")


def test_ctrl_c_ends_the_waiting_and_not_the_job() -> None:
    with running() as job:
        with subprocess.Popen([*EDL, "wait", "dig"], stdout=subprocess.PIPE, text=True) as waits:
            assert waits.stdout and " · step " in waits.stdout.readline()
            waits.send_signal(signal.SIGINT)
            *_, last = waits.communicate(timeout=20)[0].splitlines()
        assert last == "digits-1 goes on; edl wait digits-1 waits again, edl stop digits-1 ends it"
        assert waits.returncode == 130 and job.exit_code is None


def test_the_dashboards_url(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with running() as job:
        assert lines_of(capsys, "dashboard", "dig", code=6)[0].startswith(
            "error: job digits-1: its coordinator serves no dashboard; see "
        )
        folder = JobFolder.of("digits-1", os.environ)
        folder.dashboard.write_text("http://127.0.0.1:8080/")
        url = f"http://127.0.0.1:8080/#token={folder.token.read_text()}"
        with job.dashboard() as found:
            assert found == url
        with subprocess.Popen([*EDL, "dashboard", "dig", "--noopen"], stdout=subprocess.PIPE, text=True) as keeps:
            assert keeps.stdout and keeps.stdout.readline() == f"{url}\n"
            keeps.send_signal(signal.SIGINT)
            assert keeps.wait(20) == 0
        threading.Timer(0.5, job.stop).start()
        assert lines_of(capsys, "dashboard", "dig") == [url, "job digits-1 has ended: stopped, asked to"]
        assert opened == [url]


def test_unknown_jobs_and_slips(capsys: pytest.CaptureFixture[str]) -> None:
    with running():
        for verb in ("status", "logs", "events", "stop", "wait", "dashboard"):
            [error] = lines_of(capsys, verb, "digit-1", code=2)
            assert error.startswith("error: there is no job 'digit-1' in ") and "(did you mean 'digits-1'?)" in error
        assert lines_of(capsys, "status", code=2) == [
            "error: edl status: JOB is missing; edl status --help explains it"
        ]
        assert lines_of(capsys, "logs", "dig", "--worker=x", code=2)[0].startswith("error: --worker: expected a whole")
        assert lines_of(capsys, "jobs", "--backend=yarn", code=2) == [
            "error: --backend: expected local or kubernetes, got 'yarn'"
        ]
        [error] = lines_of(capsys, "logs", "dig", "--worker=7", code=2)
        assert error == "error: job digits-1 has no log of worker 7; there are logs of the coordinator"


WRITER = """
import sys
for line in sys.stdin:
    print(line, end="", flush=True)
print("no line end", end="")
"""


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = JobFolder(tmp_path / "home" / "jobs" / "digits-1")
    made.create("{}", "secret")
    return made


def test_a_log_is_followed_until_its_process_ends(folder: JobFolder) -> None:
    with (
        folder.worker_log(3).open("wb") as log,
        subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=log, text=True) as writer,
    ):
        process = process_of(writer.pid)
        assert process and writer.stdin
        folder.workers.write_text(json.dumps({"next_id": 4, "workers": {"3": vars(process)}}))
        lines = logs.read(folder, 3, lambda seconds: False)
        for text in ("one", "zwei\r", "três"):
            writer.stdin.write(f"{text}\n")
            writer.stdin.flush()
            assert next(lines) == text.rstrip("\r")
        writer.stdin.close()
        assert list(lines) == ["no line end"]
    assert list(logs.read(folder, 3, None)) == ["one", "zwei", "três", "no line end"]
    assert list(logs.read(folder, 3, lambda seconds: False))[-1] == "no line end", "who wrote it has ended long ago"


def test_a_log_that_is_not_there_is_told_with_those_that_are(folder: JobFolder) -> None:
    with pytest.raises(UsageError, match=r"^job digits-1 has no log of the coordinator; there are no logs yet$"):
        logs.read(folder, None, None)
    for path in (folder.coordinator_log, folder.worker_log(0), folder.worker_log(10), folder.worker_log(2)):
        path.touch()
    with pytest.raises(
        UsageError, match=r"no log of worker 1; there are logs of the coordinator and workers 0, 2, 10$"
    ):
        logs.read(folder, 1, None)


def test_bytes_that_are_no_text_do_no_harm(folder: JobFolder) -> None:
    folder.coordinator_log.write_bytes(b"caf\xe9\n\x00\xff")
    assert list(logs.read(folder, None, None)) == ["caf�", "\x00�"]


def test_the_newest_figures_of_an_ended_job(folder: JobFolder) -> None:
    told: list[dict[str, Any]] = [
        {"round": 1, "members": [0], "cause": "start", "kind": "start", "first_step": 1, "time": 100.0},
        {"step": 1, "epoch": 0, "loss": 2.0, "records": 32, "seconds": 0.1, "useful": 0.1},
        {"round": 1, "repeated": 32, "time": 101.0},
        {"checkpoint": 1, "bytes": 10, "seconds": 0.1, "blocked_seconds": 0.0, "time": 102.0},
        {
            "epoch_end": 0,
            "step": 1,
            "figures": {"loss": 2.0, "val_loss": 1.5},
            "seconds": 0.1,
            "stopped": "",
            "time": 103,
        },
        {"skipped": 2, "file": "a", "offset": 0, "first": 1, "error": "bad", "time": 104.0},
    ]
    folder.history.write_text("\n".join(map(json.dumps, told)) + '\n{"cut')
    folder.status.write_text('{"phase": "failed", "message": "it was killed", "exit_code": 6}')
    status = attach("digits-1").status()
    assert (status.phase, status.message, status.position.step, status.loss) == ("failed", "it was killed", 1, 2.0)
    assert (status.checkpoint.step, status.skipped_records, status.training_seconds) == (1, 2, 4.0)
    assert status.rounds[0].repeated_records == 32 and attach("digits-1").figures == {"loss": 2.0, "val_loss": 1.5}


def test_the_history_that_a_job_on_kubernetes_has_left_in_its_output(tmp_path: Path) -> None:
    runs = tmp_path / "out" / "_runs" / "digits-1"
    runs.mkdir(parents=True)
    (runs / "history-000001.jsonl").write_text('{"target": 2}\n{"step": 1, "loss": 2.0}\n{"tar')
    (runs / "history-000002.jsonl").write_text('get": 3}\n{"cut')
    (runs / "status.json").touch()
    output = str(tmp_path / "out")
    assert list(history.recorded(output, "digits-1", steps=False)) == [{"target": 2}, {"target": 3}]
    assert len(list(history.recorded(output, "digits-1", steps=True))) == 3
    for where, told in (
        (output, f"its output, {output}/_runs/text-1, and cannot be read"),
        ("", "its output, if it has"),
    ):
        with pytest.raises(UsageError, match=f"^job text-1 has ended; its history is in {told}"):
            next(history.recorded(where, "text-1", steps=False))
