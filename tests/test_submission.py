"""Jobs that are submitted to a real cluster: what it refuses, what it keeps waiting; nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from launcher.display.terminal import Silent
from launcher.handle import JobHandle
from launcher.kubernetes import api
from launcher.kubernetes.errors import Unreachable
from launcher.kubernetes.request import OnKubernetes
from launcher.settings import read_request
from tests.clusters import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PATIENCE_SECONDS = 60.0
NOWHERE = "127.0.0.1:9/nothing:1"  # no registry is there


def work(cluster: Cluster, **flags: Any) -> OnKubernetes:
    """A job that never runs: there is no such image."""
    base = {
        "backend": "kubernetes",
        "namespace": cluster.namespace,
        "image": NOWHERE,
        "model_def": "digits.Classifier",
        "data": f"{cluster.shared}/data/*.recordio",
        "output": f"{cluster.shared}/out",
        "volumes": cluster.volumes,
        "coordinator_resources": "cpu=10m,memory=64Mi",
    }
    return OnKubernetes(read_request(base | flags), None, {}, datetime.now(), os.urandom(2).hex())


@contextlib.contextmanager
def submitted(cluster: Cluster, **flags: Any) -> Iterator[JobHandle]:
    """A job, removed at the end with all that it owns."""
    waiting = work(cluster, **flags)
    waiting.check()
    job = waiting.start(Silent(), leave=True)
    try:
        yield job
    finally:
        cluster.kubectl("delete", "job", job.name)
        until(lambda: not of_job(cluster, job.name))


def of_job(cluster: Cluster, name: str) -> list[str]:
    return [each for each in cluster.everything() if each.partition("/")[2].startswith(name)]


def until(ready: Callable[[], Any]) -> None:
    """Waits for something that only the cluster can tell."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.2)  # somebody else's objects: there is no event to await


def says(job: JobHandle, text: str) -> str:
    """The first message of a job that has this in it."""
    return next(status.message for status in job.watch() if text in status.message)


def test_kubectl_applies_what_a_dry_run_prints(cluster: Cluster) -> None:
    text = str(work(cluster, job_name="printed", labels="team=ml", worker_priority="", shm_size="64Mi"))
    checked = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text).splitlines()
    assert len(checked) == 10
    assert all(line.endswith("created (server dry run)") for line in checked)
    cluster.kubectl("apply", "-f", "-", stdin=text)
    job = api.attach("printed", cluster.namespace)
    assert "coordinator's pod" in says(job, "pod")
    cluster.kubectl("delete", "-f", "-", stdin=text)
    until(lambda: not of_job(cluster, "printed"))
    job.kill()
    assert (job.status().phase, job.status().message) == ("failed", "its Job was deleted")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"volumes": "host_path=/,mount_path=/host"},
            'violates PodSecurity "restricted:latest": restricted volume types',
        ),
        (
            {"worker_resources": "memory=4Gi", "worker_limits": "memory=1Gi"},
            "must be less than or equal to memory limit",
        ),
        ({"annotations": f"a={'x' * 300000}"}, "more than 262144 bytes"),
        ({"worker_service_account": "nobody"}, "error looking up service account"),
        ({"namespace": "no-such-namespace"}, 'namespaces "no-such-namespace" not found; --namespace names another one'),
    ],
)
def test_what_the_cluster_refuses_is_told_in_its_words_and_leaves_nothing(
    cluster: Cluster, flags: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        work(cluster, job_name="refused", **flags).start(Silent(), leave=True)
    assert message in str(error.value)
    until(lambda: not of_job(cluster, "refused"))


def test_a_name_is_given_once(cluster: Cluster) -> None:
    with submitted(cluster, job_name="taken"):
        with pytest.raises(UsageError, match=r'^Job taken: .*"taken" already exists; choose another --job_name$'):
            work(cluster, job_name="taken").start(Silent(), leave=True)
        assert "Job/taken" in of_job(cluster, "taken")


def test_a_job_that_waits_says_why_is_listed_and_can_be_ended(cluster: Cluster) -> None:
    with submitted(cluster, job_name="waiting") as job:
        assert says(job, "Pull").startswith("the coordinator's pod waits: ")
        listed = {each.name: each for each in api.jobs(cluster.namespace)}["waiting"]
        assert (listed.kind, listed.phase, listed.workers, listed.ended) == ("train", "starting", 1, False)
        with pytest.raises(UsageError, match="worker 3 has no pod any more; workers with logs: none"):
            job.logs(worker=3)
        job.stop()
        assert (job.status().phase, job.exit_code) == ("stopped", 6)
        later = api.attach("waiting", cluster.namespace)
        assert (later.status().phase, later.exit_code) == ("stopped", 6)
        assert {each.name: each.phase for each in api.jobs(cluster.namespace)}["waiting"] == "stopped"
        assert not cluster.pods("waiting", "coordinator")


def test_a_coordinator_for_which_there_is_no_room_says_so(cluster: Cluster) -> None:
    with submitted(cluster, job_name="large", coordinator_resources="cpu=9000,memory=1Gi") as job:
        assert "nodes are available" in says(job, "nodes are")


def test_a_job_without_a_pod_says_why(cluster: Cluster) -> None:
    quota = '{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"none"},"spec":{"hard":{"pods":"0"}}}'
    cluster.kubectl("apply", "-f", "-", stdin=quota)
    try:
        with submitted(cluster, job_name="crowded") as job:
            assert "exceeded quota: none" in says(job, "quota")
    finally:
        cluster.kubectl("delete", "resourcequota", "none")


HOOK = """
class Cluster:
    def with_pod(self, pod):
        pod.metadata.labels["hooked"] = pod.spec.containers[0].name
        pod.spec.containers[0].env.append({"name": "HOOKED", "value": "1"})
        return pod

    def with_service(self, service):
        service.metadata.annotations = {"hooked": service.spec.ports[0].name}
        return service


cluster = Cluster()
"""


def test_a_cluster_spec_gets_objects_as_elasticdl_has_them(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "spec.py"
    file.write_text(HOOK)
    text = str(work(cluster, job_name="hooked", cluster_spec=file))
    assert text.count("hooked: coordinator") == 1
    assert '\\"hooked\\": \\"worker\\"' in text or '"hooked": "worker"' in text
    assert text.count("hooked: grpc") == 1
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"KUBECONFIG": "/nowhere"}, r"^no cluster is configured: \$KUBECONFIG names /nowhere, which does not exist"),
        ({"KUBECONFIG": "", "HOME": "/nowhere"}, "^no cluster is configured: there is no ~/.kube/config"),
    ],
)
def test_without_a_cluster_the_user_is_told(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        api.Cluster.connect()


def test_an_unknown_context_is_told_with_those_that_there_are(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="--kube_context: there is no context 'nope' in the kubeconfig; there is "):
        api.Cluster.connect(context="nope")


def test_a_cluster_that_does_not_answer_is_told(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cluster.kubectl("config", "view", "--raw")
    host = api.Cluster.connect().host
    (tmp_path / "config").write_text(config.replace(host, "https://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(Unreachable, match=r"the cluster at https://127.0.0.1:9 does not answer: .*refused"):
        api.jobs()
