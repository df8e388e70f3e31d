"""A job for the dashboard's tests: the real coordinator and the real server, with workers that only pretend.

Run by itself it serves such a job until it is stopped: python -m tests.dashboards --workers=1000 --past=100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.position import position_to_message
from edl_allreduce.dataset import make_dataset
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.position import Position
from edl_allreduce.recordio import ChunkRef
from edl_allreduce.spec import JobSpec
from rendezvous.coordinator import Coordinator, Site
from rendezvous.dashboard import serve
from rendezvous.dashboard.server import Dashboard
from rendezvous.logs import FolderLogs
from rendezvous.provisioner import Recovered
from rendezvous.state import Phase, State, WorkerState, recovered
from rendezvous.telemetry import Telemetry

TOKEN = "a-token-of-tests"
BATCH, EPOCH_STEPS = 64, 500
BEAT_SECONDS = 0.25


@dataclass
class Pretending:
    """A provisioner whose workers are entries of a list."""

    alive: list[int] = field(default_factory=list)
    explain_seconds: float = 0.0

    async def recover(self) -> Recovered:
        return Recovered(0, ())

    def start(self, worker_id: int) -> None:
        self.alive.append(worker_id)

    def kill(self, worker_id: int) -> None:
        if worker_id in self.alive:
            self.alive.remove(worker_id)

    async def close(self, grace_seconds: float) -> None:
        self.alive.clear()


@dataclass
class Pretence:
    """A job whose workers pretend to train.

    Attributes:
        step_seconds: what a step takes.
        slow: this worker's own part of a step takes three times as long.
    """

    coordinator: Coordinator
    provisioner: Pretending
    step_seconds: float = 0.05
    slow: int = -1
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    _told: float = 0.0

    def beat(self, now: float) -> None:
        """Every worker tells how it is; newcomers greet, rank 0 tells the steps since the last beat."""
        job = self.coordinator
        for id in list(self.provisioner.alive):
            worker = job.state.workers.get(id)
            if worker is None:
                continue
            if worker.state is WorkerState.STARTING:
                job.greet(pb.Hello(worker_id=id, host=f"node-{id % 7}", pid=1000 + id))
                job.hear(id, pb.FromWorker(ready=pb.Ready()))
            elif worker.state is WorkerState.RESTORING:
                position = position_to_message(job.state.checkpoint) if job.state.checkpoint else None
                job.hear(id, pb.FromWorker(restored=pb.Restored(position=position)))
            elif worker.state is WorkerState.SAVING:
                place = position_to_message(place_of(job.telemetry.told))
                job.hear(id, pb.FromWorker(checkpointed=pb.Checkpointed(position=place)))
            elif worker.leaving and worker.state is not WorkerState.TRAINING:
                self.provisioner.kill(id)
                job.process_ended(id, "ended with exit code 0", True)
            else:
                self._hear(id, now)
        self._told = now

    def lose(self, id: int) -> None:
        """Ends a worker, as SIGKILL does."""
        self.provisioner.kill(id)
        self.coordinator.part_with(id, "was ended by SIGKILL")

    def _hear(self, id: int, now: float) -> None:
        job, round = self.coordinator, self.coordinator.state.round
        training = round is not None and id in round.members and job.state.workers[id].state is WorkerState.TRAINING
        if round is None or not training:
            job.hear(id, pb.FromWorker(progress=pb.Progress()))
            return
        if job.state.phase is not Phase.TRAINING:
            position = position_to_message(place_of(job.telemetry.told))
            failed = job.state.round_failed
            job.hear(id, pb.FromWorker(parted=pb.Parted(round=round.number, position=position, failed=failed)))
            return
        progress = pb.Progress(round=round.number, activity=self.chance.choices(_DOING, (5, 70, 20, 5))[0])
        own = self.step_seconds * (0.6 + 0.1 * self.chance.random())
        progress.compute_seconds = 3 * own if id == self.slow else own
        if id == round.members[0]:
            first = job.telemetry.told + 1
            count = max(1, round_half((now - self._told) / self.step_seconds)) if self._told else 1
            progress.steps.extend(pretended_step(step, self.step_seconds) for step in range(first, first + count))
            progress.position.CopyFrom(position_to_message(place_of(progress.steps[-1].step)))
            if round.number > 1 and first == round.position.step + 1:
                progress.paused_seconds = 0.2 + 0.1 * self.chance.random()
        job.hear(id, pb.FromWorker(progress=progress))


_DOING = (pb.READING, pb.COMPUTING, pb.REDUCING, pb.WAITING)


def place_of(step: int) -> Position:
    return Position(epoch=step // EPOCH_STEPS, offset=step % EPOCH_STEPS * BATCH, step=step)


def round_half(value: float) -> int:
    return math.floor(value + 0.5)


def pretended_step(step: int, seconds: float) -> pb.Step:
    noise = random.Random(step)
    loss = 0.05 + 2.2 * math.exp(-step / 700) + noise.gauss(0, 0.03) * math.exp(-step / 4000)
    took = seconds * (0.9 + 0.2 * noise.random())
    epoch = (step - 1) // EPOCH_STEPS
    return pb.Step(
        step=step, epoch=epoch, loss=abs(loss), records=BATCH, seconds=took, useful_seconds=took, learning_rate=0.001
    )


def past(steps: int, workers: int, seconds: float = 0.05) -> list[dict[str, Any]]:
    """History of a job that has run for so many steps, with a reform every few thousand."""
    began = time.time() - steps * seconds
    every, members, lines, number = max(500, steps // 12), list(range(workers)), [], 0
    causes = [("lost", "worker {} was ended by SIGKILL"), ("joined", "worker {} joined"), ("hung", "worker {} hung")]
    for step in range(1, steps + 1):
        now = began + step * seconds
        if step % every == 1:
            kind, cause = causes[number % 3] if number else ("start", "start")
            number += 1
            if kind != "start":
                gone = members.pop(number % len(members))
                members.append(workers + number)
                cause = cause.format(gone)
            line = {"time": now, "round": number, "members": members[:], "lanes": [], "cause": cause, "kind": kind}
            lines.append(line | {"first_step": step})
            if number > 1:
                lines.append({"time": now, "round": number, "paused_seconds": 0.1 + 0.05 * (number % 5)})
        told = pretended_step(step, seconds)
        line = {"step": step, "epoch": told.epoch, "loss": told.loss, "records": BATCH, "seconds": told.seconds}
        lines.append(line | {"useful": told.useful_seconds, "learning_rate": 0.001})
        if step % EPOCH_STEPS == 0:
            epoch = step // EPOCH_STEPS - 1
            good = 1 - 0.6 * math.exp(-step / 900)
            figures = {"loss": told.loss, "accuracy": good, "val_loss": told.loss * 1.1, "val_accuracy": good - 0.02}
            line = {"time": now, "epoch_end": epoch, "step": step, "figures": figures, "stopped": "", "seconds": 0.1}
            lines.append(line)
    return lines


@asynccontextmanager
async def pretended(
    folder: Path, workers: int = 3, past_steps: int = 0, port: int = 0, **settings: Any
) -> AsyncIterator[tuple[Pretence, Dashboard]]:
    """A job with its dashboard; heartbeats are the caller's business."""
    flags = {"model_zoo": "zoo", "model_def": "m.M", "data": "d", "output": "o", "batch_size": BATCH, "num_epochs": 900}
    spec = JobSpec.from_flags(flags | {"num_workers": workers, "worker_timeout": 30})
    dataset = make_dataset(["a.recordio"], [[ChunkRef(0, 1000, BATCH * EPOCH_STEPS)]], BATCH * EPOCH_STEPS)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with open(folder / "history.jsonl", "a+", buffering=1 << 16, encoding="utf-8") as history:
        for line in past(past_steps, workers):
            history.write(json.dumps(line) + "\n")
        history.flush()
        history.seek(0)
        telemetry = Telemetry(history, time.time)
        last = telemetry.replay(history, time.time())
        history.reconfigure(line_buffering=True)
        state = State(target=workers)
        if past_steps:
            place = place_of(past_steps)
            state = recovered(workers, place, (), 2 * workers + 20, last + 1, time.monotonic())
            telemetry.checkpoint = place
        coordinator = Coordinator(spec, dataset, Site(folder.name, "127.0.0.1"), state, telemetry)
        provisioner = Pretending()
        coordinator.start(provisioner)
        dashboard = await serve(
            coordinator, FolderLogs(JobFolder(folder)), token=TOKEN, address="127.0.0.1", port=port, **settings
        )
        try:
            yield Pretence(coordinator, provisioner), dashboard
        finally:
            await dashboard.close()
            await coordinator.close()


async def _serve(arguments: argparse.Namespace) -> None:
    async with pretended(arguments.folder, arguments.workers, arguments.past, arguments.port) as (job, dashboard):
        job.slow = 2
        print(f"http://127.0.0.1:{dashboard.port}/#token={TOKEN}", flush=True)
        lost_at = time.monotonic() + arguments.lose
        while not job.coordinator.ended.is_set():
            job.beat(time.monotonic())
            if arguments.lose and time.monotonic() > lost_at and job.coordinator.state.round:
                job.lose(job.coordinator.state.round.members[-1])
                lost_at += arguments.lose
            await asyncio.sleep(BEAT_SECONDS)
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--past", type=int, default=0, help="steps done already")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lose", type=float, default=0.0, help="a worker every so many seconds")
    asyncio.run(_serve(parser.parse_args()))
