"""What the folder of a job of this machine tells of it, whether the job runs or has ended."""

from __future__ import annotations

from edl_allreduce import task_spec
from edl_allreduce.errors import UsageError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.task_spec import Job
from launcher.handle import JobHandle


class JobWithFolder(JobHandle):
    """A job of this machine; `_files` is its folder."""

    _files: JobFolder

    @property
    def name(self) -> str:
        return self._files.name

    @property
    def logs_hint(self) -> str:
        return f"logs in {self._files.logs}"

    @property
    def output(self) -> str:
        return output_of(self._files)

    @property
    def record(self) -> str:
        return str(self._files.path)


def spec_of(folder: JobFolder) -> Job | None:
    """What the job was to do; None when that cannot be read (any more)."""
    try:
        return task_spec.from_json(folder.spec.read_text(encoding="utf-8"))
    except (OSError, ValueError, UsageError):
        return None


def output_of(folder: JobFolder) -> str:
    """Where the job's result is, or was to be."""
    spec = spec_of(folder)
    return spec.output.output if spec else ""
