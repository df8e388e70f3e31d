"""Workers as pods: what is wanted is reconciled with what the API server says there is.

Everything is decided on the event loop; calls to the API server wait in threads. One thread watches: it lists all pods,
follows what changes, and lists anew whenever it has lost the thread. A job in progress needs none of it: while the API
server is away, workers work on, and what is to be done is tried again until it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edl_allreduce.cluster import WorkerPods, worker_pod_name
from edl_allreduce.errors import EdlError
from rendezvous.provisioner import Listener, Recovered, pods
from rendezvous.provisioner.job_state import JobState
from rendezvous.provisioner.kubernetes import Api, Refused
from rendezvous.provisioner.patience import RETRY_SECONDS, insist
from rendezvous.provisioner.pod_watch import PodWatch
from rendezvous.provisioner.pods import Document, Ended, Owner, Runs, Waits

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPLAIN_SECONDS = 5.0  # for a worker's status to say how it ended, before its pod, and with it the status, is deleted
END_SECONDS = 15.0  # for workers to end by themselves; it takes some until that is seen
KILL_SECONDS = 15.0  # for killed pods to be gone
THREADS = 4
USEFUL_SECONDS = 10.0  # a pod that has run so long was no failure of the cluster's
SETBACK_SECONDS = (1.0, 60.0)  # before the next pod, after pods that came to nothing: the first, the longest


@dataclass
class Pod:
    """A worker's pod, as wanted and as last seen.

    Attributes:
        document: as last seen; None: it has not been made yet.
        seen_at: when it was, by the monotonic clock.
        killed: it is to go.
        told: what the listener knows of it.
        started_at: when its worker was first seen running.
    """

    id: int
    document: Document | None = None
    seen_at: float = 0.0
    killed: bool = False
    told: Waits | Runs | None = None
    started_at: float | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class PodKeeper:
    """The provisioner of a job on Kubernetes.

    Args:
        api, owner: the job.
        pods: how to make its workers' pods.
        state: what the job's coordinators leave to each other.
        listener: who is told what happens to workers.
    """

    explain_seconds = EXPLAIN_SECONDS + 2.0

    def __init__(
        self, api: Api, owner: Owner, pods: WorkerPods, state: JobState, listener: Callable[[], Listener]
    ) -> None:
        self._api, self._owner, self._settings, self._state = api, owner, pods, state
        self._listener = listener
        self._pods: dict[int, Pod] = {}
        self._finished: dict[int, Document] = {}
        self._executor = ThreadPoolExecutor(THREADS, "api")
        self._changed = asyncio.Event()
        self._setbacks = 0
        self._watch = PodWatch(api, self._seen, self._gone, self._listed)
        self._tasks: set[asyncio.Task[None]] = set()

    # Provisioner.

    async def recover(self) -> Recovered:
        """Takes over the pods of earlier coordinators, and watches from now on."""
        self._loop = asyncio.get_running_loop()
        documents, version = await insist("list pods", self._api.list_pods)
        newest = -1
        for document in filter(self._is_ours, documents):
            worker_id = pods.worker_id_of(document)
            assert worker_id is not None
            newest = max(newest, worker_id)
            if isinstance(self._look(document), Ended):
                self._finished[worker_id] = document
            else:
                self._pods[worker_id] = Pod(worker_id, document, time.monotonic())
                self._loop.call_soon(self._seen, document)
        self._state.next_id = max(self._state.next_id, newest + 1)
        self._watch.start(version)
        return Recovered(self._state.next_id, tuple(sorted(self._pods)))

    def start(self, worker_id: int) -> None:
        """Makes a pod, as soon as that can be done."""
        self._state.next_id = max(self._state.next_id, worker_id + 1)
        pod = self._pods[worker_id] = Pod(worker_id)
        self._loop.call_soon(self._tell_waits, pod, "its pod is being made")
        self._run(self._make(pod))

    def kill(self, worker_id: int) -> None:
        """Deletes a pod; one whose worker may just have ended by itself has some seconds to say how."""
        pod = self._pods.get(worker_id)
        if pod is None or pod.killed:
            return
        pod.killed = True
        if isinstance(pod.told, Runs):
            self._loop.call_later(EXPLAIN_SECONDS, self._delete_later, pod)
        else:
            self._delete_later(pod)

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker has ended; pods of those that had to be killed are deleted, the others stay."""
        await self._await_all(max(grace_seconds, END_SECONDS))
        for pod in list(self._pods.values()):
            pod.killed = True
            self._delete_later(pod)
        await self._await_all(KILL_SECONDS)
        self._watch.stop()
        for task in self._tasks:
            task.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    # What is wanted.

    async def _make(self, pod: Pod) -> None:
        wait, longest = RETRY_SECONDS
        while pod.document is None and pod.id in self._pods:
            if pod.killed:
                return self._end(pod, Ended("was not needed any more", excused=True, ran=False))
            try:
                await self._setback()
                await self._in_thread(self._state.save)
                if not pod.killed:
                    made = await self._in_thread(self._create, pod.id)
                    pod.seen_at = time.monotonic()
                    if pod.document is None:  # else the watch has told of it already, and of what followed
                        self._seen(made)
            except EdlError as error:
                self._tell_waits(pod, str(error))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.sleep(wait)
                wait = min(2 * wait, longest)
        if pod.killed and pod.document is not None:
            self._delete_later(pod)

    def _create(self, worker_id: int) -> Document:
        """Makes the pod of a worker, or finds it made: an answer may have been lost. In a thread."""
        alive = [each for each in list(self._pods.values()) if not each.killed]
        classes = [each.document["spec"].get("priorityClassName") for each in alive if each.document]
        high = classes.count(self._settings.high_priority_class)
        chosen = pods.priority_class(self._settings, high, len(alive))
        manifest = pods.manifest(self._settings, worker_id, self._owner, self._state.worker_memory, chosen)
        try:
            return self._api.create_pod(manifest)
        except Refused as refused:
            if not refused.exists:
                raise
            there = self._api.read_pod(worker_pod_name(self._owner.job, worker_id))
            if not self._is_ours(there):
                raise
            return there

    async def _setback(self) -> None:
        if self._setbacks:
            first, longest = SETBACK_SECONDS
            await asyncio.sleep(min(longest, first * 2 ** (self._setbacks - 1)))

    def _delete_later(self, pod: Pod) -> None:
        if pod.document is not None and self._pods.get(pod.id) is pod:
            self._run(self._delete(pod.document))

    async def _delete(self, document: Document) -> None:
        name, uid = document["metadata"]["name"], document["metadata"]["uid"]
        try:
            await insist(f"delete pod {name}", self._api.delete_pod, name, uid, 0)
        except EdlError as error:
            log.error("pod %s is left: %s", name, error)

    # What there is.

    def _seen(self, document: Document) -> None:
        """A pod is there, like this."""
        worker_id = pods.worker_id_of(document)
        if worker_id is None or not self._is_ours(document) or worker_id in self._finished:
            return
        pod = self._pods.get(worker_id)
        if pod is None:
            self._run(self._delete(document))  # an earlier coordinator's last deed, or a killed one's
            return
        pod.document = document
        match self._look(document):
            case Ended() as ended:
                self._finished[worker_id] = document
                self._end(pod, ended)
                self._prune()
            case Waits(why):
                self._tell_waits(pod, why)
            case Runs():
                self._tell_runs(pod)

    def _gone(self, document: Document) -> None:
        """A pod is there no more; it was last seen like this."""
        worker_id = pods.worker_id_of(document)
        if worker_id is None or not self._is_ours(document):
            return
        self._finished.pop(worker_id, None)
        pod = self._pods.get(worker_id)
        if pod:
            self._end(pod, pods.gone(document, self._settings.container, self._settings.memory_max))

    def _listed(self, documents: list[Document], asked_at: float) -> None:
        """These are all pods there were at some moment after `asked_at`."""
        there = {pods.worker_id_of(each) for each in documents if self._is_ours(each)}
        for pod in list(self._pods.values()):
            if pod.document is not None and pod.seen_at < asked_at and pod.id not in there:
                self._gone(pod.document)
        for document in documents:
            self._seen(document)

    def _look(self, document: Document) -> pods.Look:
        return pods.look(document, self._settings.container, self._settings.memory_max)

    def _is_ours(self, document: Document) -> bool:
        return pods.is_owned_by(document, self._owner) and pods.worker_id_of(document) is not None

    def _end(self, pod: Pod, ended: Ended) -> None:
        del self._pods[pod.id]
        lived = time.monotonic() - pod.started_at if pod.started_at is not None else 0.0
        if lived >= USEFUL_SECONDS:
            self._setbacks = 0
        elif ended.excused and not ended.ran and not pod.killed:
            self._setbacks += 1
        if ended.out_of_memory and pod.document is not None:
            self._state.grow(pods.memory_limit(pod.document, self._settings.container), self._settings.memory_max)
        if ended.ran:
            self._tell_runs(pod)
        self._listener().process_ended(pod.id, ended.how, ended.excused)
        self._changed.set()

    def _prune(self) -> None:
        for worker_id in pods.surplus(self._finished, self._settings.keep_finished):
            self._run(self._delete(self._finished[worker_id]))

    def _tell_waits(self, pod: Pod, why: str) -> None:
        if self._pods.get(pod.id) is pod and pod.told != Waits(why) and not isinstance(pod.told, Runs):
            pod.told = Waits(why)
            self._listener().process_waits(pod.id, why)

    def _tell_runs(self, pod: Pod) -> None:
        if not isinstance(pod.told, Runs):
            pod.told, pod.started_at = Runs(), time.monotonic()
            self._listener().process_started(pod.id)

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(self._executor, call, *arguments)

    async def _await_all(self, seconds: float) -> None:
        async def ended() -> None:
            while self._pods:
                self._changed.clear()
                await self._changed.wait()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended(), seconds)
