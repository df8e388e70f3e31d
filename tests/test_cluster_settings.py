"""What a request may say about Kubernetes, and how it is told what is wrong with it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from edl_allreduce.spec import JobSpec
from launcher.kubernetes import pod_options
from launcher.kubernetes.check import check_mounted, mounts_of, paths_of
from launcher.kubernetes.pod_options import Priority
from launcher.kubernetes.settings import ClusterSpec, ImageSpec
from launcher.settings import flags_for, read_request

TRAIN = {"model_zoo": "zoo", "model_def": "digits.Classifier", "data": "/data/*.recordio", "output": "/data/out"}


def test_resources_are_named_as_people_and_as_kubernetes_name_them() -> None:
    spec = ClusterSpec(worker_resources="cpu=500m, memory=4Gi,gpu=1,example.com/fpga=2,disk=1e3")
    assert spec.requests == {
        "cpu": "500m",
        "memory": "4Gi",
        "nvidia.com/gpu": "1",
        "example.com/fpga": "2",
        "ephemeral-storage": "1e3",
    }
    assert spec.limits == spec.requests
    assert spec.memory_max == "8Gi"


def test_limits_are_those_that_are_named_and_devices() -> None:
    spec = ClusterSpec(worker_resources="cpu=1,memory=1Gi,gpu=1", worker_limits="memory=1.5Gi")
    assert spec.limits == {"memory": "1.5Gi", "nvidia.com/gpu": "1"}
    assert spec.memory_max == "3Gi"
    assert ClusterSpec(worker_limits="cpu=2").memory_max == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"worker_resources": "cpu"},
            "--worker_resources: expected NAME=VALUE,… such as cpu=2,memory=4Gi,gpu=1, got 'cpu'",
        ),
        ({"worker_resources": "cpu=2,cpu=3"}, "--worker_resources: cpu is given twice"),
        ({"worker_resources": "cpus=2"}, "got 'cpus' (did you mean 'cpu'?)"),
        ({"worker_resources": "memory=4GB"}, "expected a quantity greater than 0, such as 500m, 2, 4Gi, got '4GB'"),
        ({"worker_resources": "cpu=0"}, "got '0'"),
        ({"worker_resources": "gpu=0.5"}, "--worker_resources: expected a whole number of nvidia.com/gpu, got '0.5'"),
        ({"worker_limits": "cpu=-1"}, "--worker_limits: expected a quantity"),
        ({"coordinator_resources": "x=1"}, "--coordinator_resources: expected cpu, memory"),
        ({"max_worker_memory": "lots"}, "--max_worker_memory: expected a quantity"),
        ({"shm_size": "lots"}, "--shm_size: expected a quantity"),
        ({"volumes": "claim_name=a"}, "--volumes: expected SOURCE=…,mount_path=/PATH"),
        ({"volumes": "claim_name=a,host_path=/b,mount_path=/c"}, "--volumes: expected SOURCE"),
        (
            {"volumes": "claim=a,mount_path=/c"},
            "there is no 'claim' in 'claim=a,mount_path=/c' (did you mean 'claim_name'?)",
        ),
        ({"volumes": "claim_name=a,mount_path=data"}, "expected mount_path to be an absolute path, got 'data'"),
        ({"volumes": "host_path=../x,mount_path=/data"}, "expected host_path to be an absolute path, got '../x'"),
        ({"volumes": "claim_name=A,mount_path=/data"}, "expected the name of an object in claim_name, got 'A'"),
        ({"volumes": "claim_name=a,mount_path=/x;secret=b,mount_path=/x/"}, "two volumes are mounted at /x"),
        ({"volumes": "claim_name=a,mount_path=/tmp"}, "--volumes: /tmp is a folder of every pod of ours"),
        ({"volumes": "empty_dir=big,mount_path=/x"}, "expected a quantity"),
        ({"volumes": "claim_name=a,mount_path=/x,type=File"}, "type is for host_path"),
        (
            {"volumes": "claim_name=a,mount_path=/x,read_only=maybe"},
            "expected read_only to be true or false, got 'maybe'",
        ),
        ({"worker_priority": "high=2"}, "--worker_priority: expected CLASS, CLASS=PART or CLASS=PART,low=CLASS"),
        ({"worker_priority": "high=0.5,lo=x"}, "--worker_priority: expected CLASS"),
        ({"tolerations": "a:Never"}, "--tolerations: expected KEY[=VALUE][:EFFECT] with an EFFECT of NoSchedule"),
        ({"labels": "a b=c"}, "--labels: expected"),
        ({"labels": "team=m l"}, "--labels: team: expected at most 63 letters"),
        ({"labels": "app.kubernetes.io/name=x"}, "--labels: app.kubernetes.io/name is set by edl_allreduce itself"),
        ({"env": "EDL_HOME=/x"}, "--env: EDL_HOME is set by edl_allreduce itself"),
        ({"env": "1A=x"}, "--env: expected the name of a variable, got '1A'"),
        ({"env_from_secret": "S3"}, "--env_from_secret: expected the name of an object, got 'S3'"),
        ({"namespace": "a,b"}, "--namespace: expected one name, got 'a,b'"),
        ({"image_pull_policy": "always"}, "--image_pull_policy: expected Always, IfNotPresent, Never, got 'always'"),
        ({"node_selector": "a"}, "--node_selector: expected NAME=VALUE"),
        ({"annotations": "=x"}, "--annotations: expected NAME=VALUE"),
        ({"grace_period": 1.5}, "--grace_period: expected whole seconds"),
    ],
)
def test_what_is_wrong_is_told_with_its_flag(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        ClusterSpec(**flags)
    assert message in str(error.value)


def test_volumes_may_be_anything_that_pods_mount() -> None:
    text = "claim_name=a,mount_path=/data/,read_only=true; host_path=/b,type=Directory,mount_path=/b"
    first, second, third = pod_options.read_volumes("volumes", f"{text}; empty_dir,mount_path=/c")
    assert first.source == {"persistentVolumeClaim": {"claimName": "a"}}
    assert first.mount == {"mountPath": "/data", "readOnly": True}
    assert second.source == {"hostPath": {"path": "/b", "type": "Directory"}}
    assert third.source == {"emptyDir": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Priority()),
        ("high", Priority(1.0, "high")),
        ("high=0.5", Priority(0.5, "high")),
        ("high=0.25,low=spare", Priority(0.25, "high", "spare")),
    ],
)
def test_priorities_are_a_class_or_a_part(text: str, expected: Priority) -> None:
    assert ClusterSpec(worker_priority=text).priority == expected


def test_values_of_variables_may_have_commas_and_equals_signs() -> None:
    spec = ClusterSpec(env="A=1,2,3,B=x=y,C=")
    assert spec.variables == {"A": "1,2,3", "B": "x=y", "C": ""}


@pytest.mark.parametrize("image", ["a b", "UP/Case", "x:y:z", "-x"])
def test_images_must_have_a_name(image: str) -> None:
    with pytest.raises(UsageError, match="--image_repository: expected the name of an image"):
        ImageSpec(image_repository=image)


# Requests.


def test_flags_of_kubernetes_belong_to_every_kind_of_job() -> None:
    for kind in ("train", "evaluate", "predict"):
        groups = {each.name: each.group for each in flags_for(kind)}
        assert groups["worker_resources"] == "Kubernetes"
        assert ("image_repository" in groups) == (kind == "train")


@pytest.mark.parametrize(
    ("name", "value"), [("image", "x"), ("namespace", "ml"), ("worker_resources", "cpu=3"), ("image_repository", "r/x")]
)
def test_flags_of_kubernetes_are_refused_for_local_jobs(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"--{name}: means nothing to a job of this machine; add --backend=kubernetes"):
        read_request(TRAIN | {name: value})


def test_flags_of_kubernetes_with_their_defaults_say_nothing() -> None:
    assert (
        read_request(TRAIN | {"namespace": "", "worker_resources": ClusterSpec().worker_resources}).backend == "local"
    )


def test_the_environment_may_choose_the_backend() -> None:
    environ = {"EDL_BACKEND": "kubernetes"}
    assert read_request(TRAIN, environ=environ).backend == "kubernetes"
    assert read_request(TRAIN | {"backend": "local"}, environ=environ).backend == "local"
    with pytest.raises(UsageError, match="EDL_BACKEND: expected local or kubernetes, got 'cloud'"):
        read_request(TRAIN, environ={"EDL_BACKEND": "cloud"})


def test_an_image_brings_its_own_model_zoo() -> None:
    asked = read_request({**TRAIN, "model_zoo": "", "image": "x", "backend": "kubernetes"})
    assert isinstance(asked.job, JobSpec)
    assert asked.job.model.model_zoo == "/model_zoo"


# What pods see.


def test_paths_of_a_job_are_told_one_by_one() -> None:
    flags = TRAIN | {"data": "/a/*.recordio, gs://b/x", "validation_data": "/v", "backend": "kubernetes"}
    job = read_request(flags).job
    expected = [("data", "/a/*.recordio"), ("data", "gs://b/x"), ("validation_data", "/v"), ("output", "/data/out")]
    assert paths_of(job) == expected
    assert ("data", "/a") not in paths_of(read_request(flags | {"data_format": "custom"}).job)


def test_only_what_all_pods_share_counts_as_mounted() -> None:
    volumes = [{"name": "a", "persistentVolumeClaim": {}}, {"name": "b", "emptyDir": {}}, {"name": "c", "secret": {}}]
    mounts = [{"name": "a", "mountPath": "/data"}, {"name": "b", "mountPath": "/b"}]
    mounts.append({"name": "c", "mountPath": "/etc/edl/secret"})
    worker = {"spec": {"volumes": volumes, "containers": [{"name": "worker", "volumeMounts": mounts}]}}
    assert mounts_of(worker) == (PurePosixPath("/data"),)


@pytest.mark.parametrize("path", ["/data", "/data/x/*.recordio", "/data/*", "file:///data/x", "/model_zoo/x.csv"])
def test_mounted_paths_are_seen(path: str) -> None:
    check_mounted("data", path, (PurePosixPath("/data"),))


@pytest.mark.parametrize("path", ["/database/x", "data/x", "~/x", "/*/x", str(Path.cwd()), "/model_zoo"])
def test_other_paths_are_refused_with_what_to_do(path: str) -> None:
    with pytest.raises(UsageError) as error:
        check_mounted("output", path, (PurePosixPath("/data"),))
    assert f"--output: pods do not see {path} of this machine (mounted are /data); mount a volume" in str(error.value)
    assert "--volumes=claim_name=CLAIM,mount_path=/" in str(error.value)
