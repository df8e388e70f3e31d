"""The end of a log, wherever that is written: in a folder of this machine, or by a pod (`rendezvous.pod_logs`)."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edl_allreduce.job_folder import JobFolder

LOG_BYTES = 1 << 18  # of a log's end that are looked at


@dataclass(frozen=True)
class LogTail:
    """The end of a log.

    Attributes:
        lines: the newest ones, oldest first.
        truncated: there is more before them.
        unavailable: why there are none, for people; empty: there are.
    """

    lines: list[str] = field(default_factory=list)
    truncated: bool = False
    unavailable: str = ""


class Logs(Protocol):
    """The logs of a job."""

    async def tail(self, worker: int | None, lines: int) -> LogTail:
        """The end of a worker's log; None: the coordinator's."""


class FolderLogs:
    """The logs in the folder of a job of this machine."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    async def tail(self, worker: int | None, lines: int) -> LogTail:
        path = self._folder.coordinator_log if worker is None else self._folder.worker_log(worker)
        try:
            return last_lines(*await asyncio.to_thread(_end, path), lines)
        except FileNotFoundError:
            return LogTail(unavailable=f"there is no log {path}")
        except OSError as error:
            return LogTail(unavailable=f"its log cannot be read: {error.strerror}")


def last_lines(data: bytes, truncated: bool, lines: int) -> LogTail:
    """The last lines of what has been read of a log.

    Args:
        truncated: whether there is more before it.
    """
    found = deque(data.decode("utf-8", "replace").splitlines(), lines + 1)
    return LogTail(list(found)[-lines:], truncated or len(found) > lines)


def _end(path: Path) -> tuple[bytes, bool]:
    """The last bytes of a file, and whether there are more before them."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        return file.read(LOG_BYTES), size > LOG_BYTES
