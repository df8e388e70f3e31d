"""The main job, end to end, as a user runs it: real processes, real Horovod, real data, real accidents."""

from __future__ import annotations

import json
import random
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edl_allreduce import recordio
from tests.jobs import (
    BATCH,
    EPOCHS,
    REPOSITORY,
    Hold,
    Job,
    Run,
    Train,
    assert_done,
    assert_each_record_once,
    digits_job,
    left_over,
    weights,
)

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")
pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path, calm: Run) -> dict[int, Run]:
    """Runs of 1, 2 and 3 workers with the same seed and batch size, nothing happening to them."""
    runs = {1: calm}
    for workers in (2, 3):
        home = tmp_path_factory.mktemp(f"workers{workers}")
        runs[workers] = digits_job(home, digits, num_workers=workers, gather_timeout=60).finish()
        assert_done(runs[workers])
    return runs


def test_the_number_of_workers_does_not_change_the_result(undisturbed: dict[int, Run], records: int) -> None:
    steps = EPOCHS * -(-records // BATCH)
    assert steps >= 200
    for workers, run in undisturbed.items():
        assert [len(round["members"]) for round in run.rounds] == [workers]
        assert sorted(run.losses) == list(range(1, steps + 1))
        assert_each_record_once(run, records, EPOCHS)
        for step in range(1, 201):
            assert run.losses[step] == pytest.approx(undisturbed[1].losses[step], rel=1e-3)
        for name, value in weights(run).items():
            np.testing.assert_allclose(value, weights(undisturbed[1])[name], rtol=1e-2, atol=2e-4, err_msg=name)


def test_the_bundle_holds_what_predict_will_need(undisturbed: dict[int, Run]) -> None:
    from edl_allreduce import trained_model

    output = undisturbed[2].folder.parent.parent / "output"
    loaded = trained_model.load(str(output))
    assert loaded.message.model_def == "digits.Classifier"
    assert {path.name for path in output.iterdir()} >= {
        "trained_model.pb",
        loaded.message.params_filename,
        "model.keras",
    }


def rounds_of(job: Job) -> list[dict[str, Any]]:
    return [line for line in job.history() if "cause" in line]


def test_killed_workers_change_nothing(train: Train, hold: Hold, calm: Run, records: int) -> None:
    """3 workers, `kill -9` of one at a random moment, twice, each when the replacement trains; and what that costs."""
    kills, seed = 2, 20261122
    chance = random.Random(seed)
    job = train(num_workers=3, gather_timeout=60, **hold.flags)
    for killed in range(kills):

        def full(after: int = killed) -> bool:
            rounds = rounds_of(job)
            return len(rounds) > 2 * after and len(rounds[-1]["members"]) == 3

        with hold:
            job.until(full, f"round of 3 after {killed} kills (seed {seed})")
        job.reaches_step(job.steps() + chance.randint(1, 12))
        job.workers()[chance.choice(rounds_of(job)[-1]["members"])].send_signal(signal.SIGKILL)
        job.until(lambda: len(rounds_of(job)[-1]["members"]) == 2, "a round of the survivors")
    run = job.finish()
    assert_done(run)
    assert_each_record_once(run, records, EPOCHS)
    assert sorted(run.losses) == list(range(1, EPOCHS * -(-records // BATCH) + 1))
    assert len([line for line in run.lines if "loss" in line]) == len(run.losses)  # no step was done again
    assert len(run.pauses) >= kills and statistics.median(run.pauses) < 1.0, run.pauses
    for step, loss in calm.losses.items():
        assert run.losses[step] == pytest.approx(loss, rel=1e-3), step
    for name, value in weights(run).items():
        np.testing.assert_allclose(value, weights(calm)[name], rtol=1e-2, atol=2e-4, err_msg=name)
    assert_says_what_was_lost(run)


def assert_says_what_was_lost(run: Run) -> None:
    """Every round says why it began, and the end how much time was useful."""
    assert {line["kind"] for line in run.rounds} >= {"start", "lost", "joined"}
    assert any(0 < line["repeated"] <= BATCH for line in run.lines if "repeated" in line)  # an epoch's last is smaller
    goodput = json.loads((run.folder / "status.json").read_text())["goodput"]
    assert 0 < goodput["useful_seconds"] < goodput["wall_seconds"]
    assert any(lost["kind"] == "lost" and lost["seconds"] > 0 for lost in goodput["lost"])
    assert "goodput: " in run.text and "lost 2 × " in run.text


def test_a_worker_that_is_told_to_go_costs_nothing(train: Train, undisturbed: dict[int, Run], records: int) -> None:
    job = train(num_workers=2, gather_timeout=60)
    job.reaches_step(20)
    process = job.workers()[1]
    process.send_signal(signal.SIGTERM)
    run = job.finish()
    assert_done(run)
    assert_each_record_once(run, records, EPOCHS)
    assert run.rounds[1]["cause"] == "worker 1 left" and run.rounds[1]["members"] == [0]
    assert max(abs(run.losses[step] / undisturbed[2].losses[step] - 1) for step in range(1, 201)) < 1e-3
    log = (run.folder / "logs" / "worker-1.log").read_text()
    assert "told to go" in log and "Traceback" not in log


def test_scaling_from_python(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import launcher

    monkeypatch.setenv("EDL_HOME", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    job = launcher.train(
        model_zoo="model_zoo",
        model_def="digits.Classifier",
        data=f"{digits}/train/*.recordio",
        output=tmp_path / "output",
        num_epochs="1000",  # strings will do: SQL has nothing else
        params="hidden_units=32, learning_rate=0.005",
        wait=False,
        quiet=True,
    )
    assert job is not None

    def sizes() -> Iterator[int]:
        for status in job.watch():
            yield len([worker for worker in status.workers if worker.rank >= 0])

    assert next(size for size in sizes() if size) == 1
    job.scale(2)
    assert next(size for size in sizes() if size != 1) in (0, 2)
    next(size for size in sizes() if size == 2)
    job.scale(1)
    next(size for size in sizes() if size == 1)
    assert job.status().position.step > 0
    causes = [each.cause for each in job.status().rounds]
    job.stop()
    assert causes == ["start", "worker 1 joined", "worker 1 left"]
    assert job.exit_code == 6 and left_over(tmp_path) == []


BROKEN_MODEL = """
import tensorflow as tf
import keras
from model_zoo.digits import Classifier as Good


class Classifier(Good):
    def call(self, inputs):
        {line}
        return super().call(inputs)
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise ValueError('seven is not a digit')", "broken.py:9 in call: ValueError: seven is not a digit"),
        (
            "tf.debugging.assert_less(tf.reduce_max(inputs), -1.0, 'too bright')",
            "broken.py:9 in call: InvalidArgumentError",
        ),
    ],
)
def test_an_error_of_the_model_ends_the_job_with_its_line(train: Train, tmp_path: Path, line: str, told: str) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    (zoo / "broken.py").write_text(BROKEN_MODEL.format(line=line))
    run = train(model_zoo=zoo, model_def="broken.Classifier", num_workers=2).finish()
    assert run.code == 5
    error = [text for text in run.text.splitlines() if text.startswith("error:")]
    assert len(error) == 1 and told in error[0], run.text
    assert "Traceback" not in run.text
    assert left_over(run.folder.parent.parent) == []


def test_a_damaged_file_ends_the_job_with_file_and_offset(train: Train, tmp_path: Path, digits: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in digits.glob("train/*.recordio"):
        (data / file.name).write_bytes(file.read_bytes())
    victim = sorted(data.iterdir())[-1]
    chunk = recordio.index(str(victim))[2]
    damaged = bytearray(victim.read_bytes())
    damaged[chunk.offset + 40] ^= 0xFF
    victim.write_bytes(damaged)
    run = train(data=f"{data}/*.recordio", num_workers=2).finish()
    assert run.code == 4, run.text
    assert f"{victim}, offset {chunk.offset}: " in run.text and "checksum" in run.text
