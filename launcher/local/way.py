"""The way to the coordinator of a job of this machine, for its client, and how such a job ended: the job's files."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edl_allreduce.job_folder import JobFolder
from launcher.client import how_told
from launcher.handle import ENDED

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status


class LocalWay:
    """The way to a coordinator of this machine: the files of the job's folder."""

    certificate, host = b"", ""
    patience = 10.0  # its supervisor starts it anew at once

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def logs_hint(self) -> str:
        return f"see {self._folder.coordinator_log}"

    def address(self) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return self._folder.address.read_text(encoding="utf-8").strip()
        return None

    def token(self) -> str:
        return self._folder.token.read_text(encoding="utf-8").strip()

    def how_it_ended(self) -> str:
        return how_it_ended(self._folder)


def final_status(folder: JobFolder) -> Status | None:
    """What the job has left to say how it ended; None when it has not ended, or was killed as a whole."""
    from google.protobuf import json_format

    from edl_allreduce.control.control_pb2 import Status

    with contextlib.suppress(OSError, ValueError, json_format.ParseError):
        status = json_format.Parse(folder.status.read_text(encoding="utf-8"), Status(), ignore_unknown_fields=True)
        return status if status.phase in ENDED else None
    return None


def how_it_ended(folder: JobFolder) -> str:
    """How a job ended that has ended, for people."""
    status = final_status(folder)
    return how_told(status) if status else f"all its processes were killed; logs in {folder.logs}"
