"""The main job on a real cluster, and everything that can happen to its pods: the same result as on one machine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_iris

from edl_allreduce import cluster as names
from edl_allreduce.trained_model_pb2 import TrainedModel
from edl_allreduce.worker.audit import consumed
from tests.clusters import Cluster, ClusterJob
from tests.jobs import BATCH, REPOSITORY, Hold, assert_done, digits_job, weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # the first has the base image made

EPOCHS = 30
PATIENCE = 600.0
SPREAD = """\
worker:
  spec:
    topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector: {matchLabels: {app.kubernetes.io/component: worker}}
"""


@pytest.fixture(scope="module")
def data(cluster: Cluster, digits: Path) -> str:
    """The digits, where pods see them."""
    folder = cluster.shared / "digits"
    shutil.copytree(digits / "train", folder)
    return f"{folder}/*.recordio"


def output(cluster: Cluster, name: str) -> Path:
    """A folder for a job's result that the pods' user may write to."""
    folder = cluster.shared / "out" / name
    folder.mkdir(parents=True)
    for each in (folder, folder.parent):
        each.chmod(0o777)
    return folder


def hold(cluster: Cluster) -> Hold:
    """What the jobs of `train` are held by."""
    return Hold(cluster.shared / "hold")


def train(cluster: Cluster, data: str, name: str, **flags: Any) -> ClusterJob:
    """Starts a job that takes its time, until `finish`: it must last as long as the things that happen to it."""
    hold(cluster).file.touch()
    defaults: dict[str, Any] = {
        **hold(cluster).flags,
        "image": cluster.image,
        "model_zoo": names.CUSTOM_ZOO,
        "data": data,
        "output": output(cluster, name),
        "batch_size": BATCH,
        "num_epochs": EPOCHS,
        "num_workers": 3,
        "gather_timeout": 60,
        "audit": True,
    }
    return ClusterJob(cluster, name, "train", **(defaults | flags))


def finish(job: ClusterJob) -> str:
    """Lets a job go at its own pace; returns what it printed by its end."""
    hold(job.cluster).file.unlink()
    return job.finish(PATIENCE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, Any]:
    """The same training by one worker of this machine: losses by step, weights."""
    run = digits_job(tmp_path_factory.mktemp("alone"), digits, num_epochs=EPOCHS).finish()
    assert_done(run)
    return {"losses": run.losses, "weights": weights(run)}


def assert_same_result(job: ClusterJob, alone: dict[str, Any], records: int) -> None:
    """Every step once, every record once per epoch, the curve and the weights of one undisturbed worker."""
    from safetensors.numpy import load_file

    losses = job.losses()
    assert sorted(losses) == sorted(alone["losses"])
    assert len([line for line in job.history() if "loss" in line]) == len(losses)  # no step was done again
    for step in range(1, 201):
        assert losses[step] == pytest.approx(alone["losses"][step], rel=1e-3)
    for name, value in load_file(next(job.output.glob("*.safetensors"))).items():
        np.testing.assert_allclose(value, alone["weights"][name], rtol=1e-2, atol=2e-4, err_msg=name)
    by_epoch = consumed(job.output / "_runs" / job.name / "audit")
    assert sorted(by_epoch) == list(range(EPOCHS))
    for steps in by_epoch.values():
        everything = [record for step in steps.values() for record in step]
        assert len(everything) == len(set(everything)) == records


def edl(cluster: Cluster, *words: str) -> str:
    """What an `edl` command about a job of the cluster prints."""
    flags = ["--backend=kubernetes", f"--namespace={cluster.namespace}"]
    line = [sys.executable, "-m", "edl_allreduce.launch", *words, *flags]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(line)}: {done.stderr}"
    return done.stdout


PAGES = """
import json, sys, urllib.request
from launcher.jobs import attach
name, namespace, *paths = sys.argv[1:]
with attach(name, "kubernetes", namespace).dashboard() as url:
    base, token = url.split("#token=")
    asked = [urllib.request.Request(f"{base}api/{path}", headers={"X-EDL-Token": token}) for path in paths]
    print(json.dumps([json.load(urllib.request.urlopen(each)) for each in asked]))
"""


def pages_of(job: ClusterJob, cluster: Cluster, *paths: str) -> list[Any]:
    """What a dashboard's API answers, through the tunnel; in a process of its own, whose end closes the connections."""
    command = [sys.executable, "-c", PAGES, job.name, cluster.namespace, *paths]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def shows_logs(job: ClusterJob, cluster: Cluster) -> bool:
    """Whether the dashboard shows what the coordinator and rank 0 have logged, by the coordinator's own rights.

    They have just logged the newest round. Still there may be nothing: kubelets that share a machine, as those of a
    cluster for tests may, take each other's logs for nobody's and remove them, once a minute.
    """
    tails = pages_of(job, cluster, "coordinator/log", f"workers/{job.rounds()[-1]['members'][0]}/log")
    assert not any(tail["unavailable"] for tail in tails), tails
    return all(any(" INFO " in line for line in tail["lines"]) for tail in tails)


def ids(pods: dict[str, Any]) -> set[int]:
    """The workers of pods."""
    return {int(pod.metadata.labels[names.LABEL_WORKER]) for pod in pods.values()}


def full_again(job: ClusterJob, workers: int, since: int) -> dict[str, Any]:
    """Waits for a round with so many members after the round `since`; returns it."""

    def found() -> Any:
        return [each for each in job.rounds() if each["round"] > since and len(each["members"]) == workers]

    return dict(job.until(found, f"a round of {workers} after round {since}")[-1])


def newest(job: ClusterJob) -> int:
    """The number of the newest round."""
    return int(job.rounds()[-1]["round"])


def test_whatever_happens_to_its_pods(cluster: Cluster, data: str, alone: dict[str, Any], records: int) -> None:
    job = train(cluster, data, "stormy")
    job.trains_with(3)
    job.goes_on()
    logs_seen = shows_logs(job, cluster)

    before = newest(job)
    cluster.kubectl("delete", "pod", names.worker_pod_name(job.name, 0), "--wait=false")
    left = full_again(job, 3, before)
    assert 0 not in left["members"]
    logs_seen = logs_seen or shows_logs(job, cluster)

    victim = processes_of(cluster, job.name, left["members"][1])
    if victim:
        victim[0].send_signal(signal.SIGKILL)
        told = full_again(job, 3, newest(job))
        assert left["members"][1] not in told["members"]

    [coordinator] = cluster.running(job.name, names.COORDINATOR)
    cluster.kubectl("delete", "pod", coordinator, "--wait=false")
    job.until(lambda: any("restart" in line for line in job.history()), "a new coordinator")
    job.goes_on()

    before = newest(job)
    assert "5 workers" in edl(cluster, "scale", job.name, "5")
    full_again(job, 5, before)
    logs_seen = logs_seen or shows_logs(job, cluster)
    before = newest(job)
    edl(cluster, "scale", job.name, "2")
    full_again(job, 2, before)
    assert logs_seen or shows_logs(job, cluster)

    text = finish(job)
    assert f"trained {EPOCHS} epochs" in text and "Traceback" not in text
    assert_same_result(job, alone, records)
    started = [int(name.rpartition("-")[2]) for name in cluster.pods(job.name)]
    assert len(started) == len(set(started))
    cluster.kubectl("delete", "job", job.name)
    cluster.until(lambda: not [each for each in cluster.everything() if job.name in each], "the end of all objects")


def test_nodes_that_are_drained_and_that_die(
    cluster: Cluster, data: str, alone: dict[str, Any], records: int, nodes: list[str], tmp_path: Path
) -> None:
    down, up = os.environ.get("EDL_TEST_NODE_DOWN"), os.environ.get("EDL_TEST_NODE_UP")
    spread = tmp_path / "spread.yaml"
    spread.write_text(SPREAD)
    job = train(cluster, data, "nodes", pod_template=spread)
    job.trains_with(3)
    job.goes_on()
    assert nodes_of(cluster, job) == set(nodes)
    before = newest(job)
    subprocess.run(
        ["kubectl", "drain", nodes[0], "--ignore-daemonsets", "--delete-emptydir-data", "--force"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    full_again(job, 3, before)
    assert nodes_of(cluster, job) == {nodes[1]}
    subprocess.run(["kubectl", "uncordon", nodes[0]], check=True)
    if down and up:
        edl(cluster, "scale", job.name, "4")
        job.until(
            lambda: any(p.spec.node_name == nodes[0] for p in cluster.running(job.name).values()), "a worker there"
        )
        job.trains_with(4)
        before = newest(job)
        number = nodes[0].removeprefix("node")
        wide = os.environ | {"COLUMNS": "4096"}  # it may look for processes with ps, which cuts their lines off
        subprocess.run([*shlex.split(down), number], check=True, env=wide)
        try:
            full_again(job, 4, before)
        finally:
            subprocess.run([*shlex.split(up), number], check=True)
    assert "Traceback" not in finish(job)
    assert_same_result(job, alone, records)


def nodes_of(cluster: Cluster, job: ClusterJob) -> set[str]:
    """Where the job's workers run."""
    return {pod.spec.node_name for pod in cluster.running(job.name).values()}


def processes_of(cluster: Cluster, job: str, worker: int) -> list[psutil.Process]:
    """The worker's processes, when this machine is also the node."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        there = any(names.service_name(job, cluster.namespace) in word for word in line)
        if there and "edl_allreduce.worker" in line and f"--worker_id={worker}" in line:
            found.append(process)
    return found


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """The names of two nodes; whatever happens to them is undone."""
    listed = subprocess.run(["kubectl", "get", "nodes", "-o", "json"], capture_output=True, check=True)
    found = [each["metadata"]["name"] for each in json.loads(listed.stdout)["items"]]
    if len(found) < 2:
        pytest.skip("the cluster has one node")
    yield found[::-1][:2]
    for each in found:
        subprocess.run(["kubectl", "uncordon", each], check=True, capture_output=True)


@pytest.fixture
def slots(nodes: list[str]) -> Iterator[str]:
    """A resource of which the whole cluster has three."""
    for number, node in ((2, nodes[0]), (1, nodes[1])):
        patch_capacity(node, {"op": "add", "path": SLOTS_PATH, "value": str(number)})
    yield SLOTS
    for node in nodes:
        patch_capacity(node, {"op": "remove", "path": SLOTS_PATH})


SLOTS = "example.com/slot"
SLOTS_PATH = "/status/capacity/example.com~1slot"


def patch_capacity(node: str, change: dict[str, str]) -> None:
    words = ["patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps([change])]
    subprocess.run(["kubectl", *words], check=True, capture_output=True)


def test_a_job_trains_with_what_there_is_and_takes_more_when_there_is_room(
    cluster: Cluster, data: str, slots: str
) -> None:
    resources = f"cpu=100m,memory=1Gi,{slots}=1"
    first = train(cluster, data, "first", num_workers=2, worker_resources=resources)
    first.trains_with(2)
    second = train(cluster, data, "second", num_workers=2, worker_resources=resources, gather_timeout=5)
    second.trains_with(1)
    second.goes_on(5)
    told = edl(cluster, "status", "second")
    assert "pending" in told and f"Insufficient {slots}" in " ".join(told.split())
    edl(cluster, "stop", "first")
    first.process.communicate(timeout=PATIENCE)
    second.trains_with(2)
    edl(cluster, "stop", "second")
    assert "stopped" in second.process.communicate(timeout=PATIENCE)[0]


@pytest.fixture
def urgent() -> Iterator[str]:
    """A priority class before which all pods give way that have none."""
    name = "edl-test-urgent"
    subprocess.run(["kubectl", "create", "priorityclass", name, "--value=1000000"], check=True, capture_output=True)
    yield name
    subprocess.run(["kubectl", "delete", "priorityclass", name], check=True, capture_output=True)


def test_preempted_workers_part_without_losing_a_step(
    cluster: Cluster, data: str, slots: str, nodes: list[str], urgent: str
) -> None:
    resources = f"cpu=100m,memory=1Gi,{slots}=1"
    job = train(cluster, data, "gives-way", num_workers=3, worker_resources=resources)
    job.trains_with(3)
    job.goes_on(5)
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod_of_others(cluster, urgent, {slots: 2})))
    cluster.kubectl("wait", "pod/urgent", "--for=jsonpath={.status.phase}=Running", "--timeout=120s")
    job.trains_with(1)
    assert nodes_of(cluster, job) == {nodes[1]}
    job.goes_on(5)
    shrunk = [after for before, after in pairwise(job.rounds()) if len(after["members"]) < len(before["members"])]
    assert shrunk and {each["kind"] for each in shrunk} == {"left"}
    cluster.kubectl("delete", "pod", "urgent", "--wait=false")
    job.trains_with(3)
    job.goes_on(5)
    steps = [line["step"] for line in job.history() if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    edl(cluster, "stop", "gives-way")
    assert "stopped" in job.process.communicate(timeout=PATIENCE)[0]


def pod_of_others(cluster: Cluster, priority: str, resources: dict[str, int]) -> dict[str, Any]:
    """A pod that has nothing to do with us but needs what we have."""
    amounts = {name: str(amount) for name, amount in resources.items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "urgent"},
        "spec": {
            "priorityClassName": priority,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "urgent",
                    "image": cluster.image,
                    "command": ["sleep", "3600"],
                    "resources": {"limits": amounts, "requests": amounts},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


def submit(cluster: Cluster, name: str, *command: str) -> None:
    """Runs a command in a container without Docker, which may only submit jobs; returns when it has ended well."""
    cluster.kubectl("apply", "-f", str(REPOSITORY / "docker" / "rbac" / "submitter.yaml"))
    container = {
        "name": "submitter",
        "image": cluster.image,
        "command": command,
        "env": [{"name": "EDL_HOME", "value": "/tmp/edl"}],
        "volumeMounts": [{"name": "shared", "mountPath": str(cluster.shared)}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "serviceAccountName": "edl-submitter",
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "shared"}}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    cluster.until(lambda: cluster.core.read_namespaced_pod(name, cluster.namespace).status.phase in ENDED, "its end")
    phase = cluster.core.read_namespaced_pod(name, cluster.namespace).status.phase
    assert phase == "Succeeded", cluster.kubectl("logs", name)


ENDED = ("Succeeded", "Failed")


@pytest.fixture(scope="module")
def trained(cluster: Cluster, data: str) -> ClusterJob:
    """A job that a program in a container without Docker has submitted, with strings only; it is done."""
    flags = {
        "backend": "kubernetes",
        "namespace": cluster.namespace,
        "job_name": "submitted",
        "image": cluster.image,
        "model_def": "digits.Classifier",
        "data": data,
        "output": str(output(cluster, "submitted")),
        "num_epochs": "5",
        "num_workers": "2",
        "volumes": cluster.volumes,
        "worker_resources": "cpu=100m,memory=1Gi",
        "worker_limits": "cpu=2,memory=3Gi",
    }
    program = (
        f"import launcher; job = launcher.train(**{flags!r}); assert job.exit_code == 0 and job.figures['loss'] < 2"
    )
    submit(cluster, "submitter", "python", "-c", program)
    return ClusterJob.done(cluster, "submitted", Path(flags["output"]))


def test_predictions_come_from_the_very_image(cluster: Cluster, trained: ClusterJob, digits: Path) -> None:
    shutil.copytree(digits / "test", cluster.shared / "held-out")
    found = output(cluster, "predicted")
    job = ClusterJob(
        cluster,
        "predict",
        "predict",
        trained_model=trained.output,
        data=cluster.shared / "held-out",
        output=found,
        output_format="csv",
        num_workers=2,
    )
    assert "predicted 360 records" in job.finish()
    lines = [line for path in sorted(found.glob("*.csv")) for line in path.read_text().splitlines()[1:]]
    assert len(lines) == 360
    message = TrainedModel.FromString((trained.output / "trained_model.pb").read_bytes())
    reference = message.docker_commit_id.removeprefix("docker-pullable://")
    assert reference.partition("@")[2].startswith("sha256:")
    [pod, *_] = cluster.pods(job.name).values()
    assert pod.spec.containers[0].image == reference


def test_statements_go_all_the_way_from_a_container(cluster: Cluster) -> None:
    """From a table to a model trained in pods, and back into a table, without Docker and without this machine."""
    place = output(cluster, "sql")
    with sqlite3.connect(place / "iris.db") as base:
        base.execute("CREATE TABLE iris (a REAL, b REAL, c REAL, d REAL, species TEXT)")
        flowers = load_iris()
        rows = [
            (*map(float, row), str(flowers.target_names[kind]))
            for row, kind in zip(flowers.data, flowers.target, strict=True)
        ]
        base.executemany("INSERT INTO iris VALUES (?, ?, ?, ?, ?)", rows)
    base.close()
    (place / "iris.db").chmod(0o666)
    statements = (
        "SELECT * FROM iris TRAIN classifier.DNN WITH hidden_units=[16], train.num_epochs=60, train.batch_size=16 "
        "LABEL species INTO irises; SELECT a, b, c, d, species FROM iris PREDICT told.guess USING irises;"
    )
    flags = {
        "backend": "kubernetes",
        "namespace": cluster.namespace,
        "database": f"sqlite:///{place}/iris.db",
        "models": f"{place}/models",
        "image": cluster.image,
        "num_workers": "2",
        "volumes": cluster.volumes,
        "worker_resources": "cpu=100m,memory=1Gi",
        "worker_limits": "cpu=2,memory=3Gi",
    }
    submit(cluster, "sql", "edl", "sql", statements, *(f"--{name}={value}" for name, value in flags.items()))
    with sqlite3.connect(place / "iris.db") as base:
        [(told, right)] = base.execute("SELECT count(*), sum(species = guess) FROM told").fetchall()
    base.close()
    assert told == 150 and right >= 140
    message = TrainedModel.FromString((place / "models" / "irises" / "trained_model.pb").read_bytes())
    assert message.docker_commit_id.startswith("docker-pullable://")
