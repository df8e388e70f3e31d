"""The life of a worker: greet, prepare completely, then train in one round after another until the job ends."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import keras
import tensorflow as tf

from edl_allreduce import contracts
from edl_allreduce.contracts.user_errors import explain, user_code
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_from_message
from edl_allreduce.control.position import position_from_message
from edl_allreduce.errors import ModelError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.position import Position, Schedule
from edl_allreduce.spec import JobSpec
from edl_allreduce.worker.audit import Audit
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.reader import Share, StepReader
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.session import Session
from edl_allreduce.worker.step import Outcome, TrainStep, make_broadcast

log = logging.getLogger(__name__)

WARM_UP = -1  # the "round" in which the sample for tracing is read


class RingBroken(Exception):
    """A reduction failed because a connection of the ring is gone; the next round will do the step again."""


class Worker:
    """A prepared worker.

    Making one takes seconds: it builds the model, traces the step, runs it once alone and starts reading ahead, so that
    joining a round later costs the others only the reform.

    Args:
        welcome: the job and its data, as the coordinator told them.
        worker_id: never used twice in a job.
        session, ring: the connections to the coordinator and to the other workers.
        coordinator: the address where the rounds' stores are.

    Raises:
        ModelError: the user's code is missing something or failed.
        CorruptFile, StorageError: the first records cannot be read.
    """

    def __init__(self, welcome: pb.Welcome, worker_id: int, session: Session, ring: Ring, coordinator: str) -> None:
        self._id, self._session, self._ring, self._coordinator = worker_id, session, ring, coordinator
        self._spec = JobSpec.from_json(welcome.spec)
        dataset = dataset_from_message(welcome.dataset)
        training, data = self._spec.training, self._spec.data
        self._schedule = Schedule(dataset.records, training.num_epochs)
        self._zoo = self._spec.model.model_zoo
        self._audit = None
        if self._spec.output.audit and welcome.job_folder:
            folder = JobFolder(Path(welcome.job_folder)).audit
            self._audit = Audit(folder, worker_id, dataset, training.seed, data.shuffle)
        keras.utils.set_random_seed(training.seed)
        self._training = contracts.load(self._spec.model)
        reader = StepReader(dataset, training.seed, data.shuffle, training.num_epochs)
        self._feed = Feed(self._training, dataset, reader, self._zoo)
        self._step = self._prepare(worker_id)
        self._broadcast = make_broadcast(self._step.variables)
        self._position = Position()
        self._in_line = False  # whether this worker's weights are the job's at `_position`
        self._last_step: float | None = None

    def run(self) -> None:
        """Trains until the coordinator says that the job has ended, or that this worker should leave."""
        self._session.ready()
        while (message := self._session.inbox.get()) is not None:
            match message.WhichOneof("message"):
                case "round":
                    self._train_round(message.round)
                case "export":
                    self._export()
                case "leave" | "stop":
                    break
        self._feed.close()

    def _prepare(self, worker_id: int) -> TrainStep:
        """Traces the step and runs it once, alone, on real records; the weights are what they were before."""
        share = Share(Position(), tuple(range(8)), 8)
        self._feed.begin(WARM_UP, share)
        size = self._schedule.size(share.start, share.batch)
        sample = self._feed.next(share.start, size)
        assert sample is not None
        with user_code(self._zoo, "tracing the training step"):
            step = TrainStep(self._training)
        variables = [*step.variables, *step.seed_variables]
        before = [variable.numpy() for variable in variables]
        self._ring.join()
        try:
            step.train(*sample, part=False)
            step.idle(part=False)
        except Exception as error:
            raise ModelError(explain(error, self._zoo, step.graphs)) from error
        finally:
            self._ring.leave()
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        for variable in step.seed_variables:  # every worker drops out other units
            variable.assign(variable + tf.constant([worker_id, 0], variable.dtype))
        return step

    def _train_round(self, round: pb.Round) -> None:
        number, rank = round.number, list(round.members).index(self._id)
        share = Share(position_from_message(round.position), tuple(round.lanes), round.global_batch)
        log.info("round %d: rank %d of %d, from step %d", number, rank, len(round.members), share.start.step)
        self._feed.begin(number, share)
        error = None
        try:
            self._enter(round, rank, share.start)
            self._train(number, rank, share)
        except RingBroken as broken:
            error = str(broken)
            self._ring.sever()
        self._ring.leave()
        log.info("round %d: parted after step %d%s", number, self._position.step, f": {error}" if error else "")
        self._session.parted(number, self._position, error)

    def _enter(self, round: pb.Round, rank: int, start: Position) -> None:
        """Joins the ring and takes rank 0's state. Nothing is assigned before all of it has arrived."""
        try:
            if self._session.abandoned_round >= round.number:
                raise RingBroken("abandoned before it began")
            size = len(round.members)
            self._ring.join(rank, size, (self._coordinator, round.store_port) if size > 1 else None)
            values = self._broadcast() if round.synchronize and size > 1 else []
        except Exception as error:
            raise RingBroken(explain(error, self._zoo)) from error
        if values and not (self._in_line and self._position == start):
            for variable, value in zip(self._step.variables, values, strict=True):
                variable.assign(value)
        self._position, self._in_line = start, True

    def _train(self, number: int, rank: int, share: Share) -> None:
        paused_since = self._last_step
        for at, size in self._schedule.steps(share.start, share.batch):
            outcome = self._one_step(number, share, at, size)
            self._position = self._schedule.after(at, share.batch)
            now = time.monotonic()
            seconds = now - self._last_step if self._last_step else 0.0
            paused = now - paused_since if paused_since else 0.0
            self._last_step, paused_since = now, None
            step = pb.Step(
                step=self._position.step, epoch=at.epoch, loss=outcome.loss, records=outcome.records, seconds=seconds
            )
            self._session.progress(number, rank, self._position, step, paused)
            if self._audit:
                self._audit.applied(number, self._position)
            if outcome.part:
                return

    def _one_step(self, number: int, share: Share, at: Position, size: int) -> Outcome:
        batch = self._feed.next(at, size)
        part = self._session.wants_to_part(number)
        if self._audit:
            self._audit.means(number, share, at, size)
        try:
            return self._step.idle(part) if batch is None else self._step.train(*batch, part=part)
        except Exception as error:
            if self._ring.broken():
                raise RingBroken(explain(error, self._zoo)) from error
            raise ModelError(explain(error, self._zoo, self._step.graphs)) from error

    def _export(self) -> None:
        from edl_allreduce import trained_model

        trained_model.write(
            self._training.model, self._spec, self._spec.output.output, overwrite=self._spec.output.overwrite
        )
        self._session.exported()
