"""The coordinator's gRPC face: workers' streams, and what launchers ask."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from edl_allreduce import storage
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.errors import EdlError
from edl_allreduce.spec import MAX_WORKERS
from rendezvous import events, history
from rendezvous.coordinator import Coordinator
from rendezvous.status import make_status
from rendezvous.tls import Tls

SERVER_OPTIONS = [
    ("grpc.max_send_message_length", 512 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),  # workers ask often whether it is still there
    ("grpc.http2.max_ping_strikes", 0),  # on a busy machine several questions arrive at once
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.bdp_probe", 0),  # else gRPC asks how fast the network is after nearly every heartbeat
    ("grpc.server.max_pending_requests", 1 << 16),  # from 1,000 calls on that have not begun yet, some are refused
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
]


class Service(control_pb2_grpc.CoordinatorServicer):
    """Translates between the protocol and the coordinator; decides nothing."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def Work(  # type: ignore[override]  # the other style of grpc.aio: read and write by the context
        self, requests: AsyncIterator[pb.FromWorker], context: Any
    ) -> None:
        """One worker's stream, for as long as it lives."""
        first = await context.read()
        if first is grpc.aio.EOF or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Hello")
        presence = self._coordinator.greet(first.hello)
        if presence is None and self._coordinator.dazed.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this coordinator goes, another one comes")
        if presence is None:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"worker {first.hello.worker_id} is not a member any more"
            )
            return
        reader = asyncio.create_task(self._read(first.hello.worker_id, context))
        try:
            while (message := await presence.outbox.get()) is not None:
                await context.write(message)
        finally:
            reader.cancel()
            self._coordinator.part_with(first.hello.worker_id, "closed its connection")

    async def _read(self, worker_id: int, context: Any) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            while (message := await context.read()) is not grpc.aio.EOF:
                self._coordinator.hear(worker_id, message)
        self._coordinator.part_with(worker_id, "closed its connection")

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Status]:
        """The status now and after every change, at most every `interval_seconds`."""
        coordinator = self._coordinator
        while True:
            ended = coordinator.ended.is_set()
            yield make_status(coordinator)
            if ended:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(coordinator.ended.wait(), max(0.05, request.interval_seconds))

    async def Scale(self, request: pb.ScaleRequest, context: Any) -> pb.Empty:
        """Changes how many workers are kept alive."""
        if not 1 <= request.num_workers <= MAX_WORKERS:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"num_workers: expected 1 to {MAX_WORKERS}, got {request.num_workers}"
            )
        self._coordinator.scale(request.num_workers)
        return pb.Empty()

    async def Stop(self, request: pb.StopRequest, context: Any) -> pb.Empty:
        """Ends the job."""
        self._coordinator.tell(events.Stopped(request.reason or "stopped by request"))
        return pb.Empty()

    async def Events(self, request: pb.EventsRequest, context: Any) -> AsyncIterator[pb.Event]:
        """The job's history, and what happens from now on."""
        async with contextlib.aclosing(history.read(self._coordinator, request.follow, request.steps)) as lines:
            async for line in lines:
                yield pb.Event(json=line)


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses every call that does not carry the job's token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Lets a call through, or answers it with UNAUTHENTICATED."""
        handler = await continuation(details)
        given = dict(details.invocation_metadata).get("authorization", "")
        if handler is None or hmac.compare_digest(str(given).encode(), self._expected):
            return handler
        # Of the call's own kind: a stream is refused before it has said anything.
        return _HANDLERS[handler.request_streaming, handler.response_streaming](_refuse)


_HANDLERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


async def _refuse(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the job's token is missing or wrong")


def listen(token: str, address: str, port: int = 0, tls: Tls | None = None) -> tuple[grpc.aio.Server, int]:
    """A server on a port of `address` (0: any that is free), not serving yet; returns the port as well.

    Raises:
        EdlError: the port is taken.
        StorageError: the certificate cannot be read.
    """
    server = grpc.aio.server(interceptors=[TokenCheck(token)], options=SERVER_OPTIONS)
    try:
        if tls is None:
            return server, server.add_insecure_port(f"{address}:{port}")
        return server, server.add_secure_port(f"{address}:{port}", _credentials(tls))
    except RuntimeError as error:
        raise EdlError(f"{address}:{port} cannot be listened on: {error}") from error


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    key, certificate = storage.read_bytes(str(tls.key)), storage.read_bytes(str(tls.certificate))
    return grpc.ssl_server_credentials([(key, certificate)])


async def start_serving(server: grpc.aio.Server, coordinator: Coordinator) -> None:
    """Answers calls from now on."""
    control_pb2_grpc.add_CoordinatorServicer_to_server(Service(coordinator), server)
    await server.start()
