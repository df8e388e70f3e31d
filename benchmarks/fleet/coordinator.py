"""The coordinator of a job whose workers are simulated: `python -m benchmarks.fleet.coordinator HISTORY WORKERS TASKS`.

Everything is the real one, but for the provisioner, which starts nothing. Prints its address, then answers every line
of its standard input with its own use of resources, as JSON; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from typing import Any

import psutil

from edl_allreduce.dataset import make_dataset
from edl_allreduce.recordio import ChunkRef
from edl_allreduce.spec import JobSpec
from rendezvous.coordinator import Coordinator, Site
from rendezvous.provisioner import Recovered
from rendezvous.service import listen, start_serving
from rendezvous.state import State
from rendezvous.telemetry import Telemetry

TOKEN = "benchmark"
PATIENCE = 120.0  # seconds: nobody is to be dropped on a busy machine
RECORDS, CHUNK_BYTES = 1024, 1 << 20  # of each task


class NoProvisioner:
    """The workers come by themselves."""

    explain_seconds = 0.0

    async def recover(self) -> Recovered:
        """Nothing is left of anybody."""
        return Recovered(0, ())

    def start(self, worker_id: int) -> None:
        """It will come."""

    def kill(self, worker_id: int) -> None:
        """It is a stream only, which the coordinator ends."""

    async def close(self, grace_seconds: float) -> None:
        """Nobody is waited for."""


async def serve(history: str, workers: int, tasks: int) -> None:
    """Serves until the standard input ends."""
    flags: dict[str, Any] = {
        "model_zoo": "none",
        "model_def": "none",
        "data": "none",
        "output": "none",
        "num_workers": workers,
    }
    flags |= {"batch_size": 64 * workers} | dict.fromkeys(
        ("gather_timeout", "part_timeout", "worker_timeout"), PATIENCE
    )
    spec = JobSpec.from_flags(flags)
    chunks = [ChunkRef(number * CHUNK_BYTES, CHUNK_BYTES, RECORDS) for number in range(tasks)]
    dataset = make_dataset(["data.recordio"], [chunks], RECORDS, num_workers=workers)
    server, port = listen(TOKEN, "127.0.0.1")
    with open(history, "a", buffering=1, encoding="utf-8") as file:
        site, telemetry = Site("benchmark", "127.0.0.1"), Telemetry(file, time.time)
        coordinator = Coordinator(spec, dataset, site, State(workers), telemetry)
        await start_serving(server, coordinator)
        coordinator.start(NoProvisioner())
        print(f"127.0.0.1:{port}", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(usage()), flush=True)
    os._exit(0)  # streams that are open need not be closed one by one


def usage() -> dict[str, float]:
    """Processor seconds so far, and memory now, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": used.ru_utime + used.ru_stime, "megabytes": psutil.Process().memory_info().rss / 1e6}


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
