"""Where a job lives, and what differs with it: on this machine, or in pods (`rendezvous.pod`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Protocol

from google.protobuf import json_format

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.job_folder import JobFolder, write_whole
from edl_allreduce.task_spec import Job
from rendezvous import events, mirror
from rendezvous.coordinator import Coordinator, Site
from rendezvous.logs import FolderLogs, Logs
from rendezvous.mirror import Mirror
from rendezvous.provisioner import Listener, Provisioner
from rendezvous.provisioner.local import LocalProvisioner
from rendezvous.telemetry import Telemetry
from rendezvous.tls import Tls

ADDRESS = "127.0.0.1"
END_SECONDS = 10.0  # for the last of the history to be written in the output


class Place(Protocol):
    """Where a coordinator runs.

    Attributes:
        folder: its files.
        site: what it must know of the place itself.
        restarts: how many coordinators of this job there have been before.
        address, port: where it listens; port 0: any that is free.
        tls: how its clients know it; None: nobody else can be met there.
        logs: of the job.
        open_to_readers: whether its dashboard may be read without the token.
        departure: set when this coordinator must go although the job goes on.
    """

    folder: JobFolder
    site: Site
    restarts: int
    address: str
    port: int
    tls: Tls | None
    logs: Logs
    open_to_readers: bool
    departure: asyncio.Event

    @property
    def final_status(self) -> pb.Status | None:
        """How the job has ended already, before this coordinator began."""

    async def settle(self, spec: Job) -> Job:
        """The job as its workers are told it."""

    async def recall(self, spec: Job) -> None:
        """Brings back into the folder what coordinators before have left elsewhere."""

    def keep(self, spec: Job, telemetry: Telemetry) -> None:
        """Sees to it from now on that the history stays in the output, and that the next coordinator will know it."""

    async def leave(self) -> None:
        """This coordinator goes, the job goes on."""

    def provisioner(self, port: int, spec: Job, listener: Callable[[], Listener]) -> Provisioner:
        """Who starts the workers of a coordinator that listens on `port`."""

    def heed_signals(self, coordinator: Coordinator) -> None:
        """Does from now on what signals ask for."""

    async def end(self, status: pb.Status) -> None:
        """Notes how the job has ended."""


class LocalPlace:
    """This machine: coordinator and workers are processes of one group, below the launcher and the supervisor."""

    def __init__(self, folder: JobFolder, restarts: int, open_to_readers: bool = False) -> None:
        self.folder, self.restarts, self.open_to_readers = folder, restarts, open_to_readers
        self.site = Site(folder.name, ADDRESS, str(folder.path))
        self.address, self.port = ADDRESS, _port_before(folder)
        self.tls: Tls | None = None
        self.logs: Logs = FolderLogs(folder)
        self.departure = asyncio.Event()
        self._mirror: Mirror | None = None

    @property
    def final_status(self) -> pb.Status | None:
        """None: where the supervisor finds one it starts no coordinator."""
        return None

    async def settle(self, spec: Job) -> Job:
        """The job as it is."""
        return spec

    async def recall(self, spec: Job) -> None:
        """See `mirror.recall`."""
        await asyncio.to_thread(mirror.recall, mirror.url_of(spec, self.folder.name), self.folder, self.restarts)

    def keep(self, spec: Job, telemetry: Telemetry) -> None:
        """Begins to mirror the history in the output."""
        if url := mirror.url_of(spec, self.folder.name):
            self._mirror = Mirror(url, self.folder)
            telemetry.listeners.append(self._mirror.note)

    async def leave(self) -> None:
        """Its supervisor starts another one; the output will have the rest of the history from that."""

    def provisioner(self, port: int, spec: Job, listener: Callable[[], Listener]) -> Provisioner:
        """Starts processes."""
        workers = spec.elastic.num_workers

        def on_end(worker_id: int, why: str, excused: bool) -> None:
            listener().process_ended(worker_id, why, excused)

        return LocalProvisioner(self.folder, f"{ADDRESS}:{port}", workers, on_end)

    def heed_signals(self, coordinator: Coordinator) -> None:
        """SIGTERM and SIGINT stop the job; so does the end of standard input: then the launcher has died."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, coordinator.tell, events.Stopped(f"stopped by {number.name}"))

        def input_ended() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                loop.remove_reader(sys.stdin.fileno())
                coordinator.tell(events.Stopped("its launcher has ended"))

        with contextlib.suppress(PermissionError):  # a file or /dev/null cannot be watched: then nobody holds a pipe
            loop.add_reader(sys.stdin.fileno(), input_ended)

    async def end(self, status: pb.Status) -> None:
        """Leaves the status in the job's folder and in the output."""
        write_status(self.folder, status)
        if self._mirror:
            await asyncio.to_thread(self._mirror.end, status_to_json(status), END_SECONDS)


def write_status(folder: JobFolder, status: pb.Status) -> None:
    """Writes the file that says how the job has ended."""
    write_whole(folder.status, status_to_json(status))


def status_to_json(status: pb.Status) -> str:
    """What `supervisor.final_exit_code` and launchers read."""
    return json_format.MessageToJson(status, preserving_proto_field_name=True)


def _port_before(folder: JobFolder) -> int:
    """The port that workers of an earlier coordinator try; 0: any."""
    try:
        return int(folder.address.read_text(encoding="utf-8").rsplit(":", 1)[1])
    except (FileNotFoundError, ValueError, IndexError):
        return 0
