"""Decides who is dropped after a round that failed though no member was lost: the network between some is broken.

Members tell from whom no answer has come (packets are dropped somewhere), which says enough. When connections are
refused instead (a firewall that rejects), it is known who has met with that, if not with whom.
"""

from __future__ import annotations

from dataclasses import replace

from edl_allreduce.position import Position
from rendezvous.events import Drop, Effect
from rendezvous.learning import count_barren
from rendezvous.state import Cause, Kind, Policy, State, ready, without

SUSPECT_ROUNDS = 3  # so many in a row that fail at once are no accident

Decision = tuple[State, list[Effect]]


def without_culprits(state: State, policy: Policy) -> Decision:
    """The state with which the next round is formed, once all members have parted."""
    if state.round is None or state.cause is None:
        return state, []
    if state.cause.kind is Kind.OTHER and state.barren_rounds == SUSPECT_ROUNDS:
        return _without_suspect(state, state.cause)
    if state.cause.kind is not Kind.NETWORK:
        return state, []
    there = state.workers.keys()
    got_further = any(_position(state, id) > state.round.position for id in there)
    # Whoever outlived somebody in vain, since the next round failed as well, is more likely the culprit.
    told = {pair for pair in state.unreachable if there >= set(pair) or not got_further}
    pairs = {pair for pair in told if there >= set(pair)}
    if not pairs:  # nobody knows why: the next round may wait for longer
        return count_barren(state, got_further, state.cause.text, policy), []
    drops: list[Effect] = []
    while pairs:
        alike = [id for pair in told for id in pair]
        accused = sorted({id for pair in pairs for id in pair}, key=lambda id: (_position(state, id), -id))
        worst = min(accused, key=lambda id: (_alone_has_weights(state, id), -alike.count(id)))
        pairs = {pair for pair in pairs if worst not in pair}
        state, [drop] = _drop(state, worst, "could not be reached by other workers")
        drops.append(drop)
    outlived = frozenset(pair for pair in told if not state.workers.keys() >= set(pair))
    return replace(state, barren_rounds=0, unreachable=outlived), drops


def _without_suspect(state: State, cause: Cause) -> Decision:
    """Drops one that met with a refusal, or if nobody did the one on whom the round failed first.

    If nobody else has its weights, the youngest other one goes.
    """
    accused = state.refused & state.workers.keys()
    first = cause.worker if cause.worker in accused or not accused else max(accused)
    others = [worker.id for worker in ready(state) if worker.id != first]
    if first not in state.workers or not others:
        return state, []
    kept = max(_position(state, id) for id in others)
    suspect = first if kept >= _position(state, first) else max(others)
    return _drop(state, suspect, f"was refused, or refused others, in {state.barren_rounds} rounds in a row")


def _drop(state: State, id: int, why: str) -> Decision:
    return replace(without(state, id), cause=Cause(Kind.NETWORK, f"worker {id} {why}")), [Drop(id, why)]


def _alone_has_weights(state: State, id: int) -> bool:
    with_weights = [worker.id for worker in state.workers.values() if worker.position]
    return with_weights == [id]


def _position(state: State, id: int) -> Position:
    return state.workers[id].position or Position()
