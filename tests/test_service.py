"""The coordinator's gRPC server, under more calls at once than gRPC expects."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from rendezvous.service import listen

TOKEN = "the-token"
CALLS = 3100  # as long as they have not begun, gRPC refuses some from 1,000 on and all from 3,000 on, if it is let
BUSY_SECONDS = 1.0  # time for a refusal to come


class Answers(control_pb2_grpc.CoordinatorServicer):
    """Answers everybody."""

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Status]:
        yield pb.Status()


def test_thousands_that_call_a_busy_coordinator_at_once_are_all_answered() -> None:
    listens, called, refused, done = (threading.Event() for _ in range(4))
    port = 0

    async def serve() -> None:
        nonlocal port
        server, port = listen(TOKEN, "127.0.0.1")
        control_pb2_grpc.add_CoordinatorServicer_to_server(Answers(), server)  # type: ignore[abstract]
        await server.start()
        listens.set()
        called.wait()  # so long nothing is taken
        await asyncio.to_thread(done.wait)
        await server.stop(None)

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(asyncio.run, serve())
        listens.wait()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = control_pb2_grpc.CoordinatorStub(channel)
            metadata = (("authorization", f"Bearer {TOKEN}"),)
            calls = [stub.Watch(pb.WatchRequest(), metadata=metadata, wait_for_ready=True) for _ in range(CALLS)]
            for call in calls:
                call.add_callback(refused.set)
            refused.wait(BUSY_SECONDS)
            called.set()
            try:
                assert sum(len(list(call)) for call in calls) == CALLS
            finally:
                done.set()
        served.result()
