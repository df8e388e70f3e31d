"""When a coordinator takes itself for held up, and whether its supervisor hears of it."""

from __future__ import annotations

import os

import pytest

from rendezvous.pulse import Pulse


@pytest.mark.parametrize(
    ("beats", "asked", "doubtful"),
    [
        ((), 9.0, False),  # it has not begun
        ((0.0, 0.5, 1.0), 3.4, False),
        ((0.0, 0.5, 1.0), 3.6, True),  # it has just come to itself
        ((0.0, 0.5, 3.1, 3.6), 6.0, True),
        ((0.0, 0.5, 3.1, 3.6, 4.1, 4.6, 5.1, 5.6, 6.1), 6.2, False),  # it has read by now what had come meanwhile
    ],
)
def test_after_a_pause_a_coordinator_doubts_for_a_while(beats: tuple[float, ...], asked: float, doubtful: bool) -> None:
    time_is = 0.0
    felt = Pulse(clock=lambda: time_is)
    for beat in beats:
        time_is = beat
        felt.beat()
    time_is = asked
    assert felt.was_held_up() is doubtful


def test_a_coordinator_with_much_to_do_does_not_doubt() -> None:
    time_is = 0.0
    felt = Pulse(clock=lambda: time_is)
    felt.beat()
    for _ in range(100):  # greetings of thousands of workers, between two beats
        time_is += 0.1
        felt.work()
    assert not felt.was_held_up() and felt.now() == time_is
    time_is += 3.0
    felt.work()
    assert felt.was_held_up()


def test_time_hardly_goes_on_while_nothing_is_read() -> None:
    time_is = 100.0
    felt = Pulse(clock=lambda: time_is)
    felt.beat()
    time_is = 100.5
    assert felt.now() == 100.5
    felt.beat()
    time_is = 130.0  # stopped for half a minute: what has come meanwhile is read first
    assert felt.now() == 101.5
    felt.beat()
    time_is = 130.25
    assert felt.now() == 101.75


def test_the_supervisor_is_told_every_beat() -> None:
    listens, tells = os.pipe()
    os.set_blocking(tells, False)
    felt = Pulse(tells)
    felt.beat()
    felt.beat()
    assert os.read(listens, 9) == b".."
    os.close(listens)
    felt.beat()  # it is gone: its own business
    os.close(tells)
