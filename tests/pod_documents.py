"""Pods as the API server of a real cluster (Kubernetes 1.32) has shown them, cut down to what is looked at."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

SCHEDULED = {"type": "PodScheduled", "status": "True"}


def pod(status: Document, limit: str = "2Gi", worker_id: int = 7, **metadata: Any) -> Document:
    """A worker's pod with this status."""
    resources = {"limits": {"memory": limit}} if limit else {}
    return {
        "metadata": {
            "name": f"job-worker-{worker_id}",
            "uid": f"uid-{worker_id}",
            "resourceVersion": "10",
            "labels": {"edl-allreduce/worker-id": str(worker_id)},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "job-uid"}],
            **metadata,
        },
        "spec": {
            "containers": [{"name": "helper", "image": "h"}, {"name": "worker", "image": "i", "resources": resources}]
        },
        "status": status,
    }


def container(**state: Any) -> list[Document]:
    """The statuses of its containers; the worker's is `state`."""
    return [{"name": "helper", "state": {"running": {}}}, {"name": "worker", "state": state}]


def terminated(code: int, **more: Any) -> Document:
    """The status of a pod whose worker has ended with an exit code."""
    reason = "Completed" if code == 0 else "Error"
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": container(terminated={"exitCode": code, "reason": reason} | more)}


def disrupted(reason: str, message: str, status: Document | None = None) -> Document:
    """A status that says who has ended the pod."""
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return (
        {"phase": "Running", "containerStatuses": container(running={})} | (status or {}) | {"conditions": [condition]}
    )


NEW: Document = {"phase": "Pending", "qosClass": "Burstable"}
CREATING: Document = {
    "phase": "Pending",
    "conditions": [SCHEDULED],
    "containerStatuses": container(waiting={"reason": "ContainerCreating"}),
}
RUNNING: Document = {"phase": "Running", "conditions": [SCHEDULED], "containerStatuses": container(running={})}
UNSCHEDULABLE: Document = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: "
            "2 No preemption victims found for incoming pod.",
        }
    ],
}
NO_IMAGE: Document = {
    "phase": "Pending",
    "conditions": [SCHEDULED],
    "containerStatuses": container(
        waiting={"reason": "ImagePullBackOff", "message": 'Back-off pulling image "127.0.0.1:5000/none:1"'}
    ),
}
NO_SECRET: Document = {
    "phase": "Pending",
    "conditions": [SCHEDULED],
    "containerStatuses": container(
        waiting={"reason": "CreateContainerConfigError", "message": 'secret "keys" not found'}
    ),
}
OOM_KILLED = terminated(137, reason="OOMKilled")
EVICTED: Document = {
    "phase": "Failed",
    "reason": "Evicted",
    "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. ",
}
REFUSED: Document = {
    "phase": "Failed",
    "reason": "OutOfcpu",
    "message": "Pod was rejected: Node didn't have enough resource: cpu, requested: 9000, used: 0, capacity: 2000",
}
