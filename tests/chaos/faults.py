"""Carries out a fault on a running job; what the job does about it is none of this module's business."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edl_allreduce.job_folder import write_whole
from tests.chaos.plan import Fault, Kind, picked
from tests.chaos.run import Run, send

STOP_PATIENCE = 90.0  # for a job to end that has been told to
NEWCOMER_SECONDS = 6.0  # a newcomer takes about so long to prepare


class Failed(Exception):
    """The job got stuck, ended before its time, or did not do what it must."""


@dataclass(frozen=True)
class Done:
    """What has been done, and what must follow from it.

    Attributes:
        text: for people.
        gone: workers that can be in no round any more.
        restarts: so many more coordinators there must be.
    """

    text: str
    gone: frozenset[int] = frozenset()
    restarts: int = 0


class Lab(Protocol):
    """What faults need of the laboratory."""

    folder: Path
    disk: Path | None

    @property
    def run(self) -> Run:
        """The job as it was started last."""

    def until(self, ready: Callable[[], object], what: str, patience: float = ...) -> bool:
        """Waits; False when the job ended before."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Has something done while others wait."""

    def coordinator_may_die(self) -> None:
        """Waits until the supervisor would start another one; notes the death."""


def carry_out(fault: Fault, lab: Lab) -> Done:
    """Does it, now."""
    return _ACTIONS[fault.kind](fault, lab)


def _signal(number: int, choose: Callable[[Fault, Run, dict[int, int]], list[int]]) -> Callable[[Fault, Lab], Done]:
    """Sends a signal to some members of the newest round."""

    def act(fault: Fault, lab: Lab) -> Done:
        members = lab.run.living_members()
        chosen = choose(fault, lab.run, members) if members else []
        for id in chosen:
            send(members[id], number)
        return Done(f"{signal.Signals(number).name} to {_named(chosen)} of {lab.run.members}", frozenset(chosen))

    return act


def _one(fault: Fault, run: Run, members: dict[int, int]) -> list[int]:
    return [picked(fault, list(members))]


def _root(fault: Fault, run: Run, members: dict[int, int]) -> list[int]:
    """Rank 0, or who writes the trained model."""
    return [run.exporting if run.exporting in members else next(iter(members))]


def _several(fault: Fault, run: Run, members: dict[int, int]) -> list[int]:
    """At least two, where there are two; one is left, where there are three."""
    most = max(2, len(members) - 1)
    number = min(len(members), 2 + int(fault.amount * (most - 1)))
    return random.Random(fault.pick).sample(sorted(members), number)


def _all(fault: Fault, lab: Lab) -> Done:
    workers = lab.run.workers()
    for pid in workers.values():
        send(pid, signal.SIGKILL)
    return Done(f"SIGKILL to {_named(workers)}, which are all", frozenset(workers))


def _newcomer(fault: Fault, lab: Lab) -> Done:
    """Kills a worker, and somewhere in its preparation the one that comes in its place."""
    first = _signal(signal.SIGKILL, _one)(fault, lab)
    before = lab.run.workers().keys() | first.gone
    lab.until(lambda: lab.run.workers().keys() - before, "a newcomer")
    id, pid = max(lab.run.workers().items())
    end = time.monotonic() + fault.amount * NEWCOMER_SECONDS
    lab.until(lambda: time.monotonic() >= end or id in lab.run.members, "the newcomer's end")
    send(pid, signal.SIGKILL)
    return Done(f"{first.text}; then to worker {id}, which came in its place", first.gone | {id})


def _pause(fault: Fault, lab: Lab) -> Done:
    members = lab.run.living_members()
    if not members:
        return Done("no member there")
    id = picked(fault, list(members))
    send(members[id], signal.SIGSTOP)
    lab.later(fault.amount, lambda: send(members[id], signal.SIGCONT))
    return Done(f"SIGSTOP to worker {id} of {lab.run.members}, SIGCONT after {fault.amount:.1f} s")


def _hang(fault: Fault, lab: Lab) -> Done:
    members = lab.run.living_members()
    if len(members) < 2:
        return Done(f"{_named(members)} alone: nobody would wait for it")
    id = picked(fault, list(members))
    how = "busy" if fault.amount < 0.5 else "asleep"
    order = lab.folder / f"hang-{members[id]}"
    write_whole(order, how)
    lab.until(lambda: not order.exists() or id not in lab.run.living_members(), "the worker to hang")
    order.unlink(missing_ok=True)
    return Done(f"worker {id} of {lab.run.members} hangs for ever in the model's call, {how}", frozenset({id}))


def _scale(fault: Fault, lab: Lab) -> Done:
    said = lab.run.edl("scale", lab.run.files.name, str(fault.target))
    if f"keeps {fault.target} worker" not in said:
        raise Failed(f"edl scale: {said}")
    return Done(said)


def _coordinator(fault: Fault, lab: Lab) -> Done:
    lab.coordinator_may_die()
    pid = lab.run.coordinator()
    if pid is None:
        return Done("no coordinator there")
    send(pid, signal.SIGKILL)
    return Done(f"SIGKILL to the coordinator, process {pid}", restarts=1)


def _coordinator_and_worker(fault: Fault, lab: Lab) -> Done:
    coordinator = _coordinator(fault, lab)
    if fault.amount > 0.5:
        time.sleep(fault.amount - 0.5)
    worker = _signal(signal.SIGKILL, _one)(fault, lab)
    return Done(f"{coordinator.text}; {worker.text}", worker.gone, coordinator.restarts)


def _pause_coordinator(fault: Fault, lab: Lab) -> Done:
    pid = lab.run.coordinator()
    if pid is None:
        return Done("no coordinator there")
    send(pid, signal.SIGSTOP)
    lab.later(fault.amount, lambda: send(pid, signal.SIGCONT))
    return Done(f"SIGSTOP to the coordinator, process {pid}, SIGCONT after {fault.amount:.1f} s")


def _full_disk(fault: Fault, lab: Lab) -> Done:
    if lab.disk is None:
        return Done("only root on Linux can mount a small disk: left out")
    ballast = lab.disk / "ballast"
    handle = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(handle, bytes(1 << 20)):
            pass
    except OSError:
        os.close(handle)
    lab.later(fault.amount, lambda: ballast.unlink(missing_ok=True))
    return Done(f"the output's disk is full for {fault.amount:.1f} s")


def _everything(fault: Fault, lab: Lab) -> Done:
    lab.run.kill_everything()
    return Done("SIGKILL to launcher, supervisor, coordinator and workers")


def _launcher(fault: Fault, lab: Lab) -> Done:
    lab.run.process.kill()
    lab.run.process.wait()
    return Done("SIGKILL to the launcher")


def _supervisor(fault: Fault, lab: Lab) -> Done:
    if supervisor := lab.run.supervisor():
        send(supervisor.pid, signal.SIGKILL)
    return Done(f"SIGKILL to the supervisor, exit code {lab.run.process.wait(STOP_PATIENCE)}")


def _ctrl_c(fault: Fault, lab: Lab) -> Done:
    lab.run.process.send_signal(signal.SIGINT)
    code = lab.run.process.wait(STOP_PATIENCE)
    if code != 130:
        raise Failed(f"Ctrl-C: exit code {code}: {lab.run.text}")
    return Done("SIGINT to the launcher, exit code 130")


def _edl_stop(fault: Fault, lab: Lab) -> Done:
    said = lab.run.edl("stop", lab.run.files.name, patience=STOP_PATIENCE)
    return Done(f"{said}; exit code {lab.run.process.wait(STOP_PATIENCE)}")


def _named(ids: dict[int, int] | list[int]) -> str:
    numbers = ", ".join(map(str, sorted(ids)))
    return f"worker{'' if len(ids) == 1 else 's'} {numbers}" if numbers else "nobody"


_ACTIONS: dict[Kind, Callable[[Fault, Lab], Done]] = {
    Kind.KILL: _signal(signal.SIGKILL, _one),
    Kind.KILL_ROOT: _signal(signal.SIGKILL, _root),
    Kind.KILL_SEVERAL: _signal(signal.SIGKILL, _several),
    Kind.KILL_ALL: _all,
    Kind.KILL_NEWCOMER: _newcomer,
    Kind.STOP: _signal(signal.SIGSTOP, _one),
    Kind.PAUSE: _pause,
    Kind.HANG: _hang,
    Kind.TERM: _signal(signal.SIGTERM, _one),
    Kind.TERM_SEVERAL: _signal(signal.SIGTERM, _several),
    Kind.SCALE: _scale,
    Kind.KILL_COORDINATOR: _coordinator,
    Kind.KILL_COORDINATOR_AND_WORKER: _coordinator_and_worker,
    Kind.PAUSE_COORDINATOR: _pause_coordinator,
    Kind.FULL_DISK: _full_disk,
    Kind.KILL_EVERYTHING: _everything,
    Kind.KILL_LAUNCHER: _launcher,
    Kind.KILL_SUPERVISOR: _supervisor,
    Kind.CTRL_C: _ctrl_c,
    Kind.EDL_STOP: _edl_stop,
}
