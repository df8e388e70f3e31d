"""What a broken network costs: real jobs over real namespaces, whose packets are dropped on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

from edl_allreduce.worker.audit import consumed
from rendezvous import events
from rendezvous.state import Kind
from tests.jobs import Run, assert_each_record_once
from tests.namespaces import COORDINATOR, Network, network, processes_in, why_not
from tests.network_job import NetworkJob, job

pytestmark = pytest.mark.job

TIMEOUT = 1.5  # of silence
BUSY_SECONDS = 8.0  # what a busy machine may add: far less than Gloo's timeout, 60 s
EPOCHS = 20


@pytest.fixture(scope="module")
def places() -> Iterator[Network]:
    """A network for all tests of this module."""
    if reason := why_not():
        pytest.skip(reason)
    with network(6) as made:
        yield made


@pytest.fixture
def net(places: Network) -> Network:
    """The network with nothing cut."""
    places.heal()
    return places


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within_the_limit() -> None:
        await asyncio.wait_for(test(), 240)

    asyncio.run(within_the_limit())


async def seconds_to_next_step(running: NetworkJob, cut: Callable[[], None]) -> float:
    """From the cut to the first step of another round, as the coordinator hears of it (up to 0.25 s late)."""
    before, began = running.rounds(), time.monotonic()
    cut()
    newest = running.coordinator.telemetry.rounds
    await running.until(lambda: running.rounds() > before and newest[-1].paused_seconds, "a step after the cut")
    return time.monotonic() - began


def assert_done(finished: Run, net: Network, records: int) -> None:
    """The job has its result, each record was used once, and no process is left."""
    assert finished.code == 0, finished.text
    assert_each_record_once(finished, records, EPOCHS)
    assert processes_in(net.name) == []


def test_packets_between_two_workers_are_dropped(net: Network, tmp_path: Path, digits: Path, records: int) -> None:
    async def test() -> None:
        async with job(net, tmp_path, digits, worker_timeout=TIMEOUT, num_epochs=EPOCHS) as running:
            await running.trains(0, 1, 2)
            both = await seconds_to_next_step(running, lambda: net.cut(0, 1))
            assert 2 in running.members and len(running.members) == 2, "one of the two was dropped, and nobody else"
            one, other = running.members
            single = await seconds_to_next_step(running, lambda: net.drop(one, other))
            assert len({one, other} & set(running.members)) == 1
            assert max(both, single) < TIMEOUT + BUSY_SECONDS
            finished = await running.finish()
        assert_done(finished, net, records)
        causes = [round["cause"] for round in finished.rounds if round["kind"] == Kind.NETWORK.value]
        assert [cause.split(" ", 2)[2] for cause in causes] == 2 * ["could not be reached by other workers"]

    run(test)


def test_workers_that_the_coordinator_cannot_reach(net: Network, tmp_path: Path, digits: Path, records: int) -> None:
    """One is cut off from everything, another one from the coordinator only: its ring is as good as ever."""

    async def test() -> None:
        async with job(net, tmp_path, digits, worker_timeout=TIMEOUT, num_epochs=EPOCHS) as running:
            await running.trains(0, 1, 2)
            running.provisioner.out_of_reach = {0, 1}
            alone = await seconds_to_next_step(running, lambda: net.isolate(0))
            assert set(running.members) == {1, 2}
            unheard = await seconds_to_next_step(running, lambda: net.cut(1, COORDINATOR))
            assert {0, 1} & set(running.members) == set() and 2 in running.members
            assert max(alone, unheard) < TIMEOUT + BUSY_SECONDS
            net.heal()
            for dropped in (0, 1):
                await running.provisioner.end_of(dropped)
                log = running.folder.worker_log(dropped).read_text()
                assert f"the coordinator refuses this worker: worker {dropped} is not a member any more" in log
            finished = await running.finish()
        assert_done(finished, net, records)
        assert [round["kind"] for round in finished.rounds[1:3]] == 2 * [Kind.HUNG.value]

    run(test)


def test_what_heals_or_is_lost_now_and_then_is_no_reason(
    net: Network, tmp_path: Path, digits: Path, records: int
) -> None:
    """TCP sends again what has not arrived; until that has been in vain for worker_timeout, nobody is dropped."""

    async def test() -> None:
        async with job(net, tmp_path, digits, worker_timeout=2 * TIMEOUT, num_epochs=EPOCHS) as running:
            await running.trains(0, 1, 2)
            for cut, between in ((net.cut, (0, 1)), (net.isolate, (2,))):
                cut(*between)
                await asyncio.sleep(1.0)  # so long the network is broken
                net.heal()
                await running.trains(0, 1, 2)
            net.lose(30)
            await running.trains(0, 1, 2, steps=50)
            net.heal()
            assert running.rounds() == 1
            finished = await running.finish()
        assert_done(finished, net, records)
        assert [round["cause"] for round in finished.rounds] == ["start"]

    run(test)


def test_refused_connections_and_a_newcomer_that_cannot_reach_a_member(
    net: Network, tmp_path: Path, digits: Path, records: int
) -> None:
    async def test() -> None:
        net.refuse(0, 2)
        net.cut(1, 3)
        async with job(net, tmp_path, digits, worker_timeout=TIMEOUT, num_epochs=1000) as running:
            newest = running.coordinator.telemetry.rounds
            await running.until(lambda: 3 in running.members, "a round with the newcomer")
            assert newest[-1].cause.endswith("was refused, or refused others, in 3 rounds in a row")
            left = set(running.members) - {3}
            assert len(left) == 2 and 1 in left
            await running.trains(4, *left)
            assert newest[-1].cause == "worker 3 could not be reached by other workers"
            assert running.time_of(events.Stalled) - running.time_of(events.Ready) < TIMEOUT + BUSY_SECONDS
            running.coordinator.tell(events.Stopped("enough"))
            finished = await running.finish()
        assert processes_in(net.name) == []
        *whole, last = consumed(finished.folder / "audit").values()
        for steps in (*whole, last):
            used = [record for step in steps.values() for record in step]
            assert len(set(used)) == len(used) and (steps is last or len(used) == records)

    run(test)
