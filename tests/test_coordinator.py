"""The coordinator over real gRPC; its workers are streams of this test, so that no TensorFlow is needed."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.dataset import make_dataset
from edl_allreduce.position import Position
from edl_allreduce.recordio import ChunkRef
from edl_allreduce.spec import JobSpec

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

from rendezvous import events, pulse
from rendezvous.coordinator import Coordinator
from rendezvous.coordinator import Site as Where
from rendezvous.limits import heartbeat_seconds
from rendezvous.provisioner import Recovered
from rendezvous.service import listen, start_serving
from rendezvous.state import Cause, Kind, Phase, Round, State, recovered
from rendezvous.status import make_status
from rendezvous.telemetry import Telemetry

TOKEN = "the-token"
CHUNKS = [ChunkRef(0, 1000, 64), ChunkRef(1000, 1000, 64)]


@dataclass
class Started:
    """A provisioner that only notes what it is told."""

    ids: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)

    explain_seconds: float = 0.0

    async def recover(self) -> Recovered:
        return Recovered(0, ())

    def start(self, worker_id: int) -> None:
        self.ids.append(worker_id)

    def kill(self, worker_id: int) -> None:
        self.killed.append(worker_id)

    async def close(self, grace_seconds: float) -> None:
        pass


class Member:
    """A worker's stream."""

    def __init__(self, address: str, worker_id: int, token: str = TOKEN) -> None:
        self.id = worker_id
        self._channel = grpc.aio.insecure_channel(address)
        stub: Any = control_pb2_grpc.CoordinatorStub(self._channel)
        self._stream = stub.Work(metadata=(("authorization", f"Bearer {token}"),))

    async def say(self, **message: object) -> None:
        await self._stream.write(pb.FromWorker(**message))  # type: ignore[arg-type]

    async def hears(self, kind: str) -> pb.ToWorker:
        message = await asyncio.wait_for(self._stream.read(), 10)
        assert isinstance(message, pb.ToWorker) and message.WhichOneof("message") == kind, message
        return message

    async def greet(self, standing: pb.Standing | None = None) -> pb.Welcome:
        await self.say(hello=pb.Hello(worker_id=self.id, host="here", pid=1, standing=standing))
        return (await self.hears("welcome")).welcome

    async def join(self) -> None:
        await self.greet()
        await self.say(ready=pb.Ready())

    @asynccontextmanager
    async def doing(self, activity: pb.Activity.ValueType, round: int = 1) -> AsyncIterator[None]:
        """Beats, and says that it has been doing this since now."""
        began = time.monotonic()

        async def beat() -> None:
            while True:
                seconds = time.monotonic() - began
                message = pb.Progress(round=round, activity=activity, activity_seconds=seconds, compute_seconds=0.01)
                await self.say(progress=message)
                await asyncio.sleep(0.05)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()

    async def part(self, round: int, step: int, epoch: int = 0, offset: int = 0) -> None:
        position = pb.Position(step=step, epoch=epoch, offset=offset)
        await self.say(parted=pb.Parted(round=round, position=position))

    async def die(self) -> None:
        self._stream.cancel()
        await self._channel.close()

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        code = await asyncio.wait_for(self._stream.code(), 10)
        return code, await self._stream.details()


@dataclass
class Site:
    coordinator: Coordinator
    provisioner: Started
    address: str
    stub: Any
    metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {TOKEN}"),)

    async def until(self, done: Callable[[], bool]) -> None:
        async def look() -> None:
            while not done():
                await asyncio.sleep(0.005)  # the coordinator runs in this very thread

        await asyncio.wait_for(look(), 10)


@asynccontextmanager
async def site(state: State | None = None, telemetry: Telemetry | None = None, **flags: object) -> AsyncIterator[Site]:
    needed = {"model_zoo": "zoo", "model_def": "m.M", "data": "d", "output": "o", "batch_size": 32}
    spec = JobSpec.from_flags(needed | flags)
    dataset = make_dataset(["a.recordio"], [CHUNKS], 64)
    server, port = listen(TOKEN, "127.0.0.1")
    state = state or State(target=spec.elastic.num_workers)
    where = Where("job", "127.0.0.1")
    coordinator = Coordinator(spec, dataset, where, state, telemetry or Telemetry(), dataset)
    await start_serving(server, coordinator)
    provisioner = Started()
    coordinator.start(provisioner)
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield Site(coordinator, provisioner, address, control_pb2_grpc.CoordinatorStub(channel))
    await coordinator.close()
    await server.stop(0)


async def first_round(job: Site) -> list[Member]:
    """Two workers that have joined, and have been told of their round."""
    members = [Member(job.address, id) for id in (0, 1)]
    for member in members:
        await member.join()
    for member in members:
        await member.hears("round")
    return members


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_a_minute() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(within_a_minute())


@pytest.mark.parametrize(
    ("workers", "timeout", "seconds"),
    [
        (1, 3.0, 0.25),
        (250, 3.0, 0.25),
        (500, 3.0, 0.5),
        (1000, 3.0, 1.0),
        (5000, 3.0, 1.0),
        (5000, 15.0, 5.0),
        (9, 0.5, 0.25),
    ],
)
def test_many_workers_beat_slowly_but_in_time(workers: int, timeout: float, seconds: float) -> None:
    assert heartbeat_seconds(workers, timeout) == pytest.approx(seconds)


def test_a_worker_is_told_how_often_it_beats() -> None:
    async def test() -> None:
        async with site(num_workers=600) as job:
            welcome = await Member(job.address, 0).greet()
            assert welcome.heartbeat_seconds == pytest.approx(0.6)
            assert (await Member(job.address, 1).greet()) == welcome

    run(test)


def test_a_whole_job() -> None:
    async def test() -> None:
        async with site(num_workers=2) as job:
            assert job.provisioner.ids == [0, 1]
            members = [Member(job.address, id) for id in (0, 1)]
            for member in members:
                await member.join()
            rounds = [(await member.hears("round")).round for member in members]
            assert [(each.number, list(each.members), each.global_batch) for each in rounds] == 2 * [(1, [0, 1], 32)]
            assert sorted([*rounds[0].lanes, *rounds[1].lanes]) == list(range(64))
            assert rounds[0].store_port == rounds[1].store_port > 0 and rounds[0].synchronize
            for member in members:
                await member.part(1, step=4, epoch=1)
            await members[0].hears("export")
            await members[0].say(exported=pb.Exported())
            for member in members:
                await member.hears("stop")
            assert job.coordinator.ended.is_set() and job.coordinator.state.exit_code == 0

    run(test)


def test_a_broken_connection_is_a_lost_worker_at_once() -> None:
    async def test() -> None:
        async with site(num_workers=2) as job:
            members = await first_round(job)
            began = time.monotonic()
            await members[1].die()
            assert (await members[0].hears("abandon")).abandon.round == 1
            assert time.monotonic() - began < 1
            assert job.provisioner.ids == [0, 1, 2] and job.provisioner.killed == [1]

    run(test)


def test_a_silent_worker_is_dropped() -> None:
    async def test() -> None:
        async with site(num_workers=2, worker_timeout=0.5) as job:
            members = await first_round(job)
            async with members[0].doing(pb.REDUCING):
                assert (await members[0].hears("abandon")).abandon.round == 1
            assert job.provisioner.killed == [1]
            cause = job.coordinator.state.cause
            assert cause and (cause.kind, cause.text) == (Kind.HUNG, "worker 1 was silent for 0.5 s")

    run(test)


def test_a_worker_that_beats_but_gets_no_further_is_dropped() -> None:
    async def test() -> None:
        async with site(num_workers=2, worker_timeout=0.5) as job:
            members = await first_round(job)
            async with members[0].doing(pb.REDUCING), members[1].doing(pb.COMPUTING):
                assert (await members[0].hears("abandon")).abandon.round == 1
            assert job.provisioner.killed == [1]
            cause = job.coordinator.state.cause
            assert cause and cause.text.startswith("worker 1 has been computing for 0.")
            code, told = await members[1].refusal()  # its stream is closed; when it comes back, it is told
            # What it says in the moment of the end makes the library on its side, not ours, call that end INTERNAL.
            assert code is grpc.StatusCode.OK or told == "Internal error from Core"
            again = Member(job.address, 1)
            await again.say(hello=pb.Hello(worker_id=1, standing=pb.Standing(state="training")))
            code, told = await again.refusal()
            assert (code, told) == (grpc.StatusCode.FAILED_PRECONDITION, "worker 1 is not a member any more")

    run(test)


def test_what_a_worker_was_to_evaluate_that_did_not_part_is_done_by_others() -> None:
    async def test() -> None:
        async with site(num_workers=2, part_timeout=0.3) as job:
            members = await first_round(job)
            await members[1].say(wants=pb.Wants(work=5))
            for _ in range(2):
                await members[1].hears("lease")
            job.coordinator.tell(events.Stalled(1, "no worker could reduce a step"))
            await members[0].hears("abandon")
            await members[0].part(1, 5, offset=5 * 32)
            async with members[0].doing(pb.WAITING):
                assert (await members[0].hears("round")).round.number == 2  # without the other one
                await members[0].say(wants=pb.Wants(work=5))
                assert [list((await members[0].hears("lease")).lease.tasks) for _ in range(2)] == [[0], [1]]
            assert job.provisioner.killed == [1]

    run(test)


def test_a_worker_that_hangs_while_the_job_is_told_to_stop_does_not_keep_the_others_from_saving() -> None:
    async def test() -> None:
        async with site(num_workers=2, worker_timeout=0.5) as job:
            members = await first_round(job)
            job.coordinator.tell(events.Stopped("stopped by SIGINT"))
            async with members[0].doing(pb.REDUCING), members[1].doing(pb.COMPUTING):
                await members[0].hears("reform")
                assert (await members[0].hears("abandon")).abandon.round == 1
            await members[0].part(1, 7, offset=7 * 32)
            await members[0].hears("checkpoint")
            assert job.provisioner.killed == [1]

    run(test)


def test_a_coordinator_that_was_held_up_itself_blames_nobody() -> None:
    async def test() -> None:
        async with site(num_workers=2, worker_timeout=0.5) as job:
            members = await first_round(job)
            async with members[0].doing(pb.WAITING), members[1].doing(pb.WAITING):
                await asyncio.sleep(0.2)  # until they have spoken
                time.sleep(1.0)  # nothing is read, as when the disk hangs or the process is stopped
                await asyncio.sleep(0.2)
            assert job.provisioner.killed == [] and not job.coordinator.state.round_failed

    run(test)


def test_a_coordinator_that_was_held_up_for_long_does_not_take_broken_streams_for_lost_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulse, "HELD_UP_SECONDS", 0.3)

    async def test() -> None:
        async with site(num_workers=2, worker_timeout=0.5) as job:
            members = await first_round(job)
            assert not job.coordinator.dazed.is_set()
            await asyncio.sleep(0.01)
            time.sleep(0.4)  # the process is stopped
            await members[1].die()  # it gives up, and greets anew
            await asyncio.wait_for(job.coordinator.dazed.wait(), 5)
            again = Member(job.address, 1)
            await again.say(hello=pb.Hello(worker_id=1, standing=pb.Standing(state="training")))
            assert await again.refusal() == (grpc.StatusCode.UNAVAILABLE, "this coordinator goes, another one comes")
            assert job.provisioner.killed == [] and set(job.coordinator.state.workers) == {0, 1}

    run(test)


def test_a_round_in_which_all_wait_for_each_other_is_abandoned() -> None:
    async def test() -> None:
        async with site(num_workers=2, worker_timeout=0.3) as job:
            members = await first_round(job)
            steps = [pb.Step(step=1, records=32, useful_seconds=0.01)]
            await members[0].say(progress=pb.Progress(round=1, steps=steps))
            async with members[0].doing(pb.REDUCING), members[1].doing(pb.REDUCING):
                for member in members:
                    assert (await member.hears("abandon")).abandon.round == 1
            assert job.provisioner.killed == []
            cause = job.coordinator.state.cause
            assert cause and cause.text.startswith("no worker could reduce a step for 0.")

    run(test)


def test_another_coordinator_learns_everything_from_the_greetings() -> None:
    async def test() -> None:
        state = recovered(2, None, (0, 1), next_id=2, next_round=4, now=time.monotonic())
        history = Telemetry()
        lines = [
            '{"round": 3, "members": [0, 1], "cause": "start", "kind": "start", "first_step": 1, "time": 5}',
            '{"step": 1, "epoch": 0, "loss": 0.5, "records": 32, "seconds": 1, "useful": 1}',
        ]
        history.replay(lines, 6.0)
        async with site(state, history, num_workers=2) as job:
            assert job.provisioner.ids == []
            round = pb.Round(number=3, members=[0, 1], lanes=range(0, 64, 2))
            position = pb.Position(step=2, offset=64)
            training = pb.Standing(state="training", position=position, round=round)
            members = [Member(job.address, id) for id in (0, 1)]
            assert [(await member.greet(training)).told_step for member in members] == [1, 1]
            assert job.coordinator.state.phase is Phase.TRAINING
            steps = [pb.Step(step=n, loss=1, records=32) for n in (1, 2, 3)]
            await members[0].say(progress=pb.Progress(round=3, steps=steps, memory_bytes=7 << 20))
            await job.until(lambda: job.coordinator.telemetry.told == 3)
            told = [(each.lanes, each.memory_bytes) for each in make_status(job.coordinator).workers]
            assert told == [(32, 7 << 20), (32, 0)]
            await members[1].die()
            assert (await members[0].hears("abandon")).abandon.round == 3

    run(test)


@pytest.mark.parametrize("token", ["", "wrong", "the-token "])
def test_without_the_token_nothing_is_answered(token: str) -> None:
    async def test() -> None:
        async with site() as job:
            stranger = Member(job.address, 0, token)
            code, told = await stranger.refusal()
            assert code is grpc.StatusCode.UNAUTHENTICATED and told == "the job's token is missing or wrong"
            metadata = (("authorization", f"Bearer {token}"),)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await job.stub.Stop(pb.StopRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _ in job.stub.Watch(pb.WatchRequest(), metadata=metadata):
                    raise AssertionError("an answer")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert not job.coordinator.ended.is_set()

    run(test)


def test_a_worker_that_is_not_expected_is_refused() -> None:
    async def test() -> None:
        async with site(num_workers=1) as job:
            stranger = Member(job.address, 7)
            await stranger.say(hello=pb.Hello(worker_id=7))
            assert (await stranger.refusal())[0] is grpc.StatusCode.FAILED_PRECONDITION
            first = Member(job.address, 0)
            await first.join()
            await first.hears("round")
            twin = Member(job.address, 0)
            await twin.say(hello=pb.Hello(worker_id=0))
            assert (await twin.refusal())[0] is grpc.StatusCode.FAILED_PRECONDITION
            rude = Member(job.address, 0)
            await rude.say(ready=pb.Ready())
            assert (await rude.refusal())[0] is grpc.StatusCode.INVALID_ARGUMENT
            assert not job.coordinator.state.round_failed and job.provisioner.killed == []

    run(test)


def test_scaling_and_stopping_by_call() -> None:
    async def test() -> None:
        async with site(num_workers=1) as job:
            await job.stub.Scale(pb.ScaleRequest(num_workers=3), metadata=job.metadata)
            assert job.provisioner.ids == [0, 1, 2]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await job.stub.Scale(pb.ScaleRequest(num_workers=0), metadata=job.metadata)
            assert refused.value.details() == "num_workers: expected 1 to 100000, got 0"
            await job.stub.Stop(pb.StopRequest(reason="enough"), metadata=job.metadata)
            seen = [each async for each in job.stub.Watch(pb.WatchRequest(), metadata=job.metadata)]
            assert [(each.phase, each.message, each.exit_code) for each in seen] == [("stopped", "enough", 130)]
            assert sorted(job.provisioner.killed) == [0, 1, 2]  # they have not greeted yet, and cannot be told

    run(test)


def test_the_status_tells_progress_and_rounds() -> None:
    async def test() -> None:
        async with site(num_workers=1) as job:
            only = Member(job.address, 0)
            await only.join()
            await only.hears("round")
            steps = [pb.Step(step=step, loss=1 / step, records=32, seconds=0.1) for step in (1, 2)]
            position = pb.Position(step=2, offset=64)
            await only.say(progress=pb.Progress(round=1, position=position, steps=steps))
            await job.until(lambda: job.coordinator.telemetry.position.step == 2)
            status = await anext(aiter(job.stub.Watch(pb.WatchRequest(), metadata=job.metadata)))
            assert (status.phase, status.position.step, status.total_steps, status.loss) == ("training", 2, 4, 0.5)
            assert [(each.number, each.size, each.cause) for each in status.rounds] == [(1, 1, "start")]
            assert [(each.state, each.rank, each.host) for each in status.workers] == [("training", 0, "here")]

    run(test)


def round_of(number: int, *members: int, step: int = 0, kind: Kind = Kind.START) -> Round:
    return Round(number, members, Position(step=step, offset=32 * step), cause=Cause(kind, kind.value))


def test_history_has_every_step_once_whoever_told_it(tmp_path: Path) -> None:
    with open(tmp_path / "history", "w") as file:
        telemetry = Telemetry(file)
        telemetry.began(round_of(1, 0, 1))
        telemetry.heard(pb.Progress(round=1, steps=[pb.Step(step=1, loss=3), pb.Step(step=2, loss=2)]), 1.0)
        # Rank 0 is lost; the survivor tells what it has: some of it is known.
        telemetry.heard(pb.Progress(round=1, steps=[pb.Step(step=n, loss=4 - n) for n in (1, 2, 3)]), 2.0)
        telemetry.heard(pb.Progress(round=0, steps=[pb.Step(step=9, loss=9)]), 2.5)  # of an older round
    lines = (tmp_path / "history").read_text().splitlines()
    assert ['"loss": 3.0' in line for line in lines if '"step": 1,' in line] == [True]
    assert sum('"step": ' in line for line in lines) == 3 and telemetry.loss == 1.0


def test_goodput_counts_what_the_result_rests_on_and_says_where_the_rest_went(tmp_path: Path) -> None:
    clock = iter(range(100, 1000, 2))
    with open(tmp_path / "history", "w") as file:
        telemetry = Telemetry(file, wall=lambda: float(next(clock)))
        telemetry.began(round_of(1, 0, 1))
        steps = [pb.Step(step=n, records=32, useful_seconds=0.5) for n in (1, 2, 3, 4)]
        telemetry.heard(pb.Progress(round=1, steps=steps), 1.0)
        telemetry.began(round_of(2, 0, step=4, kind=Kind.LOST))
        telemetry.must_repeat(2, 32)  # the step in which it failed
        fifth = pb.Step(step=5, records=32, useful_seconds=0.5)
        telemetry.heard(pb.Progress(round=2, steps=[fifth], paused_seconds=1.75), 2.0)
        telemetry.began(round_of(3, 1, step=2, kind=Kind.LEFT))  # from a checkpoint
        told = telemetry.goodput()
    assert (told.useful_seconds, told.records, told.repeated_records) == (1.0, 64, 32 + 3 * 32)
    assert [(lost.kind, lost.rounds, lost.seconds) for lost in told.lost] == [("lost", 1, 1.25), ("left", 1, 0.0)]
    again = Telemetry(wall=lambda: 0.0)
    assert again.replay((tmp_path / "history").read_text().splitlines(), 106.0) == 3
    replayed = again.goodput()
    replayed.wall_seconds = told.wall_seconds
    assert replayed == told and again.told == telemetry.told == 2 and again.began_at == telemetry.began_at


def test_steps_of_an_earlier_round_are_told_late_by_who_was_cut_off() -> None:
    telemetry = Telemetry()
    telemetry.began(round_of(1, 0, 1))
    telemetry.heard(pb.Progress(round=1, steps=[pb.Step(step=1, loss=3)]), 1.0)
    telemetry.began(round_of(2, 0, 1, step=3))
    telemetry.heard(pb.Progress(round=1, steps=[pb.Step(step=n, loss=n) for n in (1, 2, 3, 4)]), 2.0)
    assert (telemetry.told, telemetry.loss) == (3, 3)  # the fourth was not kept: the round began without it
    telemetry.heard(pb.Progress(round=2, steps=[pb.Step(step=6, loss=6)]), 2.0)
    assert telemetry.told == 6  # nobody is left to tell of the two between


def test_a_history_that_was_cut_off_can_be_replayed() -> None:
    telemetry = Telemetry()
    lines = [
        '{"round": 1, "members": [0], "cause": "start", "kind": "start", "first_step": 1, "time": 5}',
        '{"step": 1, "ep',
    ]
    assert telemetry.replay(lines, 6.0) == 1 and telemetry.told == 0


def test_a_pause_that_neither_worker_nor_coordinator_survived_is_known(tmp_path: Path) -> None:
    with open(tmp_path / "history", "w") as file:
        before = Telemetry(file, lambda: 100.0)
        before.began(round_of(1, 0, 1))
        before.heard(pb.Progress(round=1, steps=[pb.Step(step=1, useful_seconds=0.25)]), 1.0)
    telemetry = Telemetry(wall=lambda: 112.0)
    telemetry.replay((tmp_path / "history").read_text().splitlines(), 101.0)
    telemetry.began(round_of(2, 2, step=1, kind=Kind.RESTART))
    telemetry.heard(pb.Progress(round=2, steps=[pb.Step(step=2, useful_seconds=0.25)]), 2.0)
    [lost] = [lost for lost in telemetry.goodput().lost if lost.kind == "restart"]
    assert telemetry.rounds[-1].paused_seconds == 11.0 and lost.seconds == 10.75


def test_skipped_records_are_counted_once_whoever_tells() -> None:
    telemetry = Telemetry()
    for first in (7, 7, 9):
        telemetry.left_out(pb.Skipped(file="a", first=first, records=1))
    assert telemetry.skipped == 2


def test_tasks_evaluations_and_epochs_are_known_to_the_next_coordinator(tmp_path: Path) -> None:
    with open(tmp_path / "history", "w", buffering=1) as file:
        before = Telemetry(file, lambda: 100.0)
        before.task_done(pb.TaskDone(work=0, tasks=[3], records=10, sums=b"\x01" * 8))
        for _ in range(2):  # several workers tell of the same one
            before.evaluated(pb.Figures(work=5, epoch=0, values={"loss": 0.5}, seconds=0.2))
        before.epoch_ended(pb.EpochEnd(epoch=0, step=8, values={"loss": 0.4, "val_loss": 0.6}, seconds=0.3))
    after = Telemetry(wall=lambda: 112.0)
    after.replay((tmp_path / "history").read_text().splitlines(), 111.0)
    assert after.tasks_done == before.tasks_done and list(after.tasks_done) == [3]
    assert list(after.evaluations) == list(before.evaluations) and len(after.evaluations) == 1
    assert list(after.epochs) == list(before.epochs) and after.epochs[0].values["val_loss"] == 0.6
    [lost] = after.goodput().lost
    assert (lost.kind, lost.rounds, round(lost.seconds, 3)) == ("evaluation", 2, 0.5)


def test_how_a_worker_has_ended_is_waited_for_before_its_loss_counts() -> None:
    async def test() -> None:
        async with site(num_workers=2) as job:
            job.provisioner.explain_seconds = 0.3
            members = [Member(job.address, id) for id in (0, 1)]
            for member in members:
                await member.greet()
            for member in members:
                await member.die()
            await job.until(lambda: len(job.provisioner.killed) == 2)
            assert sorted(job.coordinator.state.workers) == [0, 1], "their pods will say how they have ended"
            job.coordinator.process_ended(0, "was OOM-killed (limit 2Gi)", True)
            assert sorted(job.coordinator.state.workers) == [1, 2] and job.coordinator.state.early_deaths == 0
            await job.until(lambda: 1 not in job.coordinator.state.workers)
            assert job.coordinator.state.early_deaths == 1, "nobody has said anything"

    run(test)


def test_a_worker_without_room_is_shown_with_the_reason() -> None:
    async def test() -> None:
        async with site(num_workers=2, min_workers=2) as job:
            why = "0/2 nodes are available: 2 Insufficient cpu"
            for id in (0, 1):
                job.coordinator.process_waits(id, why)
            status = await anext(aiter(job.stub.Watch(pb.WatchRequest(), metadata=job.metadata)))
            assert status.message == f"waiting for workers: 0 ready, 2 needed; worker 0 (and 1 more) waits: {why}"
            assert [(each.state, each.waits_for) for each in status.workers] == 2 * [("pending", why)]
            early = Member(job.address, 0)
            await early.greet()  # that it was started is still on its way from the API server
            job.coordinator.process_started(0)
            assert job.coordinator.state.workers[0].state.value == "preparing"
            job.coordinator.scale(1)
            assert job.provisioner.killed == [1] and sorted(job.coordinator.state.workers) == [0]

    run(test)


def test_workers_are_told_which_steps_a_next_coordinator_will_know() -> None:
    async def test() -> None:
        async with site(num_workers=1) as job:
            member = Member(job.address, 0)
            await member.join()
            number = (await member.hears("round")).round.number
            steps = [pb.Step(step=step, records=1, loss=1.0) for step in range(1, 301)]
            await member.say(progress=pb.Progress(round=number, steps=steps, position=pb.Position(step=300)))
            assert (await member.hears("kept")).kept.step == 300
            job.coordinator.telemetry.mirrored = 310  # from now on, that is what counts
            steps = [pb.Step(step=step, records=1, loss=1.0) for step in range(301, 901)]
            await member.say(progress=pb.Progress(round=number, steps=steps, position=pb.Position(step=900)))
            await job.until(lambda: job.coordinator.telemetry.told == 900)
            job.coordinator.telemetry.mirrored = 800
            await member.say(progress=pb.Progress(round=number))
            assert (await member.hears("kept")).kept.step == 800

    run(test)


def test_a_round_that_began_unrecorded_is_noted_when_its_members_greet() -> None:
    async def test() -> None:
        state = recovered(1, None, [0], next_id=1, next_round=3, now=time.monotonic())
        telemetry = Telemetry(history=io.StringIO())
        known = Round(2, (0,), Position(step=4, offset=128), False, Cause(Kind.START, "start"))
        telemetry.began(known)
        async with site(state, telemetry, num_workers=1) as job:
            member = Member(job.address, 0)
            now = pb.Round(number=5, members=[0], position=pb.Position(step=6, offset=192))
            at = pb.Position(step=8, offset=256)
            welcome = await member.greet(pb.Standing(state="training", position=at, round=now))
            assert welcome.told_step == 4
            steps = [pb.Step(step=step, records=32, loss=1.0) for step in (5, 6, 7, 8)]
            await member.say(progress=pb.Progress(round=5, steps=steps, position=at))
            await job.until(lambda: job.coordinator.telemetry.told == 8)
            assert job.coordinator.telemetry.goodput().records == 4 * 32
            assert [each.number for each in job.coordinator.telemetry.rounds] == [2, 5]

    run(test)
