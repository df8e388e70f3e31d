"""Starts the job as often as the storm wants, waits for what it does, and writes down everything meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edl_allreduce import bundle
from edl_allreduce.job_folder import write_whole
from rendezvous.supervisor import MAX_DEATHS, USEFUL_SECONDS
from tests.chaos import vitals
from tests.chaos.faults import Failed
from tests.chaos.run import Run, alive, first_step
from tests.jobs import left_over

PATIENCE = 180.0  # for anything that must happen
LOOK_SECONDS = 0.005
SAMPLE_SECONDS = 1.0
USELESS_SECONDS = MAX_DEATHS * USEFUL_SECONDS  # with so many coordinators in that time the supervisor may give up


class Laboratory:
    """Where the storm takes place.

    Args:
        folder: where everything is written: `storm.log` for people, `storm.jsonl`, `vitals.jsonl`, and `run-N`, the
            state folder of each start of the command.
        flags: of `train`.
        disk: a small one, with the output in it; None where there can be none.
        say: shows progress.
    Attributes:
        pace: seconds that a step takes longer, asked for every second.
    """

    def __init__(self, folder: Path, flags: Mapping[str, Any], disk: Path | None, say: Callable[[str], None]) -> None:
        self.folder, self.disk = folder, disk
        self.output = Path(flags["output"])
        self.pace: Callable[[], float] = lambda: 0.0
        self.runs: list[Run] = []
        self._flags, self._say = flags, say
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._deaths: list[float] = []  # of coordinators of this supervisor
        self._looked = 0.0
        self._files = {name: (folder / name).open("a", buffering=1) for name in FILES}

    @property
    def run(self) -> Run:
        """The job as it was started last."""
        return self.runs[-1]

    def __enter__(self) -> Laboratory:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.runs:
            run.kill_everything()
        for file in self._files.values():
            file.close()

    def note(self, text: str) -> None:
        """A line in the log, and for whoever watches."""
        now = time.time()
        line = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d} {text}"
        print(line, file=self._files["storm.log"])
        self._say(line)

    def record(self, **line: Any) -> None:
        """A line for the verdict."""
        print(json.dumps({"time": round(time.time(), 3), **line}), file=self._files["storm.jsonl"])

    def until(self, ready: Callable[[], object], what: str, patience: float = PATIENCE) -> bool:
        """Waits for something that only the outside of a job can tell; False when the job ended before.

        Raises:
            Failed: it did not come.
        """
        end = time.monotonic() + patience
        while True:
            ended = self.run.process.poll() is not None
            self.run.look()
            if ready():
                return True
            if ended:
                return False
            if time.monotonic() >= end:
                raise Failed(f"{what} did not come within {patience:.0f} s")
            self._between()
            time.sleep(LOOK_SECONDS)  # another process's files: there is no event to await

    def wait(self, seconds: float) -> bool:
        """Lets time go by; False when the job ended before."""
        end = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= end, "the time", seconds + PATIENCE)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Has something done while others wait."""
        self._timers.append((time.monotonic() + seconds, action))

    def coordinator_may_die(self) -> None:
        """Waits until the supervisor would start another one; notes the death."""

        def may() -> bool:
            recent = [death for death in self._deaths if death > time.monotonic() - USELESS_SECONDS]
            return len(recent) < MAX_DEATHS - 1

        if not may():
            self.note("waiting: the supervisor would give up")
        self.until(may, "the supervisor's forgiveness")
        self._deaths.append(time.monotonic())

    def set_pace(self) -> None:
        """Has the job's steps take as much longer as is wanted now."""
        write_whole(self.folder / "pace", str(self.pace()))

    # The command.

    def start(self) -> None:
        """Starts the command, and returns when a step is done.

        Raises:
            Failed: none is.
        """
        (self.folder / "tmp").mkdir(exist_ok=True)
        write_whole(self.folder / "pace", "0")
        environ = {"TMPDIR": str(self.folder / "tmp"), "STORM_FOLDER": str(self.folder)}
        self.runs.append(Run(self.folder / f"run-{len(self.runs) + 1}", self._flags, environ))
        self._deaths = []
        self.record(start=len(self.runs))
        if not self.until(lambda: self.run.round_steps, "the first step"):
            raise Failed(f"no step was done: {self.run.text}")
        self.note(f"run {len(self.runs)} began with step {first_step(self.run.history.all)}")

    def restart(self) -> None:
        """The same command once more, when nothing is left of the job; unless that was done before it was killed.

        Raises:
            Failed: something stays, or no step is done.
        """
        end = time.monotonic() + PATIENCE
        while left := left_over(self.run.home):
            if time.monotonic() > end:
                raise Failed(f"left over: {left}")
            self._between()
            time.sleep(LOOK_SECONDS)  # another's processes: there is no event to await
        self.run.look()
        self.record(end=len(self.runs), step=self.run.step)
        if bundle.written_by(str(self.output)) == self.run.files.name:
            self.note("the job was done before")
        else:
            self.start()

    def diagnose(self) -> None:
        """Writes what every process is doing to `diagnosis.txt`, as far as there are tools to tell."""
        with (self.folder / "diagnosis.txt").open("w") as out:
            for name, pid in self._processes().items():
                for tool, *options in (("py-spy", "dump", "--pid"), ("eu-stack", "-p")):
                    if alive(pid) and shutil.which(tool):
                        print(f"==== {name}: {tool}", file=out, flush=True)
                        subprocess.run([tool, *options, str(pid)], stdout=out, stderr=out, timeout=60)

    # Meanwhile.

    def _between(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self._timers if when <= now]
        self._timers = [(when, action) for when, action in self._timers if when > now]
        for action in due:
            action()
        if now - self._looked >= SAMPLE_SECONDS:
            self._looked = now
            self.set_pace()
            for name, pid in self._processes().items() if self.run.rounds else ():
                if taken := vitals.sample(name, pid):
                    print(json.dumps({"time": round(time.time(), 1), **taken}), file=self._files["vitals.jsonl"])

    def _processes(self) -> dict[str, int]:
        """Those of the job that may live long, by name."""
        run = f"run {len(self.runs)}"
        processes = {f"{run}, worker {id}": pid for id, pid in self.run.workers().items()}
        coordinator = self.run.coordinator()
        return processes | ({f"{run}, coordinator": coordinator} if coordinator else {})


FILES = ("storm.log", "storm.jsonl", "vitals.jsonl")
