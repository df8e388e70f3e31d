"""The input pipeline that lives through rounds: what was read ahead for an earlier round never reaches the step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from edl_allreduce import recordio
from edl_allreduce.contracts.base import Input, Mode, TrainingModel
from edl_allreduce.contracts.inputs import input_from
from edl_allreduce.dataset import Dataset, make_dataset
from edl_allreduce.errors import CorruptFile, DataError, ModelError
from edl_allreduce.position import Position
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.reader import Share, StepReader

RECORDS, LANES = 60, 4
EVERYTHING = tuple(range(LANES))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    name = str(tmp_path / "numbers.recordio")
    with recordio.Writer(name, max_chunk_bytes=40) as out:
        for number in range(RECORDS):
            out.write(b"%d" % number)
    return make_dataset([name], recordio.index_many([name]), 8, LANES)


@pytest.fixture
def feeds(data: Dataset) -> Iterator[Callable[[Input], Feed]]:
    made: list[Feed] = []

    def make(input: Input) -> Feed:
        training = TrainingModel(None, None, lambda labels, outputs: labels, False, input)
        made.append(Feed(training, data, StepReader(data, seed=1, shuffle=True, epochs=2), "zoo"))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def number_of(record: Any) -> tuple[Any, Any]:
    value = tf.strings.to_number(record, tf.int32)
    return value, -value


vectorised = Input(True, number_of, None)
per_record = Input(False, lambda records: records.map(number_of), None)


def walk(feed: Feed, share: Share, steps: int) -> list[list[int]]:
    schedule = StepReader(feed._dataset, 1, True, 2).schedule
    found = []
    for at, size in list(schedule.steps(share.start, share.batch))[:steps]:
        batch = feed.next(at, size)
        found.append([] if batch is None else batch[0].numpy().tolist())
        if batch is not None:
            assert (batch[1].numpy() == -batch[0].numpy()).all()
    return found


@pytest.mark.parametrize("input", [vectorised, per_record], ids=["vectorised", "per record"])
def test_both_kinds_of_input_function_give_the_whole_run(feeds: Callable[[Input], Feed], input: Input) -> None:
    feed = feeds(input)
    share = Share(Position(), EVERYTHING, 7)
    feed.begin(1, share)
    batches = walk(feed, share, 18)
    assert [len(batch) for batch in batches] == ([7] * 8 + [4]) * 2
    epochs = [sorted(itertools.chain.from_iterable(half)) for half in (batches[:9], batches[9:])]
    assert epochs == [list(range(RECORDS))] * 2


def test_what_an_input_function_maps_may_branch_on_tensors(feeds: Callable[[Input], Feed]) -> None:
    def branching(record: Any) -> tuple[Any, Any]:
        value = opposite = tf.strings.to_number(record, tf.int32)
        if value > 0:  # AutoGraph's work: elsewhere a tensor has no truth value
            opposite = -value
        return value, opposite

    def dataset_fn(dataset: tf.data.Dataset, mode: Mode) -> tf.data.Dataset:
        return dataset.map(branching)

    feed = feeds(input_from(dataset_fn, {}, Mode.TRAINING, "dataset_fn"))
    share = Share(Position(), EVERYTHING, 7)
    feed.begin(1, share)
    assert [len(batch) for batch in walk(feed, share, 2)] == [7, 7]


def test_a_new_round_takes_over_from_any_point(feeds: Callable[[Input], Feed]) -> None:
    alone, changed = feeds(vectorised), feeds(vectorised)
    share = Share(Position(), EVERYTHING, 7)
    alone.begin(1, share)
    expected = walk(alone, share, 9)
    changed.begin(1, share)
    assert walk(changed, share, 3) == expected[:3]  # more than that has been read ahead
    half = Share(Position(step=3, offset=21), (0, 2), 7)
    changed.begin(2, half)
    for own, all_of_them in zip(walk(changed, half, 3), expected[3:6], strict=True):
        assert set(own) < set(all_of_them)
    back = Share(Position(step=1, offset=7), EVERYTHING, 7)
    changed.begin(3, back)
    assert walk(changed, back, 8) == expected[1:9]


def test_of_what_was_read_for_an_earlier_round_only_one_record_is_parsed(feeds: Callable[[Input], Feed]) -> None:
    feed = feeds(vectorised)
    feed.begin(2, Share(Position(), EVERYTHING, 7))
    tags = tf.constant([[1, 1, 5], [2, 1, 5]], tf.int64)  # (round, reading, step); the second is the one in progress
    block = tags, tf.constant([0, 3, 7], tf.int64), tf.constant([b"%d" % number for number in range(7)])
    outdated, wanted = (feed._cut(tf.constant(step, tf.int64), *block) for step in (0, 1))
    assert [each.numpy().tolist() for each in outdated] == [[1, 1, 5], [b"0"]]
    assert [each.numpy().tolist() for each in wanted] == [[2, 1, 5], [b"3", b"4", b"5", b"6"]]


def test_a_step_without_own_records_is_none(feeds: Callable[[Input], Feed]) -> None:
    feed = feeds(vectorised)
    share = Share(Position(), (1,), 1)  # one record a step: three of four steps belong to other lanes
    feed.begin(1, share)
    assert [len(batch) for batch in walk(feed, share, 8)] == [0, 1, 0, 0, 0, 1, 0, 0]


def test_a_pipeline_that_drops_records_is_refused(feeds: Callable[[Input], Feed]) -> None:
    feed = feeds(Input(False, lambda records: records.map(number_of).filter(lambda value, _: value % 2 == 0), None))
    share = Share(Position(), EVERYTHING, 20)
    feed.begin(1, share)
    with pytest.raises(DataError, match=r"the input function made \d+ elements of 20 records; it must give one"):
        walk(feed, share, 1)


def test_an_error_of_the_input_function_is_the_models(feeds: Callable[[Input], Feed]) -> None:
    feed = feeds(Input(True, lambda records: number_of(tf.strings.join([records, "x"])), None))
    share = Share(Position(), EVERYTHING, 20)
    feed.begin(1, share)
    with pytest.raises(ModelError, match="StringToNumberOp could not correctly convert string"):
        walk(feed, share, 1)


def test_a_damaged_file_keeps_its_own_error(feeds: Callable[[Input], Feed], data: Dataset) -> None:
    path = Path(data.files[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    feed = feeds(vectorised)
    share = Share(Position(), EVERYTHING, RECORDS)
    feed.begin(1, share)
    with pytest.raises(CorruptFile, match=str(path)):
        walk(feed, share, 1)
