"""Remembers in the job's folder which workers have been started, so that a new coordinator finds all of them."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from edl_allreduce.errors import StorageError
from edl_allreduce.job_folder import write_whole
from edl_allreduce.processes import Process, command_line, environment, kinship_of, pids, process_of

log = logging.getLogger(__name__)

WORKER_MODULE = "edl_allreduce.worker"
TOKEN_VARIABLE = "EDL_TOKEN_FILE"


class Ledger:
    """Which ids have been used, and the process of every worker that may still run.

    An id is reserved before its process is started. Whenever the coordinator is killed, a worker is therefore either in
    the ledger with its process, or reserved, and then it can be found among this machine's processes.

    Args:
        file: where it is kept.
        token: the file that the workers' EDL_TOKEN_FILE names; no other job's workers have the same.
    """

    def __init__(self, file: Path, token: Path) -> None:
        self._file, self._token = file, token
        self._workers: dict[int, Process | None] = {}
        self.next_id = 0

    def read(self) -> dict[int, Process]:
        """The processes of all workers that an earlier coordinator has left, by id; some may have ended.

        Raises:
            StorageError: the file is there and cannot be read.
        """
        try:
            written = json.loads(self._file.read_text(encoding="utf-8"))
            self.next_id = int(written["next_id"])
            known = {int(id): Process(**process) if process else None for id, process in written["workers"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._file}: cannot be read; it says which workers there are: {error}") from error
        found = {id: process or find_worker(id, self._token) for id, process in known.items()}
        self._workers = {id: process for id, process in found.items() if process}
        return {id: process for id, process in found.items() if process}

    def reserve(self, worker_id: int) -> None:
        """Uses up an id.

        Raises:
            OSError: it could not be written down; the worker must not be started.
        """
        self.next_id = max(self.next_id, worker_id + 1)
        self._workers[worker_id] = None
        self._write()

    def note(self, worker_id: int, process: Process) -> None:
        """Notes which process a worker is; without that note `find_worker` finds it."""
        self._workers[worker_id] = process
        self._try_to_write()

    def forget(self, worker_id: int) -> None:
        """Notes that a worker has ended; without that note the missing process says so."""
        self._workers.pop(worker_id, None)
        self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            log.warning("%s: %s", self._file, error.strerror)

    def _write(self) -> None:
        workers = {id: process and dataclasses.asdict(process) for id, process in self._workers.items()}
        write_whole(self._file, json.dumps({"next_id": self.next_id, "workers": workers}))


def find_worker(worker_id: int, token: Path) -> Process | None:
    """A worker among all processes of this machine, found by its command line and environment."""
    alike = {pid: kinship_of(pid) for pid in pids() if _is_worker(pid, worker_id, token)}
    # A process that a worker has forked from itself looks the same; the worker is the one whose parent does not.
    first = [pid for pid, kinship in alike.items() if kinship and kinship.parent not in alike]
    return process_of(first[-1]) if first else None


def _is_worker(pid: int, worker_id: int, token: Path) -> bool:
    words = command_line(pid)
    if WORKER_MODULE not in words or f"--worker_id={worker_id}" not in words:
        return False
    return environment(pid).get(TOKEN_VARIABLE) == str(token)
