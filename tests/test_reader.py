"""Reading by position, in every format: the same records whoever reads; from anywhere, the identical remainder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edl_allreduce import records
from edl_allreduce.dataset import Dataset, make_dataset
from edl_allreduce.errors import CorruptFile
from edl_allreduce.position import Position, deal_lanes
from edl_allreduce.worker.bad_records import BadRecords, LeftOut, Skip
from edl_allreduce.worker.reader import Share, StepReader
from tests import formats
from tests.reading import steps_of

RECORDS, EPOCHS = 101, 2
Steps = dict[int, list[str]]


@pytest.fixture(scope="module", params=formats.FORMATS, autouse=True)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("data")
    names = [str(folder / f"{letter}.{request.param}") for letter in "abc"]
    for number, name in enumerate(names):
        formats.write(name, [f"record {record:03}" for record in range(number, RECORDS, len(names))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edl_allreduce.records.base.CHUNK_BYTES", formats.CHUNK_BYTES)
        yield names


def dataset(files: list[str], records_per_task: int = 9, lanes: int = 7) -> Dataset:
    return make_dataset(files, records.index_many(files), records_per_task, lanes)


def read(data: Dataset, start: Position, hand: tuple[int, ...], batch: int, seed: int = 5) -> Steps:
    reader = StepReader(data, seed, shuffle=True, epochs=EPOCHS)
    return {at.step: texts(data, own) for at, own in steps_of(reader, Share(start, hand, batch))}


def texts(data: Dataset, own: Iterable[bytes]) -> list[str]:
    return [formats.text_of(data.files[0], record) for record in own]


def whole(data: Dataset, workers: int, batch: int, seed: int = 5, start: Position = Position()) -> Steps:  # noqa: B008
    """What all workers of a round read together, step by step, sorted within the step."""
    hands = deal_lanes(data.lanes, [1.0] * workers)
    parts = [read(data, start, hand, batch, seed) for hand in hands]
    return {step: sorted(itertools.chain.from_iterable(part[step] for part in parts)) for step in parts[0]}


def test_each_epoch_reads_each_record_once(files: list[str]) -> None:
    steps = whole(dataset(files), workers=3, batch=10)
    assert len(steps) == EPOCHS * 11 and [len(own) for own in steps.values()] == ([10] * 10 + [1]) * EPOCHS
    first = list(itertools.chain.from_iterable(steps[step] for step in range(11)))
    second = list(itertools.chain.from_iterable(steps[step] for step in range(11, 22)))
    assert sorted(first) == sorted(second) == [f"record {number:03}" for number in range(RECORDS)]
    assert first != second and first != sorted(first)


@pytest.mark.parametrize("workers", [2, 3, 7, 9])
def test_a_step_consumes_the_same_records_however_many_workers_read(files: list[str], workers: int) -> None:
    assert whole(dataset(files), workers, batch=10) == whole(dataset(files), 1, batch=10)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), batch=st.integers(1, 40), records_per_task=st.integers(1, 60), lanes=st.integers(1, 70))
def test_resuming_gives_the_identical_remainder(
    files: list[str], data: st.DataObject, batch: int, records_per_task: int, lanes: int
) -> None:
    made = dataset(files, records_per_task, lanes)
    everything = whole(made, 1, batch)
    positions = [at for at, _ in StepReader(made, 5, True, EPOCHS).schedule.steps(Position(), batch)]
    start = data.draw(st.sampled_from(positions))
    remainder = whole(made, data.draw(st.integers(1, 5)), batch, start=start)
    assert remainder == {step: own for step, own in everything.items() if step >= start.step}


def test_another_seed_gives_another_order(files: list[str]) -> None:
    assert whole(dataset(files), 1, 10, seed=1) != whole(dataset(files), 1, 10, seed=2)


def test_unshuffled_records_are_dealt_in_the_order_of_the_files(files: list[str]) -> None:
    made = dataset(files, lanes=1)
    reader = StepReader(made, seed=0, shuffle=False, epochs=1)
    read = texts(made, itertools.chain.from_iterable(own for _, own in steps_of(reader, Share(Position(), (0,), 8))))
    assert read == [f"record {number:03}" for first in range(3) for number in range(first, RECORDS, 3)]


def test_tasks_that_are_done_with_are_forgotten(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edl_allreduce.worker.reader.BLOCK_RECORDS", 8)
    made = dataset(files, records_per_task=5, lanes=2)
    reader = StepReader(made, 5, True, EPOCHS)
    for _ in steps_of(reader, Share(Position(), (0,), 4)):
        assert len(reader._open) <= 2 + 3  # twice the lanes, and what the block in progress needs
    assert len(made.tasks) >= 15


def damaged(files: list[str], folder: Path) -> tuple[Dataset, int]:
    """The first two files, a byte of the second one's third chunk changed; and that chunk's offset."""
    path = folder / Path(files[1]).name
    content = bytearray(Path(files[1]).read_bytes())
    indexes = records.index_many(files[:2])
    chunk = indexes[1][2]
    content[chunk.offset + 30] = ord('"')  # what CSV, too, can notice
    path.write_bytes(content)
    return make_dataset([files[0], str(path)], indexes, 9, 7), chunk.offset


def test_a_damaged_chunk_is_told_with_file_and_offset(files: list[str], tmp_path: Path) -> None:
    made, offset = damaged(files, tmp_path)
    with pytest.raises(CorruptFile) as caught:
        list(steps_of(StepReader(made, 5, True, 1), Share(Position(), tuple(range(7)), 10)))
    assert (caught.value.path, caught.value.offset) == (made.files[1], offset)


def test_a_damaged_chunk_is_left_out_and_nothing_else(files: list[str], tmp_path: Path) -> None:
    made, offset = damaged(files, tmp_path)
    skips: list[Skip] = []
    bad = BadRecords(made, "skip", skips.append)
    share = Share(Position(), tuple(range(7)), 10)
    with pytest.raises(CorruptFile) as caught:
        list(steps_of(StepReader(made, 5, True, 1), share))
    bad.damaged(caught.value)
    (skip,) = skips
    assert (skip.file, skip.offset) == (made.files[1], offset) and skip.records == len(bad.left_out) > 1
    read = [text for _, own in steps_of(StepReader(made, 5, True, 1), share, bad.left_out) for text in texts(made, own)]
    second = [f"record {number:03}" for number in range(1, RECORDS, 3)]
    first = [f"record {number:03}" for number in range(0, RECORDS, 3)]
    assert sorted(read) == sorted(first + second[: skip.first] + second[skip.first + skip.records :])


def test_what_is_left_out_is_missing_from_its_step_alone(files: list[str]) -> None:
    made = dataset(files)
    share = Share(Position(), tuple(range(7)), 10)
    everything = {at.step: records for at, records in steps_of(StepReader(made, 5, True, EPOCHS), share)}
    task = made.tasks[4].records
    left_out = LeftOut().plus(4, task, slice(0, task)).plus(7, made.tasks[7].records, slice(2, 3))
    found = {at.step: records for at, records in steps_of(StepReader(made, 5, True, EPOCHS), share, left_out)}
    missing = [record for step in found for record in everything[step] if record not in found[step]]
    assert len(set(missing)) == task + 1 and len(missing) == EPOCHS * (task + 1)
    assert found == {step: [each for each in everything[step] if each not in missing] for step in everything}


def test_a_chunk_that_is_left_out_is_not_read(files: list[str], tmp_path: Path) -> None:
    gone = tmp_path / Path(files[1]).name
    gone.write_bytes(Path(files[1]).read_bytes())
    made = dataset([files[0], str(gone)])
    gone.write_bytes(bytes(gone.stat().st_size))
    left_out = LeftOut()
    for number, task in enumerate(made.tasks):
        if task.file == 1:
            left_out = left_out.plus(number, task.records, slice(None))
    reader = StepReader(made, 5, True, 1)
    assert sum(len(own) for _, own in steps_of(reader, Share(Position(), tuple(range(7)), 10), left_out)) == 34
