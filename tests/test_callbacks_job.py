"""Keras callbacks in a real job: the same calls, logs and decisions as under `fit`, whatever happens to rank 0."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jobs import REPOSITORY, Job, Run, assert_done, weights

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

EPOCHS, BATCH, SEED = 40, 128, 3


def flags(home: Path, digits: Path, **more: Any) -> dict[str, Any]:
    return {
        "model_zoo": ".",
        "model_def": "tests.zoo.watched.Watched",
        "params": f"notes='{home}/notes', steps_too={more.pop('steps_too', False)}, pause={more.pop('pause', 0.0)}",
        "data": f"{digits}/train/*.recordio",
        "validation_data": f"{digits}/test/*.recordio",
        "output": home / "output",
        "num_epochs": EPOCHS,
        "batch_size": BATCH,
        "seed": SEED,
        "gather_timeout": 60,
    } | more


def notes_of(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "notes").read_text().splitlines()]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """What plain `fit` notes, on the same records in the same order, and its weights in the end."""
    import keras
    import tensorflow as tf

    from edl_allreduce import contracts, recordio
    from edl_allreduce.dataset import make_dataset
    from edl_allreduce.position import Position
    from edl_allreduce.spec import ModelSpec
    from edl_allreduce.worker.reader import Share, StepReader
    from model_zoo.data import records_of
    from tests.reading import steps_of

    home = tmp_path_factory.mktemp("fit")
    spec = ModelSpec(str(REPOSITORY), "tests.zoo.watched.Watched", f"notes='{home}/notes', steps_too=True")
    keras.utils.set_random_seed(SEED)
    training = contracts.load(spec)
    files = [str(file) for file in sorted(digits.glob("train/*.recordio"))]
    dataset = make_dataset(files, recordio.index_many(files), 4096)
    reader = StepReader(dataset, SEED, True, EPOCHS)

    def batches() -> Iterator[Any]:
        for _, records in steps_of(reader, Share(Position(), tuple(range(dataset.lanes)), BATCH)):
            yield training.parse_batch(tf.constant(records))

    held_out = records_of([f"{digits}/test/*.recordio"])
    training.build()
    model = training.model
    model.compile(
        optimizer=training.optimizer,
        loss=lambda labels, outputs: model.default_loss(tf.cast(labels, tf.int64), outputs),
        metrics=["accuracy"],
    )
    data = tf.data.Dataset.from_generator(batches, output_signature=tuple(training.input.element_spec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Keras's and NumPy's affair
        model.fit(
            data,
            epochs=EPOCHS,
            steps_per_epoch=-(-dataset.records // BATCH),
            validation_data=held_out.batch(256).map(training.parse_batch),
            callbacks=list(training.callbacks),
            shuffle=False,
            verbose=0,
        )
    return notes_of(home), [each.numpy() for each in model.weights]


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    assert (ours["hook"], ours["number"]) == (theirs["hook"], theirs["number"])
    assert ours["logs"].keys() == theirs["logs"].keys(), ours["hook"]
    for name, value in theirs["logs"].items():
        assert ours["logs"][name] == pytest.approx(value, rel=tolerance, abs=tolerance), (ours["hook"], name)
    assert ours["rate"] == pytest.approx(theirs["rate"]), ours


def assert_same_weights(run: Run, theirs: list[Any], tolerance: float) -> None:
    for (name, value), expected in zip(weights(run).items(), theirs, strict=True):
        np.testing.assert_allclose(value, expected, rtol=10 * tolerance, atol=tolerance, err_msg=name)


def _await_another_round(job: Job, than: int) -> None:
    job.until(lambda: len([line for line in job.history() if "cause" in line]) > than, "the next round")


def test_one_worker_makes_the_calls_that_fit_makes(tmp_path: Path, digits: Path, fitted: Any) -> None:
    theirs, final = fitted
    job = Job(tmp_path, flags(tmp_path, digits, steps_too=True))
    run = job.finish()
    assert_done(run)
    ours = notes_of(tmp_path)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other, 1e-4)
    ends = [each for each in ours if each["hook"] == "epoch_end"]
    assert 5 < len(ends) < EPOCHS, "early stopping is part of what is compared"
    assert len({each["rate"] for each in ends}) > 2, "and so are changed learning rates"
    assert "EarlyStopping has ended training" in run.text
    assert_same_weights(run, final, 1e-3)


def test_the_next_rank_0_goes_on_where_the_last_one_was(tmp_path: Path, digits: Path, fitted: Any) -> None:
    """3 workers; rank 0 is killed in the middle of an epoch's end, and once more at any time."""
    theirs = [each for each in fitted[0] if each["hook"] == "epoch_end"]
    job = Job(tmp_path, flags(tmp_path, digits, num_workers=3, pause=0.4))

    def rounds() -> list[dict[str, Any]]:
        return [line for line in job.history() if "cause" in line]

    def newest_note() -> dict[str, Any]:
        return notes_of(tmp_path)[-1] if (tmp_path / "notes").exists() else {"hook": ""}

    job.until(lambda: rounds() and len(rounds()[-1]["members"]) == 3, "a round of 3")
    for moment in ("in the middle of an epoch's end", "epochs later"):
        if moment == "epochs later":
            job.until(lambda: any(line.get("epoch_end") == 5 for line in job.history()), moment)
        else:
            job.until(lambda: newest_note()["hook"] == "epoch_end", moment)
        before = rounds()
        job.workers()[before[-1]["members"][0]].send_signal(signal.SIGKILL)
        _await_another_round(job, len(before))
    run = job.finish()
    assert_done(run)
    told = {line["epoch_end"]: line for line in run.lines if "epoch_end" in line}
    done = {each["number"]: each for each in notes_of(tmp_path) if each["hook"] == "epoch_end"}
    assert sorted(done) == [each["number"] for each in theirs]
    for expected in theirs:
        assert done[expected["number"]]["seen"] == expected["number"] + 1, "memory has travelled"
        assert_same(done[expected["number"]], expected, 1e-3)
    assert told[max(told)]["stopped"] == "EarlyStopping has ended training"
    assert_same_weights(run, fitted[1], 1e-3)
