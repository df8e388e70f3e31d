"""The commands on jobs, on a real one: what its own coordinator and workers say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

from launcher.cli import main
from tests.jobs import Job, Train

EDL = [sys.executable, "-m", "edl_allreduce.launch"]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The events so far."""
    return [json.loads(line) for line in printed(capsys, "events", "digits", "--json").splitlines()]


def test_a_real_job(
    train: Train, digits: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Job = train(num_workers=2, num_epochs=2000, gather_timeout=60, validation_data=f"{digits}/test/*.recordio")
    monkeypatch.setenv("EDL_HOME", str(job.home))
    monkeypatch.setenv("EDL_BACKEND", "local")
    job.reaches_step(30)
    with (
        subprocess.Popen([*EDL, "events", "digits", "-f"], stdout=subprocess.PIPE, text=True) as events,
        subprocess.Popen([*EDL, "logs", "digits", "--worker=1", "-f"], stdout=subprocess.PIPE, text=True) as log,
    ):
        assert events.stdout and log.stdout
        assert events.stdout.readline()[21:].startswith("round 1 with ")
        printed(capsys, "scale", "digits", "1")
        gone = next(line for line in events.stdout if "round 2 " in line)
        assert gone[21:].startswith("round 2 with 1 worker begins at step ") and gone.endswith(" has gone)\n")
        leaver = gone.split(" has gone")[0].rsplit(" ", 1)[1]
        assert any(line.get("target") == 1 for line in told(capsys)) and all("time" in line for line in told(capsys))
        status = json.loads(printed(capsys, "status", "digits", "--json"))
        assert (status["phase"], status["target_workers"], status["round"]) == ("training", 1, 2)
        screen = printed(capsys, "status", "digits")
        assert f"worker {leaver} left" in screen and "val_accuracy" in screen
        assert (
            printed(capsys, "stop", "digits")
            .splitlines()[-1]
            .startswith("the same command goes on from the checkpoint")
        )
        assert events.stdout.read().splitlines()[-1].strip().startswith("the job has ended: stopped")
        assert log.stdout.read() and (log.wait(20), events.wait(20)) == (0, 0)
    assert job.finish().code == 6
    steps = [json.loads(line) for line in printed(capsys, "events", "digits", "--json", "--steps").splitlines()]
    assert [line["step"] for line in steps if "loss" in line][:30] == list(range(1, 31))
    assert "stopped" in printed(capsys, "jobs").splitlines()[1] and "stopping" in printed(capsys, "logs", "digits")
