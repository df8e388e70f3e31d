"""All leased work of a job: the tasks it consists of, or the evaluations of a model that is being trained."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.dataset import Dataset
from edl_allreduce.task_spec import WHOLE_JOB
from rendezvous import events
from rendezvous.state import FAILED_EXIT_CODE
from rendezvous.task_board import Send, TaskBoard
from rendezvous.telemetry import Telemetry


class LeasedWork:
    """Knows which pieces of work there are, and what follows from a worker's word about them.

    Args:
        dataset: whose tasks they are; None: the job has no leased work.
        is_job: whether the job consists of these tasks; else they are its validation data.
        telemetry: where what is done is noted.
        send: tells a worker something.
        tell: tells the coordinator that something has happened.
        finish: called when all tasks of the job are done, and the figures of an evaluation told.
    """

    def __init__(
        self,
        dataset: Dataset | None,
        is_job: bool,
        telemetry: Telemetry,
        send: Send,
        tell: Callable[[events.Event], None],
        finish: Callable[[], None],
    ) -> None:
        self._dataset, self._is_job, self._telemetry = dataset, is_job, telemetry
        self._send, self._tell, self._finish = send, tell, finish
        self._board: TaskBoard | None = None
        self._reader: int | None = None  # who has been asked to read the figures of the job's sums
        if dataset and is_job:
            done = telemetry.tasks_done
            told = [np.frombuffer(base64.b64decode(each), "<f8") for each in done.values() if each]
            self._board = TaskBoard(WHOLE_JOB, dataset, send, done, np.sum(told, axis=0) if told else None)

    def status(self) -> pb.Work | None:
        """How far the newest piece of work is; None: there is none."""
        return self._board.status() if self._board else None

    def begin(self) -> None:
        """Looks whether everything was done already by an earlier coordinator."""
        if self._is_job and self._board and self._board.finished:
            self._conclude()

    def wants(self, worker: int, message: pb.Wants) -> None:
        """A worker wants tasks."""
        board = self._board
        if self._dataset is None:
            return
        if board is None or (not self._is_job and board.work != message.work):
            board = self._board = TaskBoard(message.work, self._dataset, self._send)
        board.join(worker, message.whole)
        self._note(board)
        if board.finished and self._is_job:
            self._conclude()
        elif board.finished:
            board.tell_sums(worker)

    def done(self, worker: int, message: pb.TaskDone) -> None:
        """A worker has done a lease."""
        board = self._board
        if board is None or board.work != message.work:
            return
        if board.done(worker, message) and self._is_job:
            self._telemetry.task_done(message)
        self._note(board)
        if board.finished:
            self._conclude()

    def leave(self, worker: int, lost: bool) -> None:
        """A worker takes no part any more."""
        board = self._board
        if board is None:
            return
        hopeless = board.leave(worker, lost)
        if hopeless:
            self._tell(events.Broke(worker, hopeless, FAILED_EXIT_CODE))
        elif self._is_job and board.finished and worker == self._reader:
            self._conclude()

    def retire(self, worker: int) -> None:
        """A worker gets no new tasks: it has been told to go."""
        if self._board:
            self._board.retire(worker)

    def figures(self, worker: int, message: pb.Figures) -> None:
        """A worker has read the figures of a finished evaluation."""
        self._telemetry.evaluated(message)
        if self._is_job and worker == self._reader:
            self._finish()

    def _conclude(self) -> None:
        """All tasks are done: of an evaluation, somebody must read the figures."""
        board = self._board
        assert board is not None
        if not self._is_job:
            for worker in board.workers:
                board.tell_sums(worker)
        elif len(board.sums) == 0:
            self._finish()
        elif board.workers:
            self._reader = board.workers[0]
            board.tell_sums(self._reader)

    def _note(self, board: TaskBoard) -> None:
        """Keeps the coordinator's view of the workers in step with who holds leases."""
        if self._is_job:
            for worker, busy in board.changed():
                self._tell(events.Leased(worker) if busy else events.Ready(worker))
