"""Position arithmetic: whatever the membership, every record is consumed exactly once per epoch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edl_allreduce.dataset import Dataset, Task, make_dataset
from edl_allreduce.order import EpochOrder, permutation
from edl_allreduce.position import Position, Schedule, deal_lanes, lane_starts, own_positions
from edl_allreduce.recordio import ChunkRef

sizes = st.integers(1, 400)


def dataset_of(records: list[int], lanes: int) -> Dataset:
    offset = 0
    tasks = []
    for count in records:
        tasks.append(Task(0, (ChunkRef(offset, 10 + count, count),)))
        offset += 10 + count
    return Dataset(("a.recordio",), tuple(tasks), lanes)


def test_an_epochs_end_is_a_place_of_its_own() -> None:
    schedule = Schedule(records=10, epochs=3)
    after = schedule.after(Position(1, 0, 8), 4)
    assert after == Position(2, 1, 0)
    end = schedule.end(after)
    assert end == Position(2, 0, 10) and schedule.at_end(end) and not schedule.at_end(after)
    assert Position(1, 0, 8) < end < schedule.closed(end) == after
    assert schedule.finished(schedule.closed(end, stop=True))
    assert schedule.steps_left(end, 4) == schedule.steps_left(after, 4) == 6
    assert list(schedule.steps(end, 4)) == list(schedule.steps(after, 4))


def test_where_training_is_stopped_it_ends_whoever_closes_the_epoch() -> None:
    schedule = Schedule(records=10, epochs=3)
    stopped = schedule.stopped(Position(1, 0, 4))
    assert schedule.at_end(stopped) and stopped > Position(1, 0, 4)
    assert schedule.finished(schedule.closed(stopped))


@given(records=sizes, lanes=st.integers(1, 70))
def test_lanes_are_contiguous_and_equal_to_within_one(records: int, lanes: int) -> None:
    starts = lane_starts(records, lanes)
    lengths = np.diff(starts)
    assert starts[0] == 0 and starts[-1] == records
    assert lengths.max() - lengths.min() <= 1


@given(lanes=st.integers(1, 200), shares=st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_every_lane_is_dealt_once_and_in_proportion(lanes: int, shares: list[float]) -> None:
    hands = deal_lanes(lanes, shares)
    assert sorted(lane for hand in hands for lane in hand) == list(range(lanes))
    for share, hand in zip(shares, hands, strict=True):
        assert abs(len(hand) - lanes * share / sum(shares)) < len(shares)


@given(lanes=st.integers(1, 200), shares=st.lists(st.floats(0.1, 4), min_size=1, max_size=12))
def test_lanes_go_to_whoever_is_furthest_behind(lanes: int, shares: list[float]) -> None:
    hands: list[list[int]] = [[] for _ in shares]
    for lane in range(lanes):
        owed = [share / sum(shares) * (lane + 1) - len(hand) for share, hand in zip(shares, hands, strict=True)]
        hands[owed.index(max(owed))].append(lane)
    assert deal_lanes(lanes, shares) == tuple(map(tuple, hands))


def test_equal_shares_alternate() -> None:
    assert deal_lanes(7, [1, 1, 1]) == ((0, 3, 6), (1, 4), (2, 5))


@given(records=sizes, batch=st.integers(1, 50), epochs=st.integers(1, 3))
def test_a_schedule_covers_each_epoch_once(records: int, batch: int, epochs: int) -> None:
    schedule = Schedule(records, epochs)
    steps = list(schedule.steps(Position(), batch))
    assert len(steps) == schedule.total_steps(batch) == schedule.steps_left(Position(), batch)
    for epoch in range(epochs):
        covered = [g for at, size in steps if at.epoch == epoch for g in range(at.offset, at.offset + size)]
        assert covered == list(range(records))
    assert [at.step for at, _ in steps] == list(range(len(steps)))


@given(
    tasks=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    lanes=st.integers(1, 70),
    seed=st.integers(0, 2**40),
    rounds=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=8),
    batch=st.integers(1, 90),
)
def test_any_sequence_of_memberships_consumes_each_record_once(
    tasks: list[int], lanes: int, seed: int, rounds: list[tuple[int, int]], batch: int
) -> None:
    """`rounds`: after so many steps with so many workers, the membership changes; the last one goes on to the end."""
    dataset = dataset_of(tasks, lanes)
    order = EpochOrder(dataset, seed, epoch=0)
    schedule = Schedule(dataset.records, epochs=1)
    at, seen = Position(), []
    while not schedule.finished(at):
        steps, workers = rounds.pop(0) if len(rounds) > 1 else (1, rounds[0][1])
        masks = [np.isin(np.arange(lanes), hand) for hand in deal_lanes(lanes, [1.0] * workers)]
        for _ in range(steps):
            if schedule.finished(at):
                break
            for mask in masks:
                task, place = order.locate(own_positions(at.offset, schedule.size(at, batch), mask))
                seen += list(zip(task.tolist(), place.tolist(), strict=True))
            at = schedule.after(at, batch)
    assert sorted(seen) == [(task, place) for task, count in enumerate(tasks) for place in range(count)]


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    dataset = dataset_of([30, 50, 20], lanes=8)
    everything = np.arange(100)

    def order(seed: int, epoch: int, shuffle: bool = True) -> list[tuple[int, ...]]:
        return list(
            zip(*(part.tolist() for part in EpochOrder(dataset, seed, epoch, shuffle).locate(everything)), strict=True)
        )

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0) and order(1, 0) != order(1, 1)
    plain = order(1, 0, shuffle=False)
    assert plain == order(9, 5, shuffle=False)
    # Unshuffled, offset i of lane l is the record at lane_starts[l] + i of the files.
    assert plain[8] == (0, 1) and plain[1] == (0, int(lane_starts(100, 8)[1]))


def test_the_permutation_never_changes() -> None:
    """Checkpoints rest on it: these values are a promise."""
    assert permutation(10, 0, 0).tolist() == [0, 7, 8, 2, 5, 9, 4, 6, 3, 1]
    assert sorted(permutation(1000, 7, 3, 9).tolist()) == list(range(1000))


@given(chunks=st.lists(st.integers(0, 30), max_size=30), limit=st.integers(1, 60))
def test_tasks_are_whole_chunks_within_the_limit(chunks: list[int], limit: int) -> None:
    index, offset = [], 0
    for records in chunks:
        index.append(ChunkRef(offset, 20 + records, records))
        offset += 20 + records
    dataset = make_dataset(["a"], [index], records_per_task=limit)
    assert [chunk for task in dataset.tasks for chunk in task.chunks] == [chunk for chunk in index if chunk.records]
    assert all(task.records <= limit or len(task.chunks) == 1 for task in dataset.tasks)


def test_lanes_shrink_when_open_tasks_would_need_too_much_memory() -> None:
    small = [ChunkRef(0, 1000, 10)]
    huge = [ChunkRef(0, 100 << 20, 10)]
    assert make_dataset(["a"], [small], 4096).lanes == 64
    assert make_dataset(["a"], [huge], 4096).lanes == 3
    assert make_dataset(["a"], [huge], 4096, num_workers=4).lanes == 13
    assert make_dataset(["a"], [small], 4096, num_workers=40).lanes == 320
    assert make_dataset(["a"], [huge], 4096, lanes=5).lanes == 5


def test_the_fingerprint_tells_datasets_apart() -> None:
    index = [ChunkRef(0, 30, 10), ChunkRef(30, 40, 10)]
    one = make_dataset(["a"], [index], 10)
    assert one.fingerprint == make_dataset(["a"], [index], 10).fingerprint
    others = [make_dataset(["b"], [index], 10), make_dataset(["a"], [index], 20), make_dataset(["a"], [index[:1]], 10)]
    assert len({one.fingerprint, *(each.fingerprint for each in others)}) == 4
