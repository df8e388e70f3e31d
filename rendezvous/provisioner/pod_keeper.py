"""Workers as pods: what is wanted is reconciled with what the API server says there is.

Everything is decided on the event loop; calls to the API server wait in threads. A job in progress needs none of it:
while the API server is away, workers work on, and what is to be done is tried again until it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from edl_allreduce.cluster import WorkerPods
from edl_allreduce.errors import EdlError
from rendezvous.provisioner import Listener, Recovered, pods
from rendezvous.provisioner.job_state import JobState, Superseded
from rendezvous.provisioner.kubernetes import Api
from rendezvous.provisioner.patience import insist
from rendezvous.provisioner.pod_maker import USEFUL_SECONDS, PodMaker
from rendezvous.provisioner.pod_watch import PodWatch
from rendezvous.provisioner.pods import Document, Ended, Owner, Runs, Waits

log = logging.getLogger(__name__)

EXPLAIN_SECONDS = 10.0  # for a worker's status to say how it ended, before its pod, and with it the status, is deleted
END_SECONDS = 15.0  # for workers to end by themselves when the job has ended; it takes some until that is seen
KILL_SECONDS = 15.0  # for killed pods to be gone
LINGER_SECONDS = 30.0  # for other containers of a pod to end after its worker has
KILLED = Ended("was killed", excused=False, ran=False)
UNNEEDED = Ended("was not needed any more", excused=True, ran=False)


@dataclass
class Pod:
    """A worker's pod, as wanted and as last seen.

    Attributes:
        document: as last seen; None: it has not been made yet.
        made_at: when it was made, by the monotonic clock.
        runs_since: when its worker was first seen running.
        killed: it is to go.
        told: what the listener knows of it.
        making: what makes it.
    """

    id: int
    document: Document | None = None
    made_at: float = 0.0
    runs_since: float | None = None
    killed: bool = False
    told: Waits | Runs | None = None
    making: asyncio.Task[None] | None = None


class PodKeeper:
    """The provisioner of a job on Kubernetes.

    Args:
        api, owner: the job.
        settings: how to make its workers' pods.
        state: what the job's coordinators leave to each other.
        listener: who is told what happens to workers.
        recalled: called when another coordinator has taken over, or this one's pod is to go.
        own_pod: the name of this coordinator's.
    """

    explain_seconds = EXPLAIN_SECONDS + 2.0

    def __init__(
        self,
        api: Api,
        owner: Owner,
        settings: WorkerPods,
        state: JobState,
        listener: Callable[[], Listener],
        recalled: Callable[[], None] = lambda: None,
        own_pod: str = "",
    ) -> None:
        self._api, self._owner, self._settings, self._state = api, owner, settings, state
        self._listener, self._recalled, self._own_pod = listener, recalled, own_pod
        self._maker = PodMaker(api, owner, settings, state)
        self._watch = PodWatch(api, self._seen, self._gone, self._listed)
        self._pods: dict[int, Pod] = {}
        self._finished: dict[int, Document] = {}  # pods of workers that have ended
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # Provisioner.

    async def recover(self) -> Recovered:
        """Takes over the pods of earlier coordinators, and watches from now on.

        Raises:
            Refused: the API server does not let it.
        """
        self._loop = asyncio.get_running_loop()
        documents, version = await insist("list pods", self._api.list_pods)
        for document in documents:
            worker_id = self._worker_of(document)
            if worker_id is None:
                continue
            self._state.next_id = max(self._state.next_id, worker_id + 1)
            if isinstance(self._look(document), Ended):
                self._finished[worker_id] = document
            else:
                runs_since = time.monotonic() - USEFUL_SECONDS
                self._pods[worker_id] = Pod(worker_id, document, time.monotonic(), runs_since)
                self._loop.call_soon(self._seen, document)
        self._prune()
        self._watch.start(version)
        return Recovered(self._state.next_id, tuple(sorted(self._pods)))

    def start(self, worker_id: int) -> None:
        """Makes a pod, as soon as that can be done."""
        self._state.next_id = max(self._state.next_id, worker_id + 1)
        pod = self._pods[worker_id] = Pod(worker_id)
        self._loop.call_soon(self._tell_waits, pod, "its pod is being made")
        pod.making = self._run(self._make(pod))

    def kill(self, worker_id: int) -> None:
        """Deletes a pod; one whose worker may just have ended by itself has some seconds to say how."""
        pod = self._pods.get(worker_id)
        if pod is None or pod.killed:
            return
        pod.killed = True
        self._loop.call_later(EXPLAIN_SECONDS if isinstance(pod.told, Runs) else 0.0, self._delete_killed, pod)

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker has ended; pods of those that had to be killed are deleted, the others stay."""
        await self._await_all(max(grace_seconds, END_SECONDS))
        for pod in list(self._pods.values()):
            pod.killed = True
            self._delete_killed(pod)
        await self._await_all(KILL_SECONDS)
        self._watch.stop()
        for task in self._tasks:
            task.cancel()

    # What is wanted.

    async def _make(self, pod: Pod) -> None:
        def others() -> list[Document]:
            alive = (each for each in self._pods.values() if not each.killed)
            return [each.document for each in alive if each.document]

        try:
            made = await self._maker.make(
                pod.id, lambda: not pod.killed, others, lambda why: self._tell_waits(pod, why)
            )
        except Superseded as superseded:
            log.warning("%s", superseded)
            self._recalled()
            return
        if made is None:
            return self._end(pod, UNNEEDED)
        pod.made_at = time.monotonic()
        if pod.document is None:  # else the watch has told of it already, and of what followed
            self._seen(made)
        if pod.killed:
            self._delete_killed(pod)

    def _delete_killed(self, pod: Pod) -> None:
        if self._pods.get(pod.id) is not pod:
            return
        if pod.document is not None:
            self._run(self._delete(pod.document))
        elif pod.making and not self._maker.creates(pod.id):
            pod.making.cancel()
            self._end(pod, UNNEEDED)

    async def _delete(self, document: Document) -> None:
        name, uid = document["metadata"]["name"], document["metadata"]["uid"]
        try:
            await insist(f"delete pod {name}", self._api.delete_pod, name, uid, 0)
        except EdlError as error:
            log.error("pod %s is left: %s", name, error)

    def _prune(self) -> None:
        for worker_id in pods.surplus(self._finished, self._settings.keep_finished):
            self._run(self._delete(self._finished[worker_id]))

    # What there is.

    def _seen(self, document: Document) -> None:
        """A pod is there, like this."""
        if document["metadata"]["name"] == self._own_pod and document["metadata"].get("deletionTimestamp"):
            self._recalled()
        worker_id = self._worker_of(document)
        if worker_id is None:
            return
        pod = self._pods.get(worker_id)
        if worker_id in self._finished:
            self._finished[worker_id] = document
        elif pod is None:
            self._run(self._delete(document))  # an earlier coordinator's last deed
        else:
            pod.document = document
            self._look_at(pod, document)

    def _look_at(self, pod: Pod, document: Document) -> None:
        match self._look(document):
            case Ended() as ended:
                self._finished[pod.id] = document
                self._end(pod, ended)
                self._prune()
                if not pods.is_finished(document):
                    self._loop.call_later(LINGER_SECONDS if ended.ran else 0.0, self._delete_lingering, pod.id)
            case Waits(why):
                self._tell_waits(pod, why)
            case Runs():
                self._tell_runs(pod)

    def _gone(self, document: Document) -> None:
        """A pod is there no more; it was last seen like this."""
        worker_id = self._worker_of(document)
        if worker_id is None:
            return
        self._finished.pop(worker_id, None)
        pod = self._pods.get(worker_id)
        if pod is None:
            return
        if pod.killed and not isinstance(self._look(document), Ended):
            self._end(pod, KILLED)
        else:
            self._end(pod, pods.gone(document, self._settings.container, self._settings.memory_max))

    def _listed(self, documents: list[Document], asked_at: float) -> None:
        """These are all pods there were at some moment after `asked_at`."""
        there = {self._worker_of(each) for each in documents}
        for pod in list(self._pods.values()):
            if pod.document is not None and pod.made_at < asked_at and pod.id not in there:
                self._gone(pod.document)
        for worker_id in self._finished.keys() - there:
            del self._finished[worker_id]
        for document in documents:
            self._seen(document)

    def _delete_lingering(self, worker_id: int) -> None:
        document = self._finished.get(worker_id)
        if document and not pods.is_finished(document):
            self._run(self._delete(document))

    def _look(self, document: Document) -> pods.Look:
        return pods.look(document, self._settings.container, self._settings.memory_max)

    def _worker_of(self, document: Document) -> int | None:
        return pods.worker_id_of(document) if pods.is_owned_by(document, self._owner) else None

    # What is told.

    def _end(self, pod: Pod, ended: Ended) -> None:
        if ended.ran:
            self._tell_runs(pod)
        del self._pods[pod.id]
        seconds = time.monotonic() - pod.runs_since if pod.runs_since is not None else 0.0
        if ended not in (KILLED, UNNEEDED):
            limit = pods.memory_limit(pod.document, self._settings.container) if pod.document else ""
            self._maker.note(pod.id, ended, seconds, limit)
        self._changed.set()
        self._listener().process_ended(pod.id, ended.how, ended.excused)

    def _tell_waits(self, pod: Pod, why: str) -> None:
        if self._pods.get(pod.id) is pod and pod.told != Waits(why) and not isinstance(pod.told, Runs):
            pod.told = Waits(why)
            self._listener().process_waits(pod.id, why)

    def _tell_runs(self, pod: Pod) -> None:
        if not isinstance(pod.told, Runs):
            pod.told = Runs()
            pod.runs_since = time.monotonic() if pod.runs_since is None else pod.runs_since
            self._listener().process_started(pod.id)

    # Tasks.

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("unexpected", exc_info=error)

    async def _await_all(self, seconds: float) -> None:
        async def ended() -> None:
            while self._pods:
                self._changed.clear()
                await self._changed.wait()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended(), seconds)
