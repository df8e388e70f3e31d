"""A job that runs, followed through its coordinator, whichever that is just now: what all backends' handles share."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from launcher.client import RETRY_SECONDS, Client, Way
from launcher.handle import ENDED, JobHandle, error_of

if TYPE_CHECKING:
    import grpc

    from edl_allreduce.control.control_pb2 import Status
    from edl_allreduce.errors import EdlError

AWAY = "the coordinator has died and is being restarted"


class FollowedJob(JobHandle):
    """A handle that knows the job's newest status. Its threads follow the job until `_conclude` is called.

    Args:
        way: to the job's coordinator.
    """

    def __init__(self, way: Way) -> None:
        self._changed = threading.Condition()
        self._statuses = 0  # how many there have been; guarded by _changed, as is what follows
        self._status: Status | None = None
        self._call: grpc.Call | None = None
        self._ended = threading.Event()
        self._stop_wanted = False
        self._client = Client(way, self._ended.wait)

    @property
    def exit_code(self) -> int | None:
        if not self._ended.is_set():
            return None
        error = self._error()
        return error.exit_code if error else 0

    def status(self) -> Status:
        from edl_allreduce.control.control_pb2 import Status

        with self._changed:
            return self._status or Status(phase="starting")

    def watch(self) -> Iterator[Status]:
        seen = 0
        while True:
            with self._changed:
                while self._statuses == seen and not self._ended.is_set():
                    self._changed.wait()
                fresh, seen = self._statuses > seen, self._statuses
            if fresh:
                yield self.status()
            elif self._ended.is_set():
                return

    def wait(self, timeout: float | None = None) -> Status:
        if not self._ended.wait(timeout):
            raise TimeoutError(f"job {self.name} has not ended within {timeout} seconds")
        error = self._error()
        if error and not self._stop_wanted:
            raise error
        return self.status()

    @abstractmethod
    def _hear(self, status: Status) -> None:
        """Takes in what a coordinator says."""

    @abstractmethod
    def _lose(self) -> None:
        """A coordinator says nothing any more, and the job has not ended."""

    def _error(self) -> EdlError | None:
        """What went wrong with a job that has ended."""
        return error_of(self.status(), self.name, self.logs_hint)

    def _start_following(self, watch_over: Callable[[], None]) -> None:
        """Follows the job in threads of its own; one of them is `watch_over`, which concludes."""
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else its core tells the terminal about lost connections
        for task in (watch_over, self._follow):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()

    def _follow(self) -> None:
        while (address := self._client.await_address()) is not None:
            self._listen(address)
            if self._ended.wait(RETRY_SECONDS):
                return
            self._lose()

    def _listen(self, address: str) -> None:
        """Hears the coordinator at an address until it ends."""
        import grpc

        with self._client.connected(address) as stub:
            with self._changed:
                if self._ended.is_set():
                    return
                self._call = call = self._client.watch(stub)
            with contextlib.suppress(grpc.RpcError):  # it is not there yet, or any more
                for status in call:
                    self._hear(status)

    def _publish(self, status: Status) -> None:
        """Tells everyone a status; after one of an ended job there is only that of `_conclude`."""
        with self._changed:
            if self._ended.is_set() or (self._status is not None and self._status.phase in ENDED):
                return
            if self._status != status:
                self._status = status
                self._statuses += 1
                self._changed.notify_all()

    def _conclude(self, final: Status) -> None:
        """Tells everyone the last status: the job has ended."""
        with self._changed:
            self._status = final
            self._statuses += 1
            self._ended.set()
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()
