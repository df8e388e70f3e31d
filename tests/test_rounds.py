"""Membership decisions, one transition at a time; the clock is a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edl_allreduce.position import Position
from rendezvous import rounds
from rendezvous.events import (
    AbandonRound,
    AskToCheckpoint,
    AskToExport,
    AskToLeave,
    AskToPart,
    AskToRestore,
    BeginRound,
    Broke,
    Cancel,
    Checkpointed,
    CheckpointWanted,
    Dismiss,
    Drop,
    Effect,
    EndJob,
    Event,
    Explained,
    Exported,
    Greeted,
    Leaving,
    Lost,
    Parted,
    Ready,
    Restored,
    Scaled,
    Stalled,
    Standing,
    Started,
    StartWorker,
    Stopped,
    Tick,
    Waiting,
)
from rendezvous.state import Cause, Kind, Phase, Policy, Round, State, Worker, WorkerState

END = Position(step=100, epoch=1)
POLICY = Policy(finished=lambda position: position >= END, part_timeout=30.0, max_early_deaths=3, max_barren_rounds=3)
SAVING = replace(POLICY, saves=True, checkpoint_secs=60.0)
AT = Position(step=10, offset=640)


def decide(state: State, *events: Event, now: float = 100.0, policy: Policy = POLICY) -> tuple[State, list[Effect]]:
    """The state after the events, and the effects of the last one."""
    effects: list[Effect] = []
    for event in events:
        state, effects = rounds.decide(state, event, now, policy)
    return state, effects


def ready(id: int, position: Position | None = None, since: float = 99.0) -> Worker:
    return Worker(id, WorkerState.READY, since, "host", position=position)


def preparing(id: int) -> Worker:
    return Worker(id, WorkerState.PREPARING, 99.0, "host")


def gathering(*workers: Worker, target: int | None = None, **more: object) -> State:
    state = State(target=target or len(workers), workers={each.id: each for each in workers}, next_id=10)
    return replace(state, **more)  # type: ignore[arg-type]


def training(*ids: int, others: tuple[Worker, ...] = (), **more: object) -> State:
    """A round 3 of workers `ids`, in progress since step 5."""
    members = [Worker(id, WorkerState.TRAINING, 50.0, "host", position=Position(step=5, offset=320)) for id in ids]
    round = Round(3, ids, Position(step=5, offset=320))
    target = more.pop("target", None)
    state = gathering(*members, *others, target=target if isinstance(target, int) else None)
    return replace(state, **({"phase": Phase.TRAINING, "round": round, "next_round": 4, "cause": None} | more))  # type: ignore[arg-type]


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
    assert effects == [BeginRound(Round(1, (0, 1), Position(), True, Cause(Kind.START, "start")))]
    assert all(worker.state is WorkerState.TRAINING for worker in state.workers.values())


def test_fewer_than_min_workers_wait() -> None:
    policy = replace(POLICY, min_workers=2)
    state, effects = decide(gathering(ready(0, AT), preparing(1)), Tick(), now=200.0, policy=policy)
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
    assert begin.round == Round(4, (0, 1, 2), AT, True, Cause(Kind.JOINED, "worker 2 joined"))


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
    assert begin.round.members == (0, 2) and begin.round.cause.text == "worker 1 was ended by SIGKILL"
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
    state, _ = decide(training(0, 1, furthest=AT), Lost(0, "x"), Lost(1, "x"))
    assert state.phase is Phase.GATHERING
    state, effects = decide(state, Greeted(10, "host"), Greeted(11, "host"), Ready(10), Ready(11))
    assert effects == [AskToRestore(10)]  # whoever wrote a checkpoint may have died before it could tell
    state, effects = decide(state, Restored(10, None))
    [begin] = effects
    assert isinstance(begin, BeginRound) and begin.round.position == Position() and begin.round.number == 4
    assert begin.round.cause.kind is Kind.LOST


# Leaving.


def test_a_leaver_parts_and_is_not_in_the_next_round() -> None:
    state, _ = decide(training(0, 1, target=1), Leaving(1), Parted(0, 3, AT))
    state, effects = decide(state, Parted(1, 3, AT))
    [dismissed, begin] = effects
    assert dismissed == Dismiss(1)
    assert isinstance(begin, BeginRound) and begin.round.members == (0,) and begin.round.cause.text == "worker 1 left"
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
    [
        (Broke(0, "digits.py:42: no", 5), Phase.FAILED, 5),
        (Stopped("stopped by SIGTERM"), Phase.STOPPED, 130),  # nothing is saved, since nothing is to be saved
    ],
)
def test_the_job_ends_at_once(event: Event, phase: Phase, exit_code: int) -> None:
    state, effects = decide(training(0, 1), event)
    assert state.phase is phase and state.exit_code == exit_code and effects == [EndJob()]
    assert decide(state, Ready(0), Lost(1, "x"), Scaled(7)) == (state, [])


# Checkpoints.


def test_when_all_are_lost_one_newcomer_restores_and_the_others_get_its_weights() -> None:
    state = gathering(ready(0), ready(1), checkpoint=AT)
    state, effects = decide(state, Tick(), policy=SAVING)
    assert effects == [AskToRestore(0)]
    assert decide(state, Tick(), policy=SAVING) == (state, [])  # the other one waits
    state, [begin] = decide(state, Restored(0, AT), policy=SAVING)
    assert isinstance(begin, BeginRound)
    assert begin.round.members == (0, 1) and begin.round.position == AT and begin.round.synchronize


def test_when_the_one_that_restores_is_lost_another_one_does() -> None:
    state, _ = decide(gathering(ready(0), ready(1), checkpoint=AT), Tick())
    _, effects = decide(state, Lost(0, "x"), now=110.0)
    assert AskToRestore(1) in effects


def test_survivors_weights_are_newer_than_any_checkpoint() -> None:
    _, [begin] = decide(gathering(ready(0, AT), ready(1), checkpoint=Position(step=9, offset=576)), Tick())
    assert isinstance(begin, BeginRound) and begin.round.position == AT


def test_a_checkpoint_at_the_end_only_needs_exporting() -> None:
    state, _ = decide(gathering(ready(0), checkpoint=END), Tick())
    _, effects = decide(state, Restored(0, END))
    assert effects == [AskToExport(0)]


def test_rank_0_is_asked_for_a_checkpoint_in_time() -> None:
    state, _ = decide(gathering(ready(0, AT), ready(1, AT)), Tick(), policy=SAVING)
    assert rounds.next_deadline(state, SAVING) == 160.0
    state, effects = decide(state, Tick(), now=160.0, policy=SAVING)
    assert effects == [AskToCheckpoint(0)] and rounds.next_deadline(state, SAVING) == 220.0
    state, effects = decide(state, Checkpointed(0, AT), now=161.0, policy=SAVING)
    assert effects == [] and state.checkpoint == AT
    state, _ = decide(state, Checkpointed(0, None), Checkpointed(0, Position(step=9, offset=576)), policy=SAVING)
    assert state.checkpoint == AT  # the newest complete one


@pytest.mark.parametrize("policy", [POLICY, SAVING])
def test_a_checkpoint_that_somebody_wants_is_asked_for_once(policy: Policy) -> None:
    state, effects = decide(training(0, 1), CheckpointWanted(), now=5.0, policy=policy)
    assert effects == [AskToCheckpoint(0)]
    state, effects = decide(state, Tick(), now=6.0, policy=policy)
    assert effects == [] and state.checkpoint_due == (65.0 if policy is SAVING else None)


def test_going_back_to_a_checkpoint_is_told() -> None:
    state, _ = decide(training(0, furthest=AT, checkpoint=Position(step=9, offset=576)), Lost(0, "x"))
    state, _ = decide(state, Greeted(10, "host"), Ready(10))
    _, [begin] = decide(state, Restored(10, Position(step=9, offset=576)))
    assert isinstance(begin, BeginRound)
    assert begin.round.cause.text == "worker 0 x; nobody is left with newer weights: training goes on from step 9"


# Leaving with the only weights.


def test_the_last_worker_with_the_weights_saves_them_before_it_goes() -> None:
    state, effects = decide(training(0), Leaving(0), Parted(0, 3, AT), policy=SAVING)
    assert effects == [AskToCheckpoint(0)]
    state, effects = decide(state, Greeted(10, "host"), Ready(10), policy=SAVING)
    assert effects == []  # its weights are on their way
    state, effects = decide(state, Checkpointed(0, AT), policy=SAVING)
    assert effects == [Dismiss(0), AskToRestore(10)]


def test_of_several_last_workers_one_saves() -> None:
    state, _ = decide(training(0, 1), Leaving(0), Leaving(1), Parted(0, 3, AT), policy=SAVING)
    _, effects = decide(state, Parted(1, 3, AT), policy=SAVING)
    assert effects == [AskToCheckpoint(0), Dismiss(1)]


def test_a_last_worker_that_cannot_save_is_not_kept() -> None:
    state, _ = decide(training(0), Leaving(0), Parted(0, 3, AT), policy=SAVING)
    _, effects = decide(state, Checkpointed(0, None), policy=SAVING)
    assert effects == [Dismiss(0)]


def test_a_leaver_is_dismissed_while_others_train() -> None:
    _, effects = decide(training(0, others=(ready(1),), target=1), Leaving(1), policy=SAVING)
    assert effects == [Dismiss(1)]


# Stopping.


def test_a_job_that_stops_saves_what_it_has() -> None:
    state, effects = decide(training(0, 1), Stopped("stopped by SIGINT"), policy=SAVING)
    assert effects == [AskToPart(3, (0, 1))] and state.phase is Phase.STOPPING
    state, effects = decide(state, Parted(0, 3, AT), Parted(1, 3, AT), policy=SAVING)
    assert effects == [AskToCheckpoint(0)]
    state, effects = decide(state, Checkpointed(0, AT), policy=SAVING)
    assert effects == [EndJob()] and state.phase is Phase.STOPPED and state.exit_code == 130


def test_stopping_does_not_take_longer_than_the_limit_and_a_second_wish_ends_it() -> None:
    state, _ = decide(training(0, 1), Stopped("x"), policy=SAVING)
    assert rounds.next_deadline(state, SAVING) == 115.0
    assert decide(state, Tick(), now=115.0, policy=SAVING)[0].phase is Phase.STOPPED
    assert decide(state, Stopped("again"), policy=SAVING)[0].phase is Phase.STOPPED


def test_a_worker_lost_while_the_job_stops_is_not_replaced_and_holds_nobody_up() -> None:
    state, _ = decide(training(0, 1), Stopped("x"), policy=SAVING)
    state, effects = decide(state, Lost(1, "x"), policy=SAVING)
    assert effects == [AbandonRound(3, (0,))]
    _, effects = decide(state, Parted(0, 3, AT, "broken"), policy=SAVING)
    assert effects == [AskToCheckpoint(0)]


def test_nothing_new_is_nothing_to_save() -> None:
    state, _ = decide(gathering(ready(0, AT), checkpoint=AT, target=2), Stopped("x"), policy=SAVING)
    assert state.phase is Phase.STOPPED


def test_a_trained_model_that_is_being_written_is_completed_although_the_job_is_told_to_stop() -> None:
    exporter = Worker(0, WorkerState.EXPORTING, 90.0, "host", position=END)
    state = gathering(exporter, ready(1, END), phase=Phase.EXPORTING)
    state, effects = decide(state, Stopped("stopped by SIGINT"), policy=SAVING)
    assert effects == [] and state.phase is Phase.STOPPING
    done, effects = decide(state, Exported(0), policy=SAVING)
    assert effects == [EndJob()] and (done.phase, done.exit_code, done.verdict) == (Phase.DONE, 0, "")
    _, effects = decide(state, Lost(0, "x"), policy=SAVING)  # somebody else has what would be lost
    assert effects == [AskToCheckpoint(1)]


def recovering(*ids: int) -> State:
    """After a restart of the coordinator; nobody has greeted."""
    workers = [Worker(id, WorkerState.UNHEARD, 99.0) for id in ids]
    return gathering(*workers, phase=Phase.RECOVERING, next_round=4, cause=None)


def test_a_job_that_is_stopped_while_its_coordinator_is_restarted_saves_what_it_has() -> None:
    round = Round(3, (0, 1), AT)
    trains = Standing(WorkerState.TRAINING, AT, round, False)
    state, effects = decide(recovering(0, 1), Stopped("x"), policy=SAVING)
    assert effects == [] and state.phase is Phase.STOPPING
    state, effects = decide(state, Greeted(0, "h", "", trains), policy=SAVING)
    assert effects == []
    state, effects = decide(state, Greeted(1, "h", "", trains), policy=SAVING)
    assert effects == [AskToPart(3, (0, 1))]
    _, effects = decide(state, Parted(0, 3, AT), Parted(1, 3, AT), policy=SAVING)
    assert effects == [AskToCheckpoint(0)]


def test_a_job_is_stopped_whose_coordinator_died_together_with_a_worker() -> None:
    trains = Standing(WorkerState.TRAINING, AT, Round(3, (0, 1, 2), AT), False)
    before, _ = decide(recovering(0, 1), Stopped("x"), policy=SAVING)  # of worker 2 nothing is left
    _, effects = decide(before, Greeted(0, "h", "", trains), Greeted(1, "h", "", trains), policy=SAVING)
    assert effects == [AbandonRound(3, (0, 1))]
    alone, _ = decide(before, Greeted(0, "h", "", trains), policy=SAVING)
    state, effects = decide(alone, Tick(), now=111.0, policy=SAVING)
    assert effects == [Drop(1, "was unheard of for 10 s"), AbandonRound(3, (0,))]  # nor of worker 1, it turns out
    _, effects = decide(state, Parted(0, 3, AT, "broken"), policy=SAVING)
    assert effects == [AskToCheckpoint(0)]


# Hung workers and broken networks.


@pytest.mark.parametrize("doing", [WorkerState.STARTING, WorkerState.PREPARING, WorkerState.EXPORTING])
def test_nobody_may_be_busy_for_ever(doing: WorkerState) -> None:
    state = gathering(
        Worker(0, doing, 100.0), phase=Phase.EXPORTING if doing is WorkerState.EXPORTING else Phase.GATHERING
    )
    assert rounds.next_deadline(state, POLICY) == 700.0
    state, effects = decide(state, Tick(), now=700.0)
    assert effects[0] == Drop(0, f"was {doing.value} for 600 s") and 0 not in state.workers


def test_a_round_that_is_stuck_is_abandoned() -> None:
    _, effects = decide(training(0, 1), Stalled(3, "no reduction for 3 s"))
    assert effects == [AbandonRound(3, (0, 1))]
    assert decide(training(0, 1), Stalled(2, "an older one")) == (training(0, 1), [])


def on_network(*ids: int) -> State:
    state = training(*ids)
    there = {id: replace(worker, address=f"10.0.0.{id}") for id, worker in state.workers.items()}
    return replace(state, workers=there)


def test_of_two_that_cannot_reach_each_other_the_younger_is_replaced() -> None:
    state, _ = decide(on_network(0, 1, 2), Stalled(3, "stuck"))
    state, _ = decide(state, Parted(0, 3, AT, "broken"), Parted(1, 3, AT, "broken", ("10.0.0.2",)))
    state, effects = decide(state, Parted(2, 3, AT, "broken", ("10.0.0.1",)))
    assert effects[0] == Drop(2, "could not be reached by other workers") and effects[1] == StartWorker(10)
    assert isinstance(effects[2], BeginRound) and effects[2].round.members == (0, 1)
    assert effects[2].round.cause.kind is Kind.NETWORK


def test_a_worker_that_several_cannot_reach_is_the_culprit() -> None:
    state, _ = decide(on_network(0, 1, 2), Stalled(3, "stuck"), Parted(0, 3, AT, "broken"))
    state, _ = decide(state, Parted(1, 3, AT, "broken", ("10.0.0.0",)))
    _, effects = decide(state, Parted(2, 3, AT, "broken", ("10.0.0.0",)))
    assert effects[0] == Drop(0, "could not be reached by other workers")


def test_the_only_one_with_the_weights_is_not_dropped_for_newcomers() -> None:
    state, _ = decide(on_network(0, 1, 2), Stalled(3, "stuck"), Parted(0, 3, AT, "x"))
    state, _ = decide(state, Parted(1, 3, None, "x", ("10.0.0.0",)))
    _, effects = decide(state, Parted(2, 3, None, "x", ("10.0.0.0",)))
    assert [effect.id for effect in effects if isinstance(effect, Drop)] == [2, 1]


def test_who_outlives_another_in_vain_is_dropped_next() -> None:
    """0 is cut off from all others, but each time only one of them tells."""
    state, _ = decide(on_network(0, 1, 2), Stalled(3, "stuck"))
    state, effects = decide(state, Parted(0, 3, AT, "x", ("10.0.0.1",)), Parted(1, 3, AT, "x"), Parted(2, 3, AT, "x"))
    assert effects[0] == Drop(1, "could not be reached by other workers")
    in_vain, _ = decide(state, Stalled(4, "stuck"), Parted(0, 4, AT, "x"))
    _, effects = decide(in_vain, Parted(2, 4, AT, "x", ("10.0.0.0",)))
    assert effects[0] == Drop(0, "could not be reached by other workers")
    later = Position(step=12, offset=768)
    by_and_by, _ = decide(state, Stalled(4, "stuck"), Parted(0, 4, later, "x"))
    _, effects = decide(by_and_by, Parted(2, 4, later, "x", ("10.0.0.0",)))
    assert effects[0] == Drop(2, "could not be reached by other workers")


def test_a_network_of_which_nobody_knows_what_is_wrong_is_not_tried_for_ever() -> None:
    state = on_network(0, 1)
    began = Position(step=5, offset=320)
    for number in (3, 4, 5):
        assert state.phase is Phase.TRAINING and state.barren_rounds == number - 3
        state, _ = decide(state, Stalled(number, "no worker could make the ring for 3.0 s"))
        state, _ = decide(state, Parted(0, number, began, "severed"), Parted(1, number, began, "severed"))
    assert state.phase is Phase.FAILED
    assert state.verdict == "3 rounds in a row failed at step 6: no worker could make the ring for 3.0 s"


def test_a_round_that_got_further_before_it_was_stuck_was_not_in_vain() -> None:
    state, _ = decide(replace(on_network(0, 1), barren_rounds=2), Stalled(3, "stuck"))
    state, _ = decide(state, Parted(0, 3, AT, "severed"), Parted(1, 3, AT, "severed"))
    assert state.phase is Phase.TRAINING and state.barren_rounds == 0


LENIENT = replace(POLICY, max_barren_rounds=5)


def fails_at_once(state: State, first: int, *others: int) -> tuple[State, list[Effect]]:
    """The state after a round that failed without a step on `first`, then on the others."""
    assert state.round
    number, began = state.round.number, state.round.position
    for id in (first, *others):
        position = None if state.workers[id].position is None else began
        state, effects = decide(state, Parted(id, number, position, "refused"), policy=LENIENT)
    return state, effects


def test_who_fails_first_in_round_after_round_is_dropped() -> None:
    state = training(0, 1, 2)
    for first in (1, 0):
        state, effects = fails_at_once(state, first, *{0, 1, 2} - {first})
        assert len(effects) == 1
    state, effects = fails_at_once(state, 1, 0, 2)
    assert effects[0] == Drop(1, "was refused, or refused others, in 3 rounds in a row")
    assert state.round and state.round.members == (0, 2) and state.round.cause.kind is Kind.NETWORK
    at = Position(step=9, offset=576)
    state, _ = decide(state, Parted(0, 6, at), Parted(2, 6, at), policy=LENIENT)
    assert state.barren_rounds == 0


def test_who_was_refused_is_dropped_rather_than_who_fails_first() -> None:
    state = replace(training(0, 1, 2), barren_rounds=2)
    assert state.round
    parted = [Parted(id, state.round.number, state.round.position, "failed", refused=id != 1) for id in (1, 0, 2)]
    _, effects = decide(state, *parted, policy=LENIENT)
    assert isinstance(effects[0], Drop) and effects[0].id == 2


def test_the_only_one_with_the_weights_is_not_dropped_on_suspicion() -> None:
    newcomers = [replace(worker, position=None) for worker in training(1, 2).workers.values()]
    state = training(0, 1, 2)
    state = replace(state, workers=state.workers | {each.id: each for each in newcomers}, barren_rounds=2)
    _, effects = fails_at_once(state, 0, 1, 2)
    assert isinstance(effects[0], Drop) and effects[0].id == 2


def test_when_it_was_not_the_suspect_the_job_ends() -> None:
    state, _ = fails_at_once(replace(training(0, 1, 2), barren_rounds=2), 1, 0, 2)
    state, _ = fails_at_once(state, 0, 2)
    state, effects = fails_at_once(state, 0)
    assert state.phase is Phase.FAILED and effects == [EndJob()]


def test_one_that_is_alone_is_no_suspect() -> None:
    state, [begin] = fails_at_once(replace(training(0), barren_rounds=2), 0)
    assert isinstance(begin, BeginRound) and state.barren_rounds == 3


def test_an_address_that_members_share_accuses_nobody() -> None:
    state, _ = decide(training(0, 1, 2), Stalled(3, "stuck"), Parted(0, 3, AT, "broken", ("",)))
    assert state.unreachable == frozenset()


def test_losses_at_one_place_are_not_repeated_for_ever() -> None:
    policy = replace(POLICY, max_losses_in_place=3)
    state = training(0, furthest=AT)
    for loss in range(3):
        id = next(worker.id for worker in state.workers.values() if worker.state is WorkerState.TRAINING)
        state, _ = decide(state, Lost(id, "was ended by SIGSEGV", position=AT), policy=policy)
        if loss < 2:
            [newcomer] = state.workers
            state, _ = decide(
                state, Greeted(newcomer, "host"), Ready(newcomer), Restored(newcomer, None), policy=policy
            )
    assert state.phase is Phase.FAILED and "3 times in a row a worker was lost before step 11 was done" in state.verdict


def test_a_job_that_gets_further_may_lose_any_number_of_workers() -> None:
    policy = replace(POLICY, max_losses_in_place=2)
    state = training(0, 1)
    for step in range(6, 20):
        at = Position(step=step, offset=64 * step)
        lost, other = [worker.id for worker in state.workers.values() if worker.state is WorkerState.TRAINING]
        assert state.round
        state, _ = decide(state, Lost(lost, "x"), Parted(other, state.round.number, at, "broken"), policy=policy)
        [newcomer] = [id for id in state.workers if id != other]
        state, _ = decide(state, Greeted(newcomer, "host"), Ready(newcomer), policy=policy)
        assert state.round
        state, _ = decide(state, Parted(other, state.round.number, at), policy=policy)
        assert state.phase is Phase.TRAINING


def test_how_a_lost_worker_ended_is_told_when_it_is_known() -> None:
    state, _ = decide(training(0, 1), Lost(1, "closed its connection"), Explained(1, "was ended by SIGKILL"))
    _, [begin] = decide(state, Parted(0, 3, AT, "broken"))
    assert isinstance(begin, BeginRound) and begin.round.cause.text == "worker 1 was ended by SIGKILL"


def test_a_worker_told_to_go_while_it_starts_is_no_failure() -> None:
    state = State(target=1)
    for id in range(5):
        state, _ = decide(state, Tick(), Lost(id, "was ended by SIGTERM", excused=True))
    assert state.phase is Phase.GATHERING and state.early_deaths == 0


# Another coordinator takes over.


def unheard(*ids: int, target: int | None = None) -> State:
    workers = {id: Worker(id, WorkerState.UNHEARD, 100.0) for id in ids}
    return State(
        target=target or len(ids), phase=Phase.RECOVERING, workers=workers, next_id=10, next_round=4, cause=None
    )


def still_training(*members: int, number: int = 3) -> Standing:
    return Standing(WorkerState.TRAINING, AT, Round(number, members, Position(step=5, offset=320)))


def test_a_round_goes_on_undisturbed_under_another_coordinator() -> None:
    state, effects = decide(unheard(0, 1), Greeted(0, "host", "", still_training(0, 1)))
    assert effects == [] and state.phase is Phase.RECOVERING and rounds.next_deadline(state, POLICY) == 110.0
    state, effects = decide(state, Greeted(1, "host", "", still_training(0, 1)))
    assert effects == [] and state.phase is Phase.TRAINING
    state, effects = decide(state, Lost(1, "x"))
    assert AbandonRound(3, (0,)) in effects
    _, effects = decide(state, Parted(0, 3, AT, "broken"))
    assert isinstance(effects[-1], BeginRound) and effects[-1].round.number == 4


def test_checkpoints_go_on_under_another_coordinator() -> None:
    state, _ = decide(unheard(0), Greeted(0, "host", "", still_training(0)), policy=SAVING)
    assert rounds.next_deadline(state, SAVING) == 160.0
    _, effects = decide(state, Tick(), now=160.0, policy=SAVING)
    assert effects == [AskToCheckpoint(0)]


def test_a_member_that_died_with_the_coordinator_ends_the_round() -> None:
    state, effects = decide(unheard(0, target=2), Greeted(0, "host", "", still_training(0, 1)))
    assert effects == [StartWorker(10), AbandonRound(3, (0,))] or effects == [AbandonRound(3, (0,))]
    assert state.phase is Phase.PARTING and state.cause and state.cause.kind is Kind.RESTART


def test_a_round_that_was_parting_is_finished() -> None:
    parted = Standing(WorkerState.READY, AT, Round(3, (0, 1), Position(step=5, offset=320)))
    state, _ = decide(unheard(0, 1), Greeted(0, "host", "", parted))
    state, effects = decide(state, Greeted(1, "host", "", still_training(0, 1)))
    assert effects == [AbandonRound(3, (1,))]
    _, [begin] = decide(state, Parted(1, 3, AT, "severed"))
    assert isinstance(begin, BeginRound) and begin.round.members == (0, 1) and begin.round.position == AT


def test_a_worker_of_an_older_round_is_dropped() -> None:
    state, _ = decide(unheard(0, 1), Greeted(0, "host", "", still_training(0, 1, number=3)))
    state, effects = decide(state, Greeted(1, "host", "", still_training(1, number=5)))
    assert effects[0] == Drop(0, "was in a round that is over") and state.phase is Phase.TRAINING
    assert state.next_round == 6


def test_a_worker_that_never_greets_again_is_dropped() -> None:
    state, _ = decide(unheard(0, 1), Greeted(0, "host", "", still_training(0, 1)))
    state, effects = decide(state, Tick(), now=110.0)
    assert Drop(1, "was unheard of for 10 s") in effects and AbandonRound(3, (0,)) in effects


def test_all_parted_and_nobody_knows_of_a_next_round() -> None:
    parted = Standing(WorkerState.READY, AT, Round(3, (0,), Position(step=5, offset=320)))
    _, [begin] = decide(unheard(0), Greeted(0, "host", "", parted))
    assert isinstance(begin, BeginRound) and begin.round.number == 4
    assert begin.round.cause.text == "the coordinator was restarted"


def test_an_export_goes_on_under_another_coordinator() -> None:
    exporting = Standing(WorkerState.EXPORTING, END, Round(3, (0,), AT))
    state, effects = decide(unheard(0), Greeted(0, "host", "", exporting))
    assert effects == [] and state.phase is Phase.EXPORTING
    assert decide(state, Exported(0))[0].phase is Phase.DONE


# Workers that cannot be started yet.


def pending(id: int, since: float = 0.0) -> Worker:
    return Worker(id, WorkerState.PENDING, since, waits_for="no room")


def test_a_worker_that_cannot_be_started_is_pending_and_says_why() -> None:
    state, _ = decide(State(target=1), Tick())
    state, effects = decide(state, Waiting(0, "no image"))
    assert state.workers[0] == Worker(0, WorkerState.PENDING, 100.0, waits_for="no image") and not effects
    state, _ = decide(state, Waiting(0, "no room"), now=150.0)
    assert state.workers[0] == Worker(0, WorkerState.PENDING, 100.0, waits_for="no room")
    state, _ = decide(state, Started(0), now=200.0)
    assert state.workers[0] == Worker(0, WorkerState.STARTING, 200.0)


def test_a_pending_worker_is_never_given_up() -> None:
    state = gathering(pending(0))
    later, effects = decide(state, Tick(), now=1e9)
    assert later == state and not effects and rounds.next_deadline(state, POLICY) is None
    started, _ = decide(state, Started(0), now=1e9)
    assert rounds.next_deadline(started, POLICY) == 1e9 + POLICY.busy_timeout


def test_a_greeting_may_come_before_the_news_that_there_is_room() -> None:
    state, _ = decide(gathering(pending(0)), Greeted(0, "host"), Started(0), Waiting(0, "old news"))
    assert state.workers[0] == Worker(0, WorkerState.PREPARING, 100.0, "host")


def test_training_begins_without_pending_workers() -> None:
    state = gathering(ready(0, since=99.0), pending(1), pending(2))
    still, effects = decide(state, Tick(), now=100.0)
    assert not effects and rounds.next_deadline(still, POLICY) == 99.0 + POLICY.gather_timeout
    state, effects = decide(state, Tick(), now=99.0 + POLICY.gather_timeout)
    assert isinstance(effects[0], BeginRound) and effects[0].round.members == (0,)
    state, effects = decide(state, Started(1), Greeted(1, "host"), Ready(1), now=200.0)
    assert not effects, "the third may come soon"
    assert decide(state, Tick(), now=206.0)[1] == [AskToPart(1, (0,))], "and whoever has room joins"


def test_pending_workers_are_waited_for_where_there_are_too_few() -> None:
    state = gathering(ready(0), pending(1))
    policy = replace(POLICY, min_workers=2)
    assert decide(state, Tick(), now=1e6, policy=policy) == (state, [])


def test_scaling_down_cancels_pending_workers_first() -> None:
    state = training(0, 1, others=(pending(2), pending(3), ready(4)), target=5)
    state, effects = decide(state, Scaled(4))
    assert effects == [Cancel(3)] and 3 not in state.workers
    state, effects = decide(state, Scaled(1))
    assert effects == [Cancel(2), AskToLeave(4), AskToLeave(1), Dismiss(4)]


def test_a_pending_worker_that_is_lost_is_no_failure_of_the_job() -> None:
    state = gathering(pending(0))
    for id in range(20):
        lost = Lost(id if id == 0 else state.next_id - 1, "was deleted before it started", excused=True)
        state, effects = decide(state, lost)
        assert effects == [StartWorker(state.next_id - 1)] and state.early_deaths == 0
        state, _ = decide(state, Waiting(state.next_id - 1, "no room"))


@pytest.mark.parametrize("excused", [True, False])
def test_losses_that_others_have_caused_do_not_count(excused: bool) -> None:
    lost = Lost(0, "was evicted", excused=excused)
    state, _ = decide(training(0, 1), lost)
    assert state.losses_in_place == (0 if excused else 1)
    state, _ = decide(gathering(preparing(0)), lost)
    assert state.early_deaths == (0 if excused else 1)


def test_a_loss_that_is_explained_by_others_doing_does_not_count_after_all() -> None:
    state, _ = decide(training(0, 1), Lost(0, "closed its connection"))
    assert state.losses_in_place == 1
    state, _ = decide(state, Explained(0, "was preempted", excused=True))
    assert state.losses_in_place == 0 and state.cause and state.cause.text == "worker 0 was preempted"


def test_a_new_coordinator_does_not_wait_for_pending_workers_to_greet() -> None:
    unheard = Worker(0, WorkerState.UNHEARD, 100.0)
    state = gathering(unheard, phase=Phase.RECOVERING)
    state, _ = decide(state, Waiting(0, "no room"))
    assert state.phase is Phase.GATHERING and state.workers[0].state is WorkerState.PENDING
