"""Who holds up a round, told from what the training threads do."""

from __future__ import annotations

import pytest

from edl_allreduce.control import control_pb2 as pb
from rendezvous.shares import rebalance
from rendezvous.watchdog import Doing, Hung, Stuck, judge, judge_alone


def members(*doing: tuple[pb.Activity.ValueType, float], usual: float = 0.1) -> dict[int, Doing]:
    """What each has been doing, and for how many seconds."""
    return {id: Doing(activity, seconds, usual) for id, (activity, seconds) in enumerate(doing)}


def verdict(
    *doing: tuple[pb.Activity.ValueType, float], usual: float = 0.1, step: float = 0.1, others_wait: bool = False
) -> object:
    return judge(members(*doing, usual=usual), others_wait, step, timeout=3.0)


def test_who_computes_while_others_wait_hangs() -> None:
    assert verdict((pb.REDUCING, 3.1), (pb.COMPUTING, 3.1)) == Hung(1, "has been computing for 3.1 s")
    assert verdict((pb.REDUCING, 3.1), (pb.READING, 3.1)) == Hung(1, "has been reading for 3.1 s")
    assert verdict((pb.JOINING, 3.1), (pb.WAITING, 3.1)) == Hung(1, "has not begun the round for 3.1 s")
    assert verdict((pb.REDUCING, 2.9), (pb.COMPUTING, 2.9)) is None


def test_long_steps_are_given_time() -> None:
    assert verdict((pb.REDUCING, 9.0), (pb.COMPUTING, 9.0), usual=2.0) is None
    assert isinstance(verdict((pb.REDUCING, 11.0), (pb.COMPUTING, 11.0), usual=2.0), Hung)


def test_a_batch_of_an_evaluation_and_callbacks_are_given_more_time() -> None:
    assert verdict((pb.REDUCING, 59.0), (pb.EVALUATING, 59.0)) is None
    assert verdict((pb.REDUCING, 61.0), (pb.EVALUATING, 61.0)) == Hung(1, "has been busy with one batch for 61.0 s")
    assert verdict((pb.REDUCING, 599.0), (pb.CALLING_BACK, 599.0)) is None
    assert verdict((pb.REDUCING, 601.0), (pb.CALLING_BACK, 601.0)) == Hung(1, "has been running callbacks for 601.0 s")


def test_a_worker_that_is_busy_with_a_task_alone_is_given_time() -> None:
    assert judge_alone(3, Doing(pb.EVALUATING, 59.0), timeout=3.0) is None
    assert judge_alone(3, Doing(pb.EVALUATING, 61.0), timeout=3.0) == Hung(3, "has been busy with one batch for 61.0 s")
    assert judge_alone(3, Doing(pb.WAITING, 1e6), timeout=3.0) is None


def test_the_first_step_is_given_more_time() -> None:
    assert verdict((pb.REDUCING, 59.0), (pb.COMPUTING, 59.0), usual=0.0) is None
    assert isinstance(verdict((pb.REDUCING, 61.0), (pb.COMPUTING, 61.0), usual=0.0), Hung)


def test_who_keeps_nobody_waiting_is_given_more_time() -> None:
    assert verdict((pb.COMPUTING, 10.0)) is None
    assert verdict((pb.READING, 10.0), (pb.READING, 10.0)) is None  # the store is slow for everybody
    assert isinstance(verdict((pb.COMPUTING, 61.0)), Hung)
    assert isinstance(verdict((pb.COMPUTING, 3.1), others_wait=True), Hung)


@pytest.mark.parametrize(
    ("activity", "limit"), [(pb.REDUCING, 3.0), (pb.LEAVING_RING, 3.0), (pb.JOINING, 3.04), (pb.SYNCHRONIZING, 30.0)]
)
def test_all_that_wait_for_each_other_are_stuck(activity: pb.Activity.ValueType, limit: float) -> None:
    assert verdict((activity, 90.0), (activity, limit - 0.1)) is None  # the last one has just come
    assert isinstance(verdict((activity, 90.0), (activity, limit + 0.1)), Stuck)


def test_a_network_that_is_only_slow_is_given_more_time_by_and_by() -> None:
    doing = members((pb.REDUCING, 90.0), (pb.REDUCING, 20.0))
    limits = [3.0 * 2**tries for tries in range(5)]
    given_up = [judge(doing, False, 0.1, 3.0, tries) is not None for tries in range(5)]
    assert given_up == [limit < 20.0 for limit in limits] == [True, True, True, False, False]


def test_the_one_that_is_furthest_behind_says_what_is_stuck() -> None:
    assert verdict((pb.REDUCING, 9.0), (pb.JOINING, 9.0)) == Stuck("no worker could make the ring for 9.0 s")


def test_equal_workers_keep_equal_shares() -> None:
    assert rebalance([0, 1, 2], {}, {0: 1.0, 1: 1.1, 2: 0.95}) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert rebalance([0, 1], {}, {0: 1.0}) == {0: 1.0, 1: 1.0}  # nothing is known of the newcomer


def test_step_times_even_out_in_a_few_rounds() -> None:
    speed, fixed = {0: 1.0, 1: 1.0, 2: 4.0}, 0.02  # worker 2 needs four times as long for a record
    shares = dict.fromkeys(speed, 1.0)

    def seconds() -> dict[int, float]:
        total = sum(shares.values())
        return {id: fixed + speed[id] * share / total for id, share in shares.items()}

    for _ in range(8):
        shares = rebalance([0, 1, 2], shares, seconds())
    times = seconds()
    assert max(times.values()) < 1.3 * min(times.values()) and shares[2] < 0.5 * shares[0]


def test_a_hanging_disk_does_not_starve_a_worker_for_ever() -> None:
    assert rebalance([0, 1], {1: 0.1}, {0: 1.0, 1: 1000.0})[1] == 0.1
