"""Whoever asks for a running job's events gets all of them once, in order, however slowly it reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.position import Position
from rendezvous import history
from rendezvous.state import Cause, Kind, Round
from rendezvous.telemetry import Telemetry
from tests.test_coordinator import TOKEN, run, site

METADATA = (("authorization", f"Bearer {TOKEN}"),)


def step(telemetry: Telemetry, number: int) -> None:
    telemetry.heard(pb.Progress(round=1, steps=[pb.Step(step=number, loss=1 / number, records=32)]), float(number))


def begin(telemetry: Telemetry) -> None:
    telemetry.began(Round(1, (0, 1), Position(), cause=Cause(Kind.START, "start")))


async def told(call: Any, count: int) -> list[dict[str, Any]]:
    """The next lines of a call, without what only the clock decides."""
    lines = [json.loads((await call.read()).json) for _ in range(count)]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def test_history_so_far_then_every_line_as_it_is_written(tmp_path: Path) -> None:
    async def test() -> None:
        with open(tmp_path / "history.jsonl", "a+", buffering=1) as file:
            telemetry = Telemetry(file, lambda: 5.0)
            begin(telemetry)
            step(telemetry, 1)
            async with site(telemetry=telemetry) as it:
                quick = it.stub.Events(pb.EventsRequest(follow=True), metadata=METADATA)
                thorough = it.stub.Events(pb.EventsRequest(follow=True, steps=True), metadata=METADATA)
                once = it.stub.Events(pb.EventsRequest(), metadata=METADATA)
                assert [line["round"] for line in await told(once, 1)] == [1]
                assert await once.read() is grpc.aio.EOF
                assert [line["round"] for line in await told(quick, 1)] == [1]
                step(telemetry, 2)
                telemetry.scaled(3)
                assert await told(quick, 1) == [{"target": 3}]
                first, *steps, last = await told(thorough, 4)
                assert (first["round"], [line["step"] for line in steps], last) == (1, [1, 2], {"target": 3})
                quick.cancel()
                await it.until(lambda: len(telemetry.listeners) == 1)
                it.coordinator.ended.set()
                assert await thorough.read() is grpc.aio.EOF
                await it.until(lambda: telemetry.listeners == [])

    run(test)


def test_events_are_for_those_who_have_the_token(tmp_path: Path) -> None:
    async def test() -> None:
        async with site() as it:
            call = it.stub.Events(pb.EventsRequest())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    run(test)


class Job:
    """As much of a coordinator as a reader of its history needs."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry, self.ended = telemetry, asyncio.Event()


def test_a_slow_reader_misses_nothing_and_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "CHUNK_BYTES", 100)  # a line and a half

    async def test() -> None:
        with open(tmp_path / "history.jsonl", "a+", buffering=1) as file:
            telemetry = Telemetry(file)
            job: Any = Job(telemetry)
            begin(telemetry)
            lines = history.read(job, follow=True, steps=True)
            assert "cause" in await anext(lines)
            for number in range(1, 1001):
                step(telemetry, number)
            job.ended.set()
            assert [json.loads(line)["step"] async for line in lines] == list(range(1, 1001))
            assert telemetry.listeners == []

    run(test)


def test_what_a_dying_coordinator_has_cut_off_is_passed_over(tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "history.jsonl"
        path.write_text('{"target": 2}\n{"step": 7, "lo{"target": 3}\n17\n{"target": 4}\n{"targ')
        with open(path, "a+", buffering=1) as file:
            coordinator: Any = Job(Telemetry(file))
            lines = [json.loads(line) async for line in history.read(coordinator, follow=False, steps=True)]
            assert lines == [{"target": 2}, {"target": 4}]

    run(test)


def test_tasks_are_steps_of_jobs_that_have_no_steps(tmp_path: Path) -> None:
    async def test() -> None:
        with open(tmp_path / "history.jsonl", "a+", buffering=1) as file:
            telemetry = Telemetry(file)
            telemetry.task_done(pb.TaskDone(tasks=[1], records=10))
            telemetry.evaluated(pb.Figures(work=1, values={"loss": 0.5}))
            coordinator: Any = Job(telemetry)
            for steps, count in ((False, 1), (True, 2)):
                assert len([line async for line in history.read(coordinator, follow=False, steps=steps)]) == count

    run(test)


def test_a_job_without_a_history_has_no_events() -> None:
    async def test() -> None:
        coordinator: Any = Job(Telemetry())
        assert [line async for line in history.read(coordinator, follow=True, steps=True)] == []

    run(test)


def test_every_line_but_a_steps_says_when(tmp_path: Path) -> None:
    with open(tmp_path / "history.jsonl", "a+", buffering=1) as file:
        telemetry = Telemetry(file, lambda: 1795381656.67)
        begin(telemetry)
        step(telemetry, 1)
        telemetry.must_repeat(1, 32)
        telemetry.checkpointed(pb.Checkpointed(error="the disk is full"))
        telemetry.left_out(pb.Skipped(file="a", first=1, records=1))
        for _ in range(3):  # every worker says so
            telemetry.noticed("the median cannot be added up")
        telemetry.task_done(pb.TaskDone(tasks=[1], records=10))
        telemetry.evaluated(pb.Figures(work=1, values={"loss": 0.5}))
        telemetry.epoch_ended(pb.EpochEnd(values={"loss": 0.5}))
        telemetry.scaled(3)
        telemetry.restarted(1)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert len(lines) == 11
    assert [line.get("time") for line in lines if "loss" not in line] == [1795381656.67] * 10
    again = Telemetry(wall=lambda: 1795381700.0)
    assert again.replay((tmp_path / "history.jsonl").read_text().splitlines(), 1795381690.0) == 1
    assert (again.told, again.target, again.skipped, len(again.epochs)) == (1, 3, 1, 1)
    assert again.notices == ["the median cannot be added up"]
