"""Workers as pods of a real cluster: deleted, out of memory, evicted, without room or image, the API server away.

The pods run a few lines of Python instead of a worker: this is about pods. Needs KUBECONFIG and EDL_TEST_BASE_IMAGE, an
image with Python that the nodes can pull.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from edl_allreduce.cluster import FINAL_STATUS, LABEL_JOB, NEXT_ID, WORKER_MEMORY, WorkerPods, labels, state_name
from rendezvous.logs import LogTail
from rendezvous.pod_logs import PodLogs
from rendezvous.provisioner.job_state import JobState, Superseded
from rendezvous.provisioner.kubernetes import Api, Expired
from rendezvous.provisioner.pod_keeper import PodKeeper
from rendezvous.provisioner.pods import Owner

pytestmark = pytest.mark.cluster
PATIENCE_SECONDS = 60.0
FOREVER = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); signal.pause()"
DEAF = "import time\nwhile True: time.sleep(1)"  # the first process of a container ignores signals it does not handle
HUNGRY = "held = bytearray(1 << 28); held[::4096] = b'x' * len(held[::4096])"

Ending = tuple[int, str, bool]


class Job:
    """A job with nothing but what the provisioner needs, and all that it has told."""

    def __init__(self, core: Any, namespace: str, name: str, uid: str, worker: Mapping[str, Any]) -> None:
        self.core, self.namespace, self.name = core, namespace, name
        self.owner = Owner(name, uid)
        self.worker = worker
        self.ended: dict[int, tuple[str, bool]] = {}
        self.waits: dict[int, list[str]] = {}
        self.started: set[int] = set()
        self.recalled = asyncio.Event()
        self.keepers: list[PodKeeper] = []
        self.apis: list[Api] = []
        self._news = asyncio.Event()

    # A Listener.

    def process_ended(self, worker_id: int, why: str, excused: bool) -> None:
        assert worker_id not in self.ended
        self.ended[worker_id] = (why, excused)
        self._news.set()

    def process_waits(self, worker_id: int, why: str) -> None:
        self.waits.setdefault(worker_id, []).append(why)
        self._news.set()

    def process_started(self, worker_id: int) -> None:
        self.started.add(worker_id)
        self._news.set()

    # What a test does.

    async def keeper(self, api: Api | None = None, **settings: Any) -> PodKeeper:
        """A coordinator's provisioner, which has taken over the job."""
        api = api or Api(self.name, self.namespace, _settings())
        self.apis.append(api)
        state = JobState(api)
        await asyncio.to_thread(state.take_over)
        pods = WorkerPods(dict(self.worker), **settings)
        keeper = PodKeeper(api, self.owner, pods, state, lambda: self, self.recalled.set)
        self.recovered = await keeper.recover()
        self.keepers.append(keeper)
        return keeper

    async def until(self, done: Callable[[], Any]) -> None:
        """Waits for news after which `done` is true."""

        async def look() -> None:
            while not done():
                self._news.clear()
                await self._news.wait()

        await asyncio.wait_for(look(), PATIENCE_SECONDS)

    async def sees_end_of(self, worker_id: int) -> None:
        """Waits until a worker has ended."""
        await self.until(lambda: worker_id in self.ended)

    async def only(self, *worker_ids: int) -> None:
        """Waits until these are all pods there are."""
        while set(self.pods()) != {self.pod(each) for each in worker_ids}:
            await asyncio.sleep(0.1)  # it is the API server that is asked, not the provisioner

    def pods(self) -> dict[str, Any]:
        found = self.core.list_namespaced_pod(self.namespace, label_selector=f"{LABEL_JOB}={self.name}").items
        return {pod.metadata.name: pod for pod in found}

    def delete(self, worker_id: int) -> None:
        self.core.delete_namespaced_pod(self.pod(worker_id), self.namespace, grace_period_seconds=0)

    def pod(self, worker_id: int) -> str:
        return f"{self.name}-worker-{worker_id}"

    def state(self) -> dict[str, str]:
        data = self.core.read_namespaced_config_map(state_name(self.name), self.namespace).data
        assert isinstance(data, dict)
        return data


@pytest.fixture(scope="module")
def namespace() -> Iterator[tuple[Any, str]]:
    """The core API, and a namespace of the tests' own."""
    if not os.environ.get("KUBECONFIG") or not os.environ.get("EDL_TEST_BASE_IMAGE"):
        pytest.skip("KUBECONFIG and EDL_TEST_BASE_IMAGE do not name a cluster and an image with Python")
    pytest.importorskip("kubernetes", reason="kubernetes is not installed: pip install 'edl_allreduce[kubernetes]'")
    from kubernetes import client, config

    config.load_kube_config()
    core = client.CoreV1Api()
    name = f"edl-test-{uuid.uuid4().hex[:6]}"
    core.create_namespace({"metadata": {"name": name}})
    try:
        yield core, name
    finally:
        core.delete_namespace(name)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rendezvous.provisioner.pod_keeper.END_SECONDS", 0.0)
    monkeypatch.setattr("rendezvous.provisioner.pod_keeper.EXPLAIN_SECONDS", 2.0)


@contextlib.asynccontextmanager
async def a_job(namespace: tuple[Any, str], program: str = FOREVER, **container: Any) -> AsyncIterator[Job]:
    """A job whose workers run this program."""
    from kubernetes import client

    core, space = namespace
    name = f"job-{uuid.uuid4().hex[:6]}"
    worker = {
        "metadata": {"labels": labels(name, "worker")},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [
                {
                    "name": "worker",
                    "image": os.environ["EDL_TEST_BASE_IMAGE"],
                    "command": ["python3", "-c", program],
                    **container,
                }
            ],
        },
    }
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "coordinator", "image": "none"}]}}
    batch = client.BatchV1Api()
    made = batch.create_namespaced_job(
        space, {"metadata": {"name": name}, "spec": {"suspend": True, "template": template}}
    )
    core.create_namespaced_config_map(space, {"metadata": {"name": state_name(name)}, "data": {NEXT_ID: "0"}})
    job = Job(core, space, name, made.metadata.uid, worker)
    try:
        yield job
    finally:
        batch.delete_namespaced_job(name, space, propagation_policy="Background")
        for keeper in job.keepers:
            keeper._watch.stop()
        for api in job.apis:
            api.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 3 * PATIENCE_SECONDS))


def test_pods_come_and_go(namespace: tuple[Any, str]) -> None:
    """Started, deleted by somebody, told to go, killed; ids are used up before there is a pod."""

    async def test() -> None:
        async with a_job(namespace) as job:
            keeper = await job.keeper()
            assert job.recovered.alive == () and job.recovered.next_id == 0
            for worker_id in range(4):
                keeper.start(worker_id)
            await job.until(lambda: len(job.started) == 4)
            assert job.state()[NEXT_ID] == "4" and job.waits[0][0] == "its pod is being made"
            owner = job.pods()[job.pod(0)].metadata.owner_references[0]
            assert (owner.kind, owner.name, owner.controller) == ("Job", job.name, None)
            job.delete(0)
            job.core.delete_namespaced_pod(job.pod(1), job.namespace)
            _evict(job, 2)
            await job.until(lambda: len(job.ended) == 3)
            assert job.ended[0] == ("was deleted with its pod", True)
            assert job.ended[1][1], job.ended
            assert job.ended[2][0].startswith("was evicted") and job.ended[2][1]
            keeper.kill(3)
            await job.sees_end_of(3)
            assert job.ended[3] == ("was killed", False)
            await keeper.close(0)

    run(test)


def _evict(job: Job, worker_id: int) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": job.pod(worker_id)}}
    job.core.create_namespaced_pod_eviction(job.pod(worker_id), job.namespace, body)


def test_pods_that_end_by_themselves_stay_for_their_logs(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        async with a_job(namespace, "print('this is why'); exit(3)") as job:
            keeper, told = await job.keeper(keep_finished=1), LogTail(["this is why"])
            logs = PodLogs(job.apis[0], job.owner, "coordinator", "worker")
            for id in range(3):  # a log may be removed just then by another kubelet: see test_cluster_jobs.shows_logs
                keeper.start(id)
                await job.sees_end_of(id)
                assert job.ended[id] == ("ended with exit code 3", False) and job.started == set(range(id + 1))
                if id > 0:
                    await job.only(id)  # the one before it goes
                assert list(job.pods()) == [job.pod(id)]
                if (found := await logs.tail(id, 5)) == told:
                    break
            assert found == told
            assert await PodLogs(job.apis[0], Owner(job.name, "1"), "", "worker").tail(id, 5) != told
            keeper.start(id + 1)
            await job.sees_end_of(id + 1)
            await job.only(id + 1)
            assert (await logs.tail(id, 5)).unavailable == "its pod is gone, and with it its log"
            await keeper.close(0)

    run(test)


def test_who_needs_more_memory_is_followed_by_one_with_more(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        resources = {"requests": {"memory": "16Mi"}, "limits": {"memory": "64Mi"}}
        async with a_job(namespace, HUNGRY, resources=resources) as job:
            keeper = await job.keeper(memory_max="90Mi")
            keeper.start(0)
            await job.sees_end_of(0)
            assert job.ended[0] == ("was OOM-killed (limit 64Mi)", True)
            keeper.start(1)
            await job.sees_end_of(1)
            assert job.ended[1] == ("was OOM-killed (limit 90Mi)", False), "no more is allowed"
            assert job.state()[WORKER_MEMORY] == "90Mi"
            await keeper.close(0)

    run(test)


def test_pods_without_room_or_image_say_so(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        resources = {name: {"example.com/unheard-of": "1"} for name in ("requests", "limits")}
        async with a_job(namespace, resources=resources) as roomless, a_job(namespace) as imageless:
            imageless.worker["spec"]["containers"][0]["image"] = "127.0.0.1:1/none:1"
            for job in (roomless, imageless):
                (await job.keeper()).start(0)
            await roomless.until(lambda: "Insufficient example.com/unheard-of" in roomless.waits[0][-1])
            await imageless.until(lambda: "ImagePull" in imageless.waits[0][-1])
            assert "127.0.0.1:1/none:1" in imageless.waits[0][-1]
            for job in (roomless, imageless):
                job.keepers[0].kill(0)
                await job.sees_end_of(0)
                assert not job.started
                await job.only()
                await job.keepers[0].close(0)

    run(test)


def test_a_quota_is_waited_for(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        async with a_job(namespace) as job:
            resources = {"requests": {"example.com/tokens": "1"}, "limits": {"example.com/tokens": "1"}}
            job.worker["spec"]["containers"][0]["resources"] = resources
            quota = {"metadata": {"name": "none"}, "spec": {"hard": {"requests.example.com/tokens": "0"}}}
            job.core.create_namespaced_resource_quota(job.namespace, quota)
            keeper = await job.keeper()
            keeper.start(0)
            keeper.start(1)
            await job.until(lambda: "exceeded quota: none" in job.waits.get(0, [""])[-1])
            keeper.kill(0)
            await job.sees_end_of(0)
            job.core.delete_namespaced_resource_quota("none", job.namespace)
            await job.until(lambda: "Insufficient example.com/tokens" in job.waits[1][-1])
            assert list(job.pods()) == [job.pod(1)]
            keeper.kill(1)
            await keeper.close(0)

    run(test)


def test_the_next_coordinator_finds_all(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        async with a_job(namespace) as job:
            first = await job.keeper()
            for worker_id in range(3):
                first.start(worker_id)
            await job.until(lambda: len(job.started) == 3)
            first._watch.stop()  # it is gone
            job.delete(2)
            job.started.clear()
            second = await job.keeper()
            assert job.recovered.alive == (0, 1) and job.recovered.next_id == 3, "ids are never used again"
            await job.until(lambda: job.started == {0, 1})
            job.delete(1)
            await job.sees_end_of(1)
            first.start(7)  # a last deed of the first, which does not know that it has been replaced
            await asyncio.wait_for(job.recalled.wait(), PATIENCE_SECONDS)
            await job.only(0)
            await second.close(0)
            assert not job.pods() or job.pods()[job.pod(0)].metadata.deletion_timestamp

    run(test)


def test_a_job_that_ends_kills_who_does_not(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        program = f"import sys\nif sys.argv[1] == '--worker_id=0': exit(0)\n{DEAF}"
        async with a_job(namespace, program) as job:
            keeper = await job.keeper()
            keeper.start(0)
            keeper.start(1)
            await job.until(lambda: 0 in job.ended and 1 in job.started)
            await keeper.close(0.5)
            assert job.ended == {0: ("ended with exit code 0", True), 1: ("was killed", False)}
            assert list(job.pods()) == [job.pod(0)]

    run(test)


def test_what_is_missed_is_listed_anew(namespace: tuple[Any, str]) -> None:
    """A version too old to be watched from, and a connection that breaks while things happen."""

    async def test() -> None:
        async with a_job(namespace) as job:
            way = Way(_server())
            settings = _settings()
            settings.host = way.url
            keeper = await job.keeper(Api(job.name, job.namespace, settings))
            for worker_id in range(2):
                keeper.start(worker_id)
            await job.until(lambda: len(job.started) == 2)
            way.block()
            job.delete(0)
            keeper.start(2)
            await job.until(lambda: "no answer from the API server" in job.waits.get(2, [""])[-1])
            assert not job.ended, "nobody is given up because the API server is away"
            way.open()
            await job.until(lambda: 0 in job.ended and 2 in job.started)
            keeper._watch._version = "1"  # long gone
            way.block()
            way.open()
            job.delete(1)
            await job.sees_end_of(1)
            await keeper.close(0)
            way.block()

    run(test)


def test_an_old_version_cannot_be_watched(namespace: tuple[Any, str]) -> None:
    api = Api("job", namespace[1], _settings())
    with pytest.raises(Expired, match="too old"):
        list(api.watch_pods("1"))
    api.close()


def test_only_one_coordinator_writes(namespace: tuple[Any, str]) -> None:
    async def test() -> None:
        async with a_job(namespace) as job:
            api = Api(job.name, job.namespace, _settings())
            job.apis.append(api)
            first, second = JobState(api), JobState(api)
            first.take_over()
            first.next_id = 3
            first.save()
            second.take_over()
            assert (second.coordinators, second.next_id) == (1, 3)
            first.next_id = 4
            with pytest.raises(Superseded):
                first.save()
            second.next_id, second.final_status = 9, "{}"
            second.save()
            assert (job.state()[NEXT_ID], job.state()[FINAL_STATUS]) == ("9", "{}")

    run(test)


class Way:
    """A way to the API server that can be blocked: open connections break then, and new ones are refused."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def block(self) -> None:
        assert self._listener
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=pair, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with source:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def _settings() -> Any:
    """How KUBECONFIG says that the cluster is reached."""
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(client_configuration=settings)
    return settings


def _server() -> tuple[str, int]:
    """Where the API server is."""
    parts = urlsplit(_settings().host)
    return str(parts.hostname), parts.port or 443
