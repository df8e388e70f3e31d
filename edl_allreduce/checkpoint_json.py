"""What `checkpoint.json` says, and what makes two trainings different ones."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from typing import Any

from edl_allreduce import __version__
from edl_allreduce.errors import DataError, UsageError
from edl_allreduce.position import Position
from edl_allreduce.spec import DEFAULT_BATCH_SIZE, JobSpec

FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says about the run that wrote it.

    Attributes:
        job: its name.
        spec: the whole of it.
        fingerprint, lanes: of its `Dataset`.
    """

    job: str
    spec: JobSpec
    fingerprint: str
    lanes: int


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        url: its folder.
        saved_at: seconds since 1970.
        size: of its state, in bytes.
        state: the state's file name in the folder.
        digest: the state's SHA-256, in hexadecimal.
    """

    url: str
    position: Position
    origin: Origin
    saved_at: float
    size: int
    state: str
    digest: str


def to_json(made: Checkpoint) -> bytes:
    """The content of checkpoint.json."""
    about = {
        "format": FORMAT,
        "position": dataclasses.asdict(made.position),
        "seed": made.origin.spec.training.seed,
        "fingerprint": made.origin.fingerprint,
        "lanes": made.origin.lanes,
        "job": made.origin.job,
        "spec": dataclasses.asdict(made.origin.spec),
        "state": {"file": made.state, "bytes": made.size, "sha256": made.digest},
        "saved_at": made.saved_at,
        "versions": {"edl_allreduce": __version__, "python": platform.python_version()},
    }
    return (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()


def from_json(url: str, text: bytes) -> Checkpoint | None:
    """The checkpoint in the folder `url`; None: its checkpoint.json is damaged.

    Raises:
        DataError: it was written by a version of edl_allreduce that this one does not understand.
    """
    try:
        about = json.loads(text)
        state, version = about["state"], about["versions"]["edl_allreduce"]
        position = Position(*(int(about["position"][name]) for name in ("step", "epoch", "offset")))
        spec = _spec(url, version, about["format"], json.dumps(about["spec"]))
        origin = Origin(str(about["job"]), spec, str(about["fingerprint"]), int(about["lanes"]))
        size, saved_at = int(state["bytes"]), float(about["saved_at"])
        return Checkpoint(url, position, origin, saved_at, size, str(state["file"]), str(state["sha256"]))
    except (ValueError, KeyError, TypeError):
        return None


def _spec(url: str, version: str, format: int, text: str) -> JobSpec:
    try:
        if format != FORMAT:
            raise UsageError(f"its format is {format}, not {FORMAT}")
        return JobSpec.from_json(text)
    except UsageError as error:
        raise DataError(
            f"{url}: was written by edl_allreduce {version}, this is {__version__}: {error}; "
            "go on with that version, or remove it"
        ) from error


def differences(origin: JobSpec, wanted: JobSpec) -> list[str]:
    """What makes two trainings different ones, as texts: "batch_size was 64, is 128".

    Only what changes the loss curve counts. num_epochs may differ: that is how a training is prolonged. So may where
    the model's files are, on_bad_record, how a worker computes its part (max_local_batch, jit_compile), and what the
    dataset's fingerprint decides: which files, how many lanes.
    """
    old, new = _decisive(origin), _decisive(wanted)
    return [f"{name} was {_spoken(old[name])}, is {_spoken(new[name])}" for name in old if old[name] != new[name]]


def _decisive(spec: JobSpec) -> dict[str, Any]:
    model, data, training = spec.model, spec.data, spec.training
    batch = training.batch_size or (None if training.minibatch_size else DEFAULT_BATCH_SIZE)
    return {
        "model_def": model.model_def,
        "params": model.values,
        "input_fn": model.input_fn,
        "loss": model.loss,
        "optimizer": model.optimizer,
        "shuffle": data.shuffle,
        "records_per_task": data.records_per_task,
        "batch_size": batch,
        "minibatch_size": training.minibatch_size,
        "seed": training.seed,
        "scale_learning_rate": training.scale_learning_rate,
        "warmup_steps": training.warmup_steps,
        "class_weight": training.class_weights,
        "mixed_precision": training.mixed_precision,
        "gradient_compression": training.gradient_compression,
    }


def _spoken(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{name}={item!r}" for name, item in value.items())
    return "not set" if value in (None, "") else str(value)
