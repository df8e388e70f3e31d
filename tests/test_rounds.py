"""Membership decisions, one transition at a time; the clock is a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edl_allreduce.position import Position
from rendezvous import rounds
from rendezvous.events import (
    AbandonRound,
    AskToExport,
    AskToLeave,
    AskToPart,
    BeginRound,
    Broke,
    Drop,
    Effect,
    EndJob,
    Event,
    Exported,
    Greeted,
    Leaving,
    Lost,
    Parted,
    Ready,
    Scaled,
    StartWorker,
    Stopped,
    Tick,
)
from rendezvous.state import Phase, Policy, Round, State, Worker, WorkerState

END = Position(step=100, epoch=1)
POLICY = Policy(finished=lambda position: position >= END, gather_timeout=5.0, part_timeout=30.0)
AT = Position(step=10, offset=640)


def decide(state: State, *events: Event, now: float = 100.0, policy: Policy = POLICY) -> tuple[State, list[Effect]]:
    """The state after the events, and the effects of the last one."""
    effects: list[Effect] = []
    for event in events:
        state, effects = rounds.decide(state, event, now, policy)
    return state, effects


def ready(id: int, position: Position | None = None, since: float = 99.0) -> Worker:
    return Worker(id, WorkerState.READY, since, "host", position)


def preparing(id: int) -> Worker:
    return Worker(id, WorkerState.PREPARING, 99.0, "host")


def gathering(*workers: Worker, target: int | None = None, **more: object) -> State:
    state = State(target=target or len(workers), workers={each.id: each for each in workers}, next_id=10)
    return replace(state, **more)  # type: ignore[arg-type]


def training(*ids: int, others: tuple[Worker, ...] = (), **more: object) -> State:
    """A round 3 of workers `ids`, in progress since step 5."""
    members = [Worker(id, WorkerState.TRAINING, 50.0, "host", Position(step=5, offset=320)) for id in ids]
    round = Round(3, ids, "start", synchronize=False, position=Position(step=5, offset=320))
    target = more.pop("target", None)
    state = gathering(*members, *others, target=target if isinstance(target, int) else None)
    return replace(state, **({"phase": Phase.TRAINING, "round": round, "cause": ""} | more))  # type: ignore[arg-type]


# Keeping workers alive.


def test_missing_workers_are_started_with_ids_never_used_before() -> None:
    state, effects = decide(State(target=3), Tick())
    assert effects == [StartWorker(0), StartWorker(1), StartWorker(2)]
    state, effects = decide(state, Greeted(1, "host"), Lost(1, "was killed"))
    assert effects == [StartWorker(3)]


def test_a_worker_that_leaves_is_replaced_when_it_is_still_wanted() -> None:
    state, effects = decide(training(0, 1), Leaving(1))
    assert effects == [StartWorker(10)] and state.phase is Phase.TRAINING


def test_scaling_down_sends_the_youngest_away_first_those_that_do_not_train() -> None:
    state, effects = decide(training(0, 1, 2, others=(preparing(3),)), Scaled(2))
    assert effects == [AskToLeave(3), AskToLeave(2)]
    state, effects = decide(state, Lost(3, "ended"))
    assert effects == [] and state.phase is Phase.TRAINING


def test_three_deaths_in_a_row_before_being_ready_fail_the_job() -> None:
    state, effects = decide(
        State(target=1), Tick(), Lost(0, "ended"), Lost(1, "ended"), Lost(2, "ended with exit code 1")
    )
    assert state.phase is Phase.FAILED and effects == [EndJob()]
    assert (
        state.verdict
        == "3 workers in a row died before they were ready; the last one, worker 2, ended with exit code 1"
    )
    state, _ = decide(
        State(target=2), Tick(), Lost(0, "x"), Lost(2, "x"), Greeted(1, "h"), Ready(1), Lost(3, "x"), Lost(4, "x")
    )
    assert not state.phase.ended  # a worker that got ready in between: an accident, not a habit


# Forming rounds.


def test_the_first_round_waits_for_workers_that_prepare_but_not_for_ever() -> None:
    state = gathering(preparing(0), preparing(1))
    state, effects = decide(state, Ready(0))
    assert effects == [] and rounds.next_deadline(state, POLICY) == 105.0
    state, effects = decide(state, Tick(), now=105.0)
    assert [effect.round.members for effect in effects if isinstance(effect, BeginRound)] == [(0,)]


def test_the_first_round_begins_at_once_when_all_are_ready() -> None:
    state, effects = decide(gathering(ready(0), preparing(1)), Ready(1))
    assert effects == [BeginRound(Round(1, (0, 1), "start", True, Position()))]
    assert all(worker.state is WorkerState.TRAINING for worker in state.workers.values())


def test_fewer_than_min_workers_wait() -> None:
    policy = replace(POLICY, min_workers=2)
    state, effects = decide(gathering(ready(0, AT), preparing(1)), Tick(), now=1000.0, policy=policy)
    assert effects == [] and state.phase is Phase.GATHERING


def test_rank_0_is_the_furthest_and_synchronizes_those_behind() -> None:
    behind = Position(step=9, offset=576)
    _, effects = decide(gathering(ready(0, behind), ready(1, AT), ready(2)), Tick())
    [begin] = effects
    assert isinstance(begin, BeginRound)
    assert begin.round.members[0] == 1 and begin.round.synchronize and begin.round.position == AT


def test_equal_survivors_do_not_synchronize_and_do_not_wait_for_the_replacement() -> None:
    _, effects = decide(gathering(ready(0, AT), ready(1, AT), preparing(2)), Tick())
    [begin] = effects
    assert isinstance(begin, BeginRound) and not begin.round.synchronize and begin.round.members == (0, 1)


def test_members_of_a_host_have_neighbouring_ranks() -> None:
    workers = [replace(ready(id, AT), host=host) for id, host in enumerate("abab")]
    _, [begin] = decide(gathering(*workers), Tick())
    assert isinstance(begin, BeginRound)
    assert begin.round.members == (0, 2, 1, 3)


# Newcomers.


def test_a_newcomer_has_the_round_part_after_its_step() -> None:
    state, effects = decide(training(0, 1, others=(preparing(2),)), Ready(2))
    assert effects == [AskToPart(3, (0, 1))] and state.phase is Phase.PARTING
    assert state.deadline is None  # a step may take long; a hung member is found by its heartbeat
    state, effects = decide(state, Parted(0, 3, AT), Parted(1, 3, AT))
    [begin] = effects
    assert isinstance(begin, BeginRound)
    assert begin.round == Round(4, (0, 1, 2), "worker 2 joined", True, AT)


def test_newcomers_that_come_together_cost_one_reform() -> None:
    state, effects = decide(training(0, others=(preparing(1), preparing(2))), Ready(1))
    assert effects == [] and state.phase is Phase.TRAINING
    state, effects = decide(state, Ready(2))
    assert effects == [AskToPart(3, (0,))]


def test_a_slow_newcomer_is_not_waited_for_longer_than_the_limit() -> None:
    state, _ = decide(training(0, others=(preparing(1), preparing(2))), Ready(1))
    state, effects = decide(state, Tick(), now=105.0)
    assert effects == [AskToPart(3, (0,))]


# Failures.


def test_a_lost_member_has_the_others_abandon_the_round() -> None:
    state, effects = decide(training(0, 1, 2), Lost(1, "was ended by SIGKILL"))
    assert effects == [StartWorker(10), AbandonRound(3, (0, 2))]
    assert state.phase is Phase.PARTING and state.deadline == 130.0
    state, effects = decide(state, Parted(0, 3, AT, "broken"), Parted(2, 3, AT, "broken"))
    [begin] = effects
    assert isinstance(begin, BeginRound)
    assert begin.round.members == (0, 2) and begin.round.cause == "worker 1 was ended by SIGKILL"
    assert not state.round_failed and state.deadline is None


def test_a_failed_reduction_has_the_others_abandon_the_round() -> None:
    _, effects = decide(training(0, 1, 2), Parted(2, 3, AT, "connection reset"))
    assert effects == [AbandonRound(3, (0, 1))]


def test_a_failure_while_members_part_by_request_has_them_abandon() -> None:
    state, _ = decide(training(0, 1, others=(preparing(2),)), Ready(2), Parted(0, 3, AT))
    state, effects = decide(state, Lost(1, "was ended by SIGKILL"))
    [started, begin] = effects
    assert started == StartWorker(10) and isinstance(begin, BeginRound) and begin.round.members == (0, 2)
    state, _ = decide(training(0, 1, others=(preparing(2),)), Ready(2))
    state, effects = decide(state, Lost(1, "was ended by SIGKILL"))
    assert effects == [StartWorker(10), AbandonRound(3, (0,))]


def test_a_member_that_does_not_part_in_time_is_dropped_and_replaced() -> None:
    state, _ = decide(training(0, 1, 2), Lost(2, "x"), Parted(0, 3, AT, "broken"))
    assert rounds.next_deadline(state, POLICY) == 130.0
    state, effects = decide(state, Tick(), now=130.0)
    assert effects[0] == Drop(1, "did not part within 30 s")
    assert any(isinstance(effect, BeginRound) and effect.round.members == (0,) for effect in effects)
    assert StartWorker(11) in effects and 1 not in state.workers
    unchanged, effects = decide(state, Parted(1, 3, AT, "late"))  # it can disturb nobody
    assert unchanged == state and effects == []


def test_word_of_an_older_round_changes_nothing() -> None:
    state = training(0, 1)
    assert decide(state, Parted(0, 2, AT, "late")) == (state, [])


def test_rounds_that_fail_without_a_step_or_a_loss_fail_the_job() -> None:
    state = training(0)
    where = Position(step=5, offset=320)
    for number in (3, 4):
        state, effects = decide(state, Parted(0, number, where, "odd"))
        assert state.phase is Phase.TRAINING
    state, effects = decide(state, Parted(0, 5, where, "odd"))
    assert (
        state.phase is Phase.FAILED
        and state.verdict == "3 rounds in a row failed at step 6: odd"
        and effects == [EndJob()]
    )


def test_when_all_are_lost_newcomers_start_anew() -> None:
    state, _ = decide(training(0, 1), Lost(0, "x"), Lost(1, "x"))
    assert state.phase is Phase.GATHERING
    state, effects = decide(state, Greeted(10, "host"), Greeted(11, "host"), Ready(10), Ready(11))
    [begin] = effects
    assert isinstance(begin, BeginRound) and begin.round.position == Position() and begin.round.number == 4
    assert begin.round.cause == "worker 1 x; nobody is left who has the weights: training starts again"


# Leaving.


def test_a_leaver_parts_and_is_not_in_the_next_round() -> None:
    state, _ = decide(training(0, 1, target=1), Leaving(1), Parted(0, 3, AT))
    state, effects = decide(state, Parted(1, 3, AT))
    [begin] = effects
    assert isinstance(begin, BeginRound) and begin.round.members == (0,) and begin.round.cause == "worker 1 left"
    state, effects = decide(state, Lost(1, "ended with exit code 0"))
    assert effects == [] and state.phase is Phase.TRAINING and 1 not in state.workers


# The end.


def test_at_the_end_one_worker_at_the_end_exports() -> None:
    state, _ = decide(training(0, 1), Parted(0, 3, END))
    state, effects = decide(state, Parted(1, 3, END))
    assert effects == [AskToExport(0)] and state.phase is Phase.EXPORTING
    state, effects = decide(state, Exported(0))
    assert effects == [EndJob()] and state.phase is Phase.DONE and state.exit_code == 0


def test_when_the_exporter_is_lost_another_one_exports() -> None:
    state, _ = decide(training(0, 1), Parted(0, 3, END), Parted(1, 3, END))
    state, effects = decide(state, Lost(0, "x"))
    assert AskToExport(1) in effects and state.phase is Phase.EXPORTING


def test_the_last_step_may_have_been_applied_by_one_member_only() -> None:
    before = Position(step=99, offset=960)
    _, effects = decide(training(0, 1), Parted(1, 3, END, None), Parted(0, 3, before, "broken"))
    assert effects == [AskToExport(1)]


@pytest.mark.parametrize(
    ("event", "phase", "exit_code"),
    [(Broke(0, "digits.py:42: no", 5), Phase.FAILED, 5), (Stopped("stopped by SIGTERM"), Phase.STOPPED, 130)],
)
def test_the_job_ends_at_once(event: Event, phase: Phase, exit_code: int) -> None:
    state, effects = decide(training(0, 1), event)
    assert state.phase is phase and state.exit_code == exit_code and effects == [EndJob()]
    assert decide(state, Ready(0), Lost(1, "x"), Scaled(7)) == (state, [])
