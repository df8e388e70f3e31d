"""Decides who does which task of a piece of work, so that each is done, and counts, exactly once.

Nobody waits for anybody: a worker leases a few tasks, tells when one is done, and gets another. When a worker is lost,
its tasks go back to the queue. A task over which several workers were lost is not tried forever.

Everything here is pure: a queue is replaced, never changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

WINDOW = 2  # leases a worker holds at a time: the one in progress, and the next, whose records it reads meanwhile
MAX_LOSSES = 3

Lease = tuple[int, ...]


@dataclass(frozen=True)
class Queue:
    """The tasks of one piece of work.

    Attributes:
        todo: leases that nobody holds, in their order; each is one or more tasks that are done together.
        held: which leases each worker holds, the oldest first.
        done: tasks that count.
        losses: how many workers were lost over a lease.
    """

    todo: tuple[Lease, ...]
    held: dict[int, tuple[Lease, ...]] = field(default_factory=dict)
    done: frozenset[int] = frozenset()
    losses: dict[Lease, int] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.todo and not any(self.held.values())


def make_queue(tasks: int, done: Iterable[int] = (), whole: bool = False) -> Queue:
    """A queue of tasks 0 … tasks - 1.

    Args:
        done: those that need not be done any more.
        whole: all in one lease, done by one worker.
    """
    known = frozenset(done)
    left = [task for task in range(tasks) if task not in known]
    if whole:
        return Queue((tuple(range(tasks)),) if left else (), done=frozenset() if left else known)
    return Queue(tuple((task,) for task in left), done=known)


def grant(queue: Queue, worker: int, window: int = WINDOW) -> tuple[Queue, tuple[Lease, ...]]:
    """Fills a worker's window; returns the new leases."""
    mine = queue.held.get(worker, ())
    new = queue.todo[: max(0, window - len(mine))]
    if not new:
        return queue, ()
    return replace(queue, todo=queue.todo[len(new) :], held=queue.held | {worker: mine + new}), new


def finish(queue: Queue, worker: int, tasks: Lease) -> tuple[Queue, bool]:
    """A worker has done a lease; says whether it counts: the first time, whoever held it."""
    mine = tuple(lease for lease in queue.held.get(worker, ()) if lease != tasks)
    queue = replace(queue, held=queue.held | {worker: mine})
    if queue.done.issuperset(tasks):
        return queue, False
    todo = tuple(lease for lease in queue.todo if lease != tasks)
    return replace(queue, todo=todo, done=queue.done.union(tasks)), True


def give_back(queue: Queue, worker: int, lost: bool) -> Queue:
    """Takes a worker's leases away; they are the next to be granted.

    Args:
        lost: it died over the oldest of them, or hung.
    """
    mine = tuple(lease for lease in queue.held.get(worker, ()) if not queue.done.issuperset(lease))
    held = {id: leases for id, leases in queue.held.items() if id != worker}
    losses = queue.losses
    if lost and mine:
        losses = losses | {mine[0]: losses.get(mine[0], 0) + 1}
    return replace(queue, todo=mine + queue.todo, held=held, losses=losses)


def hopeless(queue: Queue, most: int = MAX_LOSSES) -> Lease | None:
    """A lease over which too many workers were lost."""
    return next((lease for lease, losses in queue.losses.items() if losses >= most and lease in queue.todo), None)
