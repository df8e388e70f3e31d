"""What a worker's pod looks like, and what its status means: from pods that a real cluster has shown."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any

import pytest

from edl_allreduce.cluster import WorkerPods
from edl_allreduce.errors import UsageError
from rendezvous.provisioner import pods
from rendezvous.provisioner.pods import Ended, Owner, Runs, Waits, bytes_of, more_memory
from tests import pod_documents as seen
from tests.pod_documents import Document, disrupted, pod, terminated

OWNER = Owner("job", "job-uid")
DELETED: dict[str, Any] = {"deletionTimestamp": "2026-11-22T21:10:00Z", "deletionGracePeriodSeconds": 30}
TEMPLATE = {
    "metadata": {"namespace": "team", "labels": {"app.kubernetes.io/instance": "job"}},
    "spec": {
        "priorityClassName": "plain",
        "containers": [
            {"name": "helper"},
            {
                "name": "worker",
                "args": ["--host=$(NODE_NAME)"],
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
            },
        ],
    },
}


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (seen.NEW, "its pod is being scheduled"),
        (seen.CREATING, "its container is being created"),
        (
            seen.UNSCHEDULABLE,
            seen.UNSCHEDULABLE["conditions"][0]["message"],
        ),
        (seen.NO_IMAGE, 'ImagePullBackOff: Back-off pulling image "127.0.0.1:5000/none:1"'),
        (seen.NO_SECRET, 'CreateContainerConfigError: secret "keys" not found'),
        (
            seen.CREATING
            | {"initContainerStatuses": [{"name": "get", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "get: ErrImagePull",
        ),
    ],
)
def test_a_pod_that_waits_says_why(status: Document, why: str) -> None:
    assert pods.look(pod(status), "worker") == Waits(why)


def test_a_pod_runs_when_its_worker_does() -> None:
    assert pods.look(pod(seen.RUNNING), "worker") == Runs()
    assert pods.look(pod(seen.RUNNING, **DELETED), "worker") == Runs(), "it has its grace period"


@pytest.mark.parametrize(
    ("status", "how", "excused"),
    [
        (terminated(0), "ended with exit code 0", True),
        (terminated(3), "ended with exit code 3", False),
        (terminated(137), "was ended by SIGKILL", False),
        (terminated(143), "was ended by SIGTERM", True),
        (terminated(139, signal=11), "was ended by SIGSEGV", False),
        (
            terminated(128, reason="StartError", message='exec: "pyton": not found'),
            'could not be started: exec: "pyton": not found',
            False,
        ),
        (
            seen.EVICTED,
            "was evicted: The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi.",
            True,
        ),
        (seen.REFUSED, f"was refused by its node: {seen.REFUSED['message']}", True),
        (
            disrupted("PreemptionByScheduler", "default-scheduler: preempting", terminated(143)),
            "was preempted: default-scheduler: preempting",
            True,
        ),
        (
            disrupted("EvictionByEvictionAPI", "Eviction API: evicting", terminated(0)),
            "was evicted: Eviction API: evicting",
            True,
        ),
        (
            disrupted(
                "DeletionByTaintManager",
                "Taint manager: deleting due to NoExecute taint node.kubernetes.io/unreachable",
                terminated(137),
            ),
            "was lost with its node",
            True,
        ),
    ],
)
def test_how_a_worker_has_ended(status: Document, how: str, excused: bool) -> None:
    ended = pods.look(pod(status), "worker")
    assert isinstance(ended, Ended)
    assert (ended.how, ended.excused) == (how, excused)


def test_a_worker_that_ended_beside_a_helper_that_runs_on_has_ended() -> None:
    document = pod(terminated(3) | {"phase": "Running"})
    assert pods.look(document, "worker") == Ended("ended with exit code 3", excused=False)
    assert not pods.is_finished(document)


def test_out_of_memory_is_excused_as_long_as_the_next_one_gets_more() -> None:
    killed = pods.look(pod(seen.OOM_KILLED), "worker", "4Gi")
    assert killed == Ended("was OOM-killed (limit 2Gi)", excused=True, out_of_memory=True)
    assert pods.look(pod(seen.OOM_KILLED), "worker", "2048Mi") == Ended(
        "was OOM-killed (limit 2Gi)", excused=False, out_of_memory=True
    )
    assert pods.look(pod(seen.OOM_KILLED), "worker") == Ended(
        "was OOM-killed (limit 2Gi)", excused=False, out_of_memory=True
    )


def test_a_pod_that_is_gone() -> None:
    assert pods.gone(pod(seen.RUNNING, **DELETED), "worker") == Ended("was deleted with its pod", excused=True)
    assert pods.gone(pod(seen.CREATING), "worker") == Ended("was deleted with its pod", excused=True, ran=False)
    assert pods.gone(pod(terminated(3)), "worker") == Ended("ended with exit code 3", excused=False)
    assert pods.gone(pod(terminated(137), **DELETED), "worker") == Ended("was deleted with its pod", excused=True)
    lost = disrupted("DeletionByPodGC", "PodGC: node no longer exists")
    assert pods.gone(pod(lost), "worker") == Ended("was lost with its node: PodGC: node no longer exists", excused=True)


def test_a_pod_that_is_deleted_before_it_runs_has_ended() -> None:
    assert pods.look(pod(seen.UNSCHEDULABLE, **DELETED), "worker") == Ended(
        "was deleted before it started", excused=True, ran=False
    )


def test_the_manifest_of_a_worker() -> None:
    settings = WorkerPods(copy.deepcopy(TEMPLATE))
    made = pods.manifest(settings, 7, OWNER, memory="3Gi", priority_class="high")
    assert settings.pod == TEMPLATE, "the template stays as it is"
    assert made == {
        "metadata": {
            "namespace": "team",
            "name": "job-worker-7",
            "labels": {"app.kubernetes.io/instance": "job", "edl-allreduce/worker-id": "7"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "job-uid"}],
        },
        "spec": {
            "priorityClassName": "high",
            "containers": [
                {"name": "helper"},
                {
                    "name": "worker",
                    "args": ["--host=$(NODE_NAME)", "--worker_id=7"],
                    "resources": {"requests": {"cpu": "1", "memory": "3Gi"}, "limits": {"memory": "3Gi"}},
                },
            ],
        },
    }
    plain = pods.manifest(settings, 8, OWNER)
    assert plain["spec"]["priorityClassName"] == "plain"
    assert plain["spec"]["containers"][1]["resources"] == TEMPLATE["spec"]["containers"][1]["resources"]  # type: ignore[index]
    assert pods.worker_id_of(plain) == 8 and pods.is_owned_by(plain, OWNER)
    assert not pods.is_owned_by(plain, Owner("job", "another-uid")), "a job of the same name, which was there before"


def test_a_manifest_without_a_worker() -> None:
    with pytest.raises(UsageError, match="no container 'train'"):
        pods.manifest(WorkerPods(TEMPLATE, container="train"), 7, OWNER)


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("2Gi", 2 << 30), ("1.5Gi", 3 << 29), ("500M", 500_000_000), ("128974848", 128974848), ("129e6", 129_000_000),
        ("1E", 10**18), ("1E3", 1000), ("128974848000m", 128974848), ("64Ki", 65536), (".5Mi", 1 << 19), ("3k", 3000),
    ],
)  # fmt: skip
def test_quantities(quantity: str, number: int) -> None:
    assert bytes_of(quantity) == Decimal(number)


@pytest.mark.parametrize("wrong", ["", "Gi", "2 Gi", "2GB", "two", "2gi", "1.2.3"])
def test_what_is_no_quantity(wrong: str) -> None:
    with pytest.raises(UsageError, match="is not a quantity"):
        bytes_of(wrong)


def test_memory_grows_by_half_up_to_a_bound() -> None:
    assert more_memory("2Gi", "8Gi") == "3072Mi"
    assert more_memory("3072Mi", "8Gi") == "4608Mi"
    assert more_memory("6912Mi", "8Gi") == "8Gi"
    assert more_memory("8Gi", "8Gi") == "8Gi"
    assert more_memory("100M", "1G") == "144Mi"
    assert more_memory("2Gi", "") == "2Gi" and more_memory("", "8Gi") == ""


def test_a_part_of_the_workers_has_the_high_priority() -> None:
    half = WorkerPods({}, high_priority=0.5, high_priority_class="high", low_priority_class="low")
    classes: list[str] = []
    for workers in range(1, 6):
        classes.append(pods.priority_class(half, classes.count("high"), workers))
    assert classes == ["high", "low", "high", "low", "high"]
    assert pods.priority_class(half, 1, 4) == "high", "one with the high class was lost"
    assert pods.priority_class(half, 2, 4) == "low"
    assert pods.priority_class(WorkerPods({}), 0, 1) == ""
    third = WorkerPods({}, high_priority=0.3, high_priority_class="high")
    assert [pods.priority_class(third, 3, 10), pods.priority_class(third, 2, 10)] == ["", "high"]


def test_the_newest_of_the_finished_pods_are_kept() -> None:
    assert pods.surplus([4, 1, 9, 3], keep=2) == [1, 3]
    assert pods.surplus([4, 1], keep=2) == [] and pods.surplus([4, 1], keep=0) == [1, 4]


@pytest.mark.parametrize(
    ("image", "found", "pinned"),
    [
        ("r.example.com:5000/team/m:3", "r.example.com:5000/team/m@sha256:ab", "r.example.com:5000/team/m@sha256:ab"),
        ("r.example.com/m", "docker-pullable://r.example.com/m@sha256:ab", "r.example.com/m@sha256:ab"),
        ("team/m:3", "docker.io/team/m@sha256:ab", "team/m@sha256:ab"),
        ("python:3.11", "docker.io/library/python@sha256:ab", "python@sha256:ab"),
        ("m:dev", "docker.io/library/import-2026-11-22@sha256:ab", ""),  # put on the node by kind
        ("m:dev", "sha256:ab", ""),
        ("m:dev", "", None),
    ],
)
def test_the_image_that_runs_is_known_by_its_digest(image: str, found: str, pinned: str | None) -> None:
    document = pod({"containerStatuses": [{"name": "coordinator", "imageID": found}]})
    document["spec"]["containers"] = [{"name": "coordinator", "image": image}]
    assert pods.pinned_image(document, "coordinator") == pinned


def test_what_is_shown_is_one_line() -> None:
    odd = copy.deepcopy(seen.UNSCHEDULABLE)
    odd["conditions"][0]["message"] = "0/2 nodes\n are   available\n"
    assert pods.look(pod(json.loads(json.dumps(odd))), "worker") == Waits("0/2 nodes are available")
