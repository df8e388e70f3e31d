"""Decides a storm: which faults, each at which moment of the job, from the seed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

SIZES = (1, 2, 2, 3, 3, 4, 4)  # of jobs: one worker alone is rare, it has nobody to go on with
STEPS_PER_FAULT = 70  # so long is the job
PACES = (0.0, 0.01, 0.03, 0.1)  # seconds that a step takes longer


class Kind(str, Enum):
    """What is done."""

    KILL = "kill a worker"
    KILL_ROOT = "kill rank 0"
    KILL_SEVERAL = "kill several workers"
    KILL_ALL = "kill all workers"
    KILL_NEWCOMER = "kill a newcomer"  # of a worker that has just been killed
    STOP = "SIGSTOP a worker"
    PAUSE = "SIGSTOP, SIGCONT a worker"
    HANG = "hang in the user's code"
    TERM = "SIGTERM a worker"
    TERM_SEVERAL = "SIGTERM several workers"
    SCALE = "scale"
    KILL_COORDINATOR = "kill the coordinator"
    KILL_COORDINATOR_AND_WORKER = "kill the coordinator and a worker"
    PAUSE_COORDINATOR = "SIGSTOP, SIGCONT the coordinator"
    FULL_DISK = "full disk"
    KILL_EVERYTHING = "kill everything, same command"
    KILL_LAUNCHER = "kill the launcher, same command"
    KILL_SUPERVISOR = "kill the supervisor, same command"
    CTRL_C = "Ctrl-C, same command"
    EDL_STOP = "edl stop, same command"

    @property
    def restarts(self) -> bool:
        """Whether the whole job ends, and is started once more."""
        return self.value.endswith("same command")

    @property
    def in_order(self) -> bool:
        """Whether the job is told to end, so that it can save what it has."""
        return self in (Kind.KILL_LAUNCHER, Kind.CTRL_C, Kind.EDL_STOP)

    @property
    def reforms(self) -> bool:
        """Whether another round must follow."""
        return not self.restarts and self not in CALM


CALM = (Kind.PAUSE, Kind.KILL_COORDINATOR, Kind.PAUSE_COORDINATOR, Kind.FULL_DISK)
"""What no round follows from."""


class When(str, Enum):
    """The moment from which a fault's delay counts."""

    LATER = "the job steps again"
    AT_ONCE = "the fault before"
    ROUND = "a round began"
    CHECKPOINT = "a checkpoint is being written"
    EPOCH = "the last step of an epoch began"
    LAST = "the last step of the job began"
    EXPORT = "the trained model is being written"

    @property
    def waits(self) -> bool:
        """Whether the job steps again first, after the fault before."""
        return self not in (When.AT_ONCE, When.ROUND, When.EXPORT)


DELAYS = {
    When.LATER: 3.0,
    When.AT_ONCE: 0.15,
    When.ROUND: 0.3,
    When.CHECKPOINT: 0.01,
    When.EPOCH: 0.1,
    When.LAST: 0.1,
    When.EXPORT: 0.3,
}
"""The longest delay after each, in seconds."""

DECK = {
    Kind.KILL: 3,
    Kind.KILL_ROOT: 3,
    Kind.KILL_SEVERAL: 2,
    Kind.KILL_ALL: 1,
    Kind.KILL_NEWCOMER: 1,
    Kind.STOP: 2,
    Kind.PAUSE: 2,
    Kind.HANG: 2,
    Kind.TERM: 2,
    Kind.TERM_SEVERAL: 1,
    Kind.SCALE: 3,
    Kind.KILL_COORDINATOR: 2,
    Kind.KILL_COORDINATOR_AND_WORKER: 1,
    Kind.PAUSE_COORDINATOR: 1,
    Kind.FULL_DISK: 1,
    Kind.KILL_EVERYTHING: 1,
    Kind.KILL_LAUNCHER: 1,
    Kind.KILL_SUPERVISOR: 1,
    Kind.CTRL_C: 1,
    Kind.EDL_STOP: 1,
}
"""How often each comes before the deck is shuffled anew."""

SECOND = (
    Kind.KILL,
    Kind.KILL_ROOT,
    Kind.KILL_ROOT,
    Kind.KILL_SEVERAL,
    Kind.STOP,
    Kind.PAUSE,
    Kind.TERM,
    Kind.KILL_COORDINATOR,
    Kind.KILL_COORDINATOR_AND_WORKER,
    Kind.PAUSE_COORDINATOR,
)
AT_THE_END = (Kind.KILL, Kind.KILL_ROOT, Kind.KILL_ALL, Kind.TERM, Kind.KILL_COORDINATOR, Kind.KILL_EVERYTHING)
FULL_SHARE = 0.4  # of the faults wait until every worker that is wanted trains
SECOND_SHARE = 0.4  # of the faults after which there is a round, another one follows


@dataclass(frozen=True)
class Fault:
    """One of the storm.

    Attributes:
        number: 1 is the first.
        full: only once every worker that is wanted trains.
        when, delay: so many seconds after that moment.
        pick: from 0 to 1, which of the workers that there are.
        amount: of workers (scale), of seconds (pauses, full disks), else from 0 to 1.
        pace: seconds that each step takes longer until the fault is over.
        target: how many workers there should be afterwards.
    """

    number: int
    kind: Kind
    full: bool
    when: When
    delay: float
    pick: float
    amount: float
    pace: float
    target: int

    def __str__(self) -> str:
        return f"{self.kind.value}, {self.delay:.2f} s after {self.when.value}"


def storm(seed: int, faults: int, workers: int) -> tuple[Fault, ...]:
    """The faults, in order, of a job that begins with so many workers."""
    chance, deck, made = random.Random(seed), list[Kind](), list[Fault]()
    target, alone = workers, True
    last = 2 if faults >= 12 else 1 if faults >= 4 else 0
    while len(made) < faults - last:
        before = made[-1] if made else None
        if before and before.kind.reforms and alone and chance.random() < SECOND_SHARE:
            fault = _fault(chance, chance.choice(SECOND), chance.choice((When.AT_ONCE, When.ROUND)), target)
            alone = False
        else:
            deck = deck or chance.sample(list(DECK), k=sum(DECK.values()), counts=list(DECK.values()))
            when = chance.choices((When.LATER, When.CHECKPOINT, When.EPOCH), weights=(6, 2, 2))[0]
            fault, alone = _fault(chance, deck.pop(), when, target), True
        fault = _possible(fault, workers)
        target = fault.target
        made.append(replace(fault, number=len(made) + 1))
    ends = [When.LAST, When.EXPORT] if last == 2 else [chance.choice((When.LAST, When.EXPORT))] * last
    made += [_fault(chance, chance.choice(AT_THE_END), when, target) for when in ends]
    return tuple(replace(fault, number=number) for number, fault in enumerate(made, 1))


def _fault(chance: random.Random, kind: Kind, when: When, target: int) -> Fault:
    second = when in (When.AT_ONCE, When.ROUND)
    full = kind in (Kind.KILL_ALL, Kind.KILL_NEWCOMER, Kind.HANG) or (not second and chance.random() < FULL_SHARE)
    return Fault(
        number=0,
        kind=kind,
        full=full,
        when=when,
        delay=round(chance.uniform(0, DELAYS[when]), 3),
        pick=chance.random(),
        amount=_amount(chance, kind, target),
        pace=chance.choice(PACES),
        target=target,
    )


def _amount(chance: random.Random, kind: Kind, target: int) -> float:
    match kind:
        case Kind.SCALE:
            return chance.choice([number for number in SIZES if number != target])
        case Kind.PAUSE | Kind.PAUSE_COORDINATOR:
            return round(chance.choice((chance.uniform(0.1, 2.0), chance.uniform(2.5, 5.0))), 3)
        case Kind.FULL_DISK:
            return round(chance.uniform(2.0, 6.0), 3)
        case _:
            return chance.random()


def _possible(fault: Fault, workers: int) -> Fault:
    """The fault, or what comes nearest to it with the workers there should be."""
    if fault.kind is Kind.SCALE:
        return replace(fault, target=int(fault.amount))
    if fault.kind.restarts:
        return replace(fault, target=workers)
    if fault.kind is Kind.HANG and fault.target < 2:  # nobody waits for it, so it has a minute
        return replace(fault, kind=Kind.STOP)
    return fault


def epochs(faults: int, records: int, batch: int) -> int:
    """How long the job must be."""
    return math.ceil((faults + 1) * STEPS_PER_FAULT / math.ceil(records / batch))


def pace(fault: Fault, faults: int, step: int, steps: int) -> float:
    """Seconds that a step takes longer: as the storm wants it, more where the job would be over before the storm."""
    return fault.pace if step < steps * fault.number / (faults + 1) else 0.3


def picked(fault: Fault, among: Sequence[int]) -> int:
    """One of those."""
    return sorted(among)[int(fault.pick * len(among))]
