"""What a job of leased tasks is: the evaluation of a trained model, or its predictions.

Each is a frozen dataclass of settings groups, as `spec.JobSpec` is for a training.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from edl_allreduce import flags
from edl_allreduce.flags import flag
from edl_allreduce.records.formats import AUTO, FORMATS, check_format
from edl_allreduce.spec import JobSpec, WorkersSpec


@dataclass(frozen=True)
class TrainedModelSpec:
    """Model."""

    trained_model: str = flag("folder or URL of the trained model", check="not empty", metavar="FOLDER")
    image: str = flag("on Kubernetes: the image to run (default: the one in which it was trained)", "", metavar="IMAGE")


@dataclass(frozen=True)
class TasksSpec:
    """Data."""

    data: str = flag(
        "the records: a path, a pattern, a folder, or several joined by commas; also gs:// and s3://",
        check="not empty",
        metavar="PATTERN",
    )
    data_format: str = flag(
        "what the files of data are: recordio, tfrecord, csv or parquet; auto goes by their endings",
        AUTO,
        metavar="|".join((AUTO, *FORMATS)),
    )
    batch_size: int = flag("records per batch and worker", 256, check="positive")
    records_per_task: int = flag(
        "records per task, where the files' chunks allow", 4096, check="positive", advanced=True
    )

    def __post_init__(self) -> None:
        check_format(self.data_format)


@dataclass(frozen=True)
class FiguresSpec:
    """Result."""

    output: str = flag("file or URL for the figures as JSON; they are printed in any case", "", metavar="FILE")


@dataclass(frozen=True)
class PredictionsSpec:
    """Result."""

    output: str = flag("folder or URL for the predictions", check="not empty", metavar="FOLDER")
    output_format: str = flag(
        "how predictions are written: recordio (of tf.Example), csv or parquet",
        "recordio",
        check="recordio, csv or parquet",
        metavar="recordio|csv|parquet",
    )
    overwrite: bool = flag("replace the predictions in output", False)


@dataclass(frozen=True)
class EvaluateSpec:
    """The evaluation of a trained model."""

    KIND: ClassVar[str] = "evaluate"

    model: TrainedModelSpec
    data: TasksSpec
    elastic: WorkersSpec
    output: FiguresSpec


@dataclass(frozen=True)
class PredictSpec:
    """The predictions of a trained model."""

    KIND: ClassVar[str] = "predict"

    model: TrainedModelSpec
    data: TasksSpec
    elastic: WorkersSpec
    output: PredictionsSpec


WHOLE_JOB = 0  # the number of the piece of leased work that is the whole job
TaskSpec = EvaluateSpec | PredictSpec
Job = JobSpec | TaskSpec

GROUPS: dict[type[EvaluateSpec] | type[PredictSpec], dict[str, type]] = {
    EvaluateSpec: {"model": TrainedModelSpec, "data": TasksSpec, "elastic": WorkersSpec, "output": FiguresSpec},
    PredictSpec: {"model": TrainedModelSpec, "data": TasksSpec, "elastic": WorkersSpec, "output": PredictionsSpec},
}


def kind_of(job: Job) -> str:
    """train, evaluate or predict."""
    return "train" if isinstance(job, JobSpec) else job.KIND


def from_flags(kind: type[EvaluateSpec] | type[PredictSpec], values: Mapping[str, Any]) -> TaskSpec:
    """A job from flat flags (or keyword arguments), each typed or a string.

    Raises:
        UsageError: a flag is unknown, missing or wrong.
    """
    return kind(**flags.parse(GROUPS[kind], values))


def to_json(job: Job) -> str:
    """One line of JSON that `from_json` reads back; a training's is that of `JobSpec.to_json`."""
    if isinstance(job, JobSpec):
        return job.to_json()
    return json.dumps({"kind": job.KIND, **dataclasses.asdict(job)}, ensure_ascii=False)


def from_json(text: str) -> Job:
    """The job that `to_json` wrote.

    Raises:
        UsageError: a field is unknown, missing or of another type.
    """
    values = json.loads(text)
    kinds = {kind.KIND: kind for kind in GROUPS}
    kind = kinds.get(values.pop("kind", "")) if isinstance(values, dict) else None
    return cast(Job, flags.from_json(kind or JobSpec, values, "job"))
