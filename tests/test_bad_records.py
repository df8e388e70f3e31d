"""Records that make the user's code fail, and damaged chunks: named exactly, or left out once and for all."""

from __future__ import annotations

import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from edl_allreduce import recordio
from edl_allreduce.contracts.base import Input, Mode, TrainingModel
from edl_allreduce.contracts.inputs import input_from
from edl_allreduce.dataset import Dataset, make_dataset
from edl_allreduce.errors import CorruptFile, DataError, ModelError, StorageError
from edl_allreduce.position import Position, deal_lanes, own_positions
from edl_allreduce.worker.bad_records import BadRecords, LeftOut, RecordPlace, Skip
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.reader import Share, StepReader, lane_mask
from tests.reading import steps_of

RECORDS, LANES, BATCH, EPOCHS = 60, 4, 7, 2
EVERYTHING = tuple(range(LANES))
KINDS = ["vectorised_input", "per_record_input", "dataset_input"]

ZOO = """
import tensorflow as tf
from edl_allreduce.contracts import vectorised


@vectorised
def vectorised_input(records):
    value = tf.strings.to_number(records, tf.int32)
    return value, -value


def per_record_input(record):
    value = tf.strings.to_number(record, tf.int32)
    return value, -value


def dataset_input(dataset, mode, metadata):
    return dataset.shuffle(100).map(per_record_input)


@vectorised
def batch_input(records):
    value = tf.strings.to_number(records, tf.int32)
    tf.debugging.assert_less(tf.size(value), 2, "one at a time, please")
    return value, -value


def python_input(record):
    def parse(text):
        if not text.numpy().isdigit():
            raise ValueError("no number")
        return int(text.numpy())
    value = tf.ensure_shape(tf.py_function(parse, [record], tf.int32), [])
    return value, -value
"""


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "numbers.py").write_text(ZOO)
    return folder


def input_of(zoo: Path, name: str) -> Input:
    spec = importlib.util.spec_from_file_location("numbers_zoo", zoo / "numbers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return input_from(getattr(module, name), {}, Mode.TRAINING, name)


def write(folder: Path, bad: set[int] = frozenset(), files: int = 1) -> Dataset:  # type: ignore[assignment]
    """Numbers as text, over several files; the bad ones are none."""
    names = [str(folder / f"{number}.recordio") for number in range(files)]
    for number, name in enumerate(names):
        with recordio.Writer(name, max_chunk_bytes=24) as out:
            for record in range(number, RECORDS, files):
                out.write(b"x%03d" % record if record in bad else b"%04d" % record)
    return make_dataset(names, recordio.index_many(names), 16, LANES)


def damage(data: Dataset, *chunks: int) -> list[recordio.ChunkRef]:
    """Changes a byte of these chunks of the first file."""
    path = Path(data.files[0])
    content, index = bytearray(path.read_bytes()), recordio.index(str(path))
    for chunk in chunks:
        content[index[chunk].offset + index[chunk].size - 1] ^= 0xFF
    path.write_bytes(content)
    return [index[chunk] for chunk in chunks]


@dataclass
class Worker:
    """A feed and what it has said."""

    feed: Feed
    skips: list[Skip] = field(default_factory=list)
    left: list[list[int]] = field(default_factory=list)

    def run(self, share: Share, steps: int | None = None, round: int = 1) -> list[list[int]]:
        """The numbers of each step."""
        self.feed.begin(round, share)
        return self.go_on(share, steps)

    def go_on(self, share: Share, steps: int | None = None) -> list[list[int]]:
        schedule = self.feed._reader.schedule
        self.left = []
        for at, size in itertools.islice(schedule.steps(share.start, share.batch), steps):
            batch = self.feed.next(at, size)
            self.left.append([] if batch is None else batch[0].numpy().tolist())
            if batch is not None:
                assert (batch[1].numpy() == -batch[0].numpy()).all()
                places = self.feed.places(at, size)
                files = [Path(each.file).stem for each in places]  # the record's file and number make its value
                stride = len(self.feed._dataset.files)
                assert [
                    each.number * stride + int(file) for each, file in zip(places, files, strict=True)
                ] == self.left[-1]
        return self.left


Make = Callable[..., Worker]


@pytest.fixture
def worker(zoo: Path) -> Iterator[Make]:
    made: list[Worker] = []

    def make(data: Dataset, kind: str = "vectorised_input", mode: str = "skip", shuffle: bool = True) -> Worker:
        training = TrainingModel(None, None, lambda labels, outputs: labels, False, input_of(zoo, kind))
        skips: list[Skip] = []
        reader = StepReader(data, seed=1, shuffle=shuffle, epochs=EPOCHS)
        made.append(Worker(Feed(training, data, reader, str(zoo), mode, skips.append), skips))
        return made[-1]

    yield make
    for each in made:
        each.feed.close()


def whole(start: Position = Position(), lanes: tuple[int, ...] = EVERYTHING) -> Share:  # noqa: B008
    return Share(start, lanes, BATCH)


def step_of(data: Dataset, number: int) -> int:
    """The step of the first epoch that uses this record."""
    reader = StepReader(data, 1, True, EPOCHS)
    return next(at.step for at, own in steps_of(reader, whole()) if {b"%04d" % number, b"x%03d" % number} & {*own})


def records_of(data: Dataset, step: int) -> set[int]:
    return {
        int(each) for at, own in steps_of(StepReader(data, 1, True, EPOCHS), whole()) if at.step == step for each in own
    }


@pytest.mark.parametrize("kind", [*KINDS, "python_input"])
def test_a_failing_record_is_named_with_the_users_line(worker: Make, tmp_path: Path, zoo: Path, kind: str) -> None:
    data = write(tmp_path, {41})
    with pytest.raises(ModelError) as caught:
        worker(data, kind, "fail").run(whole())
    chunks = recordio.index(data.files[0])
    ends = np.cumsum([chunk.records for chunk in chunks])
    offset = chunks[int(np.searchsorted(ends, 41, side="right"))].offset
    told = str(caught.value)
    assert told.startswith(f"{data.files[0]}, record 41 (in the chunk at offset {offset}): "), told
    assert "no number" in told if kind == "python_input" else "could not correctly convert string: x041" in told
    assert "\n" not in told and len(told) < 700
    assert f"{zoo}/numbers.py:" in told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [{0}, {59}, {3, 17, 30, 44}], ids=str)
def test_bad_records_are_left_out_in_every_epoch_and_told_once(
    worker: Make, tmp_path: Path, kind: str, bad: set[int]
) -> None:
    clean = worker(write(tmp_path)).run(whole())
    data = write(tmp_path, bad)
    it = worker(data, kind)
    assert it.run(whole()) == [[number for number in step if number not in bad] for step in clean]
    assert sorted(skip.first for skip in it.skips) == sorted(bad) and len(it.feed.left_out) == len(bad)
    assert all(skip.records == 1 and f"x{skip.first:03}" in skip.error for skip in it.skips)
    offsets = {chunk.offset for chunk in recordio.index(data.files[0])}
    assert {skip.file for skip in it.skips} == {data.files[0]} and {skip.offset for skip in it.skips} <= offsets


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_nothing_but_bad_records_is_none(worker: Make, tmp_path: Path, kind: str) -> None:
    bad = records_of(write(tmp_path), 3)
    it = worker(write(tmp_path, bad), kind)
    steps = it.run(whole())
    assert len(bad) == BATCH and steps[3] == [] and {skip.first for skip in it.skips} == bad
    assert [len(step) for step in steps[:9]] == [7, 7, 7, 0, 7, 7, 7, 7, 4]
    assert sorted(itertools.chain(*steps[9:])) == sorted(set(range(RECORDS)) - bad)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_records_are_left_out_whoever_reads_them(worker: Make, tmp_path: Path, workers: int) -> None:
    data = write(tmp_path, {5, 6, 7, 33, 58}, files=2)
    damage(data, 1)
    alone = worker(data)
    expected = [sorted(step) for step in alone.run(whole())]
    team = [worker(data) for _ in range(workers)]
    parts = [each.run(whole(lanes=hand)) for each, hand in zip(team, deal_lanes(LANES, [1.0] * workers), strict=True)]
    assert [sorted(itertools.chain(*step)) for step in zip(*parts, strict=True)] == expected
    told = {(skip.file, skip.first, skip.records) for each in team for skip in each.skips}
    assert told == {(skip.file, skip.first, skip.records) for skip in alone.skips} and len(told) == 6


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("which", [[0], [-1], [2, 3]], ids=["first", "last", "two in a row"])
def test_damaged_chunks_are_left_out(worker: Make, tmp_path: Path, which: list[int], shuffle: bool) -> None:
    data = write(tmp_path)
    clean = worker(data, shuffle=shuffle).run(whole())
    index = recordio.index(data.files[0])
    which = [number % len(index) for number in which]
    chunks = damage(data, *which)
    firsts = [sum(each.records for each in index[:number]) for number in which]
    lost = {first + i for first, chunk in zip(firsts, chunks, strict=True) for i in range(chunk.records)}
    it = worker(data, shuffle=shuffle)
    assert it.run(whole()) == [[number for number in step if number not in lost] for step in clean]
    told = sorted((skip.offset, skip.first, skip.records) for skip in it.skips)
    assert told == [(c.offset, first, c.records) for c, first in zip(chunks, firsts, strict=True)]
    assert all("checksum" in skip.error for skip in it.skips)


def test_a_damaged_chunk_ends_the_job_with_the_records_it_holds(worker: Make, tmp_path: Path) -> None:
    data = write(tmp_path)
    [chunk] = damage(data, 1)
    first = recordio.index(data.files[0])[0].records
    with pytest.raises(CorruptFile) as caught:
        worker(data, mode="fail").run(whole())
    assert (caught.value.path, caught.value.offset) == (data.files[0], chunk.offset)
    assert f"(it is the chunk of records {first} to {first + chunk.records - 1})" in str(caught.value)


def test_records_before_a_damaged_chunk_are_given_first(
    worker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edl_allreduce.worker.reader.BLOCK_RECORDS", 1)
    data = write(tmp_path)
    data = make_dataset(data.files, recordio.index_many(data.files), 1, 1)
    damage(data, -1)
    it = worker(data, mode="fail", shuffle=False)
    with pytest.raises(CorruptFile):
        it.run(Share(Position(), (0,), BATCH))
    assert list(itertools.chain(*it.left)) == list(range(len(it.left) * BATCH)) and len(it.left) >= 5


def test_a_bad_record_met_again_in_another_round(worker: Make, tmp_path: Path) -> None:
    clean = worker(write(tmp_path)).run(whole())
    data = write(tmp_path, {10, 20})
    late = max(step_of(data, 10), step_of(data, 20))
    it = worker(data)
    it.run(whole(), late + 1)
    again = whole(Position(0, 0, 0))
    assert it.run(again, 9, round=2) == [[number for number in step if number not in (10, 20)] for step in clean[:9]]
    middle = whole(Position(3, 0, 3 * BATCH), (1, 3))
    for own, all_of_them in zip(it.run(middle, 6, round=3), clean[3:9], strict=True):
        assert set(own) <= set(all_of_them) - {10, 20}
    assert sorted(skip.first for skip in it.skips) == [10, 20]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_read_ahead_for_an_earlier_round_cannot_fail_the_next(
    worker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = write(tmp_path, {25})
    step = step_of(data, 25)
    assert step >= 2
    it = worker(data, kind, "fail")
    blocks, fetch = threading.Semaphore(0), it.feed._reader.fetch

    def watched(*arguments: Any) -> Any:
        blocks.release()
        return fetch(*arguments)

    monkeypatch.setattr(it.feed._reader, "fetch", watched)
    it.run(whole(Position(step - 1, 0, (step - 1) * BATCH)), 1)
    assert blocks.acquire(timeout=30) and blocks.acquire(timeout=30)  # the next element fails, and is on its way
    assert [len(own) for own in it.run(whole(), 2, round=2)] == [BATCH, BATCH]


def test_a_chunk_read_ahead_for_an_earlier_round_cannot_fail_the_next(
    worker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tasks_of(share: Share, steps: int) -> set[int]:
        reader, mine = StepReader(data, 1, True, EPOCHS), lane_mask(data, share.lanes)
        every = itertools.islice(reader.schedule.steps(share.start, share.batch), steps)
        found = [reader.order(at.epoch).locate(own_positions(at.offset, size, mine))[0] for at, size in every]
        return set(np.concatenate(found).tolist())

    data = write(tmp_path)
    data = make_dataset(data.files, recordio.index_many(data.files), 1, LANES)  # every chunk a task
    last, broken, good = whole(Position(17, 1, 56)), whole(lanes=(0, 1, 3)), whole(lanes=(2,))
    damage(data, min(tasks_of(broken, 3) - tasks_of(last, 1) - tasks_of(good, 3)))
    it = worker(data, mode="fail")
    it.run(last)
    failed, fetch = threading.Event(), it.feed._reader.fetch

    def watched(*arguments: Any) -> Any:
        try:
            return fetch(*arguments)
        except CorruptFile:
            failed.set()
            raise

    monkeypatch.setattr(it.feed._reader, "fetch", watched)
    it.feed.begin(2, broken)
    assert failed.wait(30)
    assert all(it.run(good, 2, round=3))


@pytest.mark.parametrize("mode", ["fail", "skip"])
def test_a_batch_that_fails_although_no_record_does_is_told(worker: Make, tmp_path: Path, mode: str) -> None:
    it = worker(write(tmp_path), "batch_input", mode)
    with pytest.raises(ModelError, match=r"one at a time.*\(the batch of step 1; none of its 7 records fails alone\)$"):
        it.run(whole())
    assert not it.skips and not it.feed.left_out


def test_bad_records_beyond_half_mean_that_the_code_is_wrong(worker: Make, tmp_path: Path) -> None:
    it = worker(write(tmp_path, set(range(RECORDS))))
    with pytest.raises(
        ModelError, match=r"more than half are not skipped, the code does not fit the data; the last one"
    ):
        it.run(whole())
    assert RECORDS / 2 < len(it.skips) <= RECORDS / 2 + BATCH
    allowed = worker(write(tmp_path, set(range(0, RECORDS, 2))))
    assert len(list(itertools.chain(*allowed.run(whole())))) == RECORDS and len(allowed.skips) == RECORDS / 2


@pytest.mark.parametrize(
    ("met", "share", "bad", "goes_on"),
    [
        (8, 8, 8, True),  # few
        (9, 9, 9, False),
        (20, 60, 20, True),  # it may get better
        (31, 60, 31, False),  # it cannot
        (100, 60, 50, True),
        (100, 10**6, 60, True),
        (20, 10**6, 60, True),
    ],
)
def test_when_to_give_up(tmp_path: Path, met: int, share: int, bad: int, goes_on: bool) -> None:
    data = make_dataset(write(tmp_path).files, recordio.index_many([str(tmp_path / "0.recordio")]), 100, LANES)
    found = BadRecords(data, "skip", lambda skip: None)
    found.met, found.share = met, share
    tasks, places = np.zeros(bad, np.int64), np.arange(bad)
    if goes_on:
        assert not found.judge(tasks, places, lambda row: "bad", "failed", 1).any()
    else:
        with pytest.raises(ModelError, match=f"^{bad} of the first {met} records that this worker read make"):
            found.judge(tasks, places, lambda row: "bad", "failed", 1)
    assert len(found.left_out) == bad


def test_a_chunk_of_many_records_at_the_beginning_is_no_reason_to_give_up(worker: Make, tmp_path: Path) -> None:
    data = write(tmp_path)
    damage(data, *range(len(recordio.index(data.files[0])) - 1))
    it = worker(data)
    assert len(list(itertools.chain(*it.run(whole())))) == 2 * recordio.index(data.files[0])[-1].records


def test_a_file_that_cannot_be_read_is_never_skipped(worker: Make, tmp_path: Path) -> None:
    data = write(tmp_path)
    Path(data.files[0]).unlink()
    it = worker(data)
    with pytest.raises(StorageError, match="0.recordio"):
        it.run(whole())
    assert not it.skips


def test_an_error_of_our_own_while_reading_stays_itself(
    worker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyError("ours")

    it = worker(write(tmp_path))
    monkeypatch.setattr(it.feed._reader, "fetch", fail)
    with pytest.raises(KeyError, match="ours"):
        it.run(whole())


def test_samples_are_the_first_records_that_can_be_used(worker: Make, tmp_path: Path) -> None:
    clean = worker(write(tmp_path))
    _, size, (features, _) = next(clean.feed.samples())
    first = features.numpy().tolist()
    assert size == len(first) == 8
    it = worker(write(tmp_path, set(first)))
    at, _, (features, _) = next(it.feed.samples())
    assert at.step == 1 and len(features) == 8 and {skip.first for skip in it.skips} == set(first)
    data = write(tmp_path)
    damage(data, *range(len(recordio.index(data.files[0]))))
    with pytest.raises(DataError, match="none of the 60 records"):
        next(worker(data).feed.samples())


def test_many_failures_leave_no_threads(worker: Make, tmp_path: Path) -> None:
    bad = set(range(0, RECORDS, 3))
    it = worker(write(tmp_path, bad), "per_record_input")
    it.run(Share(Position(), EVERYTHING, 1), 6)
    before = threading.active_count(), len(list(Path("/proc/self/task").iterdir()))
    numbers = it.go_on(Share(Position(6, 0, 6), EVERYTHING, 1), 54)
    assert len(it.skips) == len(bad) and len(list(itertools.chain(*numbers))) > 30
    after = threading.active_count(), len(list(Path("/proc/self/task").iterdir()))
    assert after[0] <= before[0] + 1 and after[1] <= before[1] + 8


class FailsFor:
    """A step that fails with some labels."""

    graphs = ()

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers

    def alone(self, features: Any, labels: Any) -> None:
        assert features.shape == labels.shape == [1]
        if int(features[0]) in self._numbers:
            raise ValueError(f"{int(features[0])} is no good")


def test_a_step_that_fails_names_its_record(worker: Make, tmp_path: Path) -> None:
    data = write(tmp_path)
    it = worker(data, mode="fail")
    [numbers] = it.run(whole(), 1)
    batch = (tf.constant(numbers), -tf.constant(numbers))
    culprit = f"record {numbers[4]} .*: ValueError: {numbers[4]} is no good"
    with pytest.raises(ModelError, match=culprit):
        it.feed.without_culprits(Position(), BATCH, batch, ValueError("x"), FailsFor(numbers[4], numbers[5]))
    with pytest.raises(ModelError, match=r"^ValueError: all of us \(the batch of step 1; none of its 7 records fails"):
        it.feed.without_culprits(Position(), BATCH, batch, ValueError("all of us"), FailsFor())


def test_rows_that_a_step_fails_with_are_left_out(worker: Make, tmp_path: Path) -> None:
    data = write(tmp_path)
    clean = worker(data).run(whole())
    it = worker(data)
    it.run(whole(), 1)
    at = Position(1, 0, BATCH)
    batch = it.feed.next(at, BATCH)
    assert batch is not None
    culprits = clean[1][0], clean[1][6]
    rest = it.feed.without_culprits(at, BATCH, batch, ValueError("x"), FailsFor(*culprits))
    assert rest is not None and rest[0].numpy().tolist() == clean[1][1:6] == [-each for each in rest[1].numpy()]
    assert it.feed.without_culprits(at, BATCH, rest, ValueError("x"), FailsFor(*clean[1])) is None
    remainder = it.go_on(whole(Position(2, 0, 2 * BATCH)))
    assert remainder == [[number for number in step if number not in clean[1]] for step in clean[2:]]
    assert sorted(skip.first for skip in it.skips) == sorted(clean[1])


def test_a_real_step_goes_on_without_the_row_that_fails_it(worker: Make, tmp_path: Path) -> None:
    """A lookup out of range: what is left must train like a batch that never had it."""
    pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")
    import keras

    from edl_allreduce.worker.ring import Ring
    from edl_allreduce.worker.step import TrainStep

    def make() -> TrainStep:
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Embedding(RECORDS - 1, 3), keras.layers.Dense(1)]
        spec = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32))
        loss = keras.losses.MeanSquaredError(reduction="sum_over_batch_size")
        sgd = keras.optimizers.SGD(0.001)
        return TrainStep(
            TrainingModel(keras.Sequential(layers), sgd, loss, False, Input(True, lambda strings: strings, spec))
        )

    data = write(tmp_path)
    it = worker(data)
    step, other = make(), make()
    at = Position(step_of(data, RECORDS - 1), 0, step_of(data, RECORDS - 1) * BATCH)
    it.feed.begin(1, whole(at))
    batch = it.feed.next(at, 7)
    assert batch is not None and RECORDS - 1 in batch[0].numpy()
    before = [variable.numpy() for variable in step.variables]
    ring = Ring("127.0.0.1", spared=0)
    ring.join()
    try:
        with pytest.raises(tf.errors.InvalidArgumentError) as failed:
            step.train(*batch, part=False)
        rest = it.feed.without_culprits(at, 7, batch, failed.value, step)
        for variable, value in zip(step.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
        assert rest is not None and RECORDS - 1 not in rest[0].numpy()
        alone = float(step.alone(*rest))
        outcome = step.train(*rest, part=False)
        assert outcome.records == len(rest[0]) and outcome.loss * outcome.records == pytest.approx(alone, rel=1e-5)
        assert other.train(*rest, part=False).loss == outcome.loss
    finally:
        ring.leave()
    for mine, theirs in zip(step.variables, other.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert [(skip.first, skip.records) for skip in it.skips] == [(RECORDS - 1, 1)]


def test_places_count_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    data = write(tmp_path, files=2)
    bad = BadRecords(data, "fail", lambda skip: None)
    found = [bad.place(task, place) for task, each in enumerate(data.tasks) for place in range(each.records)]
    expected = [
        RecordPlace(file, chunk.offset, number)
        for file in data.files
        for number, chunk in enumerate(chunk for chunk in recordio.index(file) for _ in range(chunk.records))
    ]
    assert found == expected
    assert str(found[1]) == f"{data.files[0]}, record 1 (in the chunk at offset 0)"


def test_what_is_left_out_only_grows_by_copies() -> None:
    nothing = LeftOut()
    some = nothing.plus(3, 5, np.array([1, 2])).plus(3, 5, slice(2, 4)).plus(7, 2, np.array([0]))
    assert not nothing and some and len(some) == 4
    tasks, places = np.array([3, 3, 7, 7, 9]), np.array([0, 3, 0, 1, 0])
    assert some.keeps(tasks, places).tolist() == [True, False, False, True, True]
    assert some.covers(3, 1, 4) and not some.covers(3, 0, 4) and not some.covers(9, 0, 1)
