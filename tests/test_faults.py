"""Nothing that happens to a worker or to the coordinator changes the result: accidents that need more than a kill."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from edl_allreduce import checkpoint
from edl_allreduce.worker.audit import consumed
from tests.jobs import EPOCHS, Hold, Job, Run, Train, assert_done, assert_each_record_once, coordinator_of, left_over

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")
pytestmark = pytest.mark.job


def assert_same_curve(run: Run, calm: Run, first: int = 1) -> None:
    last = max(calm.losses)
    assert first == min(run.losses) < last <= max(run.losses)
    for step in range(first, last + 1):
        assert run.losses[step] == pytest.approx(calm.losses[step], rel=1e-3), step


def everything_of(job: Job) -> list[psutil.Process]:
    launcher = psutil.Process(job.process.pid)
    return [launcher, *launcher.children(recursive=True)]


def rounds_of(job: Job) -> list[dict[str, Any]]:
    return [line for line in job.history() if "cause" in line]


def test_the_coordinator_is_killed_and_nobody_steps_less(train: Train, hold: Hold, calm: Run, records: int) -> None:
    """Twice; and once more together with a worker: then the round without it waits for the next coordinator."""
    job = train(num_workers=3, gather_timeout=60, **hold.flags)
    job.reaches_step(20)
    workers = {id: process.pid for id, process in job.workers().items()}
    for kill in (1, 2, 3):
        before = coordinator_of(job)
        assert before
        before.kill()
        if kill == 3:
            job.workers()[1].kill()
        with hold:
            job.until(lambda: any(line.get("restart") == kill for line in job.history()), f"restart {kill}")  # noqa: B023
        if kill < 3:
            job.reaches_step(job.steps() + 30)
            assert {id: process.pid for id, process in job.workers().items()} == workers
            assert len(rounds_of(job)) == 1  # the round goes on
    with hold:
        job.until(lambda: len(rounds_of(job)) > 1, "round of the survivors")
    run = job.finish()
    assert_done(run)
    assert_each_record_once(run, records, EPOCHS)
    survivors, newest = run.rounds[1]["members"], run.rounds[1]["first_step"] - 1
    assert survivors in ([0, 2], [2, 0])  # rank 0 is one who got the step in which worker 1 died
    assert f'"step": {newest}, "applied": true' in (run.folder / "audit" / f"worker-{survivors[0]}.jsonl").read_text()
    assert sorted(run.losses) == sorted(calm.losses)  # told late, but told
    assert_same_curve(run, calm)
    assert "the coordinator was restarted; the workers train on" in run.text


def test_a_job_that_was_killed_goes_on_from_its_newest_checkpoint(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=2, gather_timeout=60, checkpoint_steps=25)
    output = str(job.home / "output")
    job.until(lambda: (found := checkpoint.newest(output)) and found.position.step >= 50, "checkpoint")
    victims = everything_of(job)
    for process in victims:
        process.kill()
    psutil.wait_procs(victims, timeout=10)  # a large one takes its time to be gone
    job.process.communicate()
    assert left_over(job.home) == []
    saved = checkpoint.newest(output)
    assert saved
    again = train(num_workers=3, gather_timeout=60, output=output, checkpoint_steps=25)
    run = again.finish()
    assert_done(run)
    assert min(run.losses) == saved.position.step + 1  # the very next step
    assert f"round 1 with 3 workers, from the checkpoint at step {saved.position.step}" in run.text
    assert_same_curve(run, calm, saved.position.step + 1)
    steps = [step for step, records in consumed(job.folder / "audit")[0].items() if records]
    assert min(steps) == 1
    epochs = consumed(run.folder / "audit")
    for epoch in range(saved.position.epoch + 1, EPOCHS):
        once = [record for step in epochs[epoch].values() for record in step]
        assert len(once) == len(set(once)) == records
    before = consumed(job.folder / "audit")[saved.position.epoch]
    both = [record for step, these in before.items() if step <= saved.position.step for record in these]
    both += [record for these in epochs[saved.position.epoch].values() for record in these]
    assert len(both) == len(set(both)) == records  # the epoch in the middle of which it was killed
    assert not (Path(output) / "checkpoints").exists()  # the trained model is there


def test_ctrl_c_loses_no_step_and_leaves_no_process(train: Train, hold: Hold, calm: Run, records: int) -> None:
    job = train(num_workers=2, gather_timeout=60, **hold.flags)
    job.reaches_step(40)
    with hold:
        job.interrupt()
        stopped = job.finish()
    assert stopped.code == 130 and "Traceback" not in stopped.text
    assert left_over(job.home) == []
    output = job.home / "output"
    assert not (output / "trained_model.pb").exists()
    saved = checkpoint.newest(str(output))
    assert saved and saved.position.step >= max(stopped.losses)
    assert f"the same command goes on from the checkpoint at step {saved.position.step}" in stopped.text
    _another_training(train, hold, output, records)
    run = train(num_workers=1, output=output, resume="must", **hold.flags).finish()
    assert_done(run)
    assert min(run.losses) == saved.position.step + 1
    assert_same_curve(run, calm, saved.position.step + 1)


def _another_training(train: Train, hold: Hold, output: Path, records: int) -> None:
    """Does not take the checkpoint by accident, and not if told not to; it is one with a batch size per worker."""
    other = train(output=output, batch_size=32, **hold.flags).finish()
    assert other.code == 2
    assert "batch_size was 64, is 32" in other.text and "--resume=never" in other.text
    copy = output.with_name("copy")
    shutil.copytree(output, copy)
    per_worker = {"num_workers": 2, "gather_timeout": 60, "minibatch_size": 50, "batch_size": "none"}
    anew = train(output=copy, num_epochs=2, resume="never", **per_worker).finish()
    assert_done(anew)
    assert_each_record_once(anew, records, 2)
    assert (min(anew.losses), max(anew.losses)) == (1, 2 * -(-records // 100))
    nothing = train(resume="must").finish()
    assert nothing.code == 2 and "--resume=must: there is no complete checkpoint" in nothing.text


def test_the_only_worker_is_told_to_go_and_no_step_is_lost(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=1)
    job.reaches_step(40)
    job.workers()[0].send_signal(signal.SIGTERM)
    run = job.finish()
    assert_done(run)
    assert [(line["members"], line["kind"]) for line in run.rounds] == [([0], "start"), ([1], "left")]
    assert len([line for line in run.lines if "loss" in line]) == len(run.losses)  # none was done again
    assert_each_record_once(run, records, EPOCHS)
    assert_same_curve(run, calm)


def test_all_workers_are_killed_and_training_goes_on_from_the_checkpoint(
    train: Train, hold: Hold, calm: Run, records: int
) -> None:
    job = train(num_workers=2, gather_timeout=60, checkpoint_steps=150, **hold.flags)
    job.until(lambda: any(line.get("checkpoint", 0) >= 150 for line in job.history()), "checkpoint")
    with hold:
        job.reaches_step(152)
        for worker in job.workers().values():
            worker.kill()
    run = job.finish()
    assert_done(run)
    assert run.rounds[1]["first_step"] in (151, 301) and "training goes on from step" in run.rounds[1]["cause"]
    assert_each_record_once(run, records, EPOCHS)
    assert_same_curve(run, calm)


def test_a_stopped_worker_and_one_in_an_endless_loop_are_found(
    train: Train, tmp_path: Path, hold: Hold, calm: Run, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are dropped, and replaced: the first one before the second one hangs."""
    trouble = tmp_path / "trouble"
    monkeypatch.setenv("TROUBLE", str(trouble))
    flags = hold.flags | {"model_def": "troubled.Looping"}
    job = train(num_workers=2, gather_timeout=60, worker_timeout=1.5, **flags)
    job.reaches_step(20)
    job.workers()[1].send_signal(signal.SIGSTOP)
    with hold:
        job.until(lambda: len(rounds_of(job)) > 1 and len(rounds_of(job)[-1]["members"]) == 2, "a replacement")
    job.reaches_step(job.steps() + 20)
    trouble.touch()
    job.until(lambda: len(rounds_of(job)) > 3, "round without the worker that loops")
    run = job.finish()
    assert_done(run)
    assert [round["kind"] for round in run.rounds[:4]] == ["start", "hung", "joined", "hung"]
    assert run.rounds[1]["cause"] == "worker 1 was silent for 1.5 s" and run.rounds[1]["members"] == [0]
    assert "has been computing for" in run.rounds[3]["cause"] and len(run.rounds[3]["members"]) == 1
    assert_each_record_once(run, records, EPOCHS)
    assert_same_curve(run, calm)


def test_a_slow_worker_gets_fewer_lanes(
    train: Train, tmp_path: Path, calm: Run, records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    monkeypatch.setenv("TROUBLE", str(trouble))
    flags = {"model_zoo": "tests/zoo", "model_def": "troubled.Slow", "num_epochs": 2 * EPOCHS}
    job = train(num_workers=2, gather_timeout=60, **flags)
    job.reaches_step(40)
    command = [sys.executable, "-m", "edl_allreduce.launch", "scale", job.folder.name, "3"]
    assert psutil.Popen(command, env=os.environ | {"EDL_HOME": str(job.home)}).wait() == 0
    job.until(lambda: rounds_of(job)[-1]["kind"] == "joined", "round of 3")
    trouble.unlink()
    run = job.finish()
    assert_done(run)
    joined = next(line for line in run.rounds if line["kind"] == "joined")
    lanes = dict(zip(joined["members"], joined["lanes"], strict=True))
    assert lanes[1] < 0.8 * lanes[0], lanes
    assert_each_record_once(run, records, 2 * EPOCHS)
    assert_same_curve(run, calm)


def test_bad_records_are_left_out_and_listed(train: Train, tmp_path: Path, digits: Path, records: int) -> None:
    from edl_allreduce import recordio

    data = tmp_path / "data"
    data.mkdir()
    for file in digits.glob("train/*.recordio"):
        (data / file.name).write_bytes(file.read_bytes())
    victim = sorted(data.iterdir())[-1]
    chunk = recordio.index(str(victim))[2]
    damaged = bytearray(victim.read_bytes())
    damaged[chunk.offset + 40] ^= 0xFF
    victim.write_bytes(damaged)
    run = train(data=f"{data}/*.recordio", num_workers=2, num_epochs=2, on_bad_record="skip").finish()
    assert_done(run)
    skipped = [line for line in run.lines if "skipped" in line]
    assert [(line["file"], line["offset"], line["skipped"]) for line in skipped] == [
        (str(victim), chunk.offset, chunk.records)
    ]
    assert_each_record_once(run, records - chunk.records, 2)
    assert f"{chunk.records} records left out as bad" in run.text
