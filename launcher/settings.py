"""What a request consists of beyond the job itself, so that a command has one set of flags in every door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edl_allreduce import flags, task_spec
from edl_allreduce.errors import UsageError
from edl_allreduce.flags import Flag, flag, flags_of
from edl_allreduce.spec import GROUPS, JobSpec
from edl_allreduce.task_spec import EvaluateSpec, Job, PredictSpec


@dataclass(frozen=True)
class LaunchSpec:
    """Launch."""

    backend: str = flag(
        "where the job runs: local (processes of this machine) or kubernetes (default: $EDL_BACKEND, else local)",
        "",
        check="local or kubernetes",
        metavar="local|kubernetes",
    )
    dry_run: bool = flag(
        "print what would be started and written (on Kubernetes: the manifests), and do neither", False
    )
    wait: bool = flag("wait for the result; with --nowait the job goes on in the background", True)
    quiet: bool = flag("show no progress", False)
    job_name: str = flag(
        "name of the job and of its folder (default: from the model's name and the time)", "", metavar="NAME"
    )

    def __post_init__(self) -> None:
        if self.job_name and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", self.job_name):
            raise UsageError(
                f"--job_name: expected at most 50 small letters, digits and hyphens, got {self.job_name!r}"
            )


KINDS: dict[str, Mapping[str, type]] = {
    "train": GROUPS,
    "evaluate": task_spec.GROUPS[EvaluateSpec],
    "predict": task_spec.GROUPS[PredictSpec],
}


def flags_for(kind: str) -> tuple[Flag, ...]:
    """The flags of a kind of job (train, evaluate, predict), in the order of the help."""
    return tuple(each for group in (*KINDS[kind].values(), LaunchSpec) for each in flags_of(group))


TRAIN_FLAGS = flags_for("train")


def read_request(values: Mapping[str, Any], kind: str = "train") -> tuple[Job, LaunchSpec]:
    """The job, and how to launch it, from flat flags (or keyword arguments), each typed or a string.

    Raises:
        UsageError: a flag is unknown, missing or wrong.
    """
    known = [each.name for each in flags_for(kind)]
    for name in values:
        flags.reject_unknown(name, known)
    of_launch = {each.name for each in flags_of(LaunchSpec)}
    launch = flags.parse({"launch": LaunchSpec}, {name: values[name] for name in values if name in of_launch})["launch"]
    of_job = {name: value for name, value in values.items() if name not in of_launch}
    if kind == "train":
        return JobSpec.from_flags(of_job), launch
    return task_spec.from_flags(EvaluateSpec if kind == "evaluate" else PredictSpec, of_job), launch
