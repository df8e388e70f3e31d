"""Decides which objects a job on Kubernetes consists of, and has a cluster make them, all or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edl_allreduce import cluster
from edl_allreduce.errors import UsageError
from launcher.kubernetes.api import Cluster
from launcher.kubernetes.cluster_spec import call_hook, load_hooks
from launcher.kubernetes.errors import Refused
from launcher.kubernetes.job import KubernetesJob
from launcher.kubernetes.manifests import Found, Manifest, Manifests, changed, manifests
from launcher.kubernetes.way import ClusterWay
from launcher.settings import Request

JOB = ("batch/v1", "Job")
HINTS = {404: "; --namespace names another one", 409: "; choose another --job_name"}  # by the answer's status


@dataclass(frozen=True)
class Submission:
    """A job as it is to be submitted.

    Attributes:
        found: its name, its token and the like.
        objects: all that is created.
    """

    found: Found
    objects: Manifests


def prepare(request: Request, found: Found, where: Cluster) -> Submission:
    """All objects of a job.

    Args:
        where: whose client makes the objects that a cluster_spec's functions want; the cluster is not asked.

    Raises:
        UsageError: the cluster_spec fails.
    """
    made = manifests(request, found)
    path = request.cluster.cluster_spec
    if path:
        hooks = load_hooks(path)

        def hook(manifest: Manifest, kind: str) -> Manifest:
            if kind not in hooks:
                return manifest
            return where.through_model(manifest, lambda model: call_hook(path, kind, hooks[kind], model))

        made = changed(made, request, found, hook)
    _check_containers(made)
    return Submission(found, made)


def _check_containers(made: Manifests) -> None:
    """A template may do anything but take our containers away."""
    pods = {cluster.WORKER: made.worker, cluster.COORDINATOR: made.job["spec"]["template"]}
    for role, pod in pods.items():
        if not any(each.get("name") == role for each in pod["spec"].get("containers", ())):
            raise UsageError(f"--cluster_spec, --pod_template: the {role}'s pod has no container {role!r} any more")


def submit(submission: Submission, where: Cluster) -> KubernetesJob:
    """Has a cluster make a job, and follows it.

    The Job comes first, suspended, so that all others can be its own; then it may run. Whatever a later step makes
    impossible, nothing is left.

    Raises:
        UsageError: the cluster refuses an object; all that it says.
        Unreachable: it does not answer.
    """
    found, objects = submission.found, submission.objects
    suspended = objects.job | {"spec": {**objects.job["spec"], "suspend": True}}
    _check(where, [suspended])
    _check(where, [each for each in objects.others if each["kind"] != "RoleBinding"])  # it wants the Role to be there
    uid = where.create(suspended)["metadata"]["uid"]
    try:
        for each in objects.owned_by(uid):
            where.create(each)
        template = objects.job["spec"]["template"]
        coordinator = {"apiVersion": "v1", "kind": "Pod", **template}
        named = {f"{found.name}-coordinator": coordinator, cluster.worker_pod_name(found.name, 0): objects.worker}
        _check(where, [pod | {"metadata": pod["metadata"] | {"name": name}} for name, pod in named.items()])
        where.patch(*JOB, found.name, {"spec": {"suspend": False}})
    except BaseException:
        where.delete(*JOB, found.name)
        raise
    job = KubernetesJob(where, ClusterWay(found.name, where, found.token, found.certificate.certificate))
    job.begin()
    return job


def _check(where: Cluster, wanted: list[dict[str, Any]]) -> None:
    """Has the server look at objects that it does not make yet.

    Raises:
        UsageError: everything that it does not like, in its own words.
    """
    refused = list(dict.fromkeys(filter(None, (_refusal(where, each) for each in wanted))))
    if refused:
        raise UsageError(refused[0] if len(refused) == 1 else "\n  ".join(["the cluster refuses the job:", *refused]))


def _refusal(where: Cluster, wanted: dict[str, Any]) -> str:
    """Why the server does not want an object; empty: it does."""
    what = f"{wanted['kind']} {wanted['metadata']['name']}"
    try:
        where.create(wanted, dry_run=True)
    except Refused as error:
        if wanted["kind"] == "Pod" and "exceeded quota" in str(error):
            return ""  # there may be room later
        hint = HINTS.get(error.status, "") if wanted["kind"] == "Job" else ""
        return f"{what}: {error}{hint}"
    return ""
