"""Finds jobs of this machine by their names, so that whoever has not started a job can watch, scale and stop it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from edl_allreduce.errors import JobFailed, UsageError, did_you_mean
from edl_allreduce.job_folder import JobFolder, home
from edl_allreduce.processes import Process, runs
from launcher.client import how_it_ended
from launcher.handle import JobHandle
from launcher.local import LocalJob
from launcher.process import Attached


def attach(name: str) -> JobHandle:
    """A job of this machine that is running, whoever has started it; it goes on when this process ends.

    Args:
        name: of the job, or enough of its beginning to tell it from other running jobs.

    Raises:
        UsageError: there is no such job, or several.
        JobFailed: the job has ended.
    """
    folder, supervisor = find_running(name, os.environ)
    job = LocalJob(folder, Attached(supervisor))
    job.begin()
    next(job.watch())  # from now on there is a status
    return job


def find_running(name: str, environ: Mapping[str, str]) -> tuple[JobFolder, Process]:
    """The folder and the supervisor of a running job; for its name and its errors see `attach`."""
    folders = _folders(environ)
    running = {each.name: (each, supervisor) for each in folders if (supervisor := _running_supervisor(each))}
    if name in running:
        return running[name]
    ended = {each.name: each for each in folders if each.name not in running}
    if name in ended:
        raise JobFailed(f"job {name} has ended: {how_it_ended(ended[name])}")
    alike = [each for each in running if name and each.startswith(name)]
    if len(alike) == 1:
        return running[alike[0]]
    if alike:
        raise UsageError(f"{name!r} may be {_listed(alike)}; give more of the job's name")
    if len(past := [each for each in ended if name and each.startswith(name)]) == 1:
        raise JobFailed(f"job {past[0]} has ended: {how_it_ended(ended[past[0]])}")
    now = f"running are {_listed(running)}" if running else "no job is running"
    where = home(environ) / "jobs"
    raise UsageError(f"there is no job {name!r} in {where}{did_you_mean(name, running)}; {now}")


def _folders(environ: Mapping[str, str]) -> list[JobFolder]:
    path = home(environ) / "jobs"
    return [JobFolder(each) for each in sorted(path.iterdir())] if path.is_dir() else []


def _running_supervisor(folder: JobFolder) -> Process | None:
    try:
        supervisor = Process(**json.loads(folder.supervisor.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # it has never begun
    return supervisor if runs(supervisor) else None


def _listed(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(sorted(names))
