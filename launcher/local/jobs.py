"""The jobs of this machine: which there are, which of them run, and how those stand."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from edl_allreduce import storage, task_spec
from edl_allreduce.job_folder import JobFolder, home
from edl_allreduce.processes import Process
from edl_allreduce.processes import runs as process_runs
from launcher.client import POLL_SECONDS, Client
from launcher.followed import AWAY
from launcher.handle import KILLED, JobHandle, JobSummary
from launcher.local.ended import EndedJob
from launcher.local.folder import output_of, spec_of
from launcher.local.process import Attached
from launcher.local.runner import LocalJob
from launcher.local.way import LocalWay

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

ANSWER_SECONDS = 2.0  # for a coordinator to say how its job stands
START_SECONDS = 10.0  # for a supervisor that has just been started to say that it runs


def names(environ: Mapping[str, str]) -> list[str]:
    """All jobs that have left files."""
    path = home(environ) / "jobs"
    return [each.name for each in sorted(path.iterdir()) if JobFolder(each).spec.is_file()] if path.is_dir() else []


def runs(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a job runs, or is being started."""
    folder = JobFolder.of(name, environ)
    return _supervisor(folder) is not None or _is_starting(folder)


def clear_up(environ: Mapping[str, str]) -> None:
    """Removes temporary files of jobs of which every process was killed, so that none could do it."""
    for name in names(environ):
        folder = JobFolder.of(name, environ)
        if folder.tmp.is_dir() and not runs(name, environ):
            folder.remove_tmp()


def writer_of(output: str, environ: Mapping[str, str]) -> str | None:
    """The running job whose result goes to this folder, file or URL; None: there is none."""
    wanted = _whole(output, os.getcwd())
    for name in names(environ):
        folder = JobFolder.of(name, environ)
        supervisor = _supervisor(folder)
        if supervisor and (theirs := output_of(folder)):
            with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
                if _whole(theirs, psutil.Process(supervisor.pid).cwd()) == wanted:
                    return name
    return None


def _whole(output: str, folder: str) -> str:
    """A path that tells outputs apart: local ones from the root on, as seen from `folder`."""
    return output.rstrip("/") if storage.is_remote(output) else os.path.realpath(os.path.join(folder, output))


def attach(name: str, environ: Mapping[str, str]) -> JobHandle:
    """The job of this name; there is a status from now on."""
    folder = JobFolder.of(name, environ)
    while (supervisor := _supervisor(folder)) is None and _is_starting(folder):
        time.sleep(POLL_SECONDS)
    if supervisor is None:
        return EndedJob(folder)
    job = LocalJob(folder, Attached(supervisor))
    job.begin()
    next(job.watch())
    return job


def summaries(environ: Mapping[str, str]) -> list[JobSummary]:
    """A line for each job."""
    folders = [JobFolder.of(name, environ) for name in names(environ)]
    if not folders:
        return []
    with ThreadPoolExecutor(min(8, len(folders))) as pool:
        return list(pool.map(_summary, folders))


def _summary(folder: JobFolder) -> JobSummary:
    spec = spec_of(folder)
    status = _asked(folder) if _supervisor(folder) else _left(folder)
    return JobSummary(
        name=folder.name,
        backend="local",
        kind=task_spec.kind_of(spec) if spec else "",
        phase=status.phase,
        began=_began(folder.spec),
        workers=status.target_workers or (spec.elastic.num_workers if spec else 0),
        message=status.message.splitlines()[0] if status.message else "",
    )


def _asked(folder: JobFolder) -> Status:
    """What the coordinator of a running job says."""
    import grpc

    from edl_allreduce.control.control_pb2 import Status

    client = Client(LocalWay(folder), lambda seconds: False)
    try:
        address = folder.address.read_text(encoding="utf-8").strip()
        with client.connected(address) as stub:
            status: Status = next(client.watch(stub, ANSWER_SECONDS))
            return status
    except FileNotFoundError:
        return Status(phase="starting", message="indexing the data")
    except grpc.RpcError:
        return Status(phase="reforming", message=AWAY)


def _left(folder: JobFolder) -> Status:
    """How a job ended, as far as `edl jobs` says it."""
    from edl_allreduce.control.control_pb2 import Status

    with contextlib.suppress(OSError, ValueError):
        status = json.loads(folder.status.read_text(encoding="utf-8"))
        return Status(
            phase=status.get("phase", KILLED),
            message=status.get("message", ""),
            target_workers=status.get("target_workers", 0),
        )
    if _is_starting(folder):
        return Status(phase="starting")
    return Status(phase=KILLED, message="all its processes were killed")


def _began(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_starting(folder: JobFolder) -> bool:
    """Whether a launcher has just made the folder, and its supervisor has not said yet that it runs."""
    said = folder.supervisor.exists() or folder.status.exists()
    return not said and time.time() - _began(folder.spec) < START_SECONDS


def _supervisor(folder: JobFolder) -> Process | None:
    """The supervisor, if it runs."""
    try:
        supervisor = Process(**json.loads(folder.supervisor.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # it has never begun
    return supervisor if process_runs(supervisor) else None
