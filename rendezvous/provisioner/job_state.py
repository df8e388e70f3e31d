"""What coordinators on Kubernetes leave to the next one: a ConfigMap, for what nobody else could tell it."""

from __future__ import annotations

import threading
from typing import Any

from edl_allreduce.cluster import COORDINATORS, FINAL_STATUS, NEXT_ID, WORKER_MEMORY
from edl_allreduce.errors import EdlError
from rendezvous.provisioner.kubernetes import Api, Refused
from rendezvous.provisioner.pods import bytes_of, more_memory


class Superseded(EdlError):
    """Another coordinator has taken over this job."""


class JobState:
    """The ConfigMap as this coordinator knows it. Methods that call the API server are for threads.

    Attributes:
        coordinators: how many there have been before this one.
        next_id: larger than the id of every worker there has ever been.
        worker_memory: what workers get; empty: as their manifest says.
        final_status: how the job has ended, a Status in JSON; empty: it has not.
        superseded: another coordinator has taken over.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._version = ""
        self._saved: dict[str, str] = {}
        self.coordinators = 0
        self.next_id = 0
        self.worker_memory = ""
        self.final_status = ""
        self.superseded = False

    def take_over(self) -> None:
        """Reads what the coordinators before have left, and notes that there is another one now.

        Raises:
            Refused, Unreachable: of the API server.
        """
        while True:
            self._read(self._api.read_state())
            self.coordinators = int(self._saved.get(COORDINATORS, "0"))
            self.next_id = int(self._saved.get(NEXT_ID, "0"))
            self.worker_memory = self._saved.get(WORKER_MEMORY, "")
            self.final_status = self._saved.get(FINAL_STATUS, "")
            if self.final_status:
                return
            try:
                self._write()
            except Refused as refused:
                if not refused.exists:
                    raise
            else:
                return

    def grow(self, limit: str, memory_max: str) -> None:
        """A worker with this limit was killed for want of memory: the next ones get more."""
        more = more_memory(limit, memory_max)
        if more and (not self.worker_memory or bytes_of(more) > bytes_of(self.worker_memory)):
            self.worker_memory = more

    def save(self) -> None:
        """Writes what has changed.

        Raises:
            Superseded: another coordinator has written since.
            Refused, Unreachable: of the API server.
        """
        with self._lock:
            try:
                self._write()
            except Refused as refused:
                if not refused.exists:
                    raise
                self._read(self._api.read_state())
                if int(self._saved.get(COORDINATORS, "0")) > self.coordinators + 1:
                    self.superseded = True
                    raise Superseded("another coordinator has taken over") from refused
                self._write()

    def _write(self) -> None:
        wanted = {COORDINATORS: str(self.coordinators + 1), NEXT_ID: str(self.next_id)}
        wanted |= {WORKER_MEMORY: self.worker_memory} if self.worker_memory else {}
        wanted |= {FINAL_STATUS: self.final_status} if self.final_status else {}
        if not wanted.items() <= self._saved.items():
            self._read(self._api.write_state(wanted, self._version))

    def _read(self, document: dict[str, Any]) -> None:
        self._saved = dict(document.get("data") or {})
        self._version = document["metadata"]["resourceVersion"]
