"""A real job whose workers are spread over the namespaces of a network; its coordinator runs in the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from edl_allreduce import recordio, storage
from edl_allreduce.dataset import make_dataset
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.spec import JobSpec
from rendezvous import events
from rendezvous.coordinator import Coordinator, Site
from rendezvous.provisioner import Recovered
from rendezvous.provisioner.ledger import TOKEN_VARIABLE, WORKER_MODULE
from rendezvous.service import listen, start_serving
from rendezvous.state import State
from rendezvous.telemetry import Telemetry
from tests.jobs import BATCH, REPOSITORY, Run
from tests.namespaces import COORDINATOR, Network

PATIENCE_SECONDS = 60.0


class Provisioner:
    """Starts each worker at a place of its own, the one with its id.

    Args:
        network: where.
        folder: the job's.
        address: the coordinator's, "host:port".
        on_end: as in `LocalProvisioner`.

    Attributes:
        out_of_reach: workers that cannot be killed, as when their machine is cut off.
    """

    def __init__(
        self, network: Network, folder: JobFolder, address: str, on_end: Callable[[int, str, bool], None]
    ) -> None:
        self._network, self._folder, self._address, self._on_end = network, folder, address, on_end
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.out_of_reach: set[int] = set()
        self._ends: dict[int, asyncio.Future[int]] = {}

    explain_seconds = 0.0

    async def recover(self) -> Recovered:
        """There is nothing to take over."""
        return Recovered(0, ())

    def start(self, worker_id: int) -> None:
        """Starts a worker."""
        command = [sys.executable, "-m", WORKER_MODULE, f"--coordinator={self._address}", f"--worker_id={worker_id}"]
        command += [f"--host=host{worker_id}", "--local_workers=3"]
        environment = os.environ | {TOKEN_VARIABLE: str(self._folder.token)}
        with open(self._folder.worker_log(worker_id), "ab") as output:
            worker = subprocess.Popen(
                self._network.inside(worker_id, command),
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.workers[worker_id] = worker
        loop = asyncio.get_running_loop()
        self._ends[worker_id] = loop.create_future()
        descriptor = os.pidfd_open(worker.pid)
        loop.add_reader(descriptor, self._ended, worker_id, descriptor)

    def _ended(self, worker_id: int, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        code = self.workers[worker_id].wait()
        self._ends[worker_id].set_result(code)
        self._on_end(worker_id, f"ended with exit code {code}", code == 0)

    async def end_of(self, worker_id: int) -> int:
        """The exit code of a worker, once it has ended."""
        return await asyncio.wait_for(asyncio.shield(self._ends[worker_id]), PATIENCE_SECONDS)

    def kill(self, worker_id: int) -> None:
        """Sends SIGKILL if the worker can be reached."""
        if worker_id in self.workers and worker_id not in self.out_of_reach:
            self.workers[worker_id].kill()

    async def close(self, grace_seconds: float) -> None:
        """Returns when every worker has ended."""
        if grace_seconds:
            await asyncio.wait(self._ends.values(), timeout=grace_seconds)
        for worker in self.workers.values():
            worker.kill()
        await asyncio.wait(self._ends.values(), timeout=PATIENCE_SECONDS)


class ObservedCoordinator(Coordinator):
    """Remembers what it was told, and when."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.told: list[tuple[float, events.Event]] = []

    def tell(self, event: events.Event) -> None:
        """Remembers it, then does what follows from it."""
        self.told.append((self.now(), event))
        super().tell(event)


class NetworkJob:
    """A job that runs."""

    def __init__(self, coordinator: ObservedCoordinator, provisioner: Provisioner, folder: JobFolder) -> None:
        self.coordinator, self.provisioner, self.folder = coordinator, provisioner, folder

    @property
    def members(self) -> tuple[int, ...]:
        """Of the newest round, by rank."""
        newest = self.coordinator.state.round
        return newest.members if newest else ()

    def step(self) -> int:
        """The newest step that the coordinator has heard of."""
        return self.coordinator.telemetry.told

    def rounds(self) -> int:
        """How many rounds have begun."""
        return self.coordinator.state.next_round - 1

    def time_of(self, kind: type[events.Event]) -> float:
        """When the coordinator was told of the newest event of a kind, in seconds of its clock."""
        return max(when for when, event in self.coordinator.told if isinstance(event, kind))

    async def until(self, ready: Callable[[], Any], what: str) -> None:
        """Looks every 10 ms: the coordinator runs in this very thread."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            assert not self.coordinator.ended.is_set(), f"the job ended before {what}: {self.coordinator.state.verdict}"
            assert time.monotonic() < end, f"{what} did not come"
            await asyncio.sleep(0.01)

    async def trains(self, *members: int, steps: int = 10) -> None:
        """Waits until a round of these members has done some steps."""
        await self.until(lambda: set(self.members) == set(members), f"a round of {members}")
        at = self.step()
        await self.until(lambda: self.step() >= at + steps, f"{steps} steps of {members}")

    async def finish(self) -> Run:
        """Waits for the end of the job and of its processes."""
        await asyncio.wait_for(self.coordinator.ended.wait(), 2 * PATIENCE_SECONDS)
        await self.coordinator.close()
        state = self.coordinator.state
        lines = [json.loads(line) for line in self.folder.history.read_text().splitlines()]
        return Run(state.exit_code, state.verdict, self.folder.path, lines)


@contextlib.asynccontextmanager
async def job(network: Network, home: Path, digits: Path, **flags: Any) -> AsyncIterator[NetworkJob]:
    """A job of 3 workers on the digits, as `python -m rendezvous` would run it."""
    needed = {
        "model_zoo": str(REPOSITORY / "model_zoo"),
        "model_def": "digits.Classifier",
        "data": f"{digits}/train/*.recordio",
        "output": home / "output",
        "batch_size": BATCH,
        "num_workers": 3,
        "worker_timeout": 1.5,
        "gather_timeout": 60,
        "audit": True,
    }
    spec = JobSpec.from_flags(needed | flags)
    folder = JobFolder(home / "jobs" / "network")
    folder.create(spec.to_json(), "the-token")
    files = storage.expand(spec.data.data)
    dataset = make_dataset(files, recordio.index_many(files), spec.data.records_per_task, spec.data.lanes, 3)
    address = network.address(COORDINATOR)
    server, port = listen("the-token", address)
    with open(folder.history, "a", buffering=1, encoding="utf-8") as history:
        site = Site(folder.name, address, str(folder.path))
        state = State(target=spec.elastic.num_workers)
        coordinator = ObservedCoordinator(spec, dataset, site, state, Telemetry(history, time.time))
        provisioner = Provisioner(network, folder, f"{address}:{port}", coordinator.process_ended)
        await start_serving(server, coordinator)
        coordinator.start(provisioner)
        try:
            yield NetworkJob(coordinator, provisioner, folder)
        finally:
            provisioner.out_of_reach.clear()
            await provisioner.close(0 if not coordinator.ended.is_set() else 5)
            await server.stop(0)
