"""What the dashboard remembers: bounded, exact in sum, and never what does not count."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.job_folder import JobFolder
from rendezvous.activity import Tally
from rendezvous.dashboard.live import read_history
from rendezvous.dashboard.messages import to_plain
from rendezvous.dashboard.record import EVENTS_KEPT, NAMES_KEPT, Record, curves
from rendezvous.dashboard.table import Merge, Table
from rendezvous.logs import FolderLogs
from tests.dashboards import past

COLUMNS = {"x": Merge.LAST, "sum": Merge.SUM, "low": Merge.LOW, "high": Merge.HIGH}


@given(st.integers(1, 3000), st.sampled_from([8, 64, 1024]), st.integers(2, 200))
def test_a_thinned_series_says_what_its_rows_said_together(rows: int, capacity: int, most: int) -> None:
    table = Table(COLUMNS, capacity)
    values = np.random.default_rng(rows).normal(size=rows)
    for x, value in enumerate(values):
        table.append((x, value, value, value))
    assert len(table) <= capacity
    points, _ = table.points("x", 0, rows, most)
    assert len(points["x"]) <= most + 1
    assert points["sum"].sum() == pytest.approx(values.sum())
    assert (points["low"].min(), points["high"].max()) == (values.min(), values.max())
    assert (np.diff(points["x"]) > 0).all() and points["x"][-1] == rows - 1


def test_points_stay_where_they_are_while_the_series_grows() -> None:
    table = Table(COLUMNS)
    for x in range(1000):
        table.append((x, 1, 1, 1))
    before, width = table.points("x", 0, 2000, 100)
    for x in range(1000, 1500):
        table.append((x, 1, 1, 1))
    after, same = table.points("x", 0, 2000, 100)
    assert width == same == 16
    assert after["x"][: len(before["x"]) - 1].tolist() == before["x"][:-1].tolist()


def test_new_rows_are_whole_after_thinning() -> None:
    table = Table(COLUMNS, capacity=64)
    for x in range(200):
        table.append((x, 1, x, x))
    points, width = table.points("x", 190, 200, 100)
    assert width == 0 and points["x"].tolist() == list(range(190, 200))


def step(number: int, **more: Any) -> dict[str, Any]:
    return {"step": number, "epoch": 0, "loss": 1.0, "records": 8, "seconds": 0.5, "useful": 0.4} | more


def began(number: int, first_step: int, members: list[int], time: float = 100.0) -> dict[str, Any]:
    line = {"round": number, "members": members, "lanes": [], "cause": "why", "kind": "lost", "first_step": first_step}
    return {"time": time} | line


def record(*lines: dict[str, Any]) -> Record:
    made = Record()
    for line in lines:
        made.note(line)
    return made


def test_steps_that_are_done_again_do_not_count() -> None:
    told = record(began(1, 1, [0, 1]), *map(step, range(1, 11)), began(2, 6, [0]), step(6, loss=2.0))
    points = curves(told.steps.points("step", 0, 100, 100)[0])
    assert points["step"] == [1, 2, 3, 4, 5, 6] and points["loss"][-1] == 2.0
    assert [each.steps for each in told.rounds] == [5, 1]
    assert told.serial == 13


def test_steps_get_a_time_and_it_never_goes_back() -> None:
    told = record(began(1, 1, [0], 100.0), step(1), step(2), {"time": 104.0, "target": 2}, step(3))
    assert told.steps.column("time").tolist() == [100.5, 101.0, 104.0]


def test_what_is_not_a_number_is_null() -> None:
    told = record(began(1, 1, [0]), step(1, loss=float("nan")), step(2, loss=float("inf")), step(3, seconds=0.0))
    points = curves(told.steps.points("step", 0, 9, 9)[0])
    assert points["loss"] == [None, None, 1.0] and points["records_per_second"] == [16.0, 16.0, None]
    json.dumps(points, allow_nan=False)


def test_who_came_and_went_is_named_up_to_a_bound() -> None:
    many = list(range(1000))
    told = record(began(1, 1, many), began(2, 1, [1, 2, 5000]))
    first, second = told.rounds
    assert (len(first.came), first.came_count) == (NAMES_KEPT, 1000)
    assert (second.came, second.gone_count, second.gone[0]) == ([5000], 998, 0)
    assert "members" not in told.events[0][1]


def test_events_are_bounded_and_it_is_known_which_are_gone() -> None:
    told = record(*({"time": float(number), "target": number} for number in range(EVENTS_KEPT + 10)))
    assert len(told.events) == EVENTS_KEPT
    assert told.since(told.serial - 1) == [
        (told.serial, json.dumps({"time": EVENTS_KEPT + 9.0, "target": EVENTS_KEPT + 9}))
    ]
    assert told.since(10) is not None and told.since(9) is None
    large = record(*({"skipped": 1, "file": "f" * 100_000} for _ in range(100)))
    assert sum(len(text) for _, text in large.events) <= 4 << 20


def test_a_job_of_tasks_has_a_curve_too() -> None:
    told = record(*({"time": 10.0 + number, "tasks": [number], "records": 100, "sums": ""} for number in range(4)))
    points = curves(told.steps.points("step", 0, 9, 9)[0])
    assert points["records_per_second"] == [None, 100.0, 100.0, 100.0] and not told.events


def test_what_workers_do_is_a_curve_and_no_event() -> None:
    line = {"activity": {"input": 1, "compute": 5, "allreduce": 2, "other": 0, "of another version": 9}}
    told = record(began(1, 1, [0], 100.0), {"time": 101.0} | line, {"time": 102.0} | line)
    points, _ = told.activities.points("time", 0, 200, 100)
    assert points["compute"].tolist() == [5, 5] and points["time"].tolist() == [101.0, 102.0]
    assert [serial for serial, _ in told.events] == [1]


def test_heartbeats_are_told_once_a_second_and_more_rarely_in_long_jobs() -> None:
    def lines(begin: float, end: float) -> list[dict[str, int]]:
        told = [tally.note(pb.COMPUTING, begin + beat / 4, 0.0) for beat in range(int(4 * (end - begin)))]
        return [each for each in told if each]

    tally = Tally()
    assert [each["compute"] for each in lines(0.25, 10.25)] == [4] * 10
    tally = Tally()
    assert [each["compute"] for each in lines(1000.0, 1030.0)][1:] == [41, 41]
    tally = Tally()
    assert len(lines(1e6, 1e6 + 600)) == 20


def test_history_is_read_up_to_where_it_was_followed_from(tmp_path: Path) -> None:
    lines = [json.dumps(line) for line in past(1200, 2)]
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join(lines) + '\n{"step": 1201, "lo', encoding="utf-8")
    size = len("\n".join(lines[:100])) + 1
    assert read_history(path, size).serial == 100
    whole = read_history(path, path.stat().st_size)
    assert whole.steps.column("step")[-1] == 1200 and len(whole.rounds) == 3


@pytest.mark.parametrize("line", [[], 1, {"step": "x"}, {"round": 1}, {"epoch_end": 1}, {"members": 3, "cause": ""}])
def test_a_history_of_somebody_else_breaks_nothing(tmp_path: Path, line: Any) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps({"target": 2}) + "\n")
    assert read_history(path, 1 << 20).serial == 2


def test_a_log_is_read_from_its_end(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.logs.mkdir()
    log = folder.worker_log(7)
    log.write_text("".join(f"{number:09}\n" for number in range(100_000)))
    found = asyncio.run(FolderLogs(folder).tail(7, 3))
    assert (found.lines, found.truncated) == (["000099997", "000099998", "000099999"], True)
    log.write_text("")
    assert asyncio.run(FolderLogs(folder).tail(7, 3)).lines == []
    assert asyncio.run(FolderLogs(folder).tail(None, 3)).unavailable == f"there is no log {folder.coordinator_log}"


def test_messages_keep_their_numbers() -> None:
    status = pb.Status(loss=float("nan"), records=1 << 60, position=pb.Position(step=3))
    plain = to_plain(status)
    assert (plain["loss"], plain["records"], plain["position"]["step"], plain["checkpoint"]) == (None, 1 << 60, 3, None)
