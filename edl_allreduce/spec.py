"""What a job is: frozen settings, defined once, from which flags, help, Python signature and JSON derive."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edl_allreduce import flags
from edl_allreduce.class_weight import parse_class_weight
from edl_allreduce.errors import UsageError
from edl_allreduce.flags import flag
from edl_allreduce.params import format_params, parse_params
from edl_allreduce.records.formats import AUTO, CUSTOM, FORMATS, check_format

DEFAULT_BATCH_SIZE = 128
PRECISIONS = ("", "mixed_float16", "mixed_bfloat16")
MAX_WORKERS = 100_000
COMPRESSIONS = ("none", "fp16")


@dataclass(frozen=True)
class ModelSpec:
    """Model."""

    model_zoo: str = flag("folder with the model's Python files", check="not empty", metavar="FOLDER")
    model_def: str = flag(
        "the model: file and name joined by dots; regressor.wide_and_deep.MagicalWAD is MagicalWAD in "
        "regressor/wide_and_deep.py; a file alone for ElasticDL's module functions",
        check="not empty",
        metavar="FILE.NAME",
    )
    params: str = flag(
        'arguments of the model, as "hidden_units=[10, 100], learning_rate=0.01"', "", metavar="NAME=VALUE,…"
    )
    input_fn: str = flag("input function to use instead of the model's default_input", "", metavar="FILE.NAME")
    loss: str = flag("loss to use instead of default_loss: a function of the zoo, or a Keras name", "", metavar="NAME")
    optimizer: str = flag(
        "optimizer to use instead of default_optimizer: a function of the zoo, or a Keras name", "", metavar="NAME"
    )
    metrics: str = flag(
        "metrics to use instead of the model's own: functions of the zoo, or Keras names", "", metavar="NAME,…"
    )
    image: str = flag(
        "on Kubernetes: an image that holds the model zoo already (model_zoo is then a folder in it, by default "
        "/model_zoo); nothing is built",
        "",
        metavar="IMAGE",
    )

    def __post_init__(self) -> None:
        if len(self.model_def.split(".")) < 1 or not all(part.isidentifier() for part in self.model_def.split(".")):
            raise UsageError(f"--model_def: expected FILE.NAME such as digits.Classifier, got {self.model_def!r}")
        parse_params(self.params)

    @property
    def values(self) -> dict[str, Any]:
        """`params` as Python values."""
        return parse_params(self.params)


@dataclass(frozen=True)
class DataSpec:
    """Data."""

    data: str = flag(
        "files of records: a path, a pattern, a folder (its RecordIO files), or several joined by commas; also gs:// "
        "and s3://",
        check="not empty",
        metavar="PATTERN",
    )
    data_format: str = flag(
        "what the files of data are: recordio, tfrecord, csv or parquet; auto goes by their endings; custom: data is "
        "for the model's own custom_data_reader",
        AUTO,
        metavar="|".join((AUTO, *FORMATS, CUSTOM)),
    )
    shuffle: bool = flag("shuffle the records anew in every epoch (deterministic, by seed)", True)
    on_bad_record: str = flag(
        "what follows from a record that makes the user's code fail, or a damaged chunk: fail ends the job, skip goes "
        "on without it and lists it",
        "fail",
        check="fail or skip",
        metavar="fail|skip",
    )
    records_per_task: int = flag(
        "records per task, where the files' chunks allow", 4096, check="positive", advanced=True
    )
    lanes: int = flag(
        "how many places of an epoch are read side by side (0: as memory allows, at most 64)",
        0,
        check="not negative",
        advanced=True,
    )

    def __post_init__(self) -> None:
        check_format(self.data_format, (CUSTOM,))


@dataclass(frozen=True)
class TrainingSpec:
    """Training."""

    num_epochs: int = flag("how often every record is used", 1, check="positive")
    batch_size: int | None = flag(
        "records per step over all workers together; the result does not depend on the number of workers "
        f"(default {DEFAULT_BATCH_SIZE})",
        None,
        check="positive",
    )
    minibatch_size: int | None = flag("records per step and worker, instead of batch_size", None, check="positive")
    seed: int = flag(
        "seed of everything random: initial weights, the order of the records, dropout", 0, check="not negative"
    )
    scale_learning_rate: bool = flag("with minibatch_size: multiply the learning rate by the number of workers", False)
    warmup_steps: int = flag(
        "over the first so many steps the learning rate rises linearly to its full value", 0, check="not negative"
    )
    class_weight: str = flag(
        'how much the records of a class count, as "{0: 1.0, 1: 5.0}"; other classes count 1', "", metavar="{CLASS:W,…}"
    )
    max_local_batch: int = flag(
        "a worker computes at most so many records at a time, and adds up (0: all of its share of a step)",
        0,
        check="not negative",
    )
    mixed_precision: str = flag(
        "compute with 16 bits, keep weights in 32", "", metavar="|".join(PRECISIONS[1:]), advanced=True
    )
    gradient_compression: str = flag(
        "how gradients travel: none as they are, fp16 with 16 bits",
        "none",
        metavar="|".join(COMPRESSIONS),
        advanced=True,
    )
    jit_compile: bool = flag("compile each worker's part of a step with XLA", False, advanced=True)

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.minibatch_size is not None:
            raise UsageError(
                "--batch_size and --minibatch_size: give one of them; "
                "the first is per step, the second per step and worker"
            )
        if self.scale_learning_rate and self.minibatch_size is None:
            raise UsageError(
                "--scale_learning_rate: needs --minibatch_size; with --batch_size the number of workers changes nothing"
            )
        for name, known in (("mixed_precision", PRECISIONS), ("gradient_compression", COMPRESSIONS)):
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"--{name}: expected {' or '.join(filter(None, known))}, got {value!r}")
        parse_class_weight(self.class_weight)

    @property
    def class_weights(self) -> dict[int, float]:
        """`class_weight` as Python values."""
        return parse_class_weight(self.class_weight)

    def global_batch(self, world_size: int) -> int:
        """Records that one step of a round with `world_size` workers consumes."""
        if self.minibatch_size is not None:
            return self.minibatch_size * world_size
        return self.batch_size or DEFAULT_BATCH_SIZE


@dataclass(frozen=True)
class WorkersSpec:
    """Workers."""

    num_workers: int = flag("how many workers to keep alive", 1, check="positive")
    worker_timeout: float = flag(
        "a worker that is silent, or holds up the others, for so many seconds is dropped and replaced (longer where "
        "steps take long)",
        3.0,
        check="positive",
        advanced=True,
    )
    prepare_timeout: float = flag(
        "a worker that starts, or reads or writes weights, for so many seconds is dropped and replaced",
        600.0,
        check="positive",
        advanced=True,
    )
    coordinator_timeout: float = flag(
        "a worker that cannot reach the coordinator for so many seconds ends; until then it works on",
        300.0,
        check="positive",
        advanced=True,
    )

    def __post_init__(self) -> None:
        if self.num_workers > MAX_WORKERS:
            raise UsageError(f"--num_workers: expected at most {MAX_WORKERS:,}, got {self.num_workers}")


@dataclass(frozen=True)
class ElasticSpec(WorkersSpec):
    """Workers."""

    min_workers: int = flag("with fewer workers than this, training waits", 1, check="positive")
    gather_timeout: float = flag(
        "at the start, and when several workers come, wait at most so many seconds for the slowest",
        5.0,
        check="not negative",
        advanced=True,
    )
    part_timeout: float = flag(
        "after a failure, a worker that is not ready for the next round after so many seconds is dropped",
        10.0,
        check="positive",
        advanced=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_workers > self.num_workers:
            raise UsageError(
                f"--min_workers: expected at most num_workers ({self.num_workers}), got {self.min_workers}"
            )


@dataclass(frozen=True)
class ValidationSpec:
    """Validation."""

    validation_data: str = flag(
        "records to evaluate the model on while it trains; paths as in data", "", metavar="PATTERN"
    )
    evaluation_steps: int = flag(
        "evaluate every so many steps, besides at the end of each epoch (0: only there)", 0, check="not negative"
    )
    validation_batch_size: int = flag(
        "records per batch and worker of an evaluation", 256, check="positive", advanced=True
    )

    def __post_init__(self) -> None:
        if self.evaluation_steps and not self.validation_data:
            raise UsageError("--evaluation_steps: needs --validation_data, the records to evaluate on")


@dataclass(frozen=True)
class OutputSpec:
    """Result."""

    output: str = flag("folder or URL for the trained model and its checkpoints", check="not empty", metavar="FOLDER")
    overwrite: bool = flag("replace the trained model in output", False)
    resume: str = flag(
        "go on from the newest checkpoint in output: auto when there is one of the same training, never (checkpoints "
        "there are removed), must",
        "auto",
        check="auto, never or must",
        metavar="auto|never|must",
    )
    checkpoint_secs: float = flag(
        "write a checkpoint every so many seconds (0: not by time)", 60.0, check="not negative"
    )
    checkpoint_steps: int = flag("write a checkpoint every so many steps (0: not by steps)", 0, check="not negative")
    keep_checkpoint_max: int = flag("how many checkpoints to keep, the newest ones", 3, check="positive", advanced=True)
    audit: bool = flag("write which record was consumed at which step, to the job's folder", False, advanced=True)


@dataclass(frozen=True)
class JobSpec:
    """A whole training. Frozen, validated when made; the same in every process."""

    model: ModelSpec
    data: DataSpec
    training: TrainingSpec
    elastic: ElasticSpec
    output: OutputSpec
    validation: ValidationSpec = ValidationSpec()

    @staticmethod
    def from_flags(values: Mapping[str, Any]) -> JobSpec:
        """A job from flat flags (or keyword arguments), each typed or a string; `params` may also be a dict.

        Raises:
            UsageError: a flag is unknown, missing or wrong.
        """
        values = dict(values)
        if isinstance(values.get("params"), Mapping):
            values["params"] = format_params(values["params"])
        if isinstance(values.get("class_weight"), Mapping):
            values["class_weight"] = repr(dict(values["class_weight"]))
        return JobSpec(**flags.parse(GROUPS, values))

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> JobSpec:
        """The job that `to_json` wrote.

        Raises:
            UsageError: a field is unknown, missing or of another type.
        """
        return flags.from_json(JobSpec, json.loads(text), "job")


GROUPS: dict[str, type] = {
    "model": ModelSpec,
    "data": DataSpec,
    "training": TrainingSpec,
    "validation": ValidationSpec,
    "elastic": ElasticSpec,
    "output": OutputSpec,
}
