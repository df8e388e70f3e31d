"""Runs a job through a storm: waits for each fault's moment, has it carried out, sees the job step again."""

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
from tests.chaos import plan, vitals
from tests.chaos.faults import Done, carry_out
from tests.chaos.plan import Fault, When
from tests.chaos.run import Run, alive
from tests.jobs import left_over

PATIENCE = 180.0  # for anything that must happen
TRIGGER_PATIENCE = 20.0  # for the moment of a fault; then it comes all the same
LOOK_SECONDS = 0.005
SAMPLE_SECONDS = 1.0
USELESS_SECONDS = MAX_DEATHS * USEFUL_SECONDS  # with so many coordinators in that time the supervisor may give up


class Failed(Exception):
    """The job got stuck, or ended before its time."""


class Storm:
    """A storm over one job.

    Args:
        folder: where everything is written: `storm.log` for people, `storm.jsonl` and `vitals.jsonl`, and `run-N`, the
            state folder of each start of the command.
        faults: of the storm.
        flags: of `train`.
        steps, epoch_steps: of the whole job, and of an epoch.
        disk: a small one, with the output in it; None where there can be none.
        say: shows progress.
    """

    def __init__(
        self,
        folder: Path,
        faults: tuple[Fault, ...],
        flags: Mapping[str, Any],
        steps: int,
        epoch_steps: int,
        disk: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.disk = folder, disk
        self._faults, self._flags, self._output = faults, flags, Path(flags["output"])
        self._steps, self._epoch_steps, self._say = steps, epoch_steps, say
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._deaths: list[float] = []  # of coordinators of this supervisor
        self._sampled = 0.0
        self._files = {name: (folder / name).open("a", buffering=1) for name in FILES}
        self._target = int(flags["num_workers"])
        self.runs: list[Run] = []

    @property
    def run(self) -> Run:
        """The newest start of the command."""
        return self.runs[-1]

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.runs:
            run.kill_everything()
        for file in self._files.values():
            file.close()

    def blow(self) -> int:
        """The whole storm; returns the exit code of the job.

        Raises:
            Failed: the job is stuck, or has ended before its time.
        """
        try:
            self._start()
            awaited: list[Done] = []
            for fault, after in zip(self._faults, (*self._faults[1:], None), strict=True):
                if not self._moment(fault, awaited):
                    break
                awaited.append(self._strike(fault))
                if not after or after.when not in (When.AT_ONCE, When.ROUND):
                    self._see_it_step(fault, awaited)
                    awaited = []
            self._pace(0)
            self.until(lambda: False, "the end of the job", PATIENCE + 0.1 * (self._steps - self.run.step))
            return self.run.process.wait()
        except Exception as error:
            self.note(f"FAILED: {error}")
            self._diagnose()
            raise

    def note(self, text: str) -> None:
        """A line in the log, and for whoever watches."""
        now = time.time()
        line = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d} {text}"
        print(line, file=self._files["storm.log"])
        self._say(line)

    def until(self, ready: Callable[[], object], what: str, patience: float = PATIENCE) -> bool:
        """Waits for something that only the outside of a job can tell; False when the job ended before.

        Raises:
            Failed: it did not come.
        """
        end = time.monotonic() + patience
        while True:
            self.run.look()
            if ready():
                return True
            if self.run.process.poll() is not None:
                self.run.look()
                return False
            if time.monotonic() >= end:
                raise Failed(f"{what} did not come within {patience:.0f} s")
            self._between()
            time.sleep(LOOK_SECONDS)  # another process's files: there is no event to await

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + seconds, action))

    def coordinator_may_die(self) -> None:
        def may() -> bool:
            recent = [death for death in self._deaths if death > time.monotonic() - USELESS_SECONDS]
            return len(recent) < MAX_DEATHS - 1

        if not may():
            self.note("waiting: the supervisor would give up")
        self.until(may, "the supervisor's forgiveness")
        self._deaths.append(time.monotonic())

    # A fault.

    def _moment(self, fault: Fault, awaited: list[Done]) -> bool:
        """Waits for a fault's moment; False when the job has ended before."""
        if fault.when in (When.LAST, When.EXPORT):
            return self._moment_at_the_end(fault)
        self._pace(plan.pace(fault, len(self._faults), self.run.step, self._steps))
        if fault.full and not self.until(self._full, f"a round of {self._target}"):
            raise Failed(f"the job ended before the storm, exit code {self.run.process.returncode}")
        rounds = self.run.rounds
        triggers: dict[When, Callable[[], object]] = {
            When.ROUND: lambda: self.run.rounds > rounds,
            When.CHECKPOINT: lambda: self.run.writes_checkpoint(self._output),
            When.EPOCH: lambda: self.run.begun_step() % self._epoch_steps == 0 < self.run.begun_step(),
        }
        if trigger := triggers.get(fault.when):
            self._patiently(trigger)
        self._wait(fault.delay)
        if self.run.process.poll() is not None:
            raise Failed(f"the job ended before the storm, exit code {self.run.process.returncode}")
        return True

    def _moment_at_the_end(self, fault: Fault) -> bool:
        wait = PATIENCE + 0.1 * (self._steps - self.run.step)
        if fault.when is When.LAST:
            self._pace(0)
            self.until(lambda: self.run.step >= self._steps - self._epoch_steps, "the last epoch", wait)
            self._pace(0.1)
            reached = self.until(lambda: self.run.begun_step() >= self._steps, "the last step")
        else:
            self._pace(0)
            reached = self.until(lambda: self.run.exporting is not None, "the trained model", wait)
        return reached and self._wait(fault.delay)

    def _strike(self, fault: Fault) -> Done:
        where = {"run": len(self.runs), "line": len(self.run.history.all), "step": self.run.step}
        self._record(fault=fault.number, kind=fault.kind.value, when=fault.when.value, **where)
        done = carry_out(fault, self)
        self.note(f"{fault.number}/{len(self._faults)} step {self.run.step}: {done.text} ({fault})")
        self._record(done=fault.number, text=done.text)
        if fault.kind.restarts:
            self._restart()
            done = Done("")
        self._target = fault.target
        return Done(done.text, done.gone, done.restarts and self.run.restarts + done.restarts)

    def _see_it_step(self, fault: Fault, awaited: list[Done]) -> None:
        """Waits until a step is told that was done when all that must follow from the newest faults had followed."""
        began, before = time.monotonic(), list[tuple[int, int]]()

        def settled() -> bool:
            gone = frozenset[int]().union(*(each.gone for each in awaited))
            if gone & set(self.run.members) or self.run.restarts < max(each.restarts for each in awaited):
                before.clear()
                return False
            before.append((self.run.rounds, self.run.round_steps))
            return before[-1] > before[0] and self.run.round_steps > 0

        if not self.until(settled, f"a step after fault {fault.number}"):
            if fault.when not in (When.LAST, When.EXPORT):
                raise Failed(f"the job ended after fault {fault.number}, exit code {self.run.process.returncode}")
            return
        self._record(over=fault.number, run=len(self.runs), line=len(self.run.history.all))
        self.note(f"    steps again after {time.monotonic() - began:.1f} s, workers {self.run.members}")

    def _full(self) -> bool:
        return len(self.run.living_members()) == self._target == len(self.run.members)

    def _patiently(self, trigger: Callable[[], object]) -> None:
        end = time.monotonic() + TRIGGER_PATIENCE
        self.until(lambda: trigger() or time.monotonic() >= end, "the fault's moment")

    def _wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= end, "the time", seconds + PATIENCE)

    # The command.

    def _start(self) -> None:
        home = self.folder / f"run-{len(self.runs) + 1}"
        environ = {"TMPDIR": str(self.folder / "tmp"), "STORM_FOLDER": str(self.folder)}
        self._pace(0)
        (self.folder / "tmp").mkdir(exist_ok=True)
        self.runs.append(Run(home, self._flags, environ))
        self._deaths = []
        self._record(start=len(self.runs))
        if not self.until(lambda: self.run.round_steps, "the first step"):
            raise Failed(f"no step was done: {self.run.text}")
        self.note(f"run {len(self.runs)} began with step {self.run.history.all[0]['first_step']}")

    def _restart(self) -> None:
        """The same command once more; unless the job was done before it was killed."""
        end = time.monotonic() + PATIENCE
        while left := left_over(self.run.home):
            if time.monotonic() > end:
                raise Failed(f"left over: {left}")
            self._between()
            time.sleep(LOOK_SECONDS)  # another's processes: there is no event to await
        self.run.look()
        self._record(end=len(self.runs), step=self.run.step)
        if bundle.written_by(str(self._output)) == self.run.files.name:
            self.note("the job was done before")
        else:
            self._start()

    # Meanwhile.

    def _between(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self._timers if when <= now]
        self._timers = [(when, action) for when, action in self._timers if when > now]
        for action in due:
            action()
        if now - self._sampled >= SAMPLE_SECONDS:
            self._sampled = now
            self._sample()

    def _sample(self) -> None:
        if not self.run.rounds:
            return
        run = f"run {len(self.runs)}"
        processes = {f"{run}, worker {id}": pid for id, pid in self.run.workers().items()}
        if coordinator := self.run.coordinator():
            processes[f"{run}, coordinator"] = coordinator
        for name, pid in processes.items():
            if taken := vitals.sample(name, pid):
                print(json.dumps({"time": round(time.time(), 1), **taken}), file=self._files["vitals.jsonl"])

    def _pace(self, seconds: float) -> None:
        write_whole(self.folder / "pace", str(seconds))

    def _record(self, **line: Any) -> None:
        print(json.dumps({"time": round(time.time(), 3), **line}), file=self._files["storm.jsonl"])

    def _diagnose(self) -> None:
        """What every process is doing, as far as there are tools to tell."""
        processes = {f"worker {id}": pid for id, pid in self.run.workers().items()}
        if coordinator := self.run.coordinator():
            processes["coordinator"] = coordinator
        with (self.folder / "diagnosis.txt").open("w") as out:
            for name, pid in processes.items():
                for tool, *options in (("py-spy", "dump", "--pid"), ("eu-stack", "-p")):
                    if alive(pid) and shutil.which(tool):
                        print(f"==== {name}: {tool}", file=out, flush=True)
                        subprocess.run([tool, *options, str(pid)], stdout=out, stderr=out, timeout=60)


FILES = ("storm.log", "storm.jsonl", "vitals.jsonl")
