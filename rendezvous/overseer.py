"""Watches over a job's workers: drops who is silent, who holds up the others, who hangs over a task."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from rendezvous import events
from rendezvous.state import Kind, Phase, WorkerState, members
from rendezvous.watchdog import Hung, Stuck, judge, judge_alone

if TYPE_CHECKING:
    from rendezvous.coordinator import Coordinator

log = logging.getLogger(__name__)

BUSY_SECONDS = 60.0  # of silence, while TensorFlow's import, tracing and saving may hold Python's lock for long
READ_SECONDS = 0.05  # for messages that have come to be read
LOOK_SECONDS = 0.1  # between two looks at who holds up the round, at least


class Overseer:
    """Asks `watchdog` about what the coordinator has heard, and tells the coordinator what it finds."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._looked_at = 0.0
        self._stalls = 0  # rounds in a row that have been given up since all waited for each other, nobody knows why

    def look(self, now: float) -> None:
        """Looks whether somebody holds up the round or hangs over a task; called whenever a worker is heard."""
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        phase = self._coordinator.state.phase
        if phase is Phase.WORKING:
            self._judge_tasks()
        elif phase in (Phase.TRAINING, Phase.PARTING, Phase.STOPPING):
            self._judge_round()

    def watch(self, worker_id: int, again: bool = False) -> None:
        """Drops a worker that is silent for too long; looks when its newest message would be too old.

        It looks twice: when this process was held up, messages have come in the meantime that are still to be read.
        """
        coordinator = self._coordinator
        presence, worker = coordinator.presences.get(worker_id), coordinator.state.workers.get(worker_id)
        if presence is None or worker is None:
            return
        timeout = coordinator.spec.elastic.worker_timeout
        busy = worker.state in (WorkerState.PREPARING, WorkerState.EXPORTING, WorkerState.RESTORING)
        limit = max(BUSY_SECONDS, timeout) if busy else timeout
        left = presence.heard + limit - coordinator.now()
        if left <= 0 and again:
            coordinator.part_with(worker_id, f"was silent for {limit:g} s", Kind.HUNG)
        else:
            wait = min(left, timeout) if left > 0 else READ_SECONDS
            asyncio.get_running_loop().call_later(wait, self.watch, worker_id, left <= 0)

    def _judge_round(self) -> None:
        coordinator = self._coordinator
        state, telemetry = coordinator.state, coordinator.telemetry
        if state.round is None:
            return
        training = members(state)
        # As of their newest messages: silence is the business of `watch`.
        doing = {id: there.doing for id in training if (there := coordinator.presences.get(id))}
        others_wait = len(training) < len(state.round.members)
        timeout, step_seconds = coordinator.spec.elastic.worker_timeout, telemetry.step_seconds()
        if telemetry.told > state.round.position.step or not state.barren_rounds:
            self._stalls = 0
        match judge(doing, others_wait, step_seconds, timeout, self._stalls):
            case Hung() as hung:
                self._drop(hung)
            case Stuck(why) if not state.round_failed:
                self._stalls += 1
                coordinator.tell(events.Stalled(state.round.number, why))

    def _judge_tasks(self) -> None:
        timeout = self._coordinator.spec.elastic.worker_timeout
        for id, presence in list(self._coordinator.presences.items()):
            if hung := judge_alone(id, presence.doing, timeout):
                self._drop(hung)

    def _drop(self, hung: Hung) -> None:
        log.warning("worker %d hangs: it %s", hung.id, hung.why)
        self._coordinator.part_with(hung.id, hung.why, Kind.HUNG)
