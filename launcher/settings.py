"""What a request consists of beyond the job itself, so that a command has one set of flags in every door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edl_allreduce import cluster, flags, task_spec
from edl_allreduce.errors import UsageError
from edl_allreduce.flags import Flag, flag, flags_of
from edl_allreduce.spec import GROUPS, JobSpec
from edl_allreduce.task_spec import EvaluateSpec, Job, PredictSpec
from launcher.kubernetes.settings import ClusterSpec, ImageSpec

LOCAL, KUBERNETES = "local", "kubernetes"
BACKENDS = (LOCAL, KUBERNETES)


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
    dashboard_access: str = flag(
        "who may look at the dashboard: token for those who have the URL with the job's token, read for everybody who "
        "reaches it; steering the job needs the token in any case",
        "token",
        check="token or read",
        metavar="token|read",
    )
    job_name: str = flag(
        "name of the job and of its folder (default: from the model's name and the time)", "", metavar="NAME"
    )

    def __post_init__(self) -> None:
        if self.job_name and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", self.job_name):
            raise UsageError(
                f"--job_name: expected at most 50 small letters, digits and hyphens, got {self.job_name!r}"
            )

    @property
    def coordinator_options(self) -> tuple[str, ...]:
        """What the command that starts the coordinator is given of this."""
        return ("--open_to_readers",) if self.dashboard_access == "read" else ()


@dataclass(frozen=True)
class Request:
    """Everything a user has asked for.

    Attributes:
        backend: local or kubernetes.
        image, cluster: mean something on Kubernetes only.
    """

    job: Job
    launch: LaunchSpec
    backend: str = LOCAL
    image: ImageSpec = field(default_factory=ImageSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)


KINDS: dict[str, Mapping[str, type]] = {
    "train": GROUPS,
    "evaluate": task_spec.GROUPS[EvaluateSpec],
    "predict": task_spec.GROUPS[PredictSpec],
}
# Evaluations and predictions run in the image of the training: there is none to build.
BEYOND: dict[str, Mapping[str, type]] = {
    "train": {"launch": LaunchSpec, "image": ImageSpec, "cluster": ClusterSpec},
    "evaluate": {"launch": LaunchSpec, "cluster": ClusterSpec},
    "predict": {"launch": LaunchSpec, "cluster": ClusterSpec},
}


def flags_for(kind: str) -> tuple[Flag, ...]:
    """The flags of a kind of job (train, evaluate, predict), in the order of the help."""
    return tuple(each for group in (*KINDS[kind].values(), *BEYOND[kind].values()) for each in flags_of(group))


TRAIN_FLAGS = flags_for("train")


def read_request(values: Mapping[str, Any], kind: str = "train", environ: Mapping[str, str] | None = None) -> Request:
    """What a user asks for, from flat flags (or keyword arguments), each typed or a string.

    Args:
        environ: where EDL_BACKEND may say which backend is meant when the flags do not.

    Raises:
        UsageError: a flag is unknown, missing or wrong, or means nothing to the backend.
    """
    known = {each.name: each for each in flags_for(kind)}
    for name in values:
        flags.reject_unknown(name, known)
    beyond = {each.name for group in BEYOND[kind].values() for each in flags_of(group)}
    made = flags.parse(BEYOND[kind], {name: values[name] for name in values if name in beyond})
    backend = _backend(made["launch"], environ or {})
    of_job = {name: value for name, value in values.items() if name not in beyond}
    if backend == LOCAL:
        _refuse_flags_of_kubernetes(values, kind, known)
    elif of_job.get("image") and not of_job.get("model_zoo") and kind == "train":
        of_job["model_zoo"] = cluster.MODEL_ZOO
    if kind == "train":
        return Request(JobSpec.from_flags(of_job), backend=backend, **made)
    job = task_spec.from_flags(EvaluateSpec if kind == "evaluate" else PredictSpec, of_job)
    return Request(job, backend=backend, **made)


def _backend(launch: LaunchSpec, environ: Mapping[str, str]) -> str:
    backend = launch.backend or environ.get("EDL_BACKEND") or LOCAL
    if backend not in BACKENDS:
        raise UsageError(f"EDL_BACKEND: expected {' or '.join(BACKENDS)}, got {backend!r}")
    return backend


def _refuse_flags_of_kubernetes(values: Mapping[str, Any], kind: str, known: Mapping[str, Flag]) -> None:
    groups = [group for name, group in BEYOND[kind].items() if name != "launch"]
    theirs = ["image", *(each.name for group in groups for each in flags_of(group))]
    for name in theirs:
        if values.get(name) not in (None, "", known[name].default):
            raise UsageError(
                f"--{name}: means nothing to a job of this machine; add --backend=kubernetes, or leave it out"
            )
