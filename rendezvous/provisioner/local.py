"""Workers as processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

from edl_allreduce.job_folder import JobFolder


class LocalProvisioner:
    """Starts `python -m edl_allreduce.worker` in the coordinator's process group.

    Args:
        folder: where their logs go.
        address: the coordinator's, "host:port".
        local_workers: how many workers share this machine's cores.
        on_end: called with a worker's id and how its process ended.
    """

    def __init__(self, folder: JobFolder, address: str, local_workers: int, on_end: Callable[[int, str], None]) -> None:
        self._folder, self._address, self._local_workers, self._on_end = folder, address, local_workers, on_end
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, worker_id: int) -> None:
        """Starts a worker process; its output goes to a log file of its own."""
        self._tasks[worker_id] = asyncio.create_task(self._run(worker_id))

    def kill(self, worker_id: int) -> None:
        """Sends SIGKILL, which also ends a stopped process."""
        process = self._processes.get(worker_id)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker process has been reaped."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
        for worker_id in list(self._processes):
            self.kill(worker_id)
        if late:
            await asyncio.wait(late)

    async def _run(self, worker_id: int) -> None:
        command = [sys.executable, "-m", "edl_allreduce.worker", f"--coordinator={self._address}"]
        command += [
            f"--worker_id={worker_id}",
            f"--host={socket.gethostname()}",
            f"--local_workers={self._local_workers}",
        ]
        environment = os.environ | {"EDL_TOKEN_FILE": str(self._folder.token)}
        with open(self._folder.worker_log(worker_id), "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        self._processes[worker_id] = process
        code = await process.wait()
        del self._processes[worker_id], self._tasks[worker_id]
        self._on_end(
            worker_id, f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        )
