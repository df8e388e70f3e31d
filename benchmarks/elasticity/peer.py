"""What the jobs of other frameworks have in common: faults one after the other, seen through their steps' times."""

from __future__ import annotations

import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.elasticity.family import Family
from benchmarks.elasticity.figures import NEXT_STEP, PAUSE, REPEATED, TRAINS, Measurement
from benchmarks.elasticity.settings import (
    BATCH,
    LEARNING_RATE,
    READY_SECONDS,
    SETTLE_SECONDS,
    Settings,
    next_of,
    thread_settings,
)
from benchmarks.elasticity.stamps import Aftermath, StampLog, TooLate, aftermath, members, until

COMMIT_STEPS = 10
FRESH_SECONDS = 3.0  # who has done a step within this time trains
FRESH_STEPS = 10


@dataclass(frozen=True)
class Setting:
    """What a job is given.

    Attributes:
        folder: for its files; must not exist.
        data: images and labels as .npz.
    """

    settings: Settings
    folder: Path
    data: Path
    chance: random.Random


class PeerJob(ABC):
    """One running job of another framework; a context manager.

    Attributes:
        size: how many workers should be training now.
    """

    name: str

    def __init__(self, setting: Setting) -> None:
        (setting.folder / "stamps").mkdir(parents=True)
        self.size = setting.settings.workers
        self._settings, self._folder, self._data = setting.settings, setting.folder, setting.data
        self._chance = setting.chance
        self._stamps = StampLog(setting.folder / "stamps")
        self._family = Family(setting.folder / "log")

    def __enter__(self) -> PeerJob:
        try:
            self.begin()
        except BaseException:
            self._family.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._family.end()

    @abstractmethod
    def begin(self) -> None:
        """Starts its processes."""

    @abstractmethod
    def leave(self) -> None:
        """Wants one worker less."""

    @abstractmethod
    def join(self) -> None:
        """Wants one worker more, after `leave` or the loss of one."""

    def kill(self, pid: int) -> None:
        """Kills a worker."""
        os.kill(pid, signal.SIGKILL)

    def measure(self, kind: str) -> Measurement:
        """Waits until all train, inflicts a fault, and says what it has cost.

        Raises:
            TooLate: the workers did not come to train.
        """
        victim = self._settle()
        time.sleep(self._chance.uniform(*SETTLE_SECONDS))
        load, at = os.getloadavg()[0], time.monotonic()
        match kind:
            case "kill":
                self.kill(victim)
            case "hang":
                os.kill(victim, signal.SIGSTOP)
            case "leave":
                self.leave()
            case "join":
                self.join()
        dead = victim if kind in ("kill", "hang") else None
        try:
            after = until(lambda: self._aftermath(at, dead), self._settings.limit, "the next step")
        except TooLate:
            return Measurement(self.name, kind, load, {NEXT_STEP: None, PAUSE: None})
        values = {NEXT_STEP: after.next_step, PAUSE: after.pause, REPEATED: float(after.repeated)}
        return Measurement(self.name, kind, load, values | ({TRAINS: after.next_step} if kind == "join" else {}))

    def training_flags(self) -> list[str]:
        """Flags of the training scripts."""
        return [
            f"--data={self._data}",
            f"--stamps={self._folder / 'stamps'}",
            f"--batch={BATCH}",
            f"--commit_steps={COMMIT_STEPS}",
            f"--learning_rate={LEARNING_RATE}",
        ]

    def environ(self) -> dict[str, str]:
        """Variables of its processes."""
        return thread_settings(self._settings.workers)

    def _aftermath(self, at: float, victim: int | None) -> Aftermath | None:
        self.check()
        return aftermath(self._stamps.read(), at, victim)

    def _settle(self) -> int:
        """Waits until as many train as should; returns one of them."""

        def settled() -> list[int] | None:
            self.check()
            found = members(self._stamps.read(), time.monotonic(), FRESH_SECONDS, FRESH_STEPS)
            return found if len(found) == self.size else None

        return self._chance.choice(until(settled, READY_SECONDS, f"training with {self.size} workers"))

    def check(self) -> None:
        """Raises TooLate when the job has ended."""
        if not self._family.alive():
            raise TooLate(f"the job has ended; see {self._folder / 'log'}")


@dataclass(frozen=True)
class Peer:
    """Another framework.

    Attributes:
        groups: kinds of faults; those of one group come in one job.
        make: a job for a group, in a folder.
        missing: what must be installed first; empty: nothing.
        about: how it is run.
    """

    name: str
    groups: tuple[tuple[str, ...], ...]
    make: Callable[[Setting, tuple[str, ...]], PeerJob]
    missing: str
    about: str


def measure_peer(peer: Peer, settings: Settings, folder: Path, data: Path) -> Generator[Measurement, None, None]:
    """Every fault as often as wanted; one job for each group of kinds, and another after a fault without an end.

    A kind whose fault has had no end within the limit is not tried again.

    Args:
        folder: for the jobs' files.
        data: images and labels as .npz.

    Raises:
        TooLate: workers did not come to train.
    """
    chance = random.Random(settings.seed)
    for group in peer.groups:
        left = {kind: settings.peer_repeats for kind in group if kind in settings.kinds}
        jobs = 0
        while any(left.values()):
            jobs += 1
            setting = Setting(settings, folder / f"{'-'.join(group)}-{jobs}", data, chance)
            with peer.make(setting, group) as job:
                yield from _measure_job(job, left, settings.workers)


def _measure_job(job: PeerJob, left: dict[str, int], full: int) -> Generator[Measurement, None, None]:
    while (kind := next_of(left, job.size, full)) is not None:
        found = job.measure(kind)
        endless = found.values[NEXT_STEP] is None
        if left.get(kind):
            left[kind] = 0 if endless else left[kind] - 1
            yield found
        if endless:
            return
