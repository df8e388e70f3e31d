"""Lists the jobs of a namespace with what there is to say about each; those that run are asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edl_allreduce import cluster
from edl_allreduce.errors import EdlError
from launcher.client import Client
from launcher.handle import JobSummary
from launcher.kubernetes.api import Cluster
from launcher.kubernetes.manifests import KIND, WORKERS
from launcher.kubernetes.status import Outlook, final_status, outlook
from launcher.kubernetes.way import ClusterWay

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

ASK_SECONDS = 3.0  # for the answer of a job's coordinator
ASK_THREADS = 8
OURS = f"{cluster.LABEL_APP}={cluster.APP},{cluster.LABEL_MANAGER}={cluster.MANAGER}"

Document = dict[str, Any]


def summaries(where: Cluster) -> list[JobSummary]:
    """All jobs of a namespace.

    Raises:
        UsageError: there is no access to them.
        Unreachable: the cluster does not answer.
    """
    jobs = where.find("batch/v1", "Job", OURS)
    if not jobs:
        return []
    coordinators: dict[str, list[Document]] = {}
    for pod in where.find("v1", "Pod", f"{OURS},{cluster.LABEL_ROLE}={cluster.COORDINATOR}"):
        coordinators.setdefault(pod["metadata"]["labels"][cluster.LABEL_JOB], []).append(pod)
    written = {each["metadata"]["name"]: each.get("data") or {} for each in where.find("v1", "ConfigMap", OURS)}

    def summary(job: Document) -> JobSummary:
        name = job["metadata"]["name"]
        left = written.get(cluster.state_name(name), {}).get(cluster.FINAL_STATUS, "")
        return _summary(job, _status(where, name, outlook(job, coordinators.get(name, []), []), left))

    with ThreadPoolExecutor(ASK_THREADS) as threads:
        return list(threads.map(summary, jobs))


def _status(where: Cluster, name: str, found: Outlook, written: str) -> Status:
    from edl_allreduce.control.control_pb2 import Status

    if found.ended:
        return final_status(Status(), written, found)
    if found.pod:
        try:
            return _asked(where, name, found.pod)
        except EdlError:
            return Status(phase="starting", message="the coordinator does not answer yet")
    return Status(phase="starting", message=found.waits)


def _asked(where: Cluster, name: str, pod: str) -> Status:
    """What the coordinator in a pod says."""
    way = ClusterWay.of(where, name)
    way.pod = pod
    with way:
        return Client(way, lambda seconds: False).newest(ASK_SECONDS)


def _summary(job: Document, status: Status) -> JobSummary:
    notes = job["metadata"].get("annotations") or {}
    count = notes.get(WORKERS, "")
    return JobSummary(
        name=job["metadata"]["name"],
        backend="kubernetes",
        kind=notes.get(KIND, "train"),
        phase=status.phase,
        began=datetime.fromisoformat(job["metadata"]["creationTimestamp"].replace("Z", "+00:00")).timestamp(),
        workers=status.target_workers or (int(count) if count.isdigit() else 0),
        message=status.message,
    )
