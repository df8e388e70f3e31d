"""Carries out what `rounds` decides: the one place where decisions meet streams, stores, processes and the clock."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import cached_property

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_to_message
from edl_allreduce.control.position import position_from_message
from edl_allreduce.dataset import Dataset
from edl_allreduce.errors import EdlError, UsageError
from edl_allreduce.position import Schedule
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job, to_json
from rendezvous import events, rounds
from rendezvous.leased_work import LeasedWork
from rendezvous.limits import heartbeat_seconds, make_policy
from rendezvous.overseer import Overseer
from rendezvous.presence import EXPORTED, Presence, standing_from_message
from rendezvous.provisioner import Provisioner
from rendezvous.pulse import BEAT_SECONDS, Pulse
from rendezvous.round_setup import RoundSetup
from rendezvous.state import Cause, Kind, Phase, Round, State, WorkerState
from rendezvous.task_result import write_result
from rendezvous.telemetry import Telemetry
from rendezvous.watchdog import Doing

log = logging.getLogger(__name__)

END_GRACE_SECONDS = 5.0
UNGREETED = (WorkerState.PENDING, WorkerState.STARTING, WorkerState.UNHEARD)
UNREADY = (WorkerState.STARTING, WorkerState.PREPARING)
KEPT_STEPS = 256  # between two times that workers are told what is kept
NOBODY = -1  # no worker's id


@dataclass(frozen=True)
class Site:
    """Where a job runs.

    Attributes:
        name: of the job.
        address: the IP address on which the rounds' stores listen.
        job_folder: told to workers that share this machine's disk; empty where they do not.
        reconnect_seconds: for workers to notice that they must greet a new coordinator, and to find it, beyond the
            silence that is allowed anyway.
    """

    name: str
    address: str
    job_folder: str = ""
    reconnect_seconds: float = 6.0


class Coordinator:
    """One job. Everything happens on the event loop, one event after another, so nothing is locked.

    Args:
        spec, dataset: the job and its data.
        site: where it runs.
        state: of a job that begins, or `state.recovered`.
        telemetry: where steps and rounds are noted.
        validation: what a model in training is evaluated on.
        pulse: its clock, which knows when all this was held up.

    Attributes:
        ended: the job is over.
        dazed: this coordinator was held up for so long that it does not know how things are; another one must learn.
    """

    def __init__(
        self,
        spec: Job,
        dataset: Dataset,
        site: Site,
        state: State,
        telemetry: Telemetry,
        validation: Dataset | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self.spec, self.dataset, self.site, self.state, self.telemetry = spec, dataset, site, state, telemetry
        self.validation = validation
        training = spec.training if isinstance(spec, JobSpec) else None
        self.schedule = Schedule(dataset.records, training.num_epochs if training else 1)
        self._rounds = RoundSetup(site.address, dataset.lanes, training) if training else None
        self.work = LeasedWork(
            validation if training else dataset,
            training is None,
            telemetry,
            self._tell_worker,
            self.tell,
            self._finish_work,
        )
        self.presences: dict[int, Presence] = {}
        self.ended, self.dazed = asyncio.Event(), asyncio.Event()
        self._pulse = pulse or Pulse()
        self.started_at = self.now()
        self._policy = make_policy(spec, self.schedule, site.reconnect_seconds)
        self._provisioner: Provisioner | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._overseer = Overseer(self)
        self._concluding: asyncio.Task[None] | None = None
        self._repeated = 0  # records of the step in which the round failed
        self._unexplained: set[int] = set()  # workers whose streams have ended; it will be told how they have
        self._kept = 0  # up to this step, workers know, nothing need be told again

    def start(self, provisioner: Provisioner) -> None:
        """Starts the first workers."""
        self._provisioner = provisioner
        self._beat()
        self.tell(events.Tick())
        self.work.begin()

    async def close(self) -> None:
        """Returns when every worker has ended and the store is closed."""
        if self._provisioner:
            await self._provisioner.close(END_GRACE_SECONDS)
        if self._rounds:
            self._rounds.close()

    @property
    def lanes(self) -> dict[int, int]:
        """How many lanes each member of the newest round has."""
        return self._rounds.lanes if self._rounds else {}

    def now(self) -> float:
        """Seconds of the coordinator's clock."""
        return self._pulse.now()

    def tell(self, event: events.Event) -> None:
        """Takes note of an event and does what follows from it."""
        before = self.state.phase
        self.state, effects = rounds.decide(self.state, event, self.now(), self._policy)
        if not isinstance(event, events.Tick) or effects:
            log.info("%s: %s", event, ", ".join(map(str, effects)) or "noted")
        for effect in effects:
            self._do(effect)
        if isinstance(event, events.Greeted) and self.state.round:
            self._adopt(self.state.round)
        if self.state.phase is not before:
            log.info("%s -> %s", before.value, self.state.phase.value)
        self._plan_tick()

    def scale(self, num_workers: int) -> None:
        """Keeps this many workers alive from now on."""
        self.telemetry.scaled(num_workers)
        self.tell(events.Scaled(num_workers))

    def checkpoint(self) -> None:
        """Wants a checkpoint after the step in progress.

        Raises:
            UsageError: this job has none.
        """
        if not isinstance(self.spec, JobSpec):
            raise UsageError("only a training writes checkpoints")
        self.tell(events.CheckpointWanted())

    # Streams.

    def greet(self, hello: pb.Hello) -> Presence | None:
        """A worker has opened its stream; None when it is not expected (any more), or this coordinator goes."""
        self._pulse.work()
        worker = self.state.workers.get(hello.worker_id)
        if self.dazed.is_set():
            return None
        if worker is None or worker.state not in UNGREETED:
            self._doubts_itself()  # this may be a member whose stream is broken, which is still to be noticed here
            return None
        now = self.now()
        presence = Presence(asyncio.Queue(), now, hello.pid, Doing(pb.WAITING))
        self.presences[hello.worker_id] = presence
        presence.outbox.put_nowait(pb.ToWorker(welcome=self._welcome()))
        standing = standing_from_message(hello.standing) if hello.HasField("standing") else None
        self.tell(events.Greeted(hello.worker_id, hello.host, hello.address, standing))
        if self._rounds and hello.standing.HasField("round"):
            self._rounds.adopt(hello.worker_id, len(hello.standing.round.lanes))
        if hello.standing.state == EXPORTED:
            self.tell(events.Exported(hello.worker_id))
        self._overseer.watch(hello.worker_id)
        return presence

    def hear(self, worker_id: int, message: pb.FromWorker) -> None:
        """A worker has said something."""
        self._pulse.work()
        presence = self.presences.get(worker_id)
        if presence is None:
            return
        presence.heard = self.now()
        match message.WhichOneof("message"):
            case "progress":
                self._progress(worker_id, presence, message.progress)
            case "ready":
                self.tell(events.Ready(worker_id))
            case "parted":
                self._parted(worker_id, message.parted)
            case "leaving":
                self.work.retire(worker_id)
                self.tell(events.Leaving(worker_id))
            case "wants":
                self.work.wants(worker_id, message.wants)
            case "task_done":
                self.work.done(worker_id, message.task_done)
            case "figures":
                self.work.figures(worker_id, message.figures)
            case "epoch_end":
                self.telemetry.epoch_ended(message.epoch_end)
            case "broke":
                self.tell(events.Broke(worker_id, message.broke.error, message.broke.exit_code))
            case "exported":
                self.tell(events.Exported(worker_id))
            case "restored":
                found = message.restored
                position = position_from_message(found.position) if found.HasField("position") else None
                self.tell(events.Restored(worker_id, position))
            case "checkpointed":
                done = message.checkpointed
                self.telemetry.checkpointed(done)
                position = None if done.error else position_from_message(done.position)
                self.tell(events.Checkpointed(worker_id, position))
            case "skipped":
                self.telemetry.left_out(message.skipped)
            case "notice":
                self.telemetry.noticed(message.notice.text)

    def part_with(self, worker_id: int, why: str, kind: Kind = Kind.LOST) -> None:
        """A worker's stream has ended, or must end."""
        if self._doubts_itself():
            return
        presence = self.presences.pop(worker_id, None)
        if presence:
            presence.outbox.put_nowait(None)
        worker = self.state.workers.get(worker_id)
        if worker is None or self.state.phase.ended or worker_id in self._unexplained:
            return
        if worker.leaving and kind is Kind.LOST:
            self._kill_later(worker_id)  # it has said so; let it end
        else:
            self._kill(worker_id)  # it may still be alive, cut off from us
        lost = events.Lost(worker_id, why, kind, presence.position if presence else None)
        patience = self._provisioner.explain_seconds if self._provisioner else 0.0
        if patience and kind is Kind.LOST and worker.state in UNREADY:  # how it ended says whether the job is at fault
            self._unexplained.add(worker_id)
            asyncio.get_running_loop().call_later(patience, self._lose, lost)
        else:
            self._lose(lost)

    def _doubts_itself(self) -> bool:
        """Whether what streams seem to tell means nothing, since nobody has read them for long."""
        held_up = self._pulse.was_held_up() and self.state.phase is not Phase.STOPPING
        if held_up and not (self.state.phase.ended or self.dazed.is_set()):
            log.warning("this coordinator was held up for long: it goes, so that another one learns how things are")
            self.dazed.set()
        return self.dazed.is_set()

    def _beat(self) -> None:
        self._pulse.beat()
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _lose(self, lost: events.Lost) -> None:
        worker = self.state.workers.get(lost.id)
        self._unexplained.discard(lost.id)
        if worker is not None:
            self.tell(lost)
            self.work.leave(lost.id, lost=not worker.leaving)

    def process_waits(self, worker_id: int, why: str) -> None:
        """A worker cannot be started yet."""
        self.tell(events.Waiting(worker_id, why))

    def process_started(self, worker_id: int) -> None:
        """A worker that had to wait has been started."""
        self.tell(events.Started(worker_id))

    def process_ended(self, worker_id: int, why: str, excused: bool) -> None:
        """A worker's process has ended; its stream may have told so already."""
        presence = self.presences.pop(worker_id, None)
        if presence:
            presence.outbox.put_nowait(None)
        if worker_id in self.state.workers:
            position = presence.position if presence else None
            self.tell(events.Lost(worker_id, why, position=position, excused=excused))
            self.work.leave(worker_id, lost=not excused)
        else:
            self.tell(events.Explained(worker_id, why, excused))

    def _welcome(self) -> pb.Welcome:
        welcome = pb.Welcome(told_step=self.telemetry.told)
        welcome.MergeFrom(self._constant_welcome)
        return welcome

    @cached_property
    def _constant_welcome(self) -> pb.Welcome:
        elastic = self.spec.elastic
        return pb.Welcome(
            spec=to_json(self.spec),
            dataset=dataset_to_message(self.dataset),
            validation=dataset_to_message(self.validation) if self.validation else None,
            job_folder=self.site.job_folder,
            job=self.site.name,
            heartbeat_seconds=heartbeat_seconds(elastic.num_workers, elastic.worker_timeout),
        )

    def _progress(self, worker_id: int, presence: Presence, progress: pb.Progress) -> None:
        self.telemetry.heard(progress, presence.heard)
        worker = self.state.workers.get(worker_id)
        if worker is not None and worker.state is WorkerState.TRAINING:
            self.telemetry.seen(progress.activity)
        seconds = min(progress.activity_seconds, presence.heard - presence.began)
        presence.doing = Doing(progress.activity, seconds, progress.compute_seconds or presence.doing.usual)
        presence.position = position_from_message(progress.position)
        presence.memory_bytes = progress.memory_bytes
        self._overseer.look(presence.heard)
        if not 0 <= self.telemetry.kept - self._kept < KEPT_STEPS:
            self._kept = self.telemetry.kept
            self._send(tuple(self.presences), pb.ToWorker(kept=pb.Kept(step=self._kept)))

    def _adopt(self, known: Round) -> None:
        """Notes a round that had begun before the coordinator before this one could tell of it."""
        if not self.telemetry.rounds or self.telemetry.rounds[-1].number < known.number:
            self.telemetry.began(replace(known, cause=Cause(Kind.RESTART, "the coordinator was restarted")))

    def _parted(self, worker_id: int, parted: pb.Parted) -> None:
        self._repeated = max(self._repeated, parted.repeated)
        error = parted.error if parted.failed else None
        position = position_from_message(parted.position) if parted.HasField("position") else None
        self.work.leave(worker_id, lost=False)
        unreachable = tuple(parted.unreachable)
        self.tell(events.Parted(worker_id, parted.round, position, error, unreachable, parted.refused))

    # Effects.

    def _do(self, effect: events.Effect) -> None:
        match effect:
            case events.StartWorker(id):
                assert self._provisioner
                self._provisioner.start(id)
            case events.Cancel(id):
                self._kill(id)
            case events.BeginRound(new):
                self._begin(new)
            case events.AskToPart(number, members):
                self._send(members, pb.ToWorker(reform=pb.Reform(round=number)))
            case events.AbandonRound(number, members):
                assert self._rounds
                self._rounds.close()
                self._send(members, pb.ToWorker(abandon=pb.Abandon(round=number)))
            case events.AskToLeave(id):
                self.work.retire(id)
                self._send((id,), pb.ToWorker(leave=pb.Leave()))
            case events.Dismiss(id):
                self._send((id,), pb.ToWorker(stop=pb.Stop(reason="not needed any more")))
                self._kill_later(id)
            case events.AskToRestore(id):
                self._send((id,), pb.ToWorker(restore=pb.Restore()))
            case events.AskToCheckpoint(id):
                self._send((id,), pb.ToWorker(checkpoint=pb.Checkpoint()))
            case events.AskToExport(id):
                self._send((id,), pb.ToWorker(export=pb.Export()))
            case events.Drop(id, why):
                log.warning("worker %d is dropped: it %s", id, why)
                self._kill(id)
                self.part_with(id, why)
                asyncio.get_running_loop().call_soon(self.work.leave, id, True)  # others do what it has not done
            case events.EndJob():
                self._end()

    def _begin(self, new: Round) -> None:
        assert self._rounds
        now, present = self.now(), {id: self.presences[id] for id in new.members if id in self.presences}
        seconds = {id: presence.doing.usual for id, presence in present.items()}
        messages = self._rounds.begin(new, seconds)
        self.telemetry.began(new, list(self.lanes.values()))
        self.telemetry.must_repeat(new.number, self._repeated)
        self._repeated = 0
        for id, presence in present.items():
            presence.doing, presence.began = Doing(pb.WAITING, usual=seconds[id]), now
            self._send((id,), messages[id])

    def _end(self) -> None:
        self._send(tuple(self.presences), pb.ToWorker(stop=pb.Stop(reason=self.state.verdict)))
        for id in self.state.workers.keys() - self.presences.keys():
            self._kill(id)  # it has not greeted yet, and cannot be told
        self.ended.set()

    def _finish_work(self) -> None:
        """All tasks of the job are done; what is written then may take its time."""
        spec = self.spec
        assert not isinstance(spec, JobSpec)

        async def conclude() -> None:
            try:
                await asyncio.to_thread(write_result, spec, self.dataset, self.telemetry, self.site.name)
            except EdlError as error:
                self.tell(events.Broke(NOBODY, str(error), error.exit_code))
            else:
                self.tell(events.WorkDone())

        self._concluding = self._concluding or asyncio.get_running_loop().create_task(conclude())

    def _tell_worker(self, worker_id: int, message: pb.ToWorker) -> None:
        self._send((worker_id,), message)

    def _send(self, members: tuple[int, ...], message: pb.ToWorker) -> None:
        for id in members:
            if id in self.presences:
                self.presences[id].outbox.put_nowait(message)

    def _kill(self, worker_id: int) -> None:
        if self._provisioner:
            self._provisioner.kill(worker_id)

    def _kill_later(self, worker_id: int) -> None:
        asyncio.get_running_loop().call_later(END_GRACE_SECONDS, self._kill, worker_id)

    def _plan_tick(self) -> None:
        if self._tick:
            self._tick.cancel()
            self._tick = None
        deadline = rounds.next_deadline(self.state, self._policy)
        if deadline is not None and not self.state.phase.ended:
            wait = max(0.0, deadline - self.now())
            self._tick = asyncio.get_running_loop().call_later(wait, self.tell, events.Tick())
