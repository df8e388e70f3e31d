"""Leads a job through a storm: waits for each fault's moment, has it carried out, sees the job step again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import plan
from tests.chaos.faults import Failed, carry_out
from tests.chaos.laboratory import PATIENCE, Laboratory
from tests.chaos.plan import Fault, When

TRIGGER_PATIENCE = 20.0  # for the moment of a fault; then it comes all the same
SLOWEST_STEP = 0.4  # seconds, of a job that is not slowed down
AT_THE_END = (When.LAST, When.EXPORT)


@dataclass(frozen=True)
class Awaited:
    """What must follow from a fault.

    Attributes:
        gone: workers that must be in the round no more.
        run: the start of the command it happened to, or that followed from it.
        restarts: how many restarts of the coordinator there must have been in that run.
        rounds, step: the newest then; a later round, or step, must be done.
    """

    gone: frozenset[int]
    run: int
    restarts: int
    rounds: int
    step: int


class Storm:
    """A storm over one job.

    Args:
        lab: where it takes place.
        faults: of the storm.
        steps, epoch_steps: of the whole job, and of an epoch.
        workers: how many there are to begin with.
    """

    def __init__(self, lab: Laboratory, faults: tuple[Fault, ...], steps: int, epoch_steps: int, workers: int) -> None:
        self._lab, self._faults, self._steps, self._epoch_steps = lab, faults, steps, epoch_steps
        self._target = workers

    def blow(self) -> int:
        """The whole storm; returns the exit code of the job.

        Raises:
            Failed: the job is stuck, has ended before its time, or does not do what it must.
        """
        try:
            self._lab.start()
            awaited: list[Awaited] = []
            for fault, after in zip(self._faults, (*self._faults[1:], None), strict=True):
                if not self._moment(fault):
                    break
                awaited.append(self._strike(fault))
                if not after or after.when.waits:
                    self._see_it_step(fault, awaited)
                    awaited = []
            self._hurry()
            self._lab.until(lambda: False, "the end of the job", self._patience())
            return self._lab.run.process.wait()
        except (Failed, subprocess.TimeoutExpired) as error:
            self._lab.note(f"FAILED: {error}")
            self._lab.diagnose()
            raise Failed(str(error)) from error

    def _moment(self, fault: Fault) -> bool:
        """Waits for a fault's moment; False when the job has ended before."""
        if fault.when in AT_THE_END:
            return self._moment_at_the_end(fault)
        lab = self._lab
        lab.pace = lambda: plan.pace(fault, len(self._faults), lab.run.step, self._steps)
        lab.set_pace()
        if fault.full:
            lab.until(self._full, f"a round of {self._target}")
        rounds = lab.run.rounds
        triggers: dict[When, Callable[[], object]] = {
            When.ROUND: lambda: lab.run.rounds > rounds,
            When.CHECKPOINT: lambda: lab.run.writes_checkpoint(lab.output),
            When.EPOCH: lambda: lab.run.begun_step() % self._epoch_steps == 0 < lab.run.begun_step(),
        }
        if trigger := triggers.get(fault.when):
            end = time.monotonic() + TRIGGER_PATIENCE
            lab.until(lambda: trigger() or time.monotonic() >= end, "the fault's moment")
        if not lab.wait(fault.delay):
            raise Failed(f"the job ended before the storm, exit code {lab.run.process.returncode}: {lab.run.text}")
        return True

    def _moment_at_the_end(self, fault: Fault) -> bool:
        run = self._lab.run
        if fault.when is When.LAST:
            self._hurry(but=self._steps - self._epoch_steps)
            reached = self._lab.until(lambda: run.begun_step() >= self._steps, "the last step", self._patience())
        else:
            self._hurry()
            reached = self._lab.until(lambda: run.exporting is not None, "the trained model", self._patience())
        return reached and self._lab.wait(fault.delay)

    def _hurry(self, but: int | None = None) -> None:
        """From now on steps take their own time, until that step is done."""
        self._lab.pace = lambda: 0.1 if but is not None and self._lab.run.step >= but else 0.0
        self._lab.set_pace()

    def _patience(self) -> float:
        return PATIENCE + SLOWEST_STEP * (self._steps - self._lab.run.step)

    def _strike(self, fault: Fault) -> Awaited:
        lab, run = self._lab, self._lab.run
        where = {"run": len(lab.runs), "line": len(run.history.all), "step": run.step}
        lab.record(fault=fault.number, kind=fault.kind.value, when=fault.when.value, **where)
        before = run.restarts
        done = carry_out(fault, lab)
        lab.note(f"{fault.number}/{len(self._faults)} step {run.step}: {done.text} ({fault})")
        lab.record(done=fault.number, text=done.text)
        self._target = fault.target
        if fault.kind.restarts:
            lab.restart()
            return Awaited(frozenset(), len(lab.runs), 0, lab.run.rounds, lab.run.step)
        return Awaited(done.gone, len(lab.runs), before + done.restarts, run.rounds, run.begun_step())

    def _see_it_step(self, fault: Fault, awaited: list[Awaited]) -> None:
        """Waits until a step is told that was done when all that must follow from the newest faults had followed."""
        run, began = self._lab.run, time.monotonic()
        current = [each for each in awaited if each.run == len(self._lab.runs)]
        gone = frozenset[int]().union(*(each.gone for each in current))
        restarts, rounds, step = (
            max(values) for values in zip(*((each.restarts, each.rounds, each.step) for each in current), strict=True)
        )

        def settled() -> bool:
            if gone & set(run.members) or run.restarts < restarts:
                return False
            return run.round_steps > 0 and (run.rounds > rounds or run.step > step)

        if self._lab.until(settled, f"a step after fault {fault.number}"):
            self._lab.record(over=fault.number, run=len(self._lab.runs), line=len(run.history.all))
            self._lab.note(f"    steps again after {time.monotonic() - began:.1f} s, workers {run.members}")
        elif fault.when not in AT_THE_END:
            code = run.process.returncode
            raise Failed(f"the job ended after fault {fault.number}, exit code {code}: {run.text}")

    def _full(self) -> bool:
        run = self._lab.run
        return len(run.living_members()) == self._target == len(run.members)
