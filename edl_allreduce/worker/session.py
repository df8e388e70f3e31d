"""The worker's side of its stream to the coordinator: presence, heartbeats, and what the coordinator says."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable

import grpc

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.control.position import position_to_message
from edl_allreduce.position import Position

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.25
STEPS_KEPT = 1024  # more than a heartbeat's worth


class Session:
    """One open stream.

    Messages that concern the main thread wait in `inbox`; Abandon, Reform and the end of the stream act at once, from
    the stream's own thread. The end of the stream arrives in the inbox as None.

    Args:
        address: the coordinator's, "host:port".
        token: the job's.
        hello: the stream's first message.
    Attributes:
        on_abandon: called when the round in progress has failed; set by whoever can break it off.
        leaving: this worker has been told to go.
        abandoned_round: the newest round that has failed.
    """

    def __init__(self, address: str, token: str, hello: pb.Hello) -> None:
        self.inbox: queue.SimpleQueue[pb.ToWorker | None] = queue.SimpleQueue()
        self.leaving = False
        self.abandoned_round = 0
        self.on_abandon: Callable[[], None] = lambda: None
        self._reform_round = 0
        self._outbox: queue.SimpleQueue[pb.FromWorker | None] = queue.SimpleQueue()
        self._outbox.put(pb.FromWorker(hello=hello))
        self._lock = threading.Lock()
        self._progress = pb.Progress()
        self._steps: deque[pb.Step] = deque(maxlen=STEPS_KEPT)
        self._tells_steps = False
        self._closed = threading.Event()
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        work = control_pb2_grpc.CoordinatorStub(self._channel).Work
        self._stream = work(iter(self._outbox.get, None), metadata=(("authorization", f"Bearer {token}"),))
        self._threads = [
            threading.Thread(target=self._receive, name="receive", daemon=True),
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
        ]

    def start(self) -> None:
        """Says hello."""
        for thread in self._threads:
            thread.start()

    def wants_to_part(self, round: int) -> bool:
        """Whether this worker should ask all members to part after the next step."""
        return self.leaving or self._reform_round >= round

    def leave(self) -> None:
        """This worker has been told to go by somebody else than the coordinator."""
        if not self.leaving:
            self.leaving = True
            self._outbox.put(pb.FromWorker(leaving=pb.Leaving()))
            self.inbox.put(pb.ToWorker(leave=pb.Leave()))

    def ready(self) -> None:
        """The next round may count this worker in."""
        self._outbox.put(pb.FromWorker(ready=pb.Ready()))

    def progress(self, round: int, rank: int, position: Position, step: pb.Step, paused_seconds: float) -> None:
        """Notes a step. Rank 0 tells it with the next heartbeat, the others when they part, should rank 0 be lost."""
        with self._lock:
            self._progress.round = round
            self._progress.position.CopyFrom(position_to_message(position))
            self._steps.append(step)
            self._tells_steps = rank == 0
            if paused_seconds:
                self._progress.paused_seconds = paused_seconds

    def parted(self, round: int, position: Position, error: str | None) -> None:
        """The worker has left a round."""
        with self._lock:
            self._tells_steps = True
        self._flush()
        parted = pb.Parted(
            round=round, position=position_to_message(position), failed=error is not None, error=error or ""
        )
        self._outbox.put(pb.FromWorker(parted=parted))

    def broke(self, error: str, exit_code: int) -> None:
        """The user's code or data has failed, and would fail again."""
        self._outbox.put(pb.FromWorker(broke=pb.Broke(error=error, exit_code=exit_code)))

    def exported(self) -> None:
        """The trained model is in the output."""
        self._outbox.put(pb.FromWorker(exported=pb.Exported()))

    def close(self) -> None:
        """Ends the stream after everything said has been sent."""
        self._closed.set()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join(timeout=2)
        self._channel.close()

    def _flush(self) -> None:
        with self._lock:
            message, self._progress = self._progress, pb.Progress()
            self._progress.round = message.round
            self._progress.position.CopyFrom(message.position)
            if self._tells_steps:
                message.steps.extend(self._steps)
                self._steps.clear()
        self._outbox.put(pb.FromWorker(progress=message))

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            self._flush()

    def _receive(self) -> None:
        try:
            for message in self._stream:
                self._handle(message)
        except grpc.RpcError as error:
            if not self._closed.is_set():
                log.error("the coordinator is gone: %s", error.details() if isinstance(error, grpc.Call) else error)
        if not self._closed.is_set():
            self.on_abandon()
        self.inbox.put(None)

    def _handle(self, message: pb.ToWorker) -> None:
        match message.WhichOneof("message"):
            case "reform":
                self._reform_round = message.reform.round
            case "abandon":
                self.abandoned_round = message.abandon.round
                self.on_abandon()
            case "stop":
                self.inbox.put(message)
                self.on_abandon()
            case "leave":
                self.leaving = True
                self.inbox.put(message)
            case _:
                self.inbox.put(message)


CHANNEL_OPTIONS = [("grpc.max_receive_message_length", 512 << 20), ("grpc.enable_http_proxy", 0)]


def read_token() -> str:
    """The job's token, from the file that EDL_TOKEN_FILE names."""
    with open(os.environ["EDL_TOKEN_FILE"], encoding="ascii") as file:
        return file.read().strip()
