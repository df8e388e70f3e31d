"""Workers as processes of this machine, also those that an earlier coordinator of the job has started."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import open_process, process_of, signal_name
from rendezvous.provisioner import Recovered
from rendezvous.provisioner.ledger import TOKEN_VARIABLE, WORKER_MODULE, Ledger

log = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0  # until the next worker is started, after one that could not be
KILL_SECONDS = 5.0  # for killed processes to be gone

OnEnd = Callable[[int, str, bool], None]


@dataclass(frozen=True)
class Worker:
    """A worker that runs.

    Attributes:
        descriptor: stands for its process, see `open_process`.
        child: the process if it is ours; None for another coordinator's.
    """

    descriptor: int
    child: subprocess.Popen[bytes] | None


class LocalProvisioner:
    """Starts `python -m edl_allreduce.worker` in the coordinator's process group.

    Args:
        folder: where their logs and temporary files go, and the record of which there are.
        address: the coordinator's, "host:port".
        local_workers: how many workers share this machine's cores.
        on_end: called with a worker's id, how its process ended ("was ended by SIGKILL"), and whether it had been told
            to go: it ended by SIGTERM, or with exit code 0. How another coordinator's worker ended is not known.
    """

    def __init__(self, folder: JobFolder, address: str, local_workers: int, on_end: OnEnd) -> None:
        self._folder, self._address, self._local_workers, self._on_end = folder, address, local_workers, on_end
        self._ledger = Ledger(folder.workers, folder.token)
        self._workers: dict[int, Worker] = {}
        self._all_ended = asyncio.Event()
        self._all_ended.set()
        self._cleaner = ThreadPoolExecutor(1, "cleaner")  # a user's code may leave many temporary files

    explain_seconds = 0.0  # a process's end is noticed at once

    async def recover(self) -> Recovered:
        """Takes over the workers of earlier coordinators; called once, before anything is started.

        Raises:
            StorageError: the job's record of its workers cannot be read.
        """
        for worker_id, process in self._ledger.read().items():
            descriptor = open_process(process)
            if descriptor is not None:
                log.info("worker %d, process %d, is of an earlier coordinator", worker_id, process.pid)
                self._watch(worker_id, Worker(descriptor, None))
            else:
                self._forget(worker_id)
        return Recovered(self._ledger.next_id, tuple(sorted(self._workers)))

    def start(self, worker_id: int) -> None:
        """Starts a worker process; its output goes to a log of its own. When that fails, `on_end` is told, later."""
        try:
            self._ledger.reserve(worker_id)
            worker = self._spawn(worker_id)
        except OSError as error:
            log.error("worker %d could not be started: %s", worker_id, error)
            why = f"could not be started: {error.strerror or error}"  # a full disk, or no memory: it may pass
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._on_end, worker_id, why, False)
        else:
            self._watch(worker_id, worker)

    def kill(self, worker_id: int) -> None:
        """Sends SIGKILL, which also ends a stopped process."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker.descriptor, signal.SIGKILL)

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker process has ended; their temporary files are gone then."""
        await self._await_all(grace_seconds)
        for worker_id in self._workers:
            self.kill(worker_id)
        await self._await_all(KILL_SECONDS)
        await asyncio.get_running_loop().run_in_executor(self._cleaner, self._folder.remove_tmp)
        self._cleaner.shutdown()

    async def _await_all(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_ended.wait(), seconds)

    def _spawn(self, worker_id: int) -> Worker:
        command = [sys.executable, "-m", WORKER_MODULE, f"--coordinator={self._address}", f"--worker_id={worker_id}"]
        command += [f"--host={socket.gethostname()}", f"--local_workers={self._local_workers}"]
        tmp = self._folder.worker_tmp(worker_id)
        tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = os.environ | {TOKEN_VARIABLE: str(self._folder.token), "TMPDIR": str(tmp)}
        with open(self._folder.worker_log(worker_id), "ab") as output:
            # Its standard input is ours: should it outlive us, it sees there when the launcher has ended as well.
            child = subprocess.Popen(command, stdin=None, stdout=output, stderr=output, env=environment)
        process = process_of(child.pid)
        assert process  # a child exists until it has been asked how it ended
        self._ledger.note(worker_id, process)
        try:
            return Worker(os.pidfd_open(child.pid), child)
        except OSError:
            child.kill()
            child.wait()
            raise

    def _watch(self, worker_id: int, worker: Worker) -> None:
        self._workers[worker_id] = worker
        self._all_ended.clear()
        asyncio.get_running_loop().add_reader(worker.descriptor, self._ended, worker_id)

    def _ended(self, worker_id: int) -> None:
        worker = self._workers.pop(worker_id)
        asyncio.get_running_loop().remove_reader(worker.descriptor)
        os.close(worker.descriptor)
        code = worker.child.wait() if worker.child else None
        self._forget(worker_id)
        self._on_end(worker_id, _describe(code), code in (0, -signal.SIGTERM))
        if not self._workers:
            self._all_ended.set()

    def _forget(self, worker_id: int) -> None:
        self._ledger.forget(worker_id)
        self._cleaner.submit(shutil.rmtree, self._folder.worker_tmp(worker_id), ignore_errors=True)


def _describe(code: int | None) -> str:
    if code is None:
        return "ended"
    return f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
