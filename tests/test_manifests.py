"""Every object of a job on Kubernetes, compared as a whole with tests/data/manifests/*.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edl_allreduce import __version__, cluster, task_spec
from edl_allreduce.cluster import WorkerPods
from edl_allreduce.errors import UsageError
from launcher.kubernetes.certificates import Certificate
from launcher.kubernetes.cluster_spec import load_hooks
from launcher.kubernetes.manifests import Found, Manifests, changed, job_in_pods, manifests
from launcher.kubernetes.pod_template import merged, read_pod_template
from launcher.settings import Request, read_request

GOLDEN = Path(__file__).parent / "data" / "manifests"
IMAGE = "registry.example.com/team/fintech@sha256:1234"
TRAIN = {"image": IMAGE, "model_def": "fintech.Model", "data": "gs://bucket/train", "output": "gs://bucket/out"}
PREDICT = {"image": IMAGE, "trained_model": "gs://bucket/out", "data": "/data/new", "output": "/data/predicted"}
PREDICT |= {"volumes": "claim_name=data,mount_path=/data"}
OPTIONS = {
    "num_workers": "8",
    "worker_resources": "cpu=2,memory=4Gi,gpu=1,ephemeral-storage=10Gi",
    "worker_limits": "cpu=4,memory=6Gi",
    "max_worker_memory": "16Gi",
    "worker_priority": "high=0.5,low=spare",
    "volumes": "claim_name=data,mount_path=/data,read_only;claim_name=data,mount_path=/out,sub_path=runs;"
    "host_path=/mnt/ssd,type=Directory,mount_path=/scratch;config_map=settings,mount_path=/settings;"
    "secret=keys,mount_path=/keys;empty_dir=1Gi,mount_path=/cache",
    "env": "AWS_REGION=eu-west-1,OMP_NUM_THREADS=1,LIST=a,b",
    "env_from_secret": "s3,proxy",
    "image_pull_policy": "IfNotPresent",
    "image_pull_secrets": "registry",
    "node_selector": "pool=gpu",
    "tolerations": "nvidia.com/gpu:NoSchedule,team=ml",
    "labels": "team=ml",
    "annotations": "example.com/owner=Ada, of the ML team",
    "shm_size": "2Gi",
    "coordinator_resources": "cpu=1,memory=2Gi",
    "worker_service_account": "reader",
    "coordinator_service_account": "runner",
    "grace_period": "60",
    "keep_finished": "0",
}


def request(kind: str = "train", **flags: Any) -> Request:
    base = TRAIN if kind == "train" else PREDICT
    return read_request(base | {"backend": "kubernetes"} | flags, kind)


def found(template: dict[str, Any] | None = None) -> Found:
    return Found("fintech-1", "ml", IMAGE, "t0ken", Certificate("CERTIFICATE\n", "KEY\n"), template or {})


def shown(made: Manifests) -> list[dict[str, Any]]:
    """The objects as the golden files have them: workers.json as an object, and without the job's spec."""
    objects = list(yaml.safe_load_all(made.to_yaml("comment")))
    for each in objects:
        data = each.get("data", {})
        if cluster.WORKERS_FILE in data:
            data[cluster.WORKERS_FILE] = json.loads(data[cluster.WORKERS_FILE])
            del data[cluster.SPEC_FILE]
    return objects


@pytest.mark.parametrize(
    ("name", "asked"),
    [("plain", request()), ("options", request(**OPTIONS)), ("predict", request("predict"))],
)
def test_all_objects_are_as_they_are_known_to_work(name: str, asked: Request) -> None:
    golden = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8").replace("VERSION", __version__)
    assert shown(manifests(asked, found())) == list(yaml.safe_load_all(golden))


def test_the_config_map_holds_what_the_coordinator_reads() -> None:
    asked = request(num_workers=3)
    made = manifests(asked, found())
    data = next(each for each in made.others if each["kind"] == "ConfigMap")["data"]
    assert task_spec.from_json(data[cluster.SPEC_FILE]) == asked.job
    pods = WorkerPods.from_json(data[cluster.WORKERS_FILE])
    assert pods.pod == made.worker
    assert pods.memory_max == "4Gi"  # twice the default limit


def test_pods_know_their_image_and_where_the_model_zoo_is_in_it() -> None:
    job = job_in_pods(request(model_zoo="/home/ada/zoo").job, IMAGE, cluster.CUSTOM_ZOO)
    assert job.model.image == IMAGE
    assert getattr(job.model, "model_zoo", "") == "/model_zoo/custom"
    assert job_in_pods(request("predict", image="").job, IMAGE).model.image == IMAGE


def test_only_submitted_objects_have_an_owner() -> None:
    made = manifests(request(), found())
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "fintech-1", "uid": "u1"}
    assert all(each["metadata"]["ownerReferences"] == [owner] for each in made.owned_by("u1"))
    assert "ownerReferences" not in made.to_yaml("")


def test_printed_manifests_begin_with_a_comment_and_repeat_nothing_by_reference() -> None:
    text = manifests(request(), found()).to_yaml("first\n\nsecond")
    assert text.startswith("# first\n#\n# second\n---\n")
    assert "&id" not in text
    assert "CERTIFICATE" in text


def test_neither_token_nor_key_is_in_a_printed_object() -> None:
    assert "t0ken" not in repr(found())
    assert "KEY" not in repr(found())


# The user's own part of a pod.


def test_a_template_is_merged_as_kubectl_patches_pods() -> None:
    base = {
        "containers": [
            {"name": "worker", "image": "a", "env": [{"name": "A", "value": "1"}, {"name": "B"}], "args": [1]}
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "job"}],
        "tolerations": [{"key": "a"}],
        "securityContext": {"fsGroup": 1000, "runAsNonRoot": True},
    }
    patch = {
        "containers": [
            {"name": "sidecar", "image": "b", "tty": None},
            {"name": "worker", "env": [{"name": "A", "value": "2"}, {"name": "C"}], "args": [2, 3]},
        ],
        "volumes": [{"name": "tmp", "$patch": "delete"}],
        "tolerations": [{"key": "b"}],
        "securityContext": {"fsGroup": None, "runAsUser": 7},
        "affinity": {"$patch": "replace", "nodeAffinity": {}},
    }
    before = json.dumps(base)
    assert merged(base, patch) == {
        "containers": [
            {
                "name": "worker",
                "image": "a",
                "env": [{"name": "A", "value": "2"}, {"name": "B"}, {"name": "C"}],
                "args": [2, 3],
            },
            {"name": "sidecar", "image": "b"},
        ],
        "volumes": [{"name": "job"}],
        "tolerations": [{"key": "b"}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 7},
        "affinity": {"nodeAffinity": {}},
    }
    assert json.dumps(base) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec: {nodeName: a}", {"worker", "coordinator"}),
        ("worker: {spec: {nodeName: a}}", {"worker"}),
        ("kind: Pod\napiVersion: v1\nmetadata: {labels: {a: b}}", {"worker", "coordinator"}),
    ],
)
def test_a_template_is_a_pod_or_one_per_role(text: str, expected: set[str], tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    assert read_pod_template(str(file)).keys() == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "is not YAML: "),
        ("", "expected a Pod (apiVersion, kind, metadata, spec), or a mapping with worker and coordinator, got None"),
        ("workers: {}", "got the fields workers"),
        ("kind: Job\nspec: {}", "expected a Pod"),
        ("worker: 3", "got 3"),
        ("spec: {containers: {a: b}}", "expected spec.containers to be a list of things with a name"),
    ],
)
def test_a_wrong_template_is_refused_with_its_name(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_pod_template(str(file))
    assert str(error.value).startswith(f"--pod_template: {file}")
    assert problem in str(error.value)


def test_a_template_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="--pod_template: /nowhere.yaml: No such file or directory"):
        read_pod_template("/nowhere.yaml")


def test_a_template_reaches_its_pods_only() -> None:
    made = manifests(request(), found({"worker": {"spec": {"schedulerName": "volcano"}, "kind": "Pod"}}))
    assert made.worker["spec"]["schedulerName"] == "volcano"
    assert "schedulerName" not in made.job["spec"]["template"]["spec"]
    assert made.job["spec"]["template"].keys() == {"metadata", "spec"}


# ElasticDL's hook.

CLUSTER_SPEC = """
class Cluster:
    def with_pod(self, pod):
        pod["metadata"]["labels"]["hooked"] = "yes"
        return pod

    def with_service(self, service):
        service["spec"]["type"] = "ClusterIP"
        return service


cluster = Cluster()
"""


def test_a_cluster_spec_changes_both_pods_and_the_service(tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    file.write_text(CLUSTER_SPEC)
    hooks = load_hooks(str(file))
    asked = request()
    made = changed(manifests(asked, found()), asked, found(), lambda manifest, kind: hooks[kind](manifest))
    assert made.worker["metadata"]["labels"]["hooked"] == "yes"
    assert made.job["spec"]["template"]["metadata"]["labels"]["hooked"] == "yes"
    assert made.job["spec"]["template"].keys() == {"metadata", "spec"}
    assert next(each for each in made.others if each["kind"] == "Service")["spec"]["type"] == "ClusterIP"
    data = next(each for each in made.others if each["kind"] == "ConfigMap")["data"]
    assert WorkerPods.from_json(data[cluster.WORKERS_FILE]).pod == made.worker


@pytest.mark.parametrize(
    ("text", "problem"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("x = 1", "has no with_pod and no with_service")],
)
def test_a_wrong_cluster_spec_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    file.write_text(text)
    with pytest.raises(UsageError, match=problem):
        load_hooks(str(file))
