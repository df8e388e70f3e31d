"""What is shown follows from the statuses alone, on a terminal as in a pipe."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from rich.console import Console

from edl_allreduce.control.control_pb2 import Position, RoundStatus, Status, WorkerStatus
from launcher.display import progress
from launcher.display.choice import Kind, chosen, display_on
from launcher.display.terminal import Live, Plain, Silent

LOGS = "logs in /logs"


def workers(*states: str, first: int = 0) -> list[WorkerStatus]:
    return [
        WorkerStatus(id=first + index, pid=100 + first + index, state=state, rank=index if state == "training" else -1)
        for index, state in enumerate(states)
    ]


def training(step: int = 10, **values: Any) -> Status:
    given: dict[str, Any] = {
        "phase": "training",
        "position": Position(epoch=1, offset=320, step=step),
        "total_steps": 40,
        "num_epochs": 4,
        "records": 640,
        "loss": 0.34567,
        "records_per_second": 12345.6,
        "seconds_left": 65.4,
        "workers": workers("training", "training"),
        "target_workers": 2,
        "rounds": [RoundStatus(number=1, size=2, cause="start", first_step=1)],
    }
    return Status(**(given | values))


def test_the_summary_says_where_training_stands() -> None:
    assert progress.summary(training()) == (
        "epoch 2/4 · step 10/40 · loss 0.3457 · 12,346 records/s · 2 workers · 1:05 min left"
    )


def test_what_is_not_known_is_not_shown() -> None:
    status = training(0, total_steps=0, seconds_left=0, records_per_second=0, workers=workers("training"))
    assert progress.summary(status) == "epoch 2/4 · step 0 · 1 worker"


def test_the_epoch_stays_the_last_one_at_the_end() -> None:
    assert progress.summary(training(position=Position(epoch=4, step=40))).startswith("epoch 4/4 · step 40/40")


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (Status(), 0.0),
        (training(), 0.25),
        (training(total_steps=0), 1.5 / 4),
        (training(step=50), 1.0),
        (Status(phase="done"), 1.0),
    ],
)
def test_the_bar_is_as_long_as_what_is_done(status: Status, part: float) -> None:
    assert progress.fraction(status) == pytest.approx(part)


STARTING = Status(phase="starting", message="indexing data")
SPAWNED = Status(phase="starting", target_workers=3, workers=workers("preparing", "ready", "starting"))
FIRST = training()
LOST = training(11, phase="reforming", workers=workers("training"))
REPLACED = training(11, phase="reforming", workers=[*workers("training"), *workers("starting", first=2)])
WAITING = training(11, phase="reforming", workers=REPLACED.workers, message="waiting for workers: 1 ready, 2 needed")
CONNECTED = training(11, phase="reforming", workers=[*workers("training"), WorkerStatus(id=2, pid=7)])
ROUND_2 = RoundStatus(number=2, size=1, cause="worker 1 was lost", first_step=12)
ROUND_2_TIMED = RoundStatus(number=2, size=1, cause="worker 1 was lost", first_step=12, paused_seconds=0.168)
ROUND_3 = RoundStatus(number=3, size=2, cause="worker 2 joined")
BEGUN = training(11, workers=REPLACED.workers, rounds=[*FIRST.rounds, ROUND_2])
STEPPED = training(12, workers=REPLACED.workers, rounds=[*FIRST.rounds, ROUND_2_TIMED])
OVERTAKEN = training(12, workers=REPLACED.workers, rounds=[*FIRST.rounds, ROUND_2, ROUND_3])
LEAVING = training(workers=workers("training", "leaving"))


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        (None, Status(phase="starting"), ["starting"]),
        (None, STARTING, ["indexing data"]),
        (STARTING, STARTING, []),
        (STARTING, SPAWNED, ["starting 3 workers: 1 ready"]),
        (SPAWNED, FIRST, ["round 1 with 2 workers"]),
        (FIRST, training(11), []),
        (FIRST, LOST, ["worker 1 is lost"]),
        (LOST, REPLACED, ["worker 2 is starting"]),
        (REPLACED, CONNECTED, []),
        (REPLACED, WAITING, ["waiting for workers: 1 ready, 2 needed"]),
        (WAITING, BEGUN, []),
        (BEGUN, STEPPED, ["round 2 with 1 worker: worker 1 was lost, paused 0.17 s"]),
        (BEGUN, OVERTAKEN, ["round 2 with 1 worker: worker 1 was lost"]),
        (LEAVING, training(workers=workers("training")), ["worker 1 has left"]),
        (FIRST, training(phase="exporting"), ["writing the trained model"]),
        (FIRST, training(message="1 worker, waiting for min_workers 2"), ["1 worker, waiting for min_workers 2"]),
        (FIRST, training(phase="done", workers=[]), []),
        (BEGUN, training(phase="failed", rounds=BEGUN.rounds), ["round 2 with 1 worker: worker 1 was lost"]),
    ],
)
def test_every_change_is_told_once(before: Status | None, now: Status, lines: list[str]) -> None:
    assert progress.changes(before, now) == lines


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (
            training(40, phase="done", training_seconds=12.3),
            ["trained 4 epochs, 40 steps in 12 s; the last loss is 0.3457", "model in out/digits, logs in /logs"],
        ),
        (training(1, phase="stopped", training_seconds=0.25), ["stopped after 1 step in 0.2 s; logs in /logs"]),
        (training(7, phase="failed", training_seconds=3700), ["ended after 7 steps in 1:01:40 h"]),
        (Status(phase="failed"), []),
    ],
)
def test_the_last_lines_say_where_everything_is(status: Status, lines: list[str]) -> None:
    assert progress.ending(status, "out/digits", LOGS) == lines


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1:00 min"), (3599.6, "1:00:00 h")]
)
def test_times_are_read_easily(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_plain_lines_come_with_changes_and_every_few_seconds() -> None:
    times = [0.0]
    out = io.StringIO()
    display = Plain(out, clock=lambda: times[-1])
    for seconds, status in [
        (0.0, STARTING),
        (4.0, SPAWNED),
        (6.0, training(1)),
        (6.2, training(2)),
        (10.9, training(3)),
        (11.1, training(4)),
        (17.0, training(4)),
    ]:
        times.append(seconds)
        display.show(status)
    display.end(training(40, phase="done", training_seconds=12.3), "out", LOGS)
    assert [line.split(" · ")[1] if " · " in line else line for line in out.getvalue().splitlines()] == [
        "indexing data",
        "starting 3 workers: 1 ready",
        "round 1 with 2 workers",
        "step 1/40",
        "step 4/40",
        "trained 4 epochs, 40 steps in 12 s; the last loss is 0.3457",
        "model in out, logs in /logs",
    ]


def test_on_a_terminal_a_bar_stays_and_changes_pass_by() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=20)
    with Live(console) as display:
        display.show(SPAWNED)
        display._live.refresh()
        assert "starting 3 workers: 1 ready" in out.getvalue()
        display.show(FIRST)
        display.show(LOST)
        display._live.refresh()
        bar, summary, busy = _picture(display)
        assert (
            bar.startswith("━━━") and summary.startswith("epoch 2/4 · step 11/40") and "forming the next round" in busy
        )
        display.note("a line with [brackets] stays as it is")
        display.end(training(40, phase="done", training_seconds=12.3), "out", LOGS)
    text = out.getvalue()
    assert "round 1 with 2 workers" in text and "a line with [brackets] stays as it is" in text
    assert text.rstrip().endswith("model in out, logs in /logs")


def _picture(display: Live) -> list[str]:
    console = Console(width=100, height=20, file=io.StringIO())
    console.print(display._live.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("quiet", "notebook", "terminal", "dumb", "kind"),
    [
        (False, False, False, False, Kind.LINES),
        (False, False, True, False, Kind.BAR),
        (False, False, True, True, Kind.LINES),
        (False, True, False, False, Kind.CARD),
        (False, True, True, True, Kind.CARD),
        (True, True, True, False, Kind.NOTHING),
        (True, False, False, False, Kind.NOTHING),
    ],
)
def test_how_progress_is_shown(quiet: bool, notebook: bool, terminal: bool, dumb: bool, kind: Kind) -> None:
    assert chosen(quiet=quiet, notebook=notebook, terminal=terminal, dumb=dumb) is kind


def test_the_display_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as continuous integration sets it, for pipes
    assert type(display_on(io.StringIO(), quiet=True)) is Silent
    assert type(display_on(io.StringIO(), quiet=False)) is Plain
    leader, follower = os.openpty()
    with os.fdopen(leader), os.fdopen(follower, "w") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        assert type(display_on(terminal, quiet=False)) is Live
        assert type(display_on(terminal, quiet=True)) is Silent
        monkeypatch.setenv("TERM", "dumb")
        assert type(display_on(terminal, quiet=False)) is Plain
