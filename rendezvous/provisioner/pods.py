"""What pods of workers look like and what their status means: pure functions over the documents of Kubernetes's API."""

from __future__ import annotations

import copy
import math
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from edl_allreduce.cluster import LABEL_WORKER, WorkerPods, worker_pod_name
from edl_allreduce.errors import UsageError
from edl_allreduce.pods import one_line, waits_for

Document = Mapping[str, Any]

GROWTH = Decimal("1.5")  # of the memory of a worker that was killed for want of it
MEBI = 1 << 20
_SUFFIXES = {"m": Decimal("0.001"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)}
_SUFFIXES |= {"T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18)}
_SUFFIXES |= {f"{letter}i": Decimal(1 << (10 * power)) for power, letter in enumerate("KMGTPE", 1)}
_QUANTITY = re.compile(r"([+-]?[0-9]+\.?[0-9]*|[+-]?\.[0-9]+)(?:([eE][+-]?[0-9]+)|([a-zA-Z]*))")

# Why pods were ended by others, as the condition DisruptionTarget tells it.
_DISRUPTIONS = {
    "PreemptionByScheduler": "was preempted",
    "EvictionByEvictionAPI": "was evicted",
    "DeletionByTaintManager": "was evicted from its node",
    "DeletionByPodGC": "was lost with its node",
    "TerminationByKubelet": "was ended by its node",
}
_LOST_NODE = re.compile(r"node\.kubernetes\.io/(unreachable|not-ready)")


@dataclass(frozen=True)
class Owner:
    """Whose pods they are: the job's object of kind Job."""

    job: str
    uid: str


@dataclass(frozen=True)
class Waits:
    """A pod whose worker does not run yet, and why not."""

    why: str


@dataclass(frozen=True)
class Runs:
    """A pod whose worker runs."""


@dataclass(frozen=True)
class Ended:
    """A pod whose worker has ended.

    Attributes:
        how: such as "ended with exit code 3", to be read after "worker 7".
        excused: it says nothing about the job: it was told to go, or others have ended it.
        ran: it had been started.
        out_of_memory: it was killed because it needed more than its limit.
    """

    how: str
    excused: bool
    ran: bool = True
    out_of_memory: bool = False


Look = Waits | Runs | Ended


def manifest(
    pods: WorkerPods, worker_id: int, owner: Owner, memory: str = "", priority_class: str = ""
) -> dict[str, Any]:
    """The pod of a worker.

    Args:
        memory: its limit, and what it asks for if that is more than it asks for anyway; empty: as it is.
        priority_class: empty: as it is.
    """
    pod = copy.deepcopy(pods.pod)
    metadata = pod.setdefault("metadata", {})
    metadata["name"] = worker_pod_name(owner.job, worker_id)
    metadata.setdefault("labels", {})[LABEL_WORKER] = str(worker_id)
    metadata["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": owner.job, "uid": owner.uid}]
    container = container_of(pod, pods.container)
    container["args"] = [*container.get("args", ()), f"--worker_id={worker_id}"]
    if memory:
        resources = container.setdefault("resources", {})
        for kind in ("requests", "limits"):
            resources[kind] = dict(resources.get(kind, {})) | {"memory": memory}
    if priority_class:
        pod["spec"]["priorityClassName"] = priority_class
        pod["spec"].pop("priority", None)
    return pod


def container_of(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """The container of that name.

    Raises:
        UsageError: the pod has none.
    """
    for container in pod.get("spec", {}).get("containers", ()):
        if container.get("name") == name:
            assert isinstance(container, dict)
            return container
    raise UsageError(f"the pod of workers has no container {name!r}")


def worker_id_of(pod: Document) -> int | None:
    """Which worker's pod it is; None: nobody's."""
    label = str(pod["metadata"].get("labels", {}).get(LABEL_WORKER, ""))
    return int(label) if label.isdecimal() else None


def is_owned_by(pod: Document, owner: Owner) -> bool:
    """Whether it is a pod of this very job, not of another one of the same name."""
    return any(each.get("uid") == owner.uid for each in pod["metadata"].get("ownerReferences", ()))


def is_finished(pod: Document) -> bool:
    """Whether none of a pod's containers runs any more, nor will."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def look(pod: Document, container: str, memory_max: str = "") -> Look:
    """What a pod's status means.

    Args:
        container: the name of the worker's.
        memory_max: the most memory that a worker may get.
    """
    status = pod.get("status", {})
    own = _status_of(status.get("containerStatuses", ()), container)
    terminated = own.get("state", {}).get("terminated")
    if terminated or is_finished(pod):
        return _ended(pod, container, terminated or {}, memory_max)
    if own.get("state", {}).get("running") is not None:
        return Runs()
    if pod["metadata"].get("deletionTimestamp"):
        return Ended(_disruption(status) or "was deleted before it started", excused=True, ran=False)
    return Waits(waits_for(pod, container))


def gone(pod: Document, container: str, memory_max: str = "") -> Ended:
    """What it means that a pod is there no more, which was last seen like this."""
    last = look(pod, container, memory_max)
    if isinstance(last, Ended):
        return last
    how = _disruption(pod.get("status", {})) or "was deleted with its pod"
    return Ended(how, excused=True, ran=isinstance(last, Runs))


def _ended(pod: Document, container: str, terminated: Document, memory_max: str) -> Ended:
    status, ran = (
        pod["status"],
        bool(terminated) and terminated.get("reason") not in ("StartError", "ContainerCannotRun"),
    )
    disruption, reason = _disruption(status), str(status.get("reason") or "")
    if terminated.get("reason") == "OOMKilled":
        limit = memory_limit(pod, container)
        more = bool(memory_max) and bool(limit) and bytes_of(limit) < bytes_of(memory_max)
        return Ended(f"was OOM-killed{f' (limit {limit})' if limit else ''}", more, out_of_memory=True)
    if reason == "Evicted":
        return Ended(f"was evicted: {one_line(status.get('message'))}", excused=True, ran=ran)
    if disruption:
        return Ended(disruption, excused=True, ran=ran)
    if pod["metadata"].get("deletionTimestamp"):
        return Ended("was deleted with its pod", excused=True, ran=ran)
    if not terminated:
        if status.get("phase") == "Succeeded":
            return Ended("ended", excused=True)
        return Ended(f"was refused by its node: {one_line(status.get('message')) or reason}", excused=True, ran=False)
    return _exited(terminated)


def _exited(terminated: Document) -> Ended:
    code, message = int(terminated.get("exitCode", 0)), one_line(terminated.get("message"))
    if terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        return Ended(f"could not be started: {message}", excused=False)
    number = int(terminated.get("signal") or 0) or (code - 128 if 128 < code < 128 + signal.NSIG else 0)
    if number:
        return Ended(f"was ended by {_signal_name(number)}", excused=number == signal.SIGTERM)
    return Ended(f"ended with exit code {code}", excused=code == 0)


def _disruption(status: Document) -> str:
    """Who has ended a pod; empty: nobody who says so."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            why, message = str(condition.get("reason")), one_line(condition.get("message"))
            if why == "DeletionByTaintManager" and _LOST_NODE.search(message):
                return "was lost with its node"
            how = _DISRUPTIONS.get(why, "was ended by the cluster")
            return f"{how}: {message}" if message else how
    return ""


def _status_of(statuses: Iterable[Document] | None, name: str) -> Document:
    return next((each for each in statuses or () if each.get("name") == name), {})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# The image.


def pinned_image(pod: Document, container: str) -> str | None:
    """The image that a container runs, by its digest; None: not told yet; empty: it cannot be pulled by a digest.

    Images that were put on a node by hand have digests under made-up names, which no registry knows.
    """
    own = _status_of(pod.get("status", {}).get("containerStatuses"), container)
    if not own.get("imageID"):
        return None
    wanted = next((str(each["image"]) for each in pod["spec"]["containers"] if each.get("name") == container), "")
    found, _, digest = str(own["imageID"]).removeprefix("docker-pullable://").partition("@")
    repository = _repository(wanted)
    return f"{repository}@{digest}" if digest and _full_name(found) == _full_name(repository) else ""


def _repository(image: str) -> str:
    """A reference without its tag and digest."""
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


def _full_name(repository: str) -> str:
    """With the registry that is meant where none is named."""
    first, slash, _ = repository.partition("/")
    if not slash:
        return f"docker.io/library/{repository}"
    return repository if "." in first or ":" in first or first == "localhost" else f"docker.io/{repository}"


# Memory.


def memory_limit(pod: Document, container: str) -> str:
    """The memory that the worker may use; empty: as much as there is."""
    for each in pod["spec"].get("containers", ()):
        if each.get("name") == container:
            return str(each.get("resources", {}).get("limits", {}).get("memory", ""))
    return ""


def more_memory(limit: str, memory_max: str) -> str:
    """What a worker gets after one with this limit was killed for want of memory; the same if there is no more."""
    if not limit or not memory_max or bytes_of(limit) >= bytes_of(memory_max):
        return limit
    wanted = math.ceil(bytes_of(limit) * GROWTH / MEBI)
    return memory_max if wanted * MEBI >= bytes_of(memory_max) else f"{wanted}Mi"


def bytes_of(quantity: str) -> Decimal:
    """The number that a quantity of Kubernetes stands for, such as 1.5Gi, 500M, 1e9, 128974848.

    Raises:
        UsageError: it is none.
    """
    match = _QUANTITY.fullmatch(quantity.strip())
    if match is None or (match[3] or "") not in _SUFFIXES:
        raise UsageError(f"{quantity!r} is not a quantity; expected a number such as 2Gi, 500M or 1000000000")
    return Decimal(match[1] + (match[2] or "")) * _SUFFIXES[match[3] or ""]


# Which pods get what, and which go.


def priority_class(pods: WorkerPods, high: int, workers: int) -> str:
    """The priority class of one more worker.

    Args:
        high: how many of the other workers have the high class.
        workers: how many workers there are with this one.
    """
    if not pods.high_priority_class:
        return ""
    wanted = math.ceil(pods.high_priority * workers - 1e-9)
    return pods.high_priority_class if high < wanted else pods.low_priority_class


def surplus(finished: Iterable[int], keep: int) -> list[int]:
    """Of the workers that have ended and left their pods, those whose pods are not kept: the oldest ones."""
    by_age = sorted(finished)
    return by_age[: max(0, len(by_age) - keep)]
