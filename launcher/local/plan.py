"""Decides exactly what a job starts and writes, so that it can be shown, tested and then carried out."""

from __future__ import annotations

import shlex
import site
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edl_allreduce import storage
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job, kind_of, to_json
from launcher.settings import LaunchSpec


@dataclass(frozen=True)
class Plan:
    """A job as it is to be started on this machine.

    Attributes:
        job: what is trained, evaluated or predicted.
        folder: the job's files; none of them exists yet.
        command: starts the supervisor, which starts the coordinator, which starts the workers.
        environ: variables that the command gets in addition to the launcher's own.
    """

    job: Job
    folder: JobFolder
    command: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        count = self.job.elastic.num_workers
        workers = f"{count} worker{'s' if count > 1 else ''} on this machine"
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environ]
        lines = [
            f"job     {self.folder.name}: {_described(self.job)}, with {workers}",
            f"start   {' '.join([*variables, shlex.join(self.command)])}",
            f"write   {self.folder.spec}: {to_json(self.job)}",
            f"        {self.folder.token}: a random token, readable by this user only",
            f"logs    {self.folder.logs}",
            f"result  {self.job.output.output or 'printed'}",
        ]
        return "\n".join(lines)


def make_plan(
    job: Job, launch: LaunchSpec, *, now: datetime, random: str, environ: Mapping[str, str], python: str
) -> Plan:
    """The plan for a job.

    Args:
        now: the local time, part of the job's name.
        random: four characters that tell jobs of the same second apart.
        environ: the launcher's environment.
        python: the interpreter to run.
    """
    folder = JobFolder.of(name_of(job, launch, now, random), environ)
    return Plan(
        job=job,
        folder=folder,
        command=(python, "-m", "rendezvous.supervisor", f"--job_folder={folder.path}", *launch.coordinator_options),
        environ=_import_path(environ),
    )


def name_of(job: Job, launch: LaunchSpec, now: datetime, random: str) -> str:
    """The job's name: the user's, or one made of its subject and the time."""
    return launch.job_name or job_name(_subject(job), now, random)


def _subject(job: Job) -> str:
    """What a job is named after."""
    if isinstance(job, JobSpec):
        return job.model.model_def
    folder = job.model.trained_model.rstrip("/")
    return f"{kind_of(job)}-{storage.basename(folder)}".replace(".", "-")


def _described(job: Job) -> str:
    if isinstance(job, JobSpec):
        return f"{job.model.model_def} from {job.model.model_zoo}"
    return f"{kind_of(job)} {job.data.data} with {job.model.trained_model}"


def job_name(model_def: str, now: datetime, random: str) -> str:
    """A name such as digits-20261122-153012-a1b2, fit for a file, a host or a Kubernetes object."""
    parts = model_def.split(".")
    model = parts[-2] if len(parts) > 1 else parts[0]
    ascii_name = "".join(c if c.isascii() and c.isalnum() else "-" for c in model.lower()).strip("-")
    begin = ascii_name if ascii_name[:1].isalpha() else f"job-{ascii_name}".rstrip("-")  # a Service wants a letter
    return f"{begin[:28].rstrip('-')}-{now:%Y%m%d-%H%M%S}-{random}"


def _import_path(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """PYTHONPATH with this checkout at its end, unless the package is installed and found anyway."""
    root = str(Path(__file__).resolve().parents[2])
    if root in (*site.getsitepackages(), site.getusersitepackages()):
        return ()
    present = environ.get("PYTHONPATH", "")
    if root in present.split(":"):
        return ()
    return (("PYTHONPATH", f"{present}:{root}" if present else root),)
