"""A job on Kubernetes as a handle: watched through its cluster and its coordinator, whoever has submitted it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from edl_allreduce import cluster, storage, task_spec
from edl_allreduce.errors import EdlError, JobFailed, UsageError
from edl_allreduce.job_folder import RUNS
from launcher import history
from launcher.client import how_told
from launcher.followed import AWAY, FollowedJob
from launcher.handle import with_message
from launcher.kubernetes.api import Cluster, selector
from launcher.kubernetes.errors import Unreachable
from launcher.kubernetes.manifests import WORKERS
from launcher.kubernetes.status import Outlook, final_status, outlook
from launcher.kubernetes.way import ClusterWay
from launcher.recorded import served

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

STOP_SECONDS = 60.0  # for a job that was told to stop: its workers write a checkpoint, and go
LOOK_SECONDS, END_SECONDS = 10, 1  # between two looks at the Job, if nothing changes before; when its pod has ended
HEAR_SECONDS = 3.0  # for the first word of a coordinator that runs
APART_SECONDS = 2.0  # between two tries to reach a cluster that does not answer
STOPPED_EXIT_CODE = 130


def attached(name: str, where: Cluster) -> KubernetesJob:
    """A job that is there already.

    Raises:
        UsageError: it is not, or this user may not read its Secret.
        Unreachable: the cluster does not answer.
    """
    if where.read("batch/v1", "Job", name) is None:
        raise UsageError(f"there is no job {name!r} in namespace {where.namespace}; edl jobs lists all")
    job = KubernetesJob(where, ClusterWay.of(where, name))
    job.begin()
    return job


class KubernetesJob(FollowedJob):
    """A job on Kubernetes. It is followed from `begin` on, and goes on when this process ends.

    Args:
        where: its namespace.
        way: to its coordinator.
    """

    def __init__(self, where: Cluster, way: ClusterWay) -> None:
        super().__init__(way)
        self._name, self._cluster, self._way = way.name, where, way
        self._looked, self._heard = threading.Event(), threading.Event()

    def begin(self) -> None:
        """Follows the job, in threads of its own; returns when there is a first status."""
        self._way.__enter__()
        self._start_following(self._observe)
        self._looked.wait()
        if self._way.pod:
            self._heard.wait(HEAR_SECONDS)

    # The handle.

    @property
    def name(self) -> str:
        return self._name

    @property
    def namespace(self) -> str:
        """Where its objects are."""
        return self._cluster.namespace

    @property
    def logs_hint(self) -> str:
        return self._way.logs_hint

    @property
    def words(self) -> str:
        return self._way.words

    @property
    def output(self) -> str:
        config = self._cluster.read("v1", "ConfigMap", self._name)
        return task_spec.from_json(config["data"][cluster.SPEC_FILE]).output.output if config else ""

    @property
    def record(self) -> str:
        output = self.output
        return storage.join(output, RUNS, self._name) if output else ""

    def stop(self) -> None:
        self._stop_wanted = True
        if self._way.pod and not self._ended.is_set():
            with contextlib.suppress(EdlError):
                self._client.stop("stopped by request")
                self._ended.wait(STOP_SECONDS)
        if not self._ended.is_set():
            self.kill()

    def kill(self) -> None:
        from google.protobuf import json_format

        self._stop_wanted = True
        if self._ended.is_set():
            return
        last = with_message(self.status(), "all its pods were deleted")
        last.phase, last.exit_code = "stopped", STOPPED_EXIT_CODE
        final = {cluster.FINAL_STATUS: json_format.MessageToJson(last, indent=None)}
        self._cluster.patch("v1", "ConfigMap", cluster.state_name(self._name), {"data": final})
        self._cluster.patch("batch/v1", "Job", self._name, {"spec": {"backoffLimit": 0, "activeDeadlineSeconds": 1}})
        self._cluster.kill_pods(selector(self._name))
        if not self._ended.wait(STOP_SECONDS):
            raise JobFailed(f"job {self._name} has not ended; kubectl delete job {self._name} removes all of it")

    def scale(self, num_workers: int) -> int:
        before = self._client.scale(num_workers)
        with contextlib.suppress(EdlError):  # it is for lists of jobs only
            note = {"metadata": {"annotations": {WORKERS: str(num_workers)}}}
            self._cluster.patch("batch/v1", "Job", self._name, note)
        return before

    def events(self, follow: bool = False, steps: bool = False) -> Iterator[dict[str, Any]]:
        if self._ended.is_set():
            return history.recorded(self.output, self._name, steps)
        return history.told(self._client, self._ended.wait, follow, steps)

    def logs(self, worker: int | None = None, follow: bool = False) -> Iterator[str]:
        role = cluster.COORDINATOR if worker is None else cluster.WORKER
        pods = self._cluster.find("v1", "Pod", selector(self._name))
        pods.sort(key=lambda each: str(each["metadata"]["creationTimestamp"]))
        theirs = [each for each in pods if each["metadata"]["labels"].get(cluster.LABEL_ROLE) == role]
        if worker is not None:
            theirs = [each for each in theirs if each["metadata"]["labels"].get(cluster.LABEL_WORKER) == str(worker)]
        if not theirs:
            ids = sorted(int(each["metadata"]["labels"].get(cluster.LABEL_WORKER, -1)) for each in pods)
            there = ", ".join(str(each) for each in ids if each >= 0) or "none"
            whose = "the coordinator" if worker is None else f"worker {worker}"
            raise UsageError(f"job {self._name}: {whose} has no pod any more; workers with logs: {there}")
        return self._cluster.logs(theirs[-1]["metadata"]["name"], role, follow)

    def dashboard(self) -> AbstractContextManager[str]:
        return self._dashboard()

    @contextlib.contextmanager
    def _dashboard(self) -> Iterator[str]:
        if self._ended.is_set():
            with served([self.record]) as found:
                yield found.url
            return
        self._client.newest(10.0)  # is it there at all
        with self._way.dashboard() as tunnel:
            yield f"http://{tunnel.address}/#token={self._way.token()}"

    # Following it.

    def _observe(self) -> None:
        """Knows at any time which pod the coordinator is, and whether the job has ended."""
        while not self._ended.is_set():
            if not self._observed():
                self._ended.wait(APART_SECONDS)

    def _observed(self) -> bool:
        """Looks, and waits for a change; False when the cluster does not answer."""
        try:
            found = self._look()
            self._heed(found)
            self._looked.set()
            if not found.ended:
                seconds = END_SECONDS if found.ending else LOOK_SECONDS
                self._cluster.await_change("v1", "Pod", selector(self._name, cluster.COORDINATOR), seconds)
            return True
        except EdlError as error:
            self._publish(with_message(self.status(), str(error)))
            self._looked.set()
            return False

    def _look(self) -> Outlook:
        job = self._cluster.read("batch/v1", "Job", self._name)
        pods = self._cluster.find("v1", "Pod", selector(self._name, cluster.COORDINATOR)) if job else []
        fields = f"involvedObject.kind=Job,involvedObject.name={self._name},type=Warning"
        warnings = self._cluster.find("v1", "Event", fields=fields) if job and not pods else []
        return outlook(job, pods, warnings)

    def _heed(self, found: Outlook) -> None:
        self._way.pod = found.pod
        if found.ended:
            self._end(found)
        elif not found.pod and not found.ending:
            began = self._statuses > 0 and self.status().phase != "starting"
            message = f"{AWAY}: {found.waits}" if began else found.waits
            self._publish(with_message(self.status(), message))
        elif self._statuses == 0:
            self._publish(with_message(self.status(), "indexing the data"))

    def _end(self, found: Outlook) -> None:
        try:
            state = self._cluster.read("v1", "ConfigMap", cluster.state_name(self._name))
        except Unreachable:
            state = None
        final = final_status(self.status(), (state or {}).get("data", {}).get(cluster.FINAL_STATUS, ""), found)
        self._way.ended = how_told(final)
        self._conclude(final)
        self._heard.set()
        self._way.__exit__()

    def _hear(self, status: Status) -> None:
        self._publish(status)
        self._heard.set()

    def _lose(self) -> None:
        """`_observe` knows more."""
