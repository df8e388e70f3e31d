"""The life of a worker: greet, prepare completely, then train in one round after another until the job ends."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Iterator
from pathlib import Path

import keras

from edl_allreduce import checkpoint, contracts, records
from edl_allreduce.contracts.user_errors import explain
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_from_message
from edl_allreduce.control.position import position_from_message, position_to_message
from edl_allreduce.errors import ModelError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.position import Position, Schedule
from edl_allreduce.records import custom
from edl_allreduce.spec import DEFAULT_BATCH_SIZE, JobSpec
from edl_allreduce.worker.audit import Audit
from edl_allreduce.worker.bad_records import Skip
from edl_allreduce.worker.callbacks import Callbacks
from edl_allreduce.worker.checkpointer import Checkpointer, Done
from edl_allreduce.worker.epochs import Epochs
from edl_allreduce.worker.evaluation import Evaluator
from edl_allreduce.worker.feed import Feed
from edl_allreduce.worker.leases import Interrupted
from edl_allreduce.worker.own_reader import make_reader
from edl_allreduce.worker.precision import use_precision
from edl_allreduce.worker.preparing import prepare_step
from edl_allreduce.worker.reader import Share, StepReader
from edl_allreduce.worker.ring import Ring
from edl_allreduce.worker.session import Session
from edl_allreduce.worker.step import Outcome, make_broadcast
from edl_allreduce.worker.whereabouts import Whereabouts

log = logging.getLogger(__name__)

DISMISSAL_SECONDS = 20.0  # how long a leaver waits for the coordinator's word
RATE_SECONDS = 1.0  # between two times that the learning rate is told


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

    Raises:
        ModelError: the user's code is missing something or failed.
        CorruptFile, StorageError: the first records cannot be read.
    """

    def __init__(self, welcome: pb.Welcome, worker_id: int, session: Session, ring: Ring) -> None:
        self._id, self._session, self._ring = worker_id, session, ring
        self._spec, self._job = JobSpec.from_json(welcome.spec), welcome.job
        dataset = dataset_from_message(welcome.dataset)
        training, data, output = self._spec.training, self._spec.data, self._spec.output
        self._schedule = Schedule(dataset.records, training.num_epochs)
        self._zoo = self._spec.model.model_zoo
        self._audit = None
        if output.audit and welcome.job_folder:
            folder = JobFolder(Path(welcome.job_folder)).audit
            self._audit = Audit(folder, worker_id, dataset, training.seed, data.shuffle)
        keras.utils.set_random_seed(training.seed)
        use_precision(training.mixed_precision)
        self._use_own_reader()
        columns = records.column_names(dataset.files[0], dataset.data_format)
        self._training = contracts.load(self._spec.model, column_names=columns)
        reader = StepReader(dataset, training.seed, data.shuffle, training.num_epochs)
        self._feed = Feed(self._training, dataset, reader, self._zoo, data.on_bad_record, self._skips)
        steered = bool(self._training.callbacks)
        self._step = prepare_step(self._training, self._feed, ring, self._zoo, worker_id, training, steered)
        self._broadcast = make_broadcast(self._step.variables)
        self._epochs = self._make_epochs(welcome)
        origin = checkpoint.Origin(self._job, self._spec, dataset.fingerprint, dataset.lanes)
        self._checkpointer = Checkpointer(
            [*self._step.variables, *self._epochs.variables],
            output.output,
            origin,
            output.keep_checkpoint_max,
            self._checkpointed,
        )
        self._position = Position()
        self._in_line = False  # whether this worker's weights are the job's at `_position`
        self._last_step: float | None = None
        self._rate_told = 0.0
        self._repeated = 0  # records of a step that has begun and is not done
        self._place = Whereabouts(self._step.computed_at)
        session.standing, session.activity = self._place.standing, self._place.activity

    def _use_own_reader(self) -> None:
        data = self._spec.data
        if data.data_format == records.CUSTOM:
            for origin in filter(None, (data.data, self._spec.validation.validation_data)):
                custom.use(origin, make_reader(self._spec.model, origin, data.records_per_task))

    def _make_epochs(self, welcome: pb.Welcome) -> Epochs:
        spec, training, evaluator, callbacks = self._spec, self._training, None, None
        if welcome.HasField("validation"):
            evaluated = training.in_mode(contracts.Mode.EVALUATION)
            dataset, batch = dataset_from_message(welcome.validation), spec.validation.validation_batch_size
            evaluator = Evaluator(evaluated, dataset, self._zoo, batch)
        if training.callbacks:
            batch_size = spec.training.batch_size or DEFAULT_BATCH_SIZE
            steps = None if spec.training.minibatch_size else -(-self._schedule.records // batch_size)
            callbacks = Callbacks(training, spec.training.num_epochs, steps, self._zoo)
        every = spec.validation.evaluation_steps
        return Epochs(
            self._step, self._schedule, evaluator, every, callbacks, self._session, self._ring, self._broadcast
        )

    def run(self) -> None:
        """Trains until the coordinator says that the job has ended, or that this worker is not needed any more."""
        self._become("ready")
        self._session.ready()
        while (message := self._next_message()) is not None:
            match message.WhichOneof("message"):
                case "round":
                    self._train_round(message.round)
                case "restore":
                    self._restore()
                case "checkpoint":
                    self._save_if_wished()
                case "export":
                    self._export()
                case "stop":
                    break
        self._feed.close()
        self._checkpointer.close()

    def _become(self, state: str, failed: bool = False) -> None:
        self._place.becomes(state, self._position if self._in_line else None, failed)

    def _does(self, activity: pb.Activity.ValueType) -> None:
        self._place.does(activity)

    def _next_message(self) -> pb.ToWorker | None:
        if not self._session.leaving:
            return self._session.inbox.get()
        try:
            return self._session.inbox.get(timeout=DISMISSAL_SECONDS)
        except queue.Empty:  # whoever told it to go does not wait for ever
            self._checkpointer.wait(self._spec.elastic.prepare_timeout)
            return None

    def _train_round(self, round: pb.Round) -> None:
        number, rank = round.number, list(round.members).index(self._id)
        share = Share(position_from_message(round.position), tuple(round.lanes), round.global_batch)
        log.info("round %d: rank %d of %d, from step %d", number, rank, len(round.members), share.start.step)
        self._place.enters(round)
        self._become("training")
        self._feed.begin(number, share)
        self._epochs.lead(rank == 0)
        error, refused = None, False
        try:
            self._enter(round, rank, share.start)
            self._train(number, rank, share)
        except RingBroken as broken:
            error, refused = str(broken), self._ring.refused()
            self._ring.sever()
        except Interrupted:  # when all have been asked to part, all do here, but who is in a reduction already
            if self._session.leaving or self._session.abandoned_round >= number:
                error = "the evaluation goes on in another round"
            self._ring.sever()
        self._does(pb.LEAVING_RING)
        self._ring.leave()
        log.info("round %d: parted after step %d%s", number, self._position.step, f": {error}" if error else "")
        self._does(pb.WAITING)
        self._become("ready", failed=error is not None)
        self._session.parted(
            pb.Parted(
                round=number,
                position=position_to_message(self._position) if self._in_line else None,
                failed=error is not None,
                error=error or "",
                repeated=self._repeated,
                unreachable=self._ring.unreachable() if error else (),
                refused=refused,
            )
        )
        self._repeated = 0

    def _enter(self, round: pb.Round, rank: int, start: Position) -> None:
        """Joins the ring and takes rank 0's state. Nothing is assigned before all of it has arrived."""
        self._does(pb.JOINING)
        try:
            if self._session.abandoned_round >= round.number:
                raise RingBroken("abandoned before it began")
            size = len(round.members)
            self._ring.join(rank, size, (round.store_address, round.store_port) if size > 1 else None)
            self._does(pb.SYNCHRONIZING)
            values = self._broadcast() if round.synchronize and size > 1 else []
            memory = self._epochs.receive() if round.synchronize and size > 1 else None
        except Exception as error:
            raise RingBroken(explain(error, self._zoo)) from error
        if values and not (self._in_line and self._position == start):
            for variable, value in zip(self._step.variables, values, strict=True):
                variable.assign(value)
            self._epochs.remember(memory)
        self._position, self._in_line = start, True
        self._become("training")

    def _train(self, number: int, rank: int, share: Share) -> None:
        paused_since = self._last_step
        steps = self._spec.output.checkpoint_steps
        while not self._schedule.finished(at := self._position):
            if self._schedule.at_end(at):
                self._close_epoch(number, rank)
                continue
            with self._ring_may_break():
                self._epochs.before_step(at, rank, share.batch, self._does, lambda: self._must_part(number))
            began = time.monotonic()
            outcome = self._one_step(number, rank, share, at, self._schedule.size(at, share.batch))
            self._position = self._epochs.after(at, self._schedule.after(at, share.batch), outcome.stopped)
            if outcome.stopped:
                continue
            self._epochs.after_step(at, rank, share.batch, self._does)
            now = time.monotonic()
            paused = now - paused_since if paused_since else 0.0
            step = pb.Step(
                step=self._position.step,
                epoch=at.epoch,
                loss=outcome.loss,
                records=outcome.records,
                seconds=now - self._last_step if self._last_step else 0.0,
                useful_seconds=now - began,
                learning_rate=self._rate_now_and_then(now) if rank == 0 else 0.0,
            )
            self._last_step, paused_since = now, None
            self._session.progress(number, rank, self._position, step, paused)
            if self._audit:
                self._audit.applied(number, self._position)
            if steps and rank == 0 and self._position.step % steps == 0:
                self._checkpointer.save(self._position)
            self._save_if_wished()
            if outcome.part:
                return

    def _rate_now_and_then(self, now: float) -> float:
        if now - self._rate_told < RATE_SECONDS:
            return 0.0
        self._rate_told = now
        return self._step.learning_rate()

    def _close_epoch(self, number: int, rank: int) -> None:
        """Does what follows from an epoch's end."""

        def reached(position: Position) -> None:
            self._position = position
            self._become("training")

        with self._ring_may_break():
            self._epochs.close(self._position, rank, self._does, lambda: self._must_part(number), reached)
        self._does(pb.WAITING)

    def _must_part(self, number: int) -> bool:
        """Whether an evaluation must be interrupted: no reduction is under way then, so nothing is lost."""
        return self._session.abandoned_round >= number or self._session.wants_to_part(number)

    @contextlib.contextmanager
    def _ring_may_break(self) -> Iterator[None]:
        """Tells a failure of the ring from one of the user's code."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            if self._ring.broken():
                raise RingBroken(explain(error, self._zoo)) from error
            raise

    def _one_step(self, number: int, rank: int, share: Share, at: Position, size: int) -> Outcome:
        self._repeated = size
        began = time.time()
        self._does(pb.READING)
        batch = self._feed.next(at, size)
        part = self._session.wants_to_part(number)
        stop, rate = self._epochs.steering(rank)
        self._means(number, share, at, size)
        self._does(pb.COMPUTING)
        while True:
            try:
                if batch is None:
                    outcome = self._step.idle(part, stop, rate)
                else:
                    outcome = self._step.train(*batch, part=part, stop=stop, learning_rate=rate)
                break
            except Exception as error:
                if self._ring.broken():
                    raise RingBroken(explain(error, self._zoo)) from error
                if batch is None:
                    raise ModelError(explain(error, self._zoo, self._step.graphs)) from error
                batch = self._feed.without_culprits(at, size, batch, error, self._step)
                self._means(number, share, at, size)
        self._repeated = 0
        self._place.took(outcome.computed_at - began, self._position)
        return outcome

    def _means(self, number: int, share: Share, at: Position, size: int) -> None:
        if self._audit:
            self._audit.means(number, share, at, size, self._feed.left_out)

    def _skips(self, skip: Skip) -> None:
        self._session.skipped(
            pb.Skipped(file=skip.file, offset=skip.offset, first=skip.first, records=skip.records, error=skip.error)
        )

    def _restore(self) -> None:
        self._become("restoring")
        newest = checkpoint.newest(self._spec.output.output)
        if newest:
            self._position, self._in_line = self._checkpointer.restore(newest.url), True
            log.info("restored from %s", newest.url)
        self._become("ready")
        self._session.restored(self._position if newest else None)

    def _save_if_wished(self) -> None:
        if self._session.takes_checkpoint_wish() and self._in_line:
            self._checkpointer.save(self._position)

    def _checkpointed(self, done: Done) -> None:
        self._session.checkpointed(
            pb.Checkpointed(
                position=position_to_message(done.position),
                bytes=done.bytes,
                seconds=done.seconds,
                blocked_seconds=done.blocked_seconds,
                error=done.error,
            )
        )

    def _export(self) -> None:
        from edl_allreduce import trained_model

        self._become("exporting")
        self._training.optimizer.finalize_variable_values(self._training.model.trainable_variables)  # use_ema
        self._checkpointer.wait(self._spec.elastic.prepare_timeout)
        output = self._spec.output
        checkpoint.prune(output.output, keep=1)  # the trained model may need the room
        trained_model.write(self._training.model, self._spec, output.output, overwrite=output.overwrite, job=self._job)
        checkpoint.remove_all(output.output)
        self._become("exported")
        self._session.exported()
