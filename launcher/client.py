"""Calls the coordinator of a job, whoever started the job, wherever it runs, also while it is being restarted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edl_allreduce.errors import JobFailed, UsageError
from edl_allreduce.spec import MAX_WORKERS
from launcher.handle import ENDED

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status
    from edl_allreduce.control.control_pb2_grpc import CoordinatorStub

T = TypeVar("T")

CALL_SECONDS = 10.0  # for the answer to a single call
CONNECT_SECONDS = 5  # for a coordinator to take up a connection
HUNG_SECONDS = 60.0  # longer than it takes until a coordinator that hangs is killed
RETRY_SECONDS = 0.2  # between two tries
POLL_SECONDS = 0.02  # between two looks at the address file
WATCH_SECONDS = 0.2  # between two statuses, at least


class Way(Protocol):
    """What a client must know to reach a job's coordinator."""

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def logs_hint(self) -> str:
        """Where to look when the coordinator is silent."""

    @property
    def certificate(self) -> bytes:
        """The coordinator's certificate, as PEM; empty: it speaks without TLS."""

    @property
    def host(self) -> str:
        """The host for which the certificate is."""

    @property
    def patience(self) -> float:
        """Seconds in which a coordinator that died is followed by another one."""

    def address(self) -> str | None:
        """Where the coordinator serves, HOST:PORT; None: nowhere yet."""

    def token(self) -> str:
        """The job's token."""

    def how_it_ended(self) -> str:
        """How a job ended that has ended, for people."""


class Client:
    """Calls of a job's coordinator. Its address is asked for with every call: after a restart it may be another.

    Args:
        way: how to reach it.
        await_end: waits for the job's end, at most so many seconds; says whether it has ended.
    """

    def __init__(self, way: Way, await_end: Callable[[float], bool]) -> None:
        self._way, self._await_end = way, await_end

    def await_address(self) -> str | None:
        """Where the coordinator serves, as soon as it does; None when the job has ended."""
        while not self._await_end(0):
            if address := self._way.address():
                return address
            self._await_end(POLL_SECONDS)
        return None

    @contextlib.contextmanager
    def connected(self, address: str) -> Iterator[CoordinatorStub]:
        """The coordinator at an address. Nothing is connected before the first call, and that does not wait long."""
        import grpc

        from edl_allreduce.control.control_pb2_grpc import CoordinatorStub

        # gRPC would take http_proxy for this machine's own addresses, too; and with connections shared between
        # channels, a new channel would wait for the end of an old one's back-off.
        options: list[tuple[str, Any]] = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1000),  # a process that hangs lets us connect only half
        ]
        if self._way.certificate:
            options.append(("grpc.ssl_target_name_override", self._way.host))
            credentials = grpc.ssl_channel_credentials(self._way.certificate)
            channel = grpc.secure_channel(address, credentials, options=options)
        else:
            channel = grpc.insecure_channel(address, options=options)
        with channel:
            yield CoordinatorStub(channel)

    def watch(self, stub: CoordinatorStub, timeout: float | None = None) -> Any:
        """The call whose answers are statuses."""
        from edl_allreduce.control.control_pb2 import WatchRequest

        request = WatchRequest(interval_seconds=WATCH_SECONDS)
        return stub.Watch(request, timeout=timeout, metadata=self._metadata())

    def events(self, stub: CoordinatorStub, follow: bool, steps: bool) -> Any:
        """The call whose answers are lines of the job's history."""
        from edl_allreduce.control.control_pb2 import EventsRequest

        return stub.Events(EventsRequest(follow=follow, steps=steps), metadata=self._metadata())

    def scale(self, num_workers: int) -> int:
        """As `JobHandle.scale`."""
        if not isinstance(num_workers, int) or not 0 < num_workers <= MAX_WORKERS:
            raise UsageError(f"num_workers: expected a whole number from 1 to {MAX_WORKERS:,}, got {num_workers!r}")
        from edl_allreduce.control.control_pb2 import ScaleRequest

        request = ScaleRequest(num_workers=num_workers)
        before: Status = self._call(lambda stub: next(self.watch(stub, CALL_SECONDS)))
        if before.phase in ENDED:
            raise JobFailed(f"job {self._way.name} has ended: {how_told(before)}")
        self._call(lambda stub: stub.Scale(request, timeout=CALL_SECONDS, metadata=self._metadata()))
        return before.target_workers

    def stop(self, reason: str) -> None:
        """Asks the coordinator to end the job.

        Raises:
            JobFailed: it has ended already, or the coordinator does not answer.
        """
        from edl_allreduce.control.control_pb2 import StopRequest

        request = StopRequest(reason=reason)
        self._call(lambda stub: stub.Stop(request, timeout=CALL_SECONDS, metadata=self._metadata()))

    def newest(self, timeout: float) -> Status:
        """The status now.

        Raises:
            JobFailed: the job has ended, or its coordinator does not answer.
        """
        newest: Status = self._call(lambda stub: next(self.watch(stub, timeout)), timeout)
        return newest

    def _call(self, call: Callable[[CoordinatorStub], T], patience: float | None = None) -> T:
        """The answer to a call, of this coordinator or of the one that is started in its place."""
        import grpc

        patience = patience or self._way.patience
        patience_until = time.monotonic() + patience
        while (address := self.await_address()) is not None:
            try:
                with self.connected(address) as stub:
                    return call(stub)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                raise UsageError(details)
            if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise JobFailed(f"job {self._way.name}: its coordinator answers {code.name}: {details}")
            if time.monotonic() >= patience_until:
                raise self.silence(address, patience)
            self._await_end(RETRY_SECONDS)
        raise JobFailed(f"job {self._way.name} has ended: {self._way.how_it_ended()}")

    @property
    def following_patience(self) -> float:
        """Seconds in which a coordinator that hangs is followed by another one."""
        return self._way.patience + HUNG_SECONDS

    def silence(self, address: str, seconds: float) -> JobFailed:
        """What is wrong when the coordinator at an address has not answered for so long."""
        silent = f"its coordinator at {address} has not answered for {seconds:g} s"
        return JobFailed(f"job {self._way.name}: {silent}; {self._way.logs_hint}")

    def _metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self._way.token()}"),)


def how_told(status: Status) -> str:
    """A status's phase and message, for people."""
    return f"{status.phase}, {status.message}" if status.message else status.phase
