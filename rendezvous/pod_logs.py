"""The ends of the logs of a job in pods, as the API server has them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from edl_allreduce.cluster import COORDINATOR, worker_pod_name
from edl_allreduce.errors import EdlError
from rendezvous.logs import LOG_BYTES, LogTail, last_lines
from rendezvous.provisioner.kubernetes import Api, Refused
from rendezvous.provisioner.pods import Owner, is_owned_by

AT_A_TIME = 2  # threads of their own: the job's calls never wait for those of people who read logs


class PodLogs:
    """See `rendezvous.logs.Logs`. Only pods of this very job are read.

    Args:
        api, owner: the job.
        own_pod: the name of this coordinator's.
        container: the name of the container in which workers run.
    """

    def __init__(self, api: Api, owner: Owner, own_pod: str, container: str) -> None:
        self._api, self._owner, self._own_pod, self._container = api, owner, own_pod, container
        self._threads = ThreadPoolExecutor(AT_A_TIME, "logs")

    async def tail(self, worker: int | None, lines: int) -> LogTail:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._tail, worker, lines)
        except Refused as refused:
            if refused.missing:
                return LogTail(unavailable="its pod is gone, and with it its log")
            return LogTail(unavailable=f"the cluster does not give its log: {refused}")
        except EdlError as error:
            return LogTail(unavailable=f"its log cannot be read: {error}")

    def _tail(self, worker: int | None, lines: int) -> LogTail:
        pod, container = self._own_pod, COORDINATOR
        if worker is not None:
            pod, container = worker_pod_name(self._owner.job, worker), self._container
            if not is_owned_by(self._api.read_pod(pod), self._owner):
                return LogTail(unavailable=f"the pod {pod} is not of this job")
        data = self._api.end_of_log(pod, container, lines + 1)
        return last_lines(data[-LOG_BYTES:], len(data) > LOG_BYTES, lines)
