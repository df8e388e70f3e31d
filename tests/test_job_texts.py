"""What is shown of a job follows from its status and its history alone."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest

from edl_allreduce.control.control_pb2 import Evaluation, Position, RoundStatus, Status, Work, WorkerStatus
from launcher.display import progress
from launcher.display.event_lines import Narrator, ordinal
from launcher.display.status_json import status_values
from launcher.display.status_screen import milliseconds
from launcher.display.terminal import Live, Plain, screens_on
from tests.test_launcher_progress import _picture, training, workers

NO_ROOM = "0/2 nodes are available: 2 Insufficient cpu"


def worker(id: int, **values: Any) -> WorkerStatus:
    given: dict[str, Any] = {
        "id": id,
        "pid": 7,
        "host": "vm",
        "state": "training",
        "rank": id,
        "lanes": 32,
        "compute_seconds": 0.01,
    }
    return WorkerStatus(**(given | values))


def shown(status: Status) -> str:
    out = io.StringIO()
    with screens_on(out, "digits-1", live=False) as show:
        show(status)
    return out.getvalue()


def test_the_screen_has_everything_that_is_known() -> None:
    status = training(
        12,
        job="train",
        workers=[
            worker(1),
            worker(0, compute_seconds=0.1),
            worker(7, state="pending", rank=-1, pid=0, waits_for=NO_ROOM),
        ],
        rounds=[
            RoundStatus(number=1, size=2, cause="start", first_step=1),
            RoundStatus(
                number=2, size=2, cause="worker 2 hung", first_step=9, paused_seconds=0.21, repeated_records=64
            ),
        ],
        checkpoint=Position(step=8),
        skipped_records=1,
        coordinator_restarts=2,
        checkpoint_error="the disk is full",
        notices=["the median cannot be added up"],
    )
    status.goodput.wall_seconds, status.goodput.useful_seconds = 10.0, 9.5
    status.goodput.lost.add(kind="hung", rounds=1, seconds=0.3)
    status.epochs.add(epoch=0, step=6, values={"loss": 0.5, "val_loss": 0.75})
    status.evaluations.extend([Evaluation(step=6, values={"loss": 0.75}), Evaluation(step=9, values={"loss": 0.7})])
    lines = [line.split() for line in shown(status).splitlines()]
    for wanted in (
        "digits-1 train · training",
        "0 training vm 0 32 100 ms 0.0 s ago",
        "1 training vm 1 32 10 ms 0.0 s ago",
        f"7 pending vm – – 10 ms – {NO_ROOM}",
        "2 2 9 0.21 s worker 2 hung; 64 records computed twice",
        "goodput 95.0 % of 10 s in steps that count",
        "lost hung 1 × 300 ms",
        "epoch 1 loss 0.5 · val_loss 0.75",
        "evaluation step 9: loss 0.7",
        "checkpoint step 8",
        "checkpoint the last one could not be written: the disk is full",
        "left out 1 bad record",
        "note the median cannot be added up",
        "coordinator restarted 2 times",
    ):
        assert wanted.split() in lines, wanted
    assert ["evaluation", "step", "6:", "loss", "0.75"] not in lines, "the epoch's line says it"


def test_a_thousand_workers_fit_on_the_screen() -> None:
    text = shown(training(12, workers=[worker(number) for number in range(1000)]))
    assert len(text.splitlines()) < 30 and "984 more" in text


def test_an_evaluation_has_tasks_instead_of_steps() -> None:
    status = Status(job="evaluate", phase="working", records=100, work=Work(tasks=10, tasks_done=3, tasks_leased=2))
    status.work.records_done = 30
    text = shown(status)
    assert "30/100 records" in text and "3 of 10 done, 2 in progress" in text and "step" not in text


def test_of_an_ended_job_nobody_works_any_more() -> None:
    text = shown(training(40, phase="failed", message="m.py:1: NameError", workers=[worker(0)]))
    assert "m.py:1: NameError" in text and "heartbeat" not in text


def test_status_for_scripts() -> None:
    status = training(12, job="train", loss=math.nan)
    status.epochs.add(epoch=0, values={"loss": 0.5})
    values = json.loads(json.dumps(status_values(status)))
    assert (values["position"]["step"], values["loss"], values["work"], values["skipped_records"]) == (
        12,
        None,
        None,
        0,
    )
    assert values["epochs"][0]["values"] == {"loss": 0.5} and values["workers"][1]["rank"] == 1
    assert list(values) == [field.name for field in Status.DESCRIPTOR.fields]


@pytest.mark.parametrize(("seconds", "text"), [(0.0008, "0.8 ms"), (0.0123, "12 ms"), (1.25, "1.2 s")])
def test_short_times(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


HISTORY: list[tuple[dict[str, Any], str]] = [
    (
        {"round": 1, "members": [0, 1], "cause": "start", "kind": "start", "first_step": 1},
        "round 1 with 2 workers begins at step 1",
    ),
    (
        {"step": 1, "epoch": 0, "loss": 0.3125, "records": 64, "seconds": 0.013},
        "step 1: loss 0.3125, 64 records in 13.0 ms",
    ),
    (
        {"round": 2, "members": [0, 2], "cause": "worker 1 hung", "kind": "hung", "first_step": 1200},
        "round 2 with 2 workers begins at step 1,200: worker 1 hung (worker 1 has gone, worker 2 is new)",
    ),
    (
        {"round": 3, "members": [0, 2, 3, 4], "cause": "joined", "kind": "joined", "first_step": 1300},
        "round 3 with 4 workers begins at step 1,300: joined (workers 3, 4 are new)",
    ),
    ({"round": 2, "paused_seconds": 0.213}, "round 2: nobody was stepping for 0.21 s"),
    ({"round": 2, "repeated": 64}, "round 2: 64 records must be computed once more"),
    (
        {"checkpoint": 100, "bytes": 2_500_000, "seconds": 0.04, "blocked_seconds": 0.0},
        "checkpoint at step 100: 2.5 MB in 0.0 s",
    ),
    ({"checkpoint": 100, "error": "no space"}, "the checkpoint at step 100 could not be written: no space"),
    (
        {"skipped": 1, "file": "a.recordio", "offset": 8, "first": 17, "error": "bad"},
        "1 bad record left out: a.recordio, chunk at offset 8, from record 17: bad",
    ),
    ({"notice": "the median cannot be added up"}, "the median cannot be added up"),
    ({"tasks": [17], "records": 4096, "sums": ""}, "task 17 done: 4,096 records"),
    ({"tasks": [1, 2], "records": 5, "sums": ""}, "tasks 1, 2 done: 5 records"),
    ({"evaluation": 120, "epoch": 1, "figures": {"loss": 0.3}, "seconds": 0.2}, "evaluation after step 120: loss 0.3"),
    ({"evaluation": 0, "epoch": 0, "figures": {"auc": 0.9, "loss": 0.3}}, "evaluation: loss 0.3 · auc 0.9"),
    (
        {"epoch_end": 1, "step": 120, "figures": {"loss": 0.31}, "stopped": "EarlyStopping has ended it"},
        "epoch 2 ends after step 120: loss 0.31; EarlyStopping has ended it",
    ),
    ({"target": 4}, "somebody wants 4 workers from now on"),
    ({"restart": 2}, "the coordinator was restarted, for the 2nd time"),
    ({"something": "new"}, '{"something": "new"}'),
]


def test_every_line_of_a_history_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    narrator = Narrator()
    for line, words in HISTORY:
        assert narrator.tell(line) == f"{'':19}  {words}", line
    stamp, _, rest = narrator.tell({"target": 1, "time": 1795381656.67}).partition("  ")
    assert len(stamp) == 19 and stamp.endswith(":36") and rest == "somebody wants 1 worker from now on"


def test_ordinals() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)
    assert " ".join(map(ordinal, numbers)) == "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th"


def pending(*ids: int, reason: str = NO_ROOM) -> list[WorkerStatus]:
    return [WorkerStatus(id=id, state="pending", rank=-1, waits_for=reason) for id in ids]


def test_what_pending_workers_wait_for_is_told_once() -> None:
    before = training(workers=workers("training", "training"))
    now = training(workers=[*before.workers, *pending(2, 3)])
    assert progress.changes(before, now) == [f"workers 2, 3 wait: {NO_ROOM}"]
    assert progress.changes(now, now) == []
    other = training(workers=[*before.workers, *pending(2), *pending(3, reason="no image")])
    assert progress.changes(now, other) == [f"worker 2 waits: {NO_ROOM}", "worker 3 waits: no image"]
    started = training(workers=[*before.workers, WorkerStatus(id=2, state="starting"), *pending(3)])
    assert progress.changes(now, started) == ["worker 2 is starting", f"worker 3 waits: {NO_ROOM}"]
    assert progress.waits(Status(workers=pending(*range(8)))) == [f"workers 0, 1, 2, 3, 4 and 3 more wait: {NO_ROOM}"]


def test_a_job_that_cannot_begin_says_what_it_waits_for() -> None:
    status = Status(phase="starting", target_workers=3, workers=[*workers("ready"), *pending(1, 2)])
    assert progress.changes(None, status) == ["starting 3 workers: 1 ready, 2 pending", f"workers 1, 2 wait: {NO_ROOM}"]
    from rich.console import Console

    with Live(Console(file=io.StringIO(), force_terminal=True, width=100)) as display:
        display.show(status)
        starting, waiting = _picture(display)
        assert (
            "starting 3 workers: 1 ready, 2 pending" in starting and waiting.rstrip() == f"workers 1, 2 wait: {NO_ROOM}"
        )
        display.stage("building the image: step 3 of 9")
        assert [line.split(" ", 1)[1].rstrip() for line in _picture(display)] == ["building the image: step 3 of 9"]


def test_the_launchers_own_work_is_told_sparsely_in_a_pipe() -> None:
    now, out = [0.0], io.StringIO()
    display = Plain(out, clock=lambda: now[-1])
    for second in range(12):
        now.append(float(second))
        display.stage(f"pushing: {second} MB")
    assert out.getvalue().splitlines() == ["pushing: 0 MB", "pushing: 5 MB", "pushing: 10 MB"]


def test_who_joins_a_job_in_the_middle_is_told_where_it_is() -> None:
    status = training(12, rounds=[RoundStatus(number=1, size=2), RoundStatus(number=2, size=2, paused_seconds=0.2)])
    out = io.StringIO()
    display = Plain(out)
    display.join(status)
    display.show(status)
    assert out.getvalue().count("\n") == 1 and out.getvalue().startswith("epoch 2/4 · step 12/40 · ")


def epochs(count: int, **values: Any) -> Status:
    """A status after so many epochs of 10 steps; evaluated in the middle of each."""
    status = training(10 * count, **values)
    for number in range(count):
        status.epochs.add(epoch=number, step=10 * number + 10, values={"loss": 0.5, "auc": number / 10})
        status.evaluations.add(step=10 * number + 5, values={"loss": 0.25})
        status.evaluations.add(step=10 * number + 10, values={"auc": number / 10})
    return status


def test_slow_epochs_have_a_line_each_and_quick_ones_one_every_few_seconds() -> None:
    now, out = [0.0], io.StringIO()
    display = Plain(out, clock=lambda: now[-1])
    told: list[list[str]] = []
    for seconds, status in [
        (0.0, training(1)),
        (10.0, epochs(1)),
        (10.1, epochs(2)),
        (10.2, epochs(3)),
        (16.0, epochs(4)),
        (22.0, epochs(2)),
        (28.0, epochs(3)),
        (28.1, epochs(4)),
        (28.2, epochs(4, phase="exporting")),
    ]:
        now.append(seconds)
        display.show(status)
        told.append([line for line in out.getvalue().splitlines() if line.startswith("epoch") and ": " in line])
        out.truncate(out.seek(0))
    assert told == [
        [],
        ["epoch 1: loss 0.5 · auc 0"],
        [],
        [],
        ["epoch 4: loss 0.5 · auc 0.3"],
        [],
        ["epoch 3: loss 0.5 · auc 0.2"],
        [],
        ["epoch 4: loss 0.5 · auc 0.3"],
    ]


def test_evaluations_between_epochs_are_told_too() -> None:
    assert progress.epoch_lines(epochs(1)) == [(10, "epoch 1: loss 0.5 · auc 0")]
    assert progress.evaluation_lines(epochs(1)) == [(5, "step 5: val_loss 0.25")]
    assert progress.evaluation_lines(Status(job="evaluate", evaluations=[Evaluation(values={"loss": 1})])) == []
