"""Makes pods one by one, however often the cluster refuses: each try may have to wait, and says what for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from edl_allreduce.cluster import WorkerPods, worker_pod_name
from edl_allreduce.errors import EdlError
from rendezvous.provisioner import pods
from rendezvous.provisioner.job_state import JobState, Superseded
from rendezvous.provisioner.kubernetes import Api, Refused
from rendezvous.provisioner.patience import RETRY_SECONDS
from rendezvous.provisioner.pods import Document, Ended, Owner

log = logging.getLogger(__name__)

USEFUL_SECONDS = 10.0  # a pod that has run so long was no failure of the cluster's
SETBACK_SECONDS = (1.0, 60.0)  # before the next pod, after some that were ended at once: the first, the longest


class PodMaker:
    """Knows how a job's next pod is to be made.

    Args:
        api, owner: the job.
        settings: how to make its workers' pods.
        state: what the job's coordinators leave to each other: it is written before a pod is made.
    """

    def __init__(self, api: Api, owner: Owner, settings: WorkerPods, state: JobState) -> None:
        self._api, self._owner, self._settings, self._state = api, owner, settings, state
        self._setbacks, self._setback = 0, ""
        self._creating: set[int] = set()

    async def make(
        self,
        worker_id: int,
        wanted: Callable[[], bool],
        others: Callable[[], Sequence[Document]],
        tell: Callable[[str], None],
    ) -> Document | None:
        """Makes the pod of a worker; goes on trying until it is there, or is not wanted any more: then it is None.

        Args:
            others: the pods of all other workers that are to live.
            tell: told why it cannot be made yet.

        Raises:
            Superseded: it is not this coordinator's business any more.
        """
        wait, longest = RETRY_SECONDS
        await self._sit_out(tell)
        while wanted():
            made, why = await self._try_to_make(worker_id, others())
            if made:
                return made
            log.warning("the pod of worker %d cannot be made: %s", worker_id, why)
            tell(why)
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)
        return None

    def creates(self, worker_id: int) -> bool:
        """Whether the API server is just being asked to make this worker's pod, so that it may come to be."""
        return worker_id in self._creating

    def note(self, worker_id: int, ended: Ended, seconds: float, limit: str) -> None:
        """A worker has ended after so many seconds of life, with this limit to its memory."""
        if ended.out_of_memory:
            self._state.grow(limit, self._settings.memory_max)
        if seconds >= USEFUL_SECONDS:
            self._setbacks = 0
        elif ended.excused:
            self._setbacks, self._setback = self._setbacks + 1, f"worker {worker_id} {ended.how}"

    async def _sit_out(self, tell: Callable[[str], None]) -> None:
        if self._setbacks:
            first, longest = SETBACK_SECONDS
            seconds = min(longest, first * 2 ** min(self._setbacks - 1, 30))
            tell(f"{seconds:g} s pass before the next pod is made: {self._setback}")
            await asyncio.sleep(seconds)

    async def _try_to_make(self, worker_id: int, others: Sequence[Document]) -> tuple[Document | None, str]:
        try:
            await asyncio.to_thread(self._state.save)
            self._creating.add(worker_id)
            return await asyncio.to_thread(self._create, worker_id, others), ""
        except Superseded:
            raise
        except EdlError as error:
            return None, str(error)
        finally:
            self._creating.discard(worker_id)

    def _create(self, worker_id: int, others: Sequence[Document]) -> Document:
        classes = [each["spec"].get("priorityClassName") for each in others]
        high = classes.count(self._settings.high_priority_class)
        chosen = pods.priority_class(self._settings, high, len(others) + 1)
        pod = pods.manifest(self._settings, worker_id, self._owner, self._state.worker_memory, chosen)
        try:
            return self._api.create_pod(pod)
        except Refused as refused:
            if not refused.exists:
                raise
            there = self._api.read_pod(worker_pod_name(self._owner.job, worker_id))
            if pods.is_owned_by(there, self._owner):
                return there  # made before: the answer was lost
            raise
