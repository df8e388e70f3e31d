"""Hands out one piece of leased work to whoever is there, and adds up what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.dataset import Dataset
from rendezvous import leases

Send = Callable[[int, pb.ToWorker], None]


class TaskBoard:
    """One evaluation, or one prediction.

    Args:
        work: its number: 0 for the whole job, else the step after which a model in training is evaluated.
        dataset: whose tasks they are.
        send: tells a worker something.
        done: tasks that an earlier coordinator knew to be done, with their records.
        sums: what those add up to.
    Attributes:
        records_done: of the tasks that count.
        sums: what they add up to: of an evaluation, loss and metrics, float64; its length is the workers' affair.
    """

    def __init__(
        self,
        work: int,
        dataset: Dataset,
        send: Send,
        done: Iterable[int] = (),
        sums: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.work, self.dataset = work, dataset
        self.sums = np.zeros(0) if sums is None else sums
        self._send = send
        self._queue = leases.make_queue(len(dataset.tasks), done)
        self._began = False
        self._workers: list[int] = []
        self._retired: set[int] = set()
        self._busy: dict[int, bool] = {}
        self.records_done = sum(dataset.tasks[task].records for task in self._queue.done)

    @property
    def finished(self) -> bool:
        """Whether all tasks are done."""
        return self._queue.finished

    @property
    def workers(self) -> tuple[int, ...]:
        """Who takes part."""
        return tuple(self._workers)

    def holds(self, worker: int) -> bool:
        """Whether a worker has tasks to do."""
        return bool(self._queue.held.get(worker))

    def join(self, worker: int, whole: bool = False) -> None:
        """A worker wants tasks; leases that it held before are forgotten.

        Args:
            whole: all of them must be done by one.
        """
        if whole and not self._began:
            self._queue = leases.make_queue(len(self.dataset.tasks), self._queue.done, whole=True)
            self.sums, self.records_done = np.zeros(0), 0
        self._began = True
        self._queue = leases.give_back(self._queue, worker, lost=False)
        if worker not in self._workers:
            self._workers.append(worker)
        self._retired.discard(worker)
        self._grant()

    def retire(self, worker: int) -> None:
        """A worker gets no new leases: it finishes what it has, then it goes."""
        self._retired.add(worker)

    def changed(self) -> list[tuple[int, bool]]:
        """The workers that hold leases now and did not when this was last asked, or the reverse."""
        now = {worker: self.holds(worker) for worker in self._workers}
        changes = [(worker, busy) for worker, busy in now.items() if busy != self._busy.get(worker, False)]
        self._busy = now
        return changes

    def done(self, worker: int, message: pb.TaskDone) -> bool:
        """A worker has done a lease; says whether it counts."""
        self._queue, counts = leases.finish(self._queue, worker, tuple(message.tasks))
        if counts:
            self.records_done += message.records
            sums = np.frombuffer(message.sums, dtype="<f8")
            self.sums = self.sums + sums if len(self.sums) else sums
        self._grant()
        return counts

    def leave(self, worker: int, lost: bool) -> str | None:
        """A worker takes no part any more; returns why the work is hopeless, if it is."""
        if worker not in self._workers:
            return None
        self._workers.remove(worker)
        self._queue = leases.give_back(self._queue, worker, lost)
        bad = leases.hopeless(self._queue)
        if bad is None:
            self._grant()
            return None
        task = self.dataset.tasks[bad[0]]
        where = f"{self.dataset.files[task.file]}, the {task.records} records from offset {task.chunks[0].offset} on"
        return f"{leases.MAX_LOSSES} workers were lost over the same task ({where})"

    def tell_sums(self, worker: int) -> None:
        """Tells a worker what all tasks add up to."""
        self._send(worker, pb.ToWorker(sums=pb.Sums(work=self.work, sums=self.sums.astype("<f8").tobytes())))

    def status(self) -> pb.Work:
        """How far it is."""
        held = sum(len(lease) for mine in self._queue.held.values() for lease in mine)
        return pb.Work(
            work=self.work,
            tasks=len(self.dataset.tasks),
            tasks_done=len(self._queue.done),
            tasks_leased=held,
            records=self.dataset.records,
            records_done=self.records_done,
        )

    def _grant(self) -> None:
        """Fills every worker's window, one lease each at a time, so that the last tasks are spread."""
        for window in range(1, leases.WINDOW + 1):
            for worker in (each for each in self._workers if each not in self._retired):
                self._queue, new = leases.grant(self._queue, worker, window)
                for lease in new:
                    self._send(worker, pb.ToWorker(lease=pb.Lease(work=self.work, tasks=lease)))
