"""Simulated workers: `python -m benchmarks.fleet.workers HOST:PORT FIRST NUMBER`, ids FIRST … FIRST + NUMBER - 1.

Each has a connection of its own and says what a worker says, at its pace; it trains nothing. Every line of the standard
input is a command; when all workers have done it, a line on the standard output says when, in monotonic seconds, and
how often.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import grpc

from benchmarks.fleet.coordinator import TOKEN
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.worker.session import CHANNEL_OPTIONS

WORKERS_PER_HOST = 8
CONNECTING = 50  # at a time
TICK_SECONDS = 0.005


class Worker:
    """One stream."""

    def __init__(self, address: str, id: int) -> None:
        self.id, self.round, self.lost = id, 0, False
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub: Any = control_pb2_grpc.CoordinatorStub(self._channel)
        self._told, self._writing = asyncio.Event(), asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Has a connection, and has said nothing yet."""
        await self._channel.channel_ready()
        self._stream = self._stub.Work(metadata=(("authorization", f"Bearer {TOKEN}"),))

    async def greet(self) -> None:
        """Returns with the welcome."""
        host = f"host-{self.id // WORKERS_PER_HOST}"
        await self._say(hello=pb.Hello(worker_id=self.id, host=host, pid=1, address="10.0.0.1"))
        message = await self._stream.read()
        assert message.HasField("welcome"), message
        self.heartbeat_seconds = message.welcome.heartbeat_seconds
        self._reader = asyncio.create_task(self._read())

    async def ready(self) -> None:
        """Returns with the first round."""
        await self._say(ready=pb.Ready())
        await self.reform(1)

    async def reform(self, number: int) -> None:
        """Returns with that round; somebody else sees to it that there is one."""
        while self.round < number:
            self._told.clear()
            await self._told.wait()

    async def beat(self) -> None:
        """Says what it does, as a worker that trains."""
        doing = pb.COMPUTING if self.round else pb.WAITING
        position = pb.Position(step=1) if self.round else None
        await self._say(
            progress=pb.Progress(
                round=self.round, position=position, activity=doing, activity_seconds=0.1, compute_seconds=0.1
            )
        )

    async def die(self) -> None:
        """Breaks its connection."""
        assert self._reader
        self.lost = True
        self._reader.cancel()
        self._stream.cancel()
        await self._channel.close()

    async def _say(self, **message: Any) -> None:
        async with self._writing:
            if not self.lost:
                await self._stream.write(pb.FromWorker(**message))

    async def _read(self) -> None:
        while isinstance(message := await self._stream.read(), pb.ToWorker):
            match message.WhichOneof("message"):
                case "round":
                    self.round = message.round.number
                    self._told.set()
                case "abandon":
                    parted = pb.Parted(round=self.round, position=pb.Position(step=1), failed=True, error="abandoned")
                    await self._say(parted=parted)


class Heart:
    """Beats for all workers, evenly spread over the time between two heartbeats of one; knows how often it has."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers, self.beats = tuple(workers), 0

    async def beat(self) -> None:
        """Goes on for ever."""
        every = self._workers[0].heartbeat_seconds / len(self._workers)
        began = time.monotonic()
        while True:
            for number in range(self.beats, due := int((time.monotonic() - began) / every)):
                await self._workers[number % len(self._workers)].beat()
            self.beats = due
            await asyncio.sleep(TICK_SECONDS)


def give_up(beating: asyncio.Task[None]) -> None:
    """A worker has been dropped: nothing that follows would be a measurement."""
    print(f"a simulated worker was dropped: {beating.exception()}", file=sys.stderr, flush=True)
    os._exit(1)


async def main(address: str, first: int, number: int) -> None:
    """Obeys."""
    workers = [Worker(address, id) for id in range(first, first + number)]
    for begin in range(0, number, CONNECTING):
        await asyncio.gather(*(each.connect() for each in workers[begin : begin + CONNECTING]))
    print(time.monotonic(), flush=True)
    heart = Heart(workers)
    while line := await asyncio.to_thread(sys.stdin.readline):
        done = number
        match line.split():
            case ["greet"]:
                await asyncio.gather(*(each.greet() for each in workers))
                beating = asyncio.create_task(heart.beat())
                beating.add_done_callback(give_up)
            case ["ready"]:
                await asyncio.gather(*(each.ready() for each in workers))
            case ["reform", number]:
                await asyncio.gather(*(each.reform(int(number)) for each in workers))
            case ["beat", seconds]:
                done = -heart.beats
                await asyncio.sleep(float(seconds))
                done += heart.beats
            case ["lose", number]:
                await workers.pop().die()
                await asyncio.gather(*(each.reform(int(number)) for each in workers))
        print(time.monotonic(), done, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
