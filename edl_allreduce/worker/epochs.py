"""What happens between steps: evaluations, callbacks, and what follows from the end of an epoch.

An epoch's end is a place of its own in a `Position`: whoever has passed it has the state that follows from it, and is
further than whoever has not. So it may be interrupted anywhere, like a step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.position import Position, Schedule
from edl_allreduce.worker.callbacks import Callbacks, Logs
from edl_allreduce.worker.evaluation import Evaluator, as_figures
from edl_allreduce.worker.leases import Beat, Leases
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.session import Session
from edl_allreduce.worker.step import TrainStep

log = logging.getLogger(__name__)

CHANGED, UNCHANGED = b"\x01", b"\x00"


class Epochs:
    """The times between steps, for one worker.

    Args:
        step: whose training metrics are told.
        schedule: of the job.
        evaluator: evaluates on the validation data; None: there is none.
        evaluation_steps: evaluate every so many steps besides at epochs' ends; 0: not.
        callbacks: run by rank 0; None: there are none.
        session, ring: the connections to the coordinator and to the other workers.
        broadcast: rank 0's values of all variables, as `step.make_broadcast` makes it.
    """

    def __init__(
        self,
        step: TrainStep,
        schedule: Schedule,
        evaluator: Evaluator | None,
        evaluation_steps: int,
        callbacks: Callbacks | None,
        session: Session,
        ring: Ring,
        broadcast: Callable[[], Sequence[tf.Tensor]],
    ) -> None:
        self._step, self._schedule, self._evaluator, self._callbacks = step, schedule, evaluator, callbacks
        self._evaluation_steps, self._session, self._ring, self._broadcast = evaluation_steps, session, ring, broadcast
        self._evaluated = 0  # the newest step after which this worker has taken part in an evaluation
        self._begun: int | None = None  # the epoch that callbacks have been told of

    @property
    def variables(self) -> list[keras.Variable]:
        """What belongs to a checkpoint besides the step's variables."""
        return [self._callbacks.memory] if self._callbacks else []

    def lead(self, leads: bool) -> None:
        """A round begins in which this worker is rank 0, or is not."""
        self._begun = self._begun if leads else None
        if self._callbacks:
            self._callbacks.lead(leads)

    def after(self, at: Position, position: Position, stopped: bool) -> Position:
        """Where a worker is after the step at `at`, which leads to `position`: perhaps at its epoch's end.

        Args:
            stopped: a callback has ended training before that step; it has not been done.
        """
        if stopped:
            return self._schedule.stopped(at)
        return self._schedule.end(position) if position.epoch > at.epoch else position

    def before_step(
        self, position: Position, rank: int, batch: int, beat: Beat, interrupted: Callable[[], bool]
    ) -> None:
        """What is due before the step at `position`: an evaluation, callbacks, metrics that begin anew.

        Raises:
            Interrupted: the evaluation must be gone on with in another round.
        """
        due = self._evaluation_steps and position.step and position.step % self._evaluation_steps == 0
        if due and self._evaluator and self._evaluated != position.step and position.offset:
            self._evaluate(self._evaluator, position, rank, beat, interrupted)
        if position.offset == 0:
            self._step.reset_metrics()
        if self._callbacks and rank == 0:
            beat(pb.CALLING_BACK)
            if self._begun != position.epoch:
                self._callbacks.epoch_begins(position.epoch)
                self._begun = position.epoch
            if self._callbacks.each_step:
                self._callbacks.step_begins(position.offset // batch)

    def after_step(self, at: Position, rank: int, batch: int, beat: Beat) -> None:
        """A step has been done."""
        if self._callbacks and rank == 0 and self._callbacks.each_step:
            beat(pb.CALLING_BACK)
            self._callbacks.step_ended(at.offset // batch, self._training_logs())

    def steering(self, rank: int) -> tuple[bool, float]:
        """Whether rank 0 stops training instead of the next step, and its learning rate; for the others, nothing."""
        if self._callbacks is None or rank != 0:
            return False, 0.0
        return bool(self._callbacks.stopped), self._callbacks.learning_rate

    def close(
        self, at: Position, rank: int, beat: Beat, interrupted: Callable[[], bool], reached: Callable[[Position], None]
    ) -> None:
        """What follows from an epoch's end; calls `reached` as soon as this worker's state is that after it.

        Raises:
            Interrupted: the evaluation must be gone on with in another round.
        """
        began, logs = time.monotonic(), self._training_logs()
        if self._evaluator:
            figures = self._evaluate(self._evaluator, at, rank, beat, interrupted)
            logs |= {f"val_{name}": value for name, value in figures.items()}
        stopped = ""
        if self._callbacks is None:
            reached(self._schedule.closed(at))
        elif rank == 0:
            beat(pb.CALLING_BACK)
            stopped = self._decide(self._callbacks, at, logs, reached)
        else:
            self._follow(self._callbacks, at, reached)
        if rank == 0:
            seconds = time.monotonic() - began if self._evaluator or self._callbacks else 0.0
            told = pb.EpochEnd(epoch=at.epoch, step=at.step, values=logs, stopped=stopped, seconds=seconds)
            self._session.epoch_ended(told)

    def _training_logs(self) -> dict[str, float]:
        found = self._step.metric_results()
        return {key: each for name, value in found.items() for key, each in as_figures(name, value).items()}

    def receive(self) -> bytes | None:
        """What rank 0's callbacks remember, when a round begins; None: there are none."""
        return self._ring.broadcast(self._callbacks.memory.read()) if self._callbacks else None

    def remember(self, memory: bytes | None) -> None:
        """Takes over what `receive` has given."""
        if self._callbacks and memory is not None:
            self._callbacks.memory.write(memory)

    def _decide(self, callbacks: Callbacks, at: Position, logs: Logs, reached: Callable[[Position], None]) -> str:
        last = self._schedule.finished(self._schedule.closed(at))
        changed = callbacks.epoch_ended(at.epoch, logs, last)
        after = self._schedule.closed(at, stop=bool(callbacks.stopped))
        reached(after)  # callbacks have run: whatever happens now, they must not run again
        head = after.epoch.to_bytes(8, "little") + (CHANGED if changed else UNCHANGED)
        self._ring.broadcast(head + callbacks.memory.read())
        if changed:
            self._broadcast()
        return f"{callbacks.stopped} has ended training" if callbacks.stopped else ""

    def _follow(self, callbacks: Callbacks, at: Position, reached: Callable[[Position], None]) -> None:
        told = self._ring.broadcast(b"")
        if told[8:9] == CHANGED:
            for variable, value in zip(self._step.variables, self._broadcast(), strict=True):
                variable.assign(value)
        callbacks.memory.write(told[9:])
        reached(Position(at.step, int.from_bytes(told[:8], "little"), 0))

    def _evaluate(
        self, evaluator: Evaluator, at: Position, rank: int, beat: Beat, interrupted: Callable[[], bool]
    ) -> dict[str, float]:
        began = time.monotonic()
        if self._callbacks and rank == 0:
            beat(pb.CALLING_BACK)
            self._callbacks.evaluation_begins()
        sums = Leases(self._session, evaluator, beat, interrupted).work_through(at.step, evaluator.whole)
        figures = evaluator.figures(sums)
        self._evaluated = at.step
        if self._callbacks and rank == 0:
            beat(pb.CALLING_BACK)
            self._callbacks.evaluation_ended(figures)
        if rank == 0 and not self._schedule.at_end(at):  # else the epoch's end tells it
            self._session.figures(
                pb.Figures(work=at.step, epoch=at.epoch, values=figures, seconds=time.monotonic() - began)
            )
            log.info("evaluated after step %d: %s", at.step, figures)
        return figures
