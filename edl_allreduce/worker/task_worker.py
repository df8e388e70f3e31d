"""The life of a worker of an evaluation or a prediction: it loads the trained model and does tasks to the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from edl_allreduce import contracts, records, storage, task_spec, trained_model
from edl_allreduce.bundle import CODE
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_from_message
from edl_allreduce.errors import ModelError
from edl_allreduce.fetched_model import FetchedModel
from edl_allreduce.task_spec import WHOLE_JOB, EvaluateSpec, PredictSpec
from edl_allreduce.worker.evaluation import Evaluator
from edl_allreduce.worker.leases import Interrupted, Leases
from edl_allreduce.worker.prediction import Predictor
from edl_allreduce.worker.session import Session
from edl_allreduce.worker.untold import Activity


@dataclass(frozen=True)
class _Doing:
    state: str = "preparing"
    activity: pb.Activity.ValueType = pb.WAITING
    since: float = 0.0


class TaskWorker:
    """A prepared worker: its model is loaded and traced. It needs no other worker, and no Horovod.

    Args:
        welcome: the job and its data, as the coordinator told them.
        fetched: the job's trained model.
        worker_id: never used twice in a job.
        session: the connection to the coordinator.

    Raises:
        DataError, ModelError, StorageError: the trained model cannot be used.
    """

    def __init__(self, welcome: pb.Welcome, fetched: FetchedModel, worker_id: int, session: Session) -> None:
        self._session, self._doing = session, _Doing()
        session.standing, session.activity = self._standing, self._activity
        spec, dataset = task_spec.from_json(welcome.spec), dataset_from_message(welcome.dataset)
        assert isinstance(spec, (EvaluateSpec, PredictSpec))
        self._spec = spec
        mode = contracts.Mode.PREDICTION if isinstance(spec, PredictSpec) else contracts.Mode.EVALUATION
        columns = records.column_names(dataset.files[0], dataset.data_format)
        loaded = trained_model.make(fetched, mode, columns)
        training, zoo, batch = loaded.training, loaded.model_zoo, spec.data.batch_size
        self._zoo, self._code = zoo, storage.join(spec.model.trained_model, CODE)
        self._performer: Evaluator | Predictor
        with self._files_as_the_user_knows_them():
            if isinstance(spec, PredictSpec):
                to, format = spec.output.output, spec.output.output_format
                self._performer = Predictor(training, dataset, zoo, batch, to, format, worker_id)
            else:
                self._performer = Evaluator(training, dataset, zoo, batch)

    def run(self) -> None:
        """Does tasks until the coordinator says that the job has ended, or that this worker is not needed any more."""
        self._doing = _Doing("working")
        self._session.ready()
        leases = Leases(self._session, self._performer, self._beat)
        whole = isinstance(self._performer, Evaluator) and self._performer.whole
        try:
            while True:
                with self._files_as_the_user_knows_them():
                    sums = leases.work_through(WHOLE_JOB, whole)
                if isinstance(self._performer, Evaluator):
                    self._session.figures(pb.Figures(work=WHOLE_JOB, values=self._performer.figures(sums)))
                self._wait()
        except Interrupted:
            return

    @contextmanager
    def _files_as_the_user_knows_them(self) -> Iterator[None]:
        """Errors of the model's code name its files where the trained model has them, not this worker's copies."""
        try:
            yield
        except ModelError as error:
            raise ModelError(str(error).replace(self._zoo, self._code)) from error

    def _wait(self) -> None:
        """The figures are told: there is nothing to do until the end."""
        self._beat(pb.WAITING)
        while (message := self._session.inbox.get()) is not None:
            if message.HasField("stop"):
                break
        raise Interrupted

    def _beat(self, activity: pb.Activity.ValueType) -> None:
        self._doing = replace(self._doing, activity=activity, since=time.monotonic())

    def _standing(self) -> pb.Standing:
        return pb.Standing(state=self._doing.state)

    def _activity(self) -> Activity:
        doing = self._doing
        return Activity(doing.activity, time.monotonic() - doing.since)
