"""Checkpoints while training goes on: they hold their own step's state, hold nobody up, and outlive a failing disk."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import checkpoint, storage
from edl_allreduce.errors import StorageError
from edl_allreduce.position import Position
from edl_allreduce.storage_retry import PassingError
from edl_allreduce.worker.checkpointer import Checkpointer, Done
from tests import checkpoint_writer, clouds
from tests.disks import enlarge, full_disk
from tests.faulty import Faulty

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

Make = Callable[..., Checkpointer]


@pytest.fixture
def done() -> queue.SimpleQueue[Done]:
    return queue.SimpleQueue()


@pytest.fixture
def make(done: queue.SimpleQueue[Done]) -> Iterator[Make]:
    made = []

    def make(variables: Any, output: object, pauses: tuple[float, ...] = (), keep: int = 3) -> Checkpointer:
        made.append(Checkpointer(variables, str(output), checkpoint_writer.origin(), keep, done.put, pauses))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert not each._thread.is_alive()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing begins only when this is set."""
    gate, write = threading.Event(), checkpoint.write

    def held(*arguments: Any) -> checkpoint.Checkpoint:
        assert gate.wait(60)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write", held)
    return gate


def at(step: int) -> Position:
    return Position(step, 0, step)


def read(output: object, variables: Any) -> Position:
    newest = checkpoint.newest(str(output))
    assert newest is not None
    return checkpoint.read(newest.url, variables)


def values(variables: Any) -> list[Any]:
    return [variable.numpy() for variable in variables]


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_state_is_that_of_its_step_while_training_goes_on(
    tmp_path: Path, make: Make, done: queue.SimpleQueue[Done], gate: threading.Event
) -> None:
    """Adam's slots and moving statistics included; and a training that resumes from it goes the very same way."""
    pytest.importorskip("horovod", reason="Horovod is not installed")
    from edl_allreduce.worker.ring import Ring
    from edl_allreduce.worker.step import TrainStep
    from tests import ring_member

    def make_step() -> TrainStep:
        training = ring_member.make_training(ring_member.make_model())
        return TrainStep(replace(training, optimizer=keras.optimizers.Adam(0.01)))

    step, ring = make_step(), Ring("127.0.0.1", spared=0)
    batches = [(tf.constant(x), tf.constant(y)) for x, y in ring_member.batches(rows=ring_member.BATCH)]
    ring.join()
    checkpointer = make(step.variables, tmp_path)
    for batch in batches[:4]:
        step.train(*batch, part=False)
    captured = values(step.variables)
    checkpointer.save(at(4))
    later = [step.train(*batch, part=False).loss for batch in batches[4:]]
    changed = [v.path for v, old in zip(step.variables, captured, strict=True) if (v.numpy() != old).any()]
    for part in ("dense/kernel", "kernel_momentum", "kernel_velocity", "moving_variance", "iteration"):
        assert any(re.sub(r"_\d+/", "/", path).endswith(part) for path in changed), part
    gate.set()
    assert done.get(timeout=60).error == ""
    other = make_step()
    assert read(tmp_path, other.variables) == at(4)
    assert_same(values(other.variables), captured)
    assert [other.train(*batch, part=False).loss for batch in batches[4:]] == later
    assert_same(values(other.variables), values(step.variables))
    ring.leave()


def test_no_way_of_changing_a_variable_reaches_what_was_captured(
    tmp_path: Path, make: Make, done: queue.SimpleQueue[Done], gate: threading.Event
) -> None:
    variables = [keras.Variable(np.arange(12, dtype=np.float32).reshape(4, 3) + i, name=f"v{i}") for i in range(6)]
    variables[5].value.scatter_nd_update([[3]], tf.zeros([1, 3]))  # from now on TensorFlow copies it when it is read
    captured = values(variables)
    checkpointer = make(variables, tmp_path)
    checkpointer.save(at(1))
    variables[0].assign(np.ones([4, 3]))
    variables[1].assign_add(np.ones([4, 3]))
    variables[2].value.scatter_nd_add([[1]], tf.ones([1, 3]))
    variables[3].value.batch_scatter_update(tf.IndexedSlices([[7.0], [7.0], [7.0], [7.0]], [[0], [0], [0], [0]]))
    tf.raw_ops.ResourceApplyGradientDescent(var=variables[4].value.handle, alpha=1.0, delta=tf.ones([4, 3]))
    variables[5].value.scatter_nd_update([[0]], tf.ones([1, 3]))
    changed = values(variables)
    assert all((new != old).any() for new, old in zip(changed, captured, strict=True))
    gate.set()
    assert done.get(timeout=60).error == ""
    assert checkpointer.restore(checkpoint.url_of(str(tmp_path), at(1))) == at(1)
    assert_same(values(variables), captured)


def test_nothing_is_copied_and_nobody_waits(tmp_path: Path, make: Make, gate: threading.Event) -> None:
    variable = keras.Variable(np.zeros([4 << 20], np.float32))
    checkpointer = make([variable], tmp_path)
    (reference,) = checkpointer._capture()
    address = np.asarray(variable.value.read_value()).ctypes.data
    assert np.asarray(reference).ctypes.data == address
    began = time.monotonic()
    for step in range(10):
        checkpointer.save(at(step))
    assert time.monotonic() - began < 1.0 and not checkpointer.wait(0)
    gate.set()
    assert checkpointer.wait(60)


def test_the_newest_wish_is_next_and_those_between_are_dropped(
    tmp_path: Path, make: Make, done: queue.SimpleQueue[Done], gate: threading.Event
) -> None:
    variable = keras.Variable(np.zeros([2], np.float32), name="v")
    checkpointer = make([variable], tmp_path)
    for step in (1, 2, 3):
        variable.assign([step, step])
        checkpointer.save(at(step))
        while step == 1 and checkpointer._waiting is not None:  # the first one has to be begun
            os.sched_yield()
    variable.assign([9.0, 9.0])
    gate.set()
    assert checkpointer.wait(60)
    reports = [done.get(timeout=1), done.get(timeout=1)]
    assert [each.position for each in reports] == [at(1), at(3)] and done.empty()
    assert all(each.error == "" and each.bytes > 8 and each.seconds > each.blocked_seconds >= 0 for each in reports)
    for step in (1, 3):
        checkpointer.restore(checkpoint.url_of(str(tmp_path), at(step)))
        assert variable.numpy().tolist() == [step, step]


def test_only_the_newest_are_kept(tmp_path: Path, make: Make, done: queue.SimpleQueue[Done]) -> None:
    checkpointer = make([keras.Variable(1.0)], tmp_path, keep=2)
    for step in range(1, 6):
        checkpointer.save(at(step))
        assert done.get(timeout=60).position == at(step)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-000000004", "step-000000005"]


def test_a_disk_that_was_full_for_a_while(tmp_path: Path, make: Make, done: queue.SimpleQueue[Done]) -> None:
    variable = keras.Variable(np.ones([100_000], np.float32))
    with full_disk(tmp_path / "disk", kibibytes=512) as disk:
        checkpointer = make([variable], disk, pauses=(0.2,) * 100, keep=1)
        checkpointer.save(at(1))
        assert done.get(timeout=60).error == ""
        checkpointer.save(at(2))
        variable.assign(np.zeros([100_000]))
        with pytest.raises(queue.Empty):
            done.get(timeout=0.5)
        enlarge(disk, kibibytes=2048)
        report = done.get(timeout=60)
        assert report.position == at(2) and report.error == "" and report.bytes > 400_000
        assert read(disk, [variable]) == at(2) and variable.numpy().all()
        assert os.listdir(disk / "checkpoints") == ["step-000000002"]
        checkpointer.close()


def test_a_disk_that_stays_full(tmp_path: Path, make: Make, done: queue.SimpleQueue[Done]) -> None:
    small, large = keras.Variable(1.0), keras.Variable(np.ones([100_000], np.float32))
    with full_disk(tmp_path / "disk", kibibytes=256) as disk:
        checkpoint_writer.write(str(disk), 1)
        checkpointer = make([small, large], disk, pauses=(0.01, 0.01))
        checkpointer.save(at(2))
        report = done.get(timeout=60)
        assert "no space left on device: free some, or choose another folder" in report.error and report.bytes == 0
        assert report.position == at(2) and report.seconds > 0.02
        assert checkpoint_writer.read(str(disk)) == 1
        assert os.listdir(disk / "checkpoints") == ["step-000000001"]
        checkpointer.close()


def test_older_ones_make_room_for_a_new_one(tmp_path: Path, make: Make, done: queue.SimpleQueue[Done]) -> None:
    variable = keras.Variable(np.ones([50_000], np.float32))
    with full_disk(tmp_path / "disk", kibibytes=700) as disk:  # three at a time
        checkpointer = make([variable], disk, pauses=(0.01,) * 3, keep=3)
        for step in (1, 2, 3, 4):
            checkpointer.save(at(step))
            assert done.get(timeout=60).error == ""
        assert sorted(os.listdir(disk / "checkpoints")) == [f"step-00000000{step}" for step in (2, 3, 4)]
        (disk / "other").write_bytes(bytes(50_000))
        variable.assign(np.zeros([50_000]))
        checkpointer.save(at(5))
        assert done.get(timeout=60).error == ""
        assert read(disk, [variable]) == at(5) and not variable.numpy().any()
        checkpointer.close()


@pytest.mark.parametrize("error", [PassingError("x: busy"), StorageError("x: denied"), ValueError("a fault of ours")])
def test_how_often_it_is_tried(
    error: Exception, tmp_path: Path, make: Make, done: queue.SimpleQueue[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def write(*arguments: Any) -> None:
        tries.append(arguments)
        raise error

    monkeypatch.setattr(checkpoint, "write", write)
    checkpointer = make([keras.Variable(1.0)], tmp_path, pauses=(0.01, 0.02, 0.03))
    checkpointer.save(at(1))
    storage_fails = isinstance(error, StorageError)
    assert done.get(timeout=60).error == (str(error) if storage_fails else "ValueError: a fault of ours")
    assert len(tries) == (4 if storage_fails else 1)
    monkeypatch.undo()
    checkpointer.save(at(2))
    assert done.get(timeout=60).error == ""


def test_a_newer_wish_cuts_the_tries_of_an_older_one_short(
    tmp_path: Path, make: Make, done: queue.SimpleQueue[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = checkpoint.write, threading.Event()

    def failing_once(*arguments: Any) -> checkpoint.Checkpoint:
        if failed.is_set():
            return write(*arguments)
        failed.set()
        raise PassingError("x: busy")

    monkeypatch.setattr(checkpoint, "write", failing_once)
    checkpointer = make([keras.Variable(1.0)], tmp_path, pauses=(1000.0,))
    checkpointer.save(at(1))
    assert failed.wait(60)
    checkpointer.save(at(2))
    first, second = done.get(timeout=60), done.get(timeout=60)
    assert (first.position, first.error) == (at(1), "x: busy")
    assert (second.position, second.error) == (at(2), "")


def test_closing_breaks_off(tmp_path: Path, make: Make, done: queue.SimpleQueue[Done]) -> None:
    variable = keras.Variable(np.ones([8 << 20], np.float32))
    checkpoint_writer.write(str(tmp_path), 1)
    checkpointer = make([variable], tmp_path)
    checkpointer.save(at(2))
    while not list(tmp_path.glob("checkpoints/step-000000002/.*")) and done.empty():
        os.sched_yield()
    checkpointer.close()
    if done.empty():
        assert checkpoint_writer.read(str(tmp_path)) == 1
        assert os.listdir(tmp_path / "checkpoints") == ["step-000000001"]
    else:  # it was quicker
        assert done.get().error == "" and read(tmp_path, [variable]) == at(2)


def test_closing_does_not_wait_for_another_try(
    tmp_path: Path, make: Make, done: queue.SimpleQueue[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def write(*_: Any) -> None:
        failed.set()
        raise PassingError("x: busy")

    monkeypatch.setattr(checkpoint, "write", write)
    checkpointer = make([keras.Variable(1.0)], tmp_path, pauses=(1000.0,))
    checkpointer.save(at(1))
    assert failed.wait(60)
    checkpointer.close()
    assert not checkpointer._thread.is_alive() and done.empty()


def test_a_store_that_answers_503_for_a_while(
    make: Make, done: queue.SimpleQueue[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with clouds.s3_server() as server, Faulty(server) as proxy:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        output = f"{clouds.use_s3(proxy.url, monkeypatch.setenv)}/run"
        variable = keras.Variable(np.arange(1000.0))
        checkpointer = make([variable], output, pauses=(0.05, 0.1, 0.2, 0.4))
        checkpointer.save(at(1))
        assert done.get(timeout=60).error == ""
        proxy.fail("503", requests=3)
        checkpointer.save(at(2))
        variable.assign(np.zeros(1000))
        assert done.get(timeout=60).error == "" and proxy.faulted == 3
        proxy.fail("503")
        checkpointer.save(at(3))
        assert "Service Unavailable" in done.get(timeout=60).error
        proxy.heal()
        assert read(output, [variable]) == at(2) and variable.numpy().tolist() == list(range(1000))
        assert storage.names_in(f"{output}/checkpoints") == ["step-000000001", "step-000000002"]
    clouds.forget()
