"""Carries out what `rounds` decides: the one place where decisions meet streams, stores, processes and the clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_to_message
from edl_allreduce.control.position import position_from_message, position_to_message
from edl_allreduce.dataset import Dataset
from edl_allreduce.position import Schedule, deal_lanes
from edl_allreduce.spec import JobSpec
from rendezvous import events, rounds
from rendezvous.provisioner import Provisioner
from rendezvous.state import Policy, Round, State, WorkerState
from rendezvous.store import RoundStore
from rendezvous.telemetry import Telemetry

log = logging.getLogger(__name__)

END_GRACE_SECONDS = 5.0
BUSY_SECONDS = 60.0


@dataclass
class Presence:
    """A worker's open stream.

    Attributes:
        outbox: what is still to be sent to it; None ends the stream.
        heard: when its last message came, in seconds of the coordinator's clock.
    """

    outbox: asyncio.Queue[pb.ToWorker | None]
    heard: float
    pid: int


class Coordinator:
    """One job. Everything happens on the event loop, one event after another, so nothing is locked.

    Args:
        spec, dataset: the job and its data.
        address: the IP address on which the rounds' stores listen.
        job_folder: told to workers that share this machine's disk.
        telemetry: where steps and rounds are noted.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        spec: JobSpec,
        dataset: Dataset,
        address: str,
        job_folder: str,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self.spec, self.dataset, self.telemetry = spec, dataset, telemetry
        self.schedule = Schedule(dataset.records, spec.training.num_epochs)
        self.state = State(target=spec.elastic.num_workers)
        self.presences: dict[int, Presence] = {}
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()
        self.started_at = clock()
        self.first_round_at: float | None = None
        self._policy = Policy(
            finished=self.schedule.finished,
            min_workers=spec.elastic.min_workers,
            gather_timeout=spec.elastic.gather_timeout,
            part_timeout=spec.elastic.part_timeout,
        )
        self._address, self._clock = address, clock
        self._welcome = pb.Welcome(spec=spec.to_json(), dataset=dataset_to_message(dataset), job_folder=job_folder)
        self._provisioner: Provisioner | None = None
        self._store: RoundStore | None = None
        self._tick: asyncio.TimerHandle | None = None

    def start(self, provisioner: Provisioner) -> None:
        """Starts the first workers."""
        self._provisioner = provisioner
        self.tell(events.Tick())

    async def close(self) -> None:
        """Returns when every worker has ended and the store is closed."""
        if self._provisioner:
            await self._provisioner.close(END_GRACE_SECONDS)
        self._close_store()

    def now(self) -> float:
        """Seconds of the coordinator's clock."""
        return self._clock()

    def tell(self, event: events.Event) -> None:
        """Takes note of an event and does what follows from it."""
        before = self.state.phase
        self.state, effects = rounds.decide(self.state, event, self._clock(), self._policy)
        if not isinstance(event, events.Tick) or effects:
            log.info("%s: %s", event, ", ".join(map(str, effects)) or "noted")
        for effect in effects:
            self._do(effect)
        if self.state.phase is not before:
            log.info("%s -> %s", before.value, self.state.phase.value)
        self._plan_tick()
        self.changed.set()

    # Streams.

    def greet(self, hello: pb.Hello) -> Presence | None:
        """A worker has opened its stream; None when it is not expected (any more)."""
        worker = self.state.workers.get(hello.worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return None
        presence = Presence(asyncio.Queue(), self._clock(), hello.pid)
        self.presences[hello.worker_id] = presence
        presence.outbox.put_nowait(pb.ToWorker(welcome=self._welcome))
        self.tell(events.Greeted(hello.worker_id, hello.host))
        self._watch(hello.worker_id)
        return presence

    def hear(self, worker_id: int, message: pb.FromWorker) -> None:
        """A worker has said something."""
        presence = self.presences.get(worker_id)
        if presence is None:
            return
        presence.heard = self._clock()
        match message.WhichOneof("message"):
            case "progress":
                self.telemetry.heard(message.progress, presence.heard)
                self.changed.set()
            case "ready":
                self.tell(events.Ready(worker_id))
            case "parted":
                parted = message.parted
                error = parted.error if parted.failed else None
                self.tell(events.Parted(worker_id, parted.round, position_from_message(parted.position), error))
            case "leaving":
                self.tell(events.Leaving(worker_id))
            case "broke":
                self.tell(events.Broke(worker_id, message.broke.error, message.broke.exit_code))
            case "exported":
                self.tell(events.Exported(worker_id))

    def part_with(self, worker_id: int, why: str) -> None:
        """A worker's stream or process has ended."""
        presence = self.presences.pop(worker_id, None)
        if presence:
            presence.outbox.put_nowait(None)
        worker = self.state.workers.get(worker_id)
        if worker is None or self.state.phase.ended:
            return
        if not worker.leaving:
            self._provisioner_kill(worker_id)  # it may still be alive, cut off from us
        self.tell(events.Lost(worker_id, why))

    def _watch(self, worker_id: int) -> None:
        """Drops a worker that is silent for too long; looks when its newest message would be too old."""
        presence = self.presences.get(worker_id)
        worker = self.state.workers.get(worker_id)
        if presence is None or worker is None:
            return
        limit = self.spec.elastic.worker_timeout
        if worker.state in (WorkerState.PREPARING, WorkerState.EXPORTING):
            limit = max(BUSY_SECONDS, limit)  # TensorFlow's import, tracing and saving may hold Python's lock for long
        left = presence.heard + limit - self._clock()
        if left <= 0:
            self.part_with(worker_id, f"was silent for {limit:g} s")
        else:
            asyncio.get_running_loop().call_later(min(left, self.spec.elastic.worker_timeout), self._watch, worker_id)

    # Effects.

    def _do(self, effect: events.Effect) -> None:
        match effect:
            case events.StartWorker(id):
                assert self._provisioner
                self._provisioner.start(id)
            case events.BeginRound(new):
                self._begin(new)
            case events.AskToPart(number, members):
                self._send(members, pb.ToWorker(reform=pb.Reform(round=number)))
            case events.AbandonRound(number, members):
                self._close_store()
                self._send(members, pb.ToWorker(abandon=pb.Abandon(round=number)))
            case events.AskToLeave(id):
                self._send((id,), pb.ToWorker(leave=pb.Leave()))
            case events.AskToExport(id):
                self._send((id,), pb.ToWorker(export=pb.Export()))
            case events.Drop(id, why):
                log.warning("worker %d is dropped: it %s", id, why)
                self._provisioner_kill(id)
                self.part_with(id, why)
            case events.EndJob():
                self._send(tuple(self.presences), pb.ToWorker(stop=pb.Stop(reason=self.state.verdict)))
                for id in self.state.workers.keys() - self.presences.keys():
                    self._provisioner_kill(id)  # it has not greeted yet, and cannot be told
                self.ended.set()

    def _begin(self, new: Round) -> None:
        self._close_store()
        if len(new.members) > 1:
            self._store = RoundStore(self._address)
        self.first_round_at = self.first_round_at or self._clock()
        self.telemetry.began(new.number, new.members, new.cause, new.position)
        lanes = deal_lanes(self.dataset.lanes, [1.0] * len(new.members))
        for id, own in zip(new.members, lanes, strict=True):
            message = pb.Round(
                number=new.number,
                members=new.members,
                store_port=self._store.port if self._store else 0,
                synchronize=new.synchronize,
                position=position_to_message(new.position),
                lanes=own,
                global_batch=self.spec.training.global_batch(len(new.members)),
            )
            self._send((id,), pb.ToWorker(round=message))

    def _send(self, members: tuple[int, ...], message: pb.ToWorker) -> None:
        for id in members:
            if id in self.presences:
                self.presences[id].outbox.put_nowait(message)

    def _provisioner_kill(self, worker_id: int) -> None:
        if self._provisioner:
            self._provisioner.kill(worker_id)

    def _close_store(self) -> None:
        if self._store:
            self._store.close()
            self._store = None

    def _plan_tick(self) -> None:
        if self._tick:
            self._tick.cancel()
            self._tick = None
        deadline = rounds.next_deadline(self.state, self._policy)
        if deadline is not None and not self.state.phase.ended:
            wait = max(0.0, deadline - self._clock())
            self._tick = asyncio.get_running_loop().call_later(wait, self.tell, events.Tick())
