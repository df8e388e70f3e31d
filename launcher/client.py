"""Calls the coordinator of a job of this machine, whoever started the job, also while the coordinator is restarted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from edl_allreduce.errors import JobFailed, UsageError
from edl_allreduce.job_folder import JobFolder
from launcher.handle import ENDED

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status
    from edl_allreduce.control.control_pb2_grpc import CoordinatorStub

T = TypeVar("T")

CALL_SECONDS = 10.0  # for the answer to a single call, restarts of the coordinator included
RETRY_SECONDS = 0.2  # between two tries
POLL_SECONDS = 0.02  # between two looks at the address file
WATCH_SECONDS = 0.2  # between two statuses, at least


class Client:
    """The way to a job's coordinator. Its address is read anew for every call: after a restart it may be another.

    Args:
        folder: the job's.
        await_end: waits for the job's end, at most so many seconds; says whether it has ended.
    """

    def __init__(self, folder: JobFolder, await_end: Callable[[float], bool]) -> None:
        self._folder, self._await_end = folder, await_end

    def await_address(self) -> str | None:
        """Where the coordinator serves, as soon as it has indexed the data; None when the job has ended."""
        while not self._await_end(0):
            with contextlib.suppress(FileNotFoundError):
                return self._folder.address.read_text(encoding="utf-8").strip()
            self._await_end(POLL_SECONDS)
        return None

    @contextlib.contextmanager
    def connected(self, address: str) -> Iterator[CoordinatorStub]:
        """The coordinator at an address. Nothing is connected before the first call, and that does not wait long."""
        import grpc

        from edl_allreduce.control.control_pb2_grpc import CoordinatorStub

        # gRPC would take http_proxy for this machine's own addresses, too; and with connections shared between
        # channels, a new channel would wait for the end of an old one's back-off.
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
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
        if num_workers < 1:
            raise UsageError(f"num_workers: expected a whole number, greater than 0, got {num_workers}")
        from edl_allreduce.control.control_pb2 import ScaleRequest

        request = ScaleRequest(num_workers=num_workers)
        before: Status = self._call(lambda stub: next(self.watch(stub, CALL_SECONDS)))
        if before.phase in ENDED:
            raise JobFailed(f"job {self._folder.name} has ended: {_how(before)}")
        self._call(lambda stub: stub.Scale(request, timeout=CALL_SECONDS, metadata=self._metadata()))
        return before.target_workers

    def _call(self, call: Callable[[CoordinatorStub], T]) -> T:
        """The answer to a call, of this coordinator or of the one that is started in its place."""
        import grpc

        patience_until = time.monotonic() + CALL_SECONDS
        while (address := self.await_address()) is not None:
            try:
                with self.connected(address) as stub:
                    return call(stub)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                raise UsageError(details)
            if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise JobFailed(f"job {self._folder.name}: its coordinator answers {code.name}: {details}")
            if time.monotonic() >= patience_until:
                silent = f"its coordinator at {address} has not answered for {CALL_SECONDS:g} s"
                raise JobFailed(f"job {self._folder.name}: {silent}; see {self._folder.coordinator_log}")
            self._await_end(RETRY_SECONDS)
        raise JobFailed(f"job {self._folder.name} has ended: {how_it_ended(self._folder)}")

    def _metadata(self) -> tuple[tuple[str, str]]:
        return (("authorization", f"Bearer {self._folder.token.read_text(encoding='utf-8').strip()}"),)


def final_status(folder: JobFolder) -> Status | None:
    """What the job has left to say how it ended; None when it has not ended, or was killed as a whole."""
    from google.protobuf import json_format

    from edl_allreduce.control.control_pb2 import Status

    with contextlib.suppress(OSError, ValueError, json_format.ParseError):
        status = json_format.Parse(folder.status.read_text(encoding="utf-8"), Status(), ignore_unknown_fields=True)
        return status if status.phase in ENDED else None
    return None


def how_it_ended(folder: JobFolder) -> str:
    """How a job ended that has ended, for people."""
    status = final_status(folder)
    return _how(status) if status else f"all its processes were killed; logs in {folder.logs}"


def _how(status: Status) -> str:
    return f"{status.phase}, {status.message}" if status.message else status.phase
