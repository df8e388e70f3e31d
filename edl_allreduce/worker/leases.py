"""The worker's side of leased work: does tasks as they come, until all workers together have done all of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.worker.session import Session
from edl_allreduce.worker.task_reader import TaskBatch

log = logging.getLogger(__name__)

Sums = npt.NDArray[np.float64]
Beat = Callable[[pb.Activity.ValueType], None]


class Interrupted(Exception):
    """The work is not finished, but this worker must not go on with it."""


class Performer(Protocol):
    """What is done with a task."""

    def open(self, tasks: tuple[int, ...]) -> Iterator[TaskBatch]:
        """Begins to read tasks."""

    def perform(self, tasks: tuple[int, ...], batches: Iterator[TaskBatch]) -> Sums:
        """Does them; returns what they add to the sums of an evaluation, else nothing."""


class Leases:
    """One worker's leases.

    Args:
        session: where they come from.
        performer: does the tasks.
        beat: called when the worker begins a batch (EVALUATING), and when it waits for others (REDUCING).
        interrupted: whether to stop between two batches.
    """

    def __init__(
        self,
        session: Session,
        performer: Performer,
        beat: Beat = lambda activity: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._session, self._performer, self._beat, self._interrupted = session, performer, beat, interrupted

    def work_through(self, work: int, whole: bool = False) -> Sums:
        """Takes part in a piece of work until all of it is done; returns its sums.

        Args:
            whole: all tasks must be done by one worker.

        Raises:
            Interrupted: the job ends, the coordinator is gone for good, or `interrupted` says so.
            EdlError: the user's code or a data file failed.
        """
        self._session.wants_tasks(work, whole)
        leased: deque[tuple[tuple[int, ...], Any]] = deque()
        try:
            while True:
                while not leased or not self._session.inbox.empty():
                    self._beat(pb.EVALUATING if leased else pb.REDUCING)
                    message = self._session.inbox.get()
                    if message is None or message.HasField("stop"):
                        self._session.inbox.put(message)  # for whoever ends this worker
                        raise Interrupted
                    if message.HasField("sums") and message.sums.work == work:
                        return np.frombuffer(message.sums.sums, "<f8")
                    if message.HasField("lease") and message.lease.work == work:
                        tasks = tuple(message.lease.tasks)
                        leased.append((tasks, self._performer.open(tasks)))
                    if self._interrupted():
                        raise Interrupted
                self._do(work, *leased.popleft())
        finally:
            self._session.wants_no_tasks()

    def _do(self, work: int, tasks: tuple[int, ...], batches: Iterator[TaskBatch]) -> None:
        began, records = time.monotonic(), 0

        def counted() -> Iterator[TaskBatch]:
            nonlocal records
            self._beat(pb.EVALUATING)
            for batch in batches:
                if self._interrupted():
                    raise Interrupted
                records += len(batch.records)
                yield batch
                self._beat(pb.EVALUATING)

        sums = self._performer.perform(tasks, counted())
        self._session.task_done(
            pb.TaskDone(
                work=work,
                tasks=tasks,
                records=records,
                sums=sums.astype("<f8").tobytes(),
                seconds=time.monotonic() - began,
            )
        )
