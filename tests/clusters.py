"""A real cluster for tests: a namespace that enforces the restricted standard, an image, a folder that all pods see.

What there is comes from the environment; a test that needs what there is not is skipped and says so:

    KUBECONFIG               the cluster; whoever it names may make namespaces and persistent volumes
    EDL_TEST_IMAGE           an image of ours that the nodes can pull; else one is built and pushed to
    EDL_TEST_REGISTRY        a registry that this machine's Docker engine and the nodes reach
    EDL_TEST_BASE_IMAGE      see tests/images.py
    EDL_TEST_SHARED_FOLDER   a folder of this machine that is at the same path on every node
    EDL_TEST_NODE_DOWN, EDL_TEST_NODE_UP     commands that let a node, named as their last argument, die and come back
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce import cluster as names
from launcher.image import builder
from tests import images
from tests.jobs import REPOSITORY

PATIENCE_SECONDS = 180.0
REQUEST = "cpu=100m,memory=1Gi"  # of a worker; the test machine is small


@dataclass(frozen=True)
class Cluster:
    """A namespace of the tests' own.

    Attributes:
        core: the API of pods and the like.
        image: ours.
        shared: a folder that is also in every pod that mounts `volumes`, at the same path.
        volumes: the flag that mounts it.
    """

    namespace: str
    core: Any
    image: str
    shared: Path
    volumes: str

    def pods(self, job: str, role: str = names.WORKER) -> dict[str, Any]:
        """A job's pods by name."""
        selector = f"{names.LABEL_JOB}={job},{names.LABEL_ROLE}={role}"
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return {pod.metadata.name: pod for pod in found}

    def running(self, job: str, role: str = names.WORKER) -> dict[str, Any]:
        """Those that run and have not been told to go."""
        pods = self.pods(job, role)
        return {
            name: pod
            for name, pod in pods.items()
            if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp
        }

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """What kubectl prints in this namespace."""
        line = ["kubectl", "--namespace", self.namespace, *words]
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(line)}: {done.stderr}"
        return done.stdout

    def until(self, ready: Callable[[], Any], what: str) -> None:
        """Waits for what the cluster's controllers do in their own time."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            assert time.monotonic() < end, f"{what} did not come: {self.everything()}"
            time.sleep(0.5)

    def everything(self) -> list[str]:
        """The names of all objects here that a job may leave behind."""
        kinds = "jobs,pods,services,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies"
        listed = json.loads(self.kubectl("get", kinds, "-o", "json"))["items"]
        own = [each for each in listed if each["metadata"].get("labels", {}).get(names.LABEL_MANAGER) == names.MANAGER]
        return sorted(f"{each['kind']}/{each['metadata']['name']}" for each in own)


class ClusterJob:
    """`edl train --backend=kubernetes …`, or another command, as a child process."""

    def __init__(self, cluster: Cluster, name: str, command: str = "train", **flags: Any) -> None:
        self.cluster, self.name = cluster, name
        self.output = Path(str(flags["output"]))
        defaults = {
            "backend": "kubernetes",
            "namespace": cluster.namespace,
            "job_name": name,
            "volumes": cluster.volumes,
            "worker_resources": REQUEST,
            "worker_limits": "cpu=2,memory=3Gi",
            "coordinator_resources": "cpu=100m,memory=512Mi",
        }
        values = {each: value for each, value in (defaults | flags).items() if value is not None}
        line = [f"--{each}={value}" for each, value in values.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edl_allreduce.launch", command, *line],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def done(cluster: Cluster, name: str, output: Path) -> ClusterJob:
        """A job that somebody else has submitted, and that has ended."""
        job = ClusterJob.__new__(ClusterJob)
        job.cluster, job.name, job.output = cluster, name, output
        return job

    def history(self) -> list[dict[str, Any]]:
        """What the coordinator has mirrored into the output so far, in order."""
        parts = sorted((self.output / "_runs" / self.name).glob("history*.jsonl*"))
        text = "".join(part.read_text() for part in parts)
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def steps(self) -> int:
        """The newest step that is in the mirrored history."""
        return max((line["step"] for line in self.history() if "loss" in line), default=0)

    def rounds(self) -> list[dict[str, Any]]:
        """Every round so far."""
        return [line for line in self.history() if "cause" in line]

    def losses(self) -> dict[int, float]:
        """Step → loss, as told last."""
        return {line["step"]: line["loss"] for line in self.history() if "loss" in line}

    def until(self, ready: Callable[[], Any], what: str, patience: float = PATIENCE_SECONDS) -> Any:
        """Waits for something that only the outside of a job can tell."""
        end = time.monotonic() + patience
        while not (result := ready()):
            if self.process.poll() is not None:
                raise AssertionError(f"the job ended before {what}:\n{self.process.communicate()[0]}")
            assert time.monotonic() < end, f"{what} did not come within {patience:g} s"
            time.sleep(0.1)  # somebody else's objects and files: there is no event to await
        return result

    def trains_with(self, workers: int) -> None:
        """Waits until the newest round has so many members."""
        self.until(
            lambda: (rounds := self.rounds()) and len(rounds[-1]["members"]) == workers,
            f"a round of {workers}",
        )

    def goes_on(self, steps: int = 10) -> None:
        """Waits until so many more steps are done."""
        goal = self.steps() + steps
        self.until(lambda: self.steps() >= goal, f"step {goal}")

    def finish(self, patience: float = PATIENCE_SECONDS) -> str:
        """Waits for the end; returns what the command printed."""
        try:
            text = self.process.communicate(timeout=patience)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert self.process.returncode == 0, text
        return text


@contextmanager
def a_cluster() -> Iterator[Cluster]:
    """The namespace, removed at the end with all that is in it."""
    core = _api()
    ours = os.environ.get("EDL_TEST_IMAGE") or _built_image()
    shared = os.environ.get("EDL_TEST_SHARED_FOLDER")
    if not shared:
        pytest.skip("EDL_TEST_SHARED_FOLDER names no folder that is also on the cluster's nodes")
    namespace = f"edl-test-{uuid.uuid4().hex[:6]}"
    place = Path(shared) / namespace
    place.mkdir(parents=True)
    place.chmod(0o777)
    standard = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": namespace, "labels": standard}})
    core.create_persistent_volume(_volume(namespace, place))
    core.create_namespaced_persistent_volume_claim(namespace, _claim(namespace))
    try:
        yield Cluster(namespace, core, ours, place, f"claim_name=shared,mount_path={place}")
    finally:
        core.delete_namespace(namespace)
        core.delete_persistent_volume(namespace)


def _api() -> Any:
    if importlib.util.find_spec("kubernetes") is None:
        pytest.skip("kubernetes is not installed: pip install 'edl_allreduce[kubernetes]'")
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    from kubernetes import client, config

    config.load_kube_config()
    core = client.CoreV1Api()
    try:
        core.list_node(_request_timeout=10)
    except Exception as error:
        pytest.skip(f"the cluster of KUBECONFIG does not answer: {type(error).__name__}")
    return core


def _built_image() -> str:
    registry = os.environ.get("EDL_TEST_REGISTRY")
    if not registry:
        pytest.skip("neither EDL_TEST_IMAGE nor EDL_TEST_REGISTRY is set")
    with images.engine() as client:
        base = images.base(client)
    return builder.build(REPOSITORY / "tests" / "zoo", f"{registry}/edl-tests", base.name, print)


def _volume(name: str, folder: Path) -> Mapping[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": str(folder)},
        },
    }


def _claim(volume: str) -> Mapping[str, Any]:
    return {
        "metadata": {"name": "shared"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
