"""Finds before a job is submitted to Kubernetes what would make it fail at once, as far as this machine can tell."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edl_allreduce import cluster, storage
from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.records.formats import CUSTOM
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job, PredictSpec
from launcher import check as local
from launcher.kubernetes.manifests import Manifest
from launcher.settings import Request

SHARED = ("persistentVolumeClaim", "hostPath", "nfs", "csi", "ephemeral", "configMap", "secret", "projected", "image")


def check(request: Request, zoo: Path | None, worker: Manifest) -> None:
    """Looks at everything that can be looked at from here.

    Args:
        zoo: the model's folder on this machine; None: it is in an image.
        worker: a worker's pod.

    Raises:
        UsageError: something is wrong with the model's files, or pods would not see a path.
        StorageError: data at a URL matches no file.
        ModelError: a file of the model is not Python.
    """
    job = request.job
    if isinstance(job, JobSpec):
        if zoo is not None:
            local.check_model(job.model)
            local.check_reader(job.model, job.data.data_format)
        if job.output.audit and storage.is_remote(job.output.output):
            raise UsageError("--audit: on Kubernetes it needs an output in a mounted folder, not at a URL")
    mounted = mounts_of(worker)
    for flag, path in paths_of(job):
        if not storage.is_remote(path):
            check_mounted(flag, path, mounted)
    _check_urls(job)


def paths_of(job: Job) -> list[tuple[str, str]]:
    """The flags that name files or folders, and each of their parts."""
    named = [("data", job.data.data)] if job.data.data_format != CUSTOM else []
    if isinstance(job, JobSpec):
        named += [("validation_data", job.validation.validation_data)]
    else:
        named += [("trained_model", job.model.trained_model)]
    named += [("output", job.output.output)]
    lists = ("data", "validation_data")
    parts = [(flag, part) for flag, text in named for part in (text.split(",") if flag in lists else [text])]
    return [(flag, part.strip()) for flag, part in parts if part.strip()]


def mounts_of(worker: Manifest) -> tuple[PurePosixPath, ...]:
    """Where a worker's pod mounts what is the same for all pods."""
    shared = {each["name"] for each in worker["spec"].get("volumes") or () if any(kind in each for kind in SHARED)}
    containers = (each for each in worker["spec"]["containers"] if each["name"] == cluster.WORKER)
    mounts = [mount for each in containers for mount in each.get("volumeMounts") or () if mount["name"] in shared]
    return tuple(PurePosixPath(each["mountPath"]) for each in mounts if each["mountPath"] != cluster.SECRET_FOLDER)


def check_mounted(flag: str, path: str, mounted: tuple[PurePosixPath, ...]) -> None:
    """Refuses a path that is not the same for all pods.

    Raises:
        UsageError: says how to mount what it is on.
    """
    fixed = PurePosixPath(re.sub(r"[^/]*[*?\[].*", "", path.removeprefix("file://")) or ".")
    own = [PurePosixPath(cluster.MODEL_ZOO)] if flag in ("data", "validation_data") else []  # what the image brings
    if any(fixed.is_relative_to(each) for each in (*mounted, *own)):
        return
    there = f"mounted are {', '.join(map(str, mounted))}" if mounted else "nothing is mounted"
    place = fixed if fixed.is_absolute() and fixed.name else "/data"
    raise UsageError(
        f"--{flag}: pods do not see {path} of this machine ({there}); mount a volume with it, such as "
        f"--volumes=claim_name=CLAIM,mount_path={place}, or give a URL (gs://, s3://)"
    )


def _check_urls(job: Job) -> None:
    """Looks at what is at URLs; what only this machine may not see is left to the coordinator."""
    for flag, text in (("data", job.data.data), *(each for each in paths_of(job) if each[0] == "validation_data")):
        if job.data.data_format != CUSTOM and all(storage.is_remote(part.strip()) for part in text.split(",")):
            with _left_to_the_coordinator():
                local.check_data(text, flag)
    if not storage.is_remote(job.output.output):
        return
    with _left_to_the_coordinator():
        if isinstance(job, JobSpec):
            local.check_output(job.output)
            local.check_resume(job)
        elif isinstance(job, PredictSpec):
            local.check_predictions(job)


@contextlib.contextmanager
def _left_to_the_coordinator() -> Iterator[None]:
    """Passes over what is wrong with this machine's way to a store: no credentials, no connection, no package."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__.__cause__ if error.__cause__ is not None else None  # check_data has put a flag in front
        if not isinstance(cause or error.__cause__, FileNotFoundError | StorageError | None):
            return
        if "pip install" not in str(error):
            raise
