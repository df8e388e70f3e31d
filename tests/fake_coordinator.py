"""Speaks the coordinator's protocol without training, so that the launcher is tested in seconds, whatever may happen.

The real coordinator cannot be told to crash, to go deaf or to reform at a given moment. This one keeps the same
contract (job folder, address, token, Watch, SIGTERM, standard input, status.json, a process group with workers in it,
being started again by the supervisor) and plays the scenario in the variable FAKE_SCENARIO:

    train         starts, trains a few steps, reforms once, ends well
    forever       trains until it is stopped
    deaf          the same, and ignores SIGTERM
    crash         raises before it serves
    vanish        is killed while training, each time; its workers stay
    vanish_once   is killed while training; the next one goes on with its workers
    model_error   fails as a user's model does
    mute          is never done with indexing, and so never serves
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format

from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.control.control_pb2 import (
    Empty,
    Event,
    EventsRequest,
    Position,
    RoundStatus,
    ScaleRequest,
    Status,
    StopRequest,
    WatchRequest,
    WorkerStatus,
)
from edl_allreduce.job_folder import JobFolder, write_whole
from edl_allreduce.processes import command_line, kinship_of, pids
from edl_allreduce.spec import JobSpec

STEPS = 40
STEP_SECONDS = 0.02
KILLED_AT = 10  # step


class FakeCoordinator(control_pb2_grpc.CoordinatorServicer):
    def __init__(self, folder: JobFolder, scenario: str) -> None:
        self.folder, self.scenario = folder, scenario
        self.spec = JobSpec.from_json(folder.spec.read_text())
        self.token = folder.token.read_text()
        self.lock = threading.Condition()
        self.lines = folder.history.read_text().splitlines() if folder.history.exists() else []
        self.stopped = threading.Event()
        self.target = self.spec.elastic.num_workers
        self.restarts = int(os.environ["EDL_RESTARTS"])
        self.workers = _orphans()
        self.status = Status(phase="starting", message="indexing data", num_epochs=2, total_steps=STEPS, records=1000)
        self.status.coordinator_restarts = self.restarts
        self.status.position.step = KILLED_AT if self.restarts else 0

    def Watch(self, request: WatchRequest, context: Any) -> Iterator[Status]:
        self._check(context)
        while True:
            with self.lock:
                status = Status()
                status.CopyFrom(self.status)
            yield status
            if status.phase in ("done", "failed", "stopped"):
                return
            with self.lock:
                self.lock.wait(0.05)

    def Scale(self, request: ScaleRequest, context: Any) -> Empty:
        self._check(context)
        with self.lock:
            self.target = self.status.target_workers = request.num_workers
            while len(self.workers) < self.target:
                self._start_worker()
        return Empty()

    def Stop(self, request: StopRequest, context: Any) -> Empty:
        self._check(context)
        self.stopped.set()
        return Empty()

    def Events(self, request: EventsRequest, context: Any) -> Iterator[Event]:
        self._check(context)
        told = 0
        while True:
            with self.lock:
                fresh, ended = self.lines[told:], self.status.phase in ("done", "failed", "stopped")
            yield from (Event(json=line) for line in fresh if request.steps or "loss" not in line)
            told += len(fresh)
            if ended or not request.follow:
                return
            with self.lock:
                self.lock.wait(0.05)

    def Work(self, request_iterator: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "there are no workers here")

    def _check(self, context: Any) -> None:
        if ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")

    def _start_worker(self) -> None:
        self.workers.append(os.posix_spawnp("sleep", ["sleep", "600"], os.environ))

    def say(self, **values: Any) -> None:
        with self.lock:
            for name, value in values.items():
                setattr(self.status, name, value)
            del self.status.workers[:]
            state = "preparing" if self.status.phase == "starting" else "training"
            for rank, worker in enumerate(self.workers):
                self.status.workers.append(WorkerStatus(id=rank, pid=worker, state=state, rank=rank))
            self.status.target_workers = self.target
            self.lock.notify_all()

    def write(self, line: dict[str, Any]) -> None:
        with self.lock, self.folder.history.open("a") as file:
            self.lines.append(json.dumps(line))
            file.write(f"{self.lines[-1]}\n")
            self.lock.notify_all()

    def round(self, cause: str, step: int, paused: float) -> None:
        with self.lock:
            number = len(self.status.rounds) + 1
            each = RoundStatus(
                number=number, size=len(self.workers), cause=cause, paused_seconds=paused, first_step=step
            )
            self.status.rounds.append(each)
        members = list(range(len(self.workers)))
        line = {"round": number, "members": members, "cause": cause, "kind": "start" if number == 1 else "lost"}
        self.write({"time": round(time.time(), 3)} | line | {"first_step": step})
        if paused:
            self.write({"time": round(time.time(), 3), "round": number, "paused_seconds": paused})

    def play(self) -> int:
        while len(self.workers) < self.target:
            self._start_worker()
        self.say(message="")
        self.stopped.wait(0.1)
        if self.scenario == "model_error":
            self.say(phase="failed", message="model_zoo/digits.py:12: NameError: name 'x' is not defined", exit_code=5)
            return 5
        self.round("the first workers are ready", 1, 0.0)
        step = KILLED_AT if self.restarts else 0
        while not self.stopped.is_set():
            step += 1
            if (self.scenario == "vanish_once" and step == KILLED_AT) or (
                self.scenario == "vanish" and step >= KILLED_AT
            ):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.scenario == "train" and step == STEPS // 2:
                self.round("worker 1 was lost", step, 0.17)
            if self.scenario in ("train", "vanish_once") and step > STEPS:
                self.say(phase="exporting")
                self.say(phase="done")
                return 0
            with self.lock:
                self.status.position.CopyFrom(Position(epoch=min(1, 2 * step // STEPS), step=step))
            seconds = step * STEP_SECONDS
            self.write({"step": step, "epoch": 0, "loss": 1 / step, "records": 50, "seconds": 0.02, "useful": 0.02})
            self.say(
                phase="training", loss=1 / step, records_per_second=1e3, seconds_left=2.0, training_seconds=seconds
            )
            self.stopped.wait(STEP_SECONDS)
        self.say(phase="stopped", message="asked to", exit_code=6)
        return 6

    def await_launchers_death(self) -> None:
        sys.stdin.read()
        self.stopped.set()

    def end_workers(self) -> None:
        for worker in self.workers:
            os.kill(worker, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # the supervisor's, who will ask how it ended
                os.waitpid(worker, 0)


def _orphans() -> list[int]:
    """Workers that an earlier coordinator has left."""
    alike = [pid for pid in pids() if command_line(pid) == ["sleep", "600"]]
    return [pid for pid in alike if (kinship := kinship_of(pid)) and kinship.parent == os.getppid()]


def main() -> int:
    folder = JobFolder(Path(sys.argv[1].removeprefix("--job_folder=")))
    scenario = os.environ.get("FAKE_SCENARIO", "train")
    if scenario == "crash":
        raise RuntimeError("the fake coordinator was told to crash")
    fake = FakeCoordinator(folder, scenario)
    signal.signal(signal.SIGTERM, lambda *_: None if scenario == "deaf" else fake.stopped.set())
    threading.Thread(target=fake.await_launchers_death, daemon=True).start()
    if scenario == "mute":
        fake.stopped.wait()
        return 6
    server = grpc.server(futures.ThreadPoolExecutor(4))
    control_pb2_grpc.add_CoordinatorServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    write_whole(folder.address, f"127.0.0.1:{port}")
    code = fake.play()
    fake.end_workers()
    write_whole(folder.status, json_format.MessageToJson(fake.status, preserving_proto_field_name=True))
    server.stop(0.1).wait()
    return code


if __name__ == "__main__":
    sys.exit(main())
