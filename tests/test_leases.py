"""Who does which task: every transition of the queue, and that each task counts exactly once whatever happens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.dataset import Dataset, Task
from edl_allreduce.recordio import ChunkRef
from rendezvous import leases
from rendezvous.task_board import TaskBoard


def test_a_worker_gets_a_window_of_tasks_in_order() -> None:
    queue = leases.make_queue(4)
    queue, first = leases.grant(queue, worker=7)
    assert first == ((0,), (1,)) and queue.held[7] == first and queue.todo == ((2,), (3,))
    assert leases.grant(queue, worker=7) == (queue, ())


def test_what_is_done_counts_once() -> None:
    queue, _ = leases.grant(leases.make_queue(1), worker=1)
    queue = leases.give_back(queue, 1, lost=True)  # it was thought dead
    queue, _ = leases.grant(queue, worker=2)
    queue, counts = leases.finish(queue, 1, (0,))
    assert counts and not queue.finished  # worker 2 is still at it
    queue, counts = leases.finish(queue, 2, (0,))
    assert not counts and queue.finished and queue.done == {0}


def test_the_tasks_of_a_lost_worker_are_the_next() -> None:
    queue, _ = leases.grant(leases.make_queue(5), worker=1)
    queue = leases.give_back(queue, 1, lost=True)
    assert queue.todo[:2] == ((0,), (1,)) and queue.losses == {(0,): 1}, "only the oldest was in progress"


def test_a_task_that_kills_its_workers_is_given_up() -> None:
    queue = leases.make_queue(2)
    for worker in range(leases.MAX_LOSSES):
        assert leases.hopeless(queue) is None
        queue, _ = leases.grant(queue, worker)
        queue = leases.give_back(queue, worker, lost=True)
    assert leases.hopeless(queue) == (0,)


def test_who_leaves_in_order_is_not_counted_as_a_loss() -> None:
    queue, _ = leases.grant(leases.make_queue(2), worker=1)
    assert leases.give_back(queue, 1, lost=False).losses == {}


def test_all_tasks_in_one_lease() -> None:
    queue = leases.make_queue(3, whole=True)
    queue, granted = leases.grant(queue, worker=1)
    assert granted == ((0, 1, 2),)
    queue, counts = leases.finish(queue, 1, (0, 1, 2))
    assert counts and queue.finished


DATASET = Dataset(("a.recordio",), tuple(Task(0, (ChunkRef(100 * i, 100, i + 1),)) for i in range(12)), 1)


@given(st.lists(st.tuples(st.sampled_from(["join", "do", "lose", "leave", "twice"]), st.integers(0, 3)), max_size=120))
def test_every_task_counts_once_whatever_happens(story: list[tuple[str, int]]) -> None:
    inboxes: dict[int, list[pb.ToWorker]] = {worker: [] for worker in range(4)}
    board = TaskBoard(0, DATASET, lambda worker, message: inboxes[worker].append(message))

    def do(worker: int) -> pb.TaskDone | None:
        while inboxes[worker]:
            message = inboxes[worker].pop(0)
            if message.HasField("lease"):
                tasks = message.lease.tasks
                records = sum(DATASET.tasks[task].records for task in tasks)
                sums = np.array([sum(10.0**task for task in tasks)])
                return pb.TaskDone(work=0, tasks=tasks, records=records, sums=sums.tobytes())
        return None

    hopeless = None
    for what, worker in [
        *story,
        *[(each, worker) for _ in range(12) for worker in range(4) for each in ("join", "do", "do")],
    ]:
        if what == "join":
            inboxes[worker].clear()
            board.join(worker)
        elif what in ("do", "twice") and (done := do(worker)):
            for _ in range(2 if what == "twice" else 1):
                board.done(worker, done)
        elif what in ("lose", "leave"):
            hopeless = hopeless or board.leave(worker, lost=what == "lose")  # what it still does may count all the same
    if not hopeless:
        assert board.finished
        assert board.records_done == DATASET.records
        assert board.sums.tolist() == [111111111111.0]
