"""Nothing that happens to a worker or to the coordinator changes the result: accidents that need more than a kill."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from edl_allreduce import checkpoint
from edl_allreduce.worker.audit import consumed
from tests.jobs import BATCH, EPOCHS, Job, Run, Train, assert_done, assert_each_record_once, coordinator_of, left_over

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")
pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Run:
    """One worker to which nothing happens, long enough for every test here."""
    home = tmp_path_factory.mktemp("calm")
    flags = {
        "model_zoo": "model_zoo",
        "model_def": "digits.Classifier",
        "data": f"{digits}/train/*.recordio",
        "output": home / "output",
        "num_epochs": 6 * EPOCHS,
        "batch_size": BATCH,
    }
    run = Job(home, flags).finish()
    assert_done(run)
    return run


def assert_same_curve(run: Run, calm: Run, first: int = 1) -> None:
    last = min(max(run.losses), max(calm.losses), 400)
    assert last > first and sorted(run.losses)[0] <= first
    for step in range(first, last + 1):
        assert run.losses[step] == pytest.approx(calm.losses[step], rel=1e-3), step


def everything_of(job: Job) -> list[psutil.Process]:
    launcher = psutil.Process(job.process.pid)
    return [launcher, *launcher.children(recursive=True)]


def rounds_of(job: Job) -> list[dict[str, Any]]:
    return [line for line in job.history() if "cause" in line]


def test_the_coordinator_is_killed_and_nobody_steps_less(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=2, gather_timeout=60, num_epochs=4 * EPOCHS)
    job.reaches_step(20)
    workers = {id: process.pid for id, process in job.workers().items()}
    for kill in (1, 2):
        before = coordinator_of(job)
        assert before
        before.kill()
        job.until(lambda: any(line.get("restart") == kill for line in job.history()), f"restart {kill}")  # noqa: B023
        job.reaches_step(job.steps() + 30)
    assert {id: process.pid for id, process in job.workers().items()} == workers
    run = job.finish()
    assert_done(run)
    assert_each_record_once(run, records, 4 * EPOCHS)
    assert len(run.rounds) == 1  # the round went on
    assert sorted(run.losses) == list(range(1, 4 * EPOCHS * -(-records // BATCH) + 1))  # told late, but told
    assert_same_curve(run, calm)
    assert "the coordinator was restarted; the workers train on" in run.text


def test_a_worker_and_the_coordinator_die_together(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=3, gather_timeout=60, num_epochs=6 * EPOCHS)
    job.reaches_step(20)
    coordinator = coordinator_of(job)
    assert coordinator
    coordinator.kill()
    job.workers()[1].kill()
    job.until(lambda: len(rounds_of(job)[-1]["members"]) == 2, "round of the survivors")
    run = job.finish()
    assert_done(run)
    assert_each_record_once(run, records, 6 * EPOCHS)
    assert run.rounds[1]["members"] == [0, 2]
    assert_same_curve(run, calm)


def test_a_job_that_was_killed_goes_on_from_its_newest_checkpoint(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=2, gather_timeout=60, num_epochs=3 * EPOCHS, checkpoint_steps=25)
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
    again = train(num_workers=3, gather_timeout=60, num_epochs=3 * EPOCHS, output=output, checkpoint_steps=25)
    run = again.finish()
    assert_done(run)
    assert min(run.losses) == saved.position.step + 1  # the very next step
    assert f"round 1 with 3 workers, from the checkpoint at step {saved.position.step}" in run.text
    assert_same_curve(run, calm, saved.position.step + 1)
    steps = [step for step, records in consumed(job.folder / "audit")[0].items() if records]
    assert min(steps) == 1
    epochs = consumed(run.folder / "audit")
    for epoch in range(saved.position.epoch + 1, 3 * EPOCHS):
        once = [record for step in epochs[epoch].values() for record in step]
        assert len(once) == len(set(once)) == records
    before = consumed(job.folder / "audit")[saved.position.epoch]
    both = [record for step, these in before.items() if step <= saved.position.step for record in these]
    both += [record for these in epochs[saved.position.epoch].values() for record in these]
    assert len(both) == len(set(both)) == records  # the epoch in the middle of which it was killed
    assert not (Path(output) / "checkpoints").exists()  # the trained model is there


def test_ctrl_c_loses_no_step(train: Train, calm: Run) -> None:
    job = train(num_workers=2, gather_timeout=60, num_epochs=3 * EPOCHS)
    job.reaches_step(40)
    job.interrupt()
    stopped = job.finish()
    assert stopped.code == 130
    saved = checkpoint.newest(str(job.home / "output"))
    assert saved and saved.position.step >= max(stopped.losses)
    assert f"the same command goes on from the checkpoint at step {saved.position.step}" in stopped.text
    again = train(num_workers=1, num_epochs=3 * EPOCHS, output=job.home / "output", resume="must")
    run = again.finish()
    assert_done(run)
    assert min(run.losses) == saved.position.step + 1
    assert_same_curve(run, calm, saved.position.step + 1)


def test_another_trainings_checkpoint_is_not_taken_by_accident(train: Train) -> None:
    job = train(num_epochs=100)
    job.reaches_step(5)
    job.interrupt()
    job.finish()
    output = job.home / "output"
    other = train(output=output, batch_size=32).finish()
    assert other.code == 2
    assert "batch_size was 64, is 32" in other.text and "--resume=never" in other.text
    anew = train(output=output, batch_size=32, num_epochs=1, resume="never").finish()
    assert_done(anew)
    assert min(anew.losses) == 1
    nothing = train(resume="must").finish()
    assert nothing.code == 2 and "--resume=must: there is no complete checkpoint" in nothing.text


def test_the_only_worker_is_told_to_go_and_no_step_is_lost(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=1, num_epochs=3 * EPOCHS)
    job.reaches_step(40)
    job.workers()[0].send_signal(signal.SIGTERM)
    run = job.finish()
    assert_done(run)
    assert [(line["members"], line["kind"]) for line in run.rounds] == [([0], "start"), ([1], "left")]
    assert len([line for line in run.lines if "loss" in line]) == len(run.losses)  # none was done again
    assert_each_record_once(run, records, 3 * EPOCHS)
    assert_same_curve(run, calm)


def test_all_workers_are_killed_and_training_goes_on_from_the_checkpoint(train: Train, calm: Run, records: int) -> None:
    job = train(num_workers=2, gather_timeout=60, num_epochs=3 * EPOCHS, checkpoint_steps=150)
    job.until(lambda: any(line.get("checkpoint", 0) >= 150 for line in job.history()), "checkpoint")
    job.reaches_step(170)
    for worker in job.workers().values():
        worker.kill()
    run = job.finish()
    assert_done(run)
    assert run.rounds[1]["first_step"] in (151, 301) and "training goes on from step" in run.rounds[1]["cause"]
    assert_each_record_once(run, records, 3 * EPOCHS)
    assert_same_curve(run, calm)


def test_an_endless_loop_in_the_users_code_is_found(train: Train, tmp_path: Path, calm: Run, records: int) -> None:
    trouble = tmp_path / "trouble"
    os.environ["TROUBLE"] = str(trouble)
    try:
        job = train(
            num_workers=3,
            gather_timeout=60,
            num_epochs=6 * EPOCHS,
            worker_timeout=1.5,
            model_zoo="tests/zoo",
            model_def="troubled.Looping",
        )
    finally:
        del os.environ["TROUBLE"]
    job.reaches_step(30)
    trouble.touch()
    job.until(lambda: len(rounds_of(job)) > 1, "round without the worker that loops")
    run = job.finish()
    assert_done(run)
    assert "has been computing for" in run.rounds[1]["cause"] and run.rounds[1]["kind"] == "hung"
    assert len(run.rounds[1]["members"]) == 2
    assert_each_record_once(run, records, 6 * EPOCHS)
    assert_same_curve(run, calm)


def test_a_slow_worker_gets_fewer_lanes(train: Train, calm: Run, records: int) -> None:
    job = train(
        num_workers=2, gather_timeout=60, num_epochs=3 * EPOCHS, model_zoo="tests/zoo", model_def="troubled.Slow"
    )
    job.reaches_step(60)
    command = [sys.executable, "-m", "edl_allreduce.launch", "scale", job.folder.name, "3"]
    assert psutil.Popen(command, env=os.environ | {"EDL_HOME": str(job.home)}).wait() == 0
    run = job.finish()
    assert_done(run)
    joined = next(line for line in run.rounds if line["kind"] == "joined")
    lanes = dict(zip(joined["members"], joined["lanes"], strict=True))
    assert lanes[1] < 0.8 * lanes[0], lanes
    assert_each_record_once(run, records, 3 * EPOCHS)
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


def test_every_round_says_why_it_began_and_goodput_is_told(train: Train) -> None:
    job = train(num_workers=2, gather_timeout=60, num_epochs=6 * EPOCHS)
    job.reaches_step(20)
    job.workers()[1].kill()
    run = job.finish()
    assert_done(run)
    assert {line["kind"] for line in run.rounds} >= {"start", "lost"}
    assert any(0 < line["repeated"] <= BATCH for line in run.lines if "repeated" in line)  # an epoch's last is smaller
    status = json.loads((run.folder / "status.json").read_text())
    goodput = status["goodput"]
    assert 0 < goodput["useful_seconds"] < goodput["wall_seconds"]
    assert any(lost["kind"] == "lost" and lost["seconds"] > 0 for lost in goodput["lost"])
    assert "goodput: " in run.text and "lost 1 × " in run.text
