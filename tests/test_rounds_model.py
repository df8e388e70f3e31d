"""No deadlock and no lost step, whatever happens in whatever order: rounds decided in a simulated world of workers.

Every run is a random sequence of what workers do, of kills, hangs, departures, broken networks, scalings and restarts
of the coordinator, in any order in which they can happen, with the words on their way to a killed coordinator lost.
Some workers cannot be started at once: they are pending until there is room.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from edl_allreduce.position import Position, Schedule
from rendezvous import events, rounds
from rendezvous.state import Kind, Phase, Policy, Round, State, WorkerState, recovered

SCHEDULE, BATCH = Schedule(records=70, epochs=3), 10
LAST = SCHEDULE.total_steps(BATCH)
POLICY = Policy(
    SCHEDULE.finished,
    saves=True,
    checkpoint_secs=50.0,
    max_early_deaths=99,
    max_barren_rounds=99,
    max_losses_in_place=99,
)
MOST_ACTIONS = 5000

Action = Callable[[], None]


@dataclass
class Worker:
    """A worker as it really is, whatever the coordinator knows of it."""

    id: int
    doing: WorkerState = WorkerState.STARTING
    position: Position | None = None
    round: Round | None = None
    told: bool = False  # what it does now is known to the coordinator, or on its way there
    wants_to_part: bool = False
    leaving: bool = False
    failed: bool = False
    frozen: bool = False
    saves: bool = False
    greeted: bool = False


@dataclass
class World:
    chance: random.Random
    faults: int
    scarcity: float = 0.0  # how often there is no room for a new worker
    now: float = 0.0
    state: State = field(default_factory=lambda: State(target=3))
    workers: dict[int, Worker] = field(default_factory=dict)
    saying: list[events.Event] = field(default_factory=list)
    checkpoint: Position | None = None
    applied: dict[int, int] = field(default_factory=dict)  # step -> round that applied it last
    used: set[int] = field(default_factory=set)
    last_round: int = 0
    ended: bool = False
    stops_after: int = -1  # so many things have happened; nothing befalls anybody from then on
    held: Position = field(default_factory=Position)  # then, by somebody who can go on

    def tell(self, event: events.Event) -> None:
        self.state, effects = rounds.decide(self.state, event, self.now, POLICY)
        assert list(self.state.workers) == sorted(self.state.workers), "by id"
        for effect in effects:
            self.carry_out(effect)

    def carry_out(self, effect: events.Effect) -> None:
        match effect:
            case events.StartWorker(id):
                assert id not in self.used, "ids are never used again"
                self.used.add(id)
                self.workers[id] = Worker(id)
                if self.chance.random() < self.scarcity:
                    self.say(self.workers[id], WorkerState.PENDING, events.Waiting(id, "no room"))
            case events.Cancel(id):
                assert id not in self.workers or not self.workers[id].greeted, "only who has not begun is cancelled"
                self.remove(id)
            case events.BeginRound(new):
                assert new.number > self.last_round and len(set(new.members)) == len(new.members)
                self.last_round = new.number
                held = [self.workers[id].position or Position() for id in new.members if id in self.workers]
                assert new.position >= max(held, default=Position()), "no step is done again that somebody has done"
                assert new.position >= (self.checkpoint or Position()), "nor one that is saved"
                for id in new.members:
                    if id in self.workers:
                        self.enter(self.workers[id], new)
            case events.AskToPart(_, members):
                for id in members:
                    if id in self.workers:
                        self.workers[id].wants_to_part = True
            case events.AbandonRound(number, members):
                for worker in self.in_round(number):
                    worker.failed = worker.id in members or worker.failed
            case events.AskToLeave(id) if id in self.workers:
                self.workers[id].leaving = True
            case events.AskToRestore(id) if id in self.workers:
                self.become(self.workers[id], WorkerState.RESTORING)
            case events.AskToCheckpoint(id) if id in self.workers:
                self.workers[id].saves = True
            case events.AskToExport(id) if id in self.workers:
                self.become(self.workers[id], WorkerState.EXPORTING)
            case events.Dismiss(id):
                self.remove(id)
            case events.Drop(id, why):
                healthy = id in self.workers and not self.workers[id].frozen and "over" not in why
                assert not healthy, f"worker {id} was dropped although it could have gone on: it {why}"
                self.remove(id)
            case events.EndJob():
                self.ended = True

    def become(self, worker: Worker, doing: WorkerState) -> None:
        worker.doing, worker.told = doing, True

    def enter(self, worker: Worker, new: Round) -> None:
        worker.round, worker.failed, worker.wants_to_part = new, False, False
        self.become(worker, WorkerState.TRAINING)

    def in_round(self, number: int) -> list[Worker]:
        everybody = self.workers.values()
        return [
            each
            for each in everybody
            if each.doing is WorkerState.TRAINING and each.round and each.round.number == number
        ]

    def remove(self, id: int) -> None:
        """A process ends: its connections break, so every other member's reduction fails."""
        gone = self.workers.pop(id, None)
        if gone and gone.round and gone.doing is WorkerState.TRAINING:
            for other in self.in_round(gone.round.number):
                other.failed = True

    # What may happen next.

    def actions(self) -> list[Action]:
        found: list[Action] = [lambda event=event: self.deliver(event) for event in self.saying[:3]]  # type: ignore[misc]
        able = [worker for worker in self.workers.values() if not worker.frozen]
        found += [action for worker in able if (action := self.action_of(worker))]
        for number in {each.round.number for each in self.workers.values() if each.round}:
            members = self.in_round(number)
            whole = members and members[0].round and len(members) == len(members[0].round.members)
            if whole and not any(each.failed or each.frozen for each in members):
                found.append(lambda members=members: self.step(members))  # type: ignore[misc]
        return found

    def action_of(self, worker: Worker) -> Action | None:
        known = self.state.workers.get(worker.id)
        if worker.doing is WorkerState.PENDING:
            return lambda: self.admit(worker)
        if known and known.state in (WorkerState.PENDING, WorkerState.STARTING, WorkerState.UNHEARD):
            return lambda: self.greet(worker)
        if known is None:
            return lambda: self.remove(worker.id)  # refused: it finds out that it is no longer a member
        match worker.doing:
            case WorkerState.PREPARING:
                return lambda: self.say(worker, WorkerState.READY, events.Ready(worker.id))
            case WorkerState.RESTORING:
                return lambda: self.restore(worker)
            case WorkerState.EXPORTING:
                return lambda: self.say(worker, WorkerState.EXPORTING, events.Exported(worker.id))
            case WorkerState.TRAINING if worker.failed:
                return lambda: self.part(worker, "broken")
        return (lambda: self.save(worker)) if worker.saves else None

    def deliver(self, event: events.Event) -> None:
        self.saying.remove(event)
        self.tell(event)

    def say(self, worker: Worker, doing: WorkerState, event: events.Event) -> None:
        worker.doing = doing
        self.saying.append(event)

    def admit(self, worker: Worker) -> None:
        """There is room; that may be known later than the worker's own greeting."""
        if worker.id in self.state.workers:
            self.say(worker, WorkerState.STARTING, events.Started(worker.id))
        else:
            self.remove(worker.id)

    def greet(self, worker: Worker) -> None:
        worker.greeted = True
        if worker.doing is WorkerState.STARTING:
            worker.doing = WorkerState.PREPARING
            self.tell(events.Greeted(worker.id, "host"))
            return
        standing = events.Standing(worker.doing, worker.position, worker.round, worker.failed)
        self.tell(events.Greeted(worker.id, "host", "", standing))
        if worker.leaving:
            self.tell(events.Leaving(worker.id))

    def save(self, worker: Worker) -> None:
        worker.saves = False
        position = worker.position or (worker.round.position if worker.round else Position())
        self.checkpoint = max(self.checkpoint or Position(), position)
        self.saying.append(events.Checkpointed(worker.id, position))

    def restore(self, worker: Worker) -> None:
        worker.position = self.checkpoint
        self.say(worker, WorkerState.READY, events.Restored(worker.id, self.checkpoint))

    def part(self, worker: Worker, error: str | None) -> None:
        assert worker.round
        number = worker.round.number
        for other in self.in_round(number) if error else ():
            other.failed = True  # it severs its connections
        self.say(worker, WorkerState.READY, events.Parted(worker.id, number, worker.position, error))

    def step(self, members: list[Worker]) -> None:
        """One step of a whole round; sometimes it is applied by some members only, because one dies in its middle."""
        current = members[0].round
        assert current
        for each in members:
            each.position = each.position if each.position and each.position >= current.position else current.position
        at = members[0].position
        assert at and all(each.position == at for each in members), "all members are after the same step"
        if SCHEDULE.finished(at):
            for each in members:
                self.part(each, None)
            return
        after = SCHEDULE.after(at, BATCH)
        self.applied[after.step] = max(current.number, self.applied.get(after.step, 0))
        dies = self.faults > 0 and self.chance.random() < 0.03
        for each in members:
            if not dies or self.chance.random() < 0.5:
                each.position = after
        if dies:
            self.kill(self.chance.choice(members))
        elif SCHEDULE.finished(after) or any(each.wants_to_part or each.leaving for each in members):
            for each in members:
                self.part(each, None)

    # Accidents.

    def accident(self) -> None:
        self.faults -= 1
        kinds = [self.kill, self.kill, self.freeze, self.send_away]
        match self.chance.randrange(7):
            case 4:
                self.restart()
            case 5:
                self.tell(events.Scaled(self.chance.randint(1, 4)))
            case 6 if self.state.round:
                self.tell(events.Stalled(self.state.round.number, "stuck"))
            case number if number < 4 and self.workers:
                kinds[number](self.chance.choice(list(self.workers.values())))

    def kill(self, worker: Worker) -> None:
        self.faults -= 1
        self.remove(worker.id)
        pending = worker.doing is WorkerState.PENDING
        self.saying.append(events.Lost(worker.id, "was killed", position=worker.position, excused=pending))

    def freeze(self, worker: Worker) -> None:
        if worker.doing is WorkerState.PENDING:
            return  # it does nothing that could hang
        worker.frozen = True

        def dropped() -> None:
            self.remove(worker.id)
            self.tell(events.Lost(worker.id, "was silent", Kind.HUNG))

        self.silent.append((worker, dropped))

    def noticed(self) -> list[Action]:
        """Those of the frozen workers whose silence can be noticed: they have an open stream."""
        unseen = (WorkerState.STARTING, WorkerState.UNHEARD)
        return [
            dropped
            for worker, dropped in self.silent
            if worker.id in self.workers
            and worker.id in self.state.workers
            and self.state.workers[worker.id].state not in unseen
        ]

    silent: list[tuple[Worker, Action]] = field(default_factory=list)

    def send_away(self, worker: Worker) -> None:
        if not worker.leaving and worker.doing is not WorkerState.PENDING:
            worker.leaving = True
            self.saying.append(events.Leaving(worker.id))

    def restart(self) -> None:
        """Words on their way are lost; what the workers are doing goes on."""
        self.saying.clear()
        next_id = max(self.used, default=-1) + 1
        target, alive = self.state.target, sorted(self.workers)
        self.state = recovered(target, self.checkpoint, alive, next_id, self.last_round + 1, self.now)
        for worker in self.workers.values():
            if worker.doing is WorkerState.PENDING:
                self.saying.append(events.Waiting(worker.id, "no room"))
        self.tell(events.Tick())

    def stop(self) -> None:
        able = [each for each in self.workers.values() if each.id in self.state.workers and not each.frozen]
        self.faults, self.held = 0, max((each.position for each in able if each.position), default=Position())
        self.tell(events.Stopped("stopped by SIGINT"))

    def run(self) -> None:
        self.tell(events.Tick())
        for number in range(MOST_ACTIONS):
            if number == self.stops_after:
                self.stop()
            if self.ended:
                return
            if self.faults > 0 and self.chance.random() < 0.1:
                self.accident()
            possible = self.actions()
            if possible:
                self.now += 0.01
                self.chance.choice(possible)()
                continue
            deadline = rounds.next_deadline(self.state, POLICY)
            if noticed := self.noticed():
                noticed[0]()
            else:
                assert deadline is not None, f"a deadlock: nothing can happen any more in {self.state}"
                self.now = max(self.now, deadline)
                self.tell(events.Tick())
        raise AssertionError(f"no end in sight: {self.state}")


@pytest.mark.parametrize("seed", range(400))
def test_the_job_is_done_whatever_happens(seed: int) -> None:
    world = World(random.Random(seed), faults=seed % 25, scarcity=seed % 3 / 3)
    world.run()
    assert world.state.phase is Phase.DONE, world.state.verdict
    assert sorted(world.applied) == list(range(1, LAST + 1))
    assert world.state.furthest.step == LAST


@pytest.mark.parametrize("seed", range(400))
def test_a_job_that_is_stopped_at_any_moment_saves_what_anybody_has(seed: int) -> None:
    chance = random.Random(seed)
    world = World(chance, faults=seed % 25, scarcity=seed % 3 / 3, stops_after=chance.randrange(150))
    world.run()
    if world.state.phase is Phase.STOPPED:
        assert (world.checkpoint or Position()) >= world.held
    else:
        assert world.state.phase is Phase.DONE and world.state.exit_code == 0
