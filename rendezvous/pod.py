"""A coordinator's life in a pod of Kubernetes: what it finds there, and what it leaves to the next one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from google.protobuf import json_format

from edl_allreduce import storage
from edl_allreduce.cluster import (
    CERTIFICATE_FILE,
    CONFIG_FOLDER,
    COORDINATOR,
    GRPC_PORT,
    KEY_FILE,
    SECRET_FOLDER,
    WORKERS_FILE,
    WorkerPods,
)
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.errors import EdlError
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job
from rendezvous import mirror
from rendezvous.coordinator import Coordinator, Site
from rendezvous.logs import Logs
from rendezvous.mirror import Mirror
from rendezvous.place import status_to_json, write_status
from rendezvous.pod_logs import PodLogs
from rendezvous.provisioner import Listener, Provisioner
from rendezvous.provisioner.job_state import JobState
from rendezvous.provisioner.kubernetes import Api
from rendezvous.provisioner.patience import insist
from rendezvous.provisioner.pod_keeper import PodKeeper
from rendezvous.provisioner.pods import Ended, Owner, container_of, is_owned_by, look, worker_id_of
from rendezvous.telemetry import Telemetry
from rendezvous.tls import Tls

log = logging.getLogger(__name__)

ANYWHERE = "0.0.0.0"
DIGEST = "@sha256:"
RECONNECT_SECONDS = 30.0  # names of Services are cached for some seconds
LEAVE_SECONDS = 15.0  # of the pod's grace period, for the newest history to be written
END_SECONDS = 30.0  # for the last of it


class PodPlace:
    """A pod. Made by `enter`."""

    def __init__(self, folder: JobFolder, api: Api, state: JobState, open_to_readers: bool) -> None:
        self.folder, self._api, self._state = folder, api, state
        self.open_to_readers = open_to_readers
        self.restarts = state.coordinators
        self.site = Site(folder.name, os.environ["POD_IP"], reconnect_seconds=RECONNECT_SECONDS)
        self.address, self.port = ANYWHERE, GRPC_PORT
        secret = Path(SECRET_FOLDER)
        self.tls: Tls | None = Tls(secret / CERTIFICATE_FILE, secret / KEY_FILE)
        self.departure = asyncio.Event()
        self._owner = Owner(folder.name, os.environ["EDL_JOB_UID"])
        self._settings = WorkerPods.from_json((Path(CONFIG_FOLDER) / WORKERS_FILE).read_text(encoding="utf-8"))
        self.logs: Logs = PodLogs(api, self._owner, os.environ["POD_NAME"], self._settings.container)
        self._mirror: Mirror | None = None

    @staticmethod
    async def enter(folder: JobFolder, open_to_readers: bool) -> PodPlace:
        """Takes over the job from the coordinators before.

        Raises:
            EdlError: the API server does not let it.
        """
        api = Api(folder.name, os.environ["POD_NAMESPACE"])
        state = JobState(api)
        await insist("take over the job", state.take_over)
        return PodPlace(folder, api, state, open_to_readers)

    @property
    def final_status(self) -> pb.Status | None:
        """How the job has ended already, before this coordinator began."""
        text = self._state.final_status
        if not text and self.folder.status.exists():  # the supervisor's last word
            text = self.folder.status.read_text(encoding="utf-8")
        return json_format.Parse(text, pb.Status(), ignore_unknown_fields=True) if text else None

    async def settle(self, spec: Job) -> Job:
        """The job with its image pinned to the one that runs here; its workers' audit goes beside the mirror."""
        url = mirror.url_of(spec, self.folder.name)
        if url and not storage.is_remote(url):
            self.site = replace(self.site, job_folder=url)
        if DIGEST in spec.model.image:
            return spec
        image = await insist("read the own pod", self._api.running_image, os.environ["POD_NAME"], COORDINATOR)
        if not image:
            return spec
        if isinstance(spec, JobSpec):
            return replace(spec, model=replace(spec.model, image=image))
        return replace(spec, model=replace(spec.model, image=image))

    async def recall(self, spec: Job) -> None:
        """See `mirror.recall`."""
        await asyncio.to_thread(mirror.recall, mirror.url_of(spec, self.folder.name), self.folder, self.restarts)

    def keep(self, spec: Job, telemetry: Telemetry) -> None:
        """Begins to mirror the history in the output."""
        url, loop = mirror.url_of(spec, self.folder.name), asyncio.get_running_loop()
        if not url:
            return

        def kept(step: int) -> None:
            telemetry.mirrored = step

        def on_kept(step: int) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(kept, step)

        telemetry.mirrored = telemetry.told
        self._mirror = Mirror(url, self.folder, on_kept)
        telemetry.listeners.append(self._mirror.note)

    async def leave(self) -> None:
        """The newest lines of the history are in the mirror, if that can be done in time."""
        if self._mirror is None or self._state.superseded:  # then it is another coordinator's to write
            return
        if not await asyncio.to_thread(self._mirror.close, LEAVE_SECONDS):
            log.warning("the newest lines of the history are lost with this pod")

    def provisioner(self, port: int, spec: Job, listener: Callable[[], Listener]) -> Provisioner:
        """Makes pods."""
        settings = self._settings
        if DIGEST in spec.model.image:
            container_of(settings.pod, settings.container)["image"] = spec.model.image
        recalled, own_pod = self.departure.set, os.environ["POD_NAME"]
        return PodKeeper(self._api, self._owner, settings, self._state, listener, recalled, own_pod)

    def heed_signals(self, coordinator: Coordinator) -> None:
        """SIGTERM ends this coordinator, not the job: the workers step on until there is another one."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.departure.set)

    async def end(self, status: pb.Status) -> None:
        """Leaves the status to whoever asks, and sees to it that no other coordinator is started."""
        if self._mirror:
            await asyncio.to_thread(self._mirror.end, status_to_json(status), END_SECONDS)
        self._state.final_status = status_to_json(status)
        try:
            await insist("write how the job has ended", self._state.save)
            await insist("delete its workers", self._delete_workers)
            if status.exit_code:
                await insist("end the Job", self._api.give_up)
        except EdlError as error:  # the job has been deleted, or its rights have: nobody asks any more
            log.error("%s", error)
        write_status(self.folder, status)

    def _delete_workers(self) -> None:
        """Leaves none of a job whose coordinator could not even begin."""
        for pod in self._api.list_pods()[0]:
            ours = worker_id_of(pod) is not None and is_owned_by(pod, self._owner)
            if ours and not isinstance(look(pod, self._settings.container), Ended):
                self._api.delete_pod(pod["metadata"]["name"], pod["metadata"]["uid"], 0)
