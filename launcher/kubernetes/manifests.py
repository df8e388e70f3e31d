"""Every object of a job on Kubernetes, as a manifest; which there are is told in edl_allreduce/cluster.py. Pure."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edl_allreduce import cluster, extras
from edl_allreduce.cluster import WorkerPods
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job, kind_of, to_json
from launcher.kubernetes.certificates import Certificate
from launcher.kubernetes.pod_manifests import all_labels, coordinator_pod, worker_pod
from launcher.kubernetes.pod_template import merged
from launcher.settings import Request

Manifest = dict[str, Any]

KIND, WORKERS = "edl-allreduce/kind", "edl-allreduce/num-workers"  # annotations of the Job, for lists of jobs
RETRIES = 20  # coordinators that may die; one that ends the job sets it to 0


@dataclass(frozen=True)
class Found:
    """What must be known besides the request.

    Attributes:
        name, namespace: of the job.
        image: what its pods run.
        token: which all calls of the coordinator must carry.
        template: role → what is merged into its pod; see `pod_template`.
    """

    name: str
    namespace: str
    image: str
    token: str = field(repr=False)
    certificate: Certificate
    template: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifests:
    """A job's objects.

    Attributes:
        job: the Job, which owns all others.
        others: in the order in which they are to be created.
        worker: a worker's pod; the coordinator makes them from what is in the ConfigMap.
    """

    job: Manifest
    others: tuple[Manifest, ...]
    worker: Manifest

    def owned_by(self, uid: str) -> tuple[Manifest, ...]:
        """The others, so that they are removed with the Job of this uid."""
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": self.job["metadata"]["name"], "uid": uid}
        made = copy.deepcopy(self.others)
        for each in made:
            each["metadata"]["ownerReferences"] = [owner]
        return made

    def to_yaml(self, comment: str) -> str:
        """All as one text for `kubectl apply`.

        Args:
            comment: what stands above, without the signs of a comment.
        """
        yaml = extras.need("yaml", "kubernetes", "printing manifests")

        class Dumper(yaml.SafeDumper):  # type: ignore[misc,name-defined]
            def ignore_aliases(self, data: Any) -> bool:
                return True

        def text(dumper: Any, value: str) -> Any:
            style = "|" if "\n" in value else None
            return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

        Dumper.add_representer(str, text)
        objects = yaml.dump_all(
            [*self.others, self.job], Dumper=Dumper, sort_keys=False, width=1000, allow_unicode=True
        )
        return "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines()) + f"---\n{objects}"


def manifests(request: Request, found: Found) -> Manifests:
    """All objects of a job."""
    settings, template = request.cluster, found.template
    coordinator = coordinator_pod(found.name, settings, found.image, request.launch.coordinator_options)
    worker = worker_pod(found.name, found.namespace, settings, found.image)
    return assembled(
        request,
        found,
        merged(coordinator, _part(template, cluster.COORDINATOR)),
        merged(worker, _part(template, cluster.WORKER)),
        _service(request, found),
    )


def changed(made: Manifests, request: Request, found: Found, hook: Callable[[Manifest, str], Manifest]) -> Manifests:
    """The manifests after each pod and the Service have gone through `hook`; its second argument is their kind."""
    template = {"apiVersion": "v1", "kind": "Pod", **made.job["spec"]["template"]}
    pod = hook(template, "Pod")
    service = next(each for each in made.others if each["kind"] == "Service")
    coordinator = {"metadata": pod["metadata"], "spec": pod["spec"]}
    return assembled(request, found, coordinator, hook(made.worker, "Pod"), hook(service, "Service"))


def assembled(request: Request, found: Found, coordinator: Manifest, worker: Manifest, service: Manifest) -> Manifests:
    """All objects of a job, with these in them."""
    return Manifests(
        job=_job(request, found, coordinator),
        others=(
            *_accounts(request, found),
            _role(request, found),
            _role_binding(request, found),
            _secret(request, found),
            *_config_maps(request, found, worker),
            service,
            _network_policy(request, found),
        ),
        worker=worker,
    )


def _part(template: Mapping[str, Any], role: str) -> dict[str, Any]:
    """What is to be merged into a pod of this role: what it is (apiVersion, kind) is not."""
    return {name: value for name, value in template.get(role, {}).items() if name in ("metadata", "spec")}


def _object(
    api: str, kind: str, request: Request, found: Found, name: str = "", role: str = cluster.COORDINATOR
) -> Manifest:
    """What every object begins with."""
    metadata = {
        "name": name or found.name,
        "namespace": found.namespace,
        "labels": all_labels(found.name, role, request.cluster),
    }
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def _job(request: Request, found: Found, pod: Manifest) -> Manifest:
    job = _object("batch/v1", "Job", request, found)
    count = str(request.job.elastic.num_workers)
    job["metadata"]["annotations"] = {KIND: kind_of(request.job), WORKERS: count}
    job["spec"] = {"backoffLimit": RETRIES}
    if request.cluster.keep_finished:
        job["spec"]["ttlSecondsAfterFinished"] = int(request.cluster.keep_finished)
    return job | {"spec": job["spec"] | {"template": pod}}


def _accounts(request: Request, found: Found) -> list[Manifest]:
    """Service accounts, but those that the user has named; no pod gets a token just because it has one of them."""
    made = []
    if not request.cluster.coordinator_service_account:
        made.append(_object("v1", "ServiceAccount", request, found))
    if not request.cluster.worker_service_account:
        made.append(_object("v1", "ServiceAccount", request, found, f"{found.name}-worker", cluster.WORKER))
    return [each | {"automountServiceAccountToken": False} for each in made]


def _role(request: Request, found: Found) -> Manifest:
    """All that the coordinator may do."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "delete"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [cluster.state_name(found.name)],
            "verbs": ["get", "patch"],
        },
        {"apiGroups": ["batch"], "resources": ["jobs"], "resourceNames": [found.name], "verbs": ["get", "patch"]},
    ]
    return _object("rbac.authorization.k8s.io/v1", "Role", request, found) | {"rules": rules}


def _role_binding(request: Request, found: Found) -> Manifest:
    account = request.cluster.coordinator_service_account or found.name
    return _object("rbac.authorization.k8s.io/v1", "RoleBinding", request, found) | {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": found.name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": found.namespace}],
    }


def _secret(request: Request, found: Found) -> Manifest:
    data = {
        cluster.TOKEN_FILE: found.token,
        cluster.CERTIFICATE_FILE: found.certificate.certificate,
        cluster.KEY_FILE: found.certificate.key,
    }
    return _object("v1", "Secret", request, found) | {"type": "Opaque", "stringData": data}


def _config_maps(request: Request, found: Found, worker: Manifest) -> list[Manifest]:
    settings = request.cluster
    priority = settings.priority
    pods = WorkerPods(
        pod=worker,
        memory_max=settings.memory_max,
        high_priority=priority.part,
        high_priority_class=priority.high,
        low_priority_class=priority.low,
    )
    data = {cluster.SPEC_FILE: to_json(request.job), cluster.WORKERS_FILE: pods.to_json()}
    state = {cluster.NEXT_ID: "0", cluster.COORDINATORS: "0"}
    return [
        _object("v1", "ConfigMap", request, found) | {"data": data},
        _object("v1", "ConfigMap", request, found, cluster.state_name(found.name)) | {"data": state},
    ]


def _service(request: Request, found: Found) -> Manifest:
    """Workers find the coordinator by it, also one that is not ready."""
    ports = {"grpc": cluster.GRPC_PORT, "dashboard": cluster.DASHBOARD_PORT}
    return _object("v1", "Service", request, found) | {
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": cluster.labels(found.name, cluster.COORDINATOR),
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in ports.items()],
        }
    }


def _network_policy(request: Request, found: Found) -> Manifest:
    """Only pods of the job reach its pods; anybody the dashboard, which asks for the token itself."""
    pods = {"matchLabels": {cluster.LABEL_APP: cluster.APP, cluster.LABEL_JOB: found.name}}
    return _object("networking.k8s.io/v1", "NetworkPolicy", request, found) | {
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": pods}]},
                {"ports": [{"protocol": "TCP", "port": cluster.DASHBOARD_PORT}]},
            ],
        }
    }


def job_in_pods(job: Job, image: str, zoo: str = "") -> Job:
    """The job as its pods are to know it.

    Args:
        image: what they run.
        zoo: where the model zoo is in that image; empty: as the job says.
    """
    if isinstance(job, JobSpec):
        model = dataclasses.replace(job.model, image=image, model_zoo=zoo or job.model.model_zoo)
        return dataclasses.replace(job, model=model)
    return dataclasses.replace(job, model=dataclasses.replace(job.model, image=image))
