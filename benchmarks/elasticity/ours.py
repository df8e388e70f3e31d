"""Faults in a job of edl_allreduce: the digits model on this machine, through the launcher's public interface."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import launcher
from benchmarks.elasticity import history
from benchmarks.elasticity.figures import (
    AFTER_DECISION,
    GAP,
    GREETED,
    NEXT_STEP,
    OURS,
    PAUSE,
    REPEATED,
    TOLD,
    TRAINS,
    USUAL_GAP,
    Measurement,
)
from benchmarks.elasticity.settings import BATCH, LEARNING_RATE, READY_SECONDS, SETTLE_SECONDS, Settings, order_of
from benchmarks.elasticity.stamps import StampLog, aftermath, longest_gap, until, within
from edl_allreduce.errors import EdlError
from edl_allreduce.job_folder import JobFolder

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status, WorkerStatus

MODEL_ZOO, MODEL = Path(__file__).parent.parent / "peers", "ours.Stamped"
FOREVER_EPOCHS = 100_000
WINDOW_SECONDS = 60.0  # of stamps before a fault that are looked at
AFTER_GREETINGS_SECONDS = 1.0
CALM_SECONDS = 3.0  # before the coordinator dies: the gaps until then are compared with those after it
TOLD_SECONDS = 0.5  # two heartbeats: until then the history has what it will have

Values = dict[str, float | None]


class OurJob:
    """A job that trains until it is closed; a context manager.

    Attributes:
        folder: the job's, with its history and logs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._chance = settings, random.Random(settings.seed)
        stamps = settings.work / "ours" / "stamps"
        stamps.mkdir(parents=True)
        self._stamps = StampLog(stamps)
        self._offset = time.time() - time.monotonic()
        self._job = start(
            settings,
            "disturbed",
            str(stamps),
            wait=False,
            num_epochs=FOREVER_EPOCHS,
            num_workers=settings.workers,
            gather_timeout=60,
        )
        self.folder: Path = JobFolder.of(self._job.name, os.environ).path

    def __enter__(self) -> OurJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._job.stop()

    def measure(self) -> Generator[Measurement, None, None]:
        """Inflicts one fault after the other, and says what each has cost."""
        order = order_of(self._settings.kinds, self._settings.repeats, self._chance)
        self._settle(self._settings.workers, 0)
        for kind in order:
            time.sleep(self._chance.uniform(*SETTLE_SECONDS))
            load = os.getloadavg()[0]
            values = self._coordinator_dies() if kind == "coordinator" else self._round_changes(kind)
            if kind in self._settings.kinds:
                yield Measurement(OURS, kind, load, values)

    def _round_changes(self, kind: str) -> Values:
        """Inflicts a fault that ends in another round; returns when everybody trains again."""
        round_before = self._job.status().round
        victim = self._chance.choice(self._training(self._job.status()))
        inflict, size, lost = self._faults(victim)[kind]
        at = time.monotonic()
        inflict()
        self._settle(size, round_before)
        time.sleep(TOLD_SECONDS)
        found = history.rounds(self.folder / "history.jsonl")
        stamps = within(self._stamps.since(at - WINDOW_SECONDS), history.spans(found, self._offset))
        after = aftermath(stamps, at, victim.pid if lost else None)
        if after is None:
            raise EdlError(f"{kind}: no step has followed; see {self.folder}/logs")
        told = next((each.paused_seconds for each in found if each.number == after.ring), None)
        values: Values = {NEXT_STEP: after.next_step, PAUSE: after.pause, REPEATED: after.repeated}
        if told is not None:
            values[TOLD] = told
        if kind == "join":
            values[TRAINS] = after.next_step
        if kind == "hang":
            decided = next(self._logged(f"Lost(id={victim.id},", at), None)
            values[AFTER_DECISION] = None if decided is None else at + after.next_step - decided
        return values

    def _faults(self, victim: WorkerStatus) -> dict[str, tuple[Callable[[], Any], int, bool]]:
        """For each kind: what to do, how many workers train in the end, whether the victim is lost over it."""
        workers = self._settings.workers
        return {
            "kill": (lambda: os.kill(victim.pid, signal.SIGKILL), workers, True),
            "hang": (lambda: os.kill(victim.pid, signal.SIGSTOP), workers, True),
            "sigterm": (lambda: os.kill(victim.pid, signal.SIGTERM), workers, False),
            "leave": (lambda: self._job.scale(workers - 1), workers - 1, False),
            "join": (lambda: self._job.scale(workers), workers, False),
        }

    def _coordinator_dies(self) -> Values:
        members = len(self._training(self._job.status()))
        time.sleep(CALM_SECONDS)
        coordinator, at = self._coordinator(), time.monotonic()
        coordinator.kill()

        def greetings() -> list[float] | None:
            found = list(self._logged("standing=Standing(", at))
            return found if len(found) >= members else None

        greeted = until(greetings, self._settings.limit, "the greetings of all workers")[members - 1]
        end = greeted + AFTER_GREETINGS_SECONDS
        time.sleep(max(0.0, end - time.monotonic()))
        self._settle(self._settings.workers, 0)
        stamps = self._stamps.since(at - WINDOW_SECONDS)
        usual = longest_gap(stamps, at - (end - at), at)
        return {GAP: longest_gap(stamps, at, end), USUAL_GAP: usual, GREETED: greeted - at}

    def _coordinator(self) -> psutil.Process:
        for process in psutil.Process(self._job.pid).children():
            if "rendezvous" in process.cmdline():
                return process
        raise EdlError(f"job {self._job.name} has no coordinator; see {self.folder}/logs/coordinator.log")

    def _logged(self, text: str, since: float) -> Iterator[float]:
        """When the coordinator's log has such lines, monotonic seconds."""
        log = self.folder / "logs" / "coordinator.log"
        return (when - self._offset for when in history.logged(log, text, since + self._offset))

    def _settle(self, size: int, round_before: int) -> None:
        """Waits until a round after that one trains with so many workers."""

        def settled() -> bool | None:
            status = self._job.status()
            if self._job.exit_code is not None:
                self._job.wait()
                raise EdlError(f"job {self._job.name} has ended: {status.phase}")
            there = status.round > round_before and len(self._training(status)) == len(status.workers) == size
            return True if there and status.phase == "training" else None

        until(settled, READY_SECONDS, f"a round with {size} workers")

    @staticmethod
    def _training(status: Status) -> list[WorkerStatus]:
        return [worker for worker in status.workers if worker.rank >= 0]


def start(settings: Settings, name: str, stamps: str, **flags: Any) -> Any:
    """Trains the digits; the handle of the job.

    Args:
        name: of the output folder.
        stamps: folder for every step's time; empty: nowhere.
    """
    return launcher.train(
        model_zoo=str(MODEL_ZOO),
        model_def=MODEL,
        params={"learning_rate": LEARNING_RATE, "stamps": stamps},
        data=settings.data,
        output=str(settings.work / "ours" / name),
        batch_size=BATCH,
        seed=settings.seed,
        quiet=True,
        **flags,
    )
