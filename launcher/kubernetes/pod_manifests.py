"""The pods of a job on Kubernetes, as manifests: the coordinator's and a worker's. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edl_allreduce import __version__, cluster
from launcher.kubernetes.pod_options import Volume
from launcher.kubernetes.settings import ClusterSpec

GROUP = 1000  # of the user in our images; what volumes may be written by
GONE_SECONDS = 5  # a pod on a node that is lost is replaced after so long
READABLE = 0o440
Mounts = dict[str, tuple[str, dict[str, Any]]]  # volume's name → where it is mounted, and what it is
_CONFIG, _SECRET, _HOME, _TMP, _SHM = "job", "secret", "home", "tmp", "shm"


def coordinator_pod(job: str, settings: ClusterSpec, image: str, options: Iterable[str] = ()) -> dict[str, Any]:
    """The template of the Job's pod: its metadata and spec; `options` are its command's."""
    mounts: Mounts = {
        _CONFIG: (cluster.CONFIG_FOLDER, {"configMap": {"name": job}}),
        _SECRET: (cluster.SECRET_FOLDER, {"secret": {"secretName": job, "defaultMode": READABLE}}),
        _HOME: (cluster.HOME, {"emptyDir": {}}),
        _TMP: ("/tmp", {"emptyDir": {}}),
    }
    quantities, folder = settings.coordinator_quantities, f"{cluster.HOME}/jobs/{job}"
    container = {
        "name": cluster.COORDINATOR,
        "image": image,
        "command": ["python", "-m", "rendezvous.supervisor", f"--job_folder={folder}", "--pod", *options],
        "env": [
            {"name": "EDL_HOME", "value": cluster.HOME},
            {"name": "HOME", "value": "/tmp"},
            _field("POD_NAME", "metadata.name"),
            _field("POD_IP", "status.podIP"),
            _field("POD_NAMESPACE", "metadata.namespace"),
            _field("NODE_NAME", "spec.nodeName"),
            _field("EDL_JOB_UID", "metadata.labels['batch.kubernetes.io/controller-uid']"),
            *_variables(settings),
        ],
        "ports": [
            {"name": "grpc", "containerPort": cluster.GRPC_PORT},
            {"name": "dashboard", "containerPort": cluster.DASHBOARD_PORT},
        ],
        "resources": {"requests": quantities, "limits": _without_cpu(quantities)},
    }
    account = settings.coordinator_service_account or job
    spec = {"serviceAccountName": account, "automountServiceAccountToken": True}
    return _pod(job, cluster.COORDINATOR, settings, container, mounts, spec)


def _without_cpu(quantities: Mapping[str, str]) -> dict[str, str]:
    """The limits of a coordinator: with one of CPU its start, which is all the CPU it needs, would take a minute."""
    return {name: quantity for name, quantity in quantities.items() if name != "cpu"}


def worker_pod(job: str, namespace: str, settings: ClusterSpec, image: str) -> dict[str, Any]:
    """A worker's pod, as `cluster.WorkerPods` has it."""
    items = [{"key": each, "path": each} for each in (cluster.TOKEN_FILE, cluster.CERTIFICATE_FILE)]
    secret = {"secretName": job, "items": items, "defaultMode": READABLE}
    mounts: Mounts = {_SECRET: (cluster.SECRET_FOLDER, {"secret": secret}), _TMP: ("/tmp", {"emptyDir": {}})}
    if settings.shm_size:
        mounts[_SHM] = ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": settings.shm_size}})
    container = {
        "name": cluster.WORKER,
        "image": image,
        "command": ["python", "-m", "edl_allreduce.worker"],
        "args": [
            f"--coordinator={cluster.service_name(job, namespace)}:{cluster.GRPC_PORT}",
            "--host=$(NODE_NAME)",
        ],
        "env": _worker_variables(settings),
        "resources": {"requests": settings.requests} | ({"limits": settings.limits} if settings.limits else {}),
    }
    account = settings.worker_service_account or f"{job}-worker"
    spec = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": int(settings.grace_period),
    }
    if settings.priority.part == 1.0:
        spec["priorityClassName"] = settings.priority.high
    pod = _pod(job, cluster.WORKER, settings, container, mounts, spec)
    metadata = {"namespace": namespace, **pod["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def _worker_variables(settings: ClusterSpec) -> list[dict[str, Any]]:
    threads = {"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}}
    own = [
        {"name": "HOME", "value": "/tmp"},
        _field("NODE_NAME", "spec.nodeName"),
        {"name": "EDL_TOKEN_FILE", "value": f"{cluster.SECRET_FOLDER}/{cluster.TOKEN_FILE}"},
        {"name": "EDL_TLS_CERTIFICATE", "value": f"{cluster.SECRET_FOLDER}/{cluster.CERTIFICATE_FILE}"},
        *({"name": name, **threads} for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")),
    ]
    return [*(each for each in own if each["name"] not in settings.variables), *_variables(settings)]


def _pod(
    job: str,
    role: str,
    settings: ClusterSpec,
    container: dict[str, Any],
    mounts: Mounts,
    spec: Mapping[str, Any],
) -> dict[str, Any]:
    """Metadata and spec of a pod that passes the restricted standard.

    Args:
        container: what is this role's own in it.
        mounts: our own volumes.
        spec: what is this role's own in the pod's spec.
    """
    volumes, user_mounts = _user_volumes(settings.volume_list)
    container |= {
        "volumeMounts": [*({"name": name, "mountPath": path} for name, (path, _) in mounts.items()), *user_mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    if settings.secrets_of_env:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in settings.secrets_of_env]
    return {
        "metadata": _metadata(job, role, settings),
        "spec": {
            "restartPolicy": "Never",
            **spec,
            "enableServiceLinks": False,
            **_placing(settings),
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": GROUP,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [*({"name": name, **what} for name, (_, what) in mounts.items()), *volumes],
        },
    }


def _metadata(job: str, role: str, settings: ClusterSpec) -> dict[str, Any]:
    annotations = settings.annotation_values
    return {"labels": all_labels(job, role, settings)} | ({"annotations": annotations} if annotations else {})


def all_labels(job: str, role: str, settings: ClusterSpec) -> dict[str, str]:
    """The labels of an object of a job: ours, and the user's."""
    return cluster.labels(job, role) | {cluster.LABEL_VERSION: __version__} | settings.label_values


def _placing(settings: ClusterSpec) -> dict[str, Any]:
    """What decides on which node a pod may be."""
    gone = [
        {
            "key": f"node.kubernetes.io/{what}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": GONE_SECONDS,
        }
        for what in ("not-ready", "unreachable")
    ]
    placing: dict[str, Any] = {"tolerations": [*gone, *settings.toleration_list]}
    if settings.selector:
        placing["nodeSelector"] = settings.selector
    if settings.pull_secrets:
        placing["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return placing


def _user_volumes(given: Iterable[Volume]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The user's volumes, and where they are mounted; what is mounted twice is one volume."""
    volumes: list[dict[str, Any]] = []
    mounts = []
    for each in given:
        known = next((volume["name"] for volume in volumes if volume == {"name": volume["name"], **each.source}), "")
        if not known:
            known = f"volume-{len(volumes) + 1}"
            volumes.append({"name": known, **each.source})
        mounts.append({"name": known, **each.mount})
    return volumes, mounts


def _variables(settings: ClusterSpec) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in settings.variables.items()]


def _field(variable: str, path: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}
