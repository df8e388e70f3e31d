"""The worker's side of its stream to the coordinator: presence, heartbeats, and what the coordinator says.

A coordinator may be killed and started again while the workers train on. The session then connects anew and greets with
the worker's standing, from which the new coordinator learns all that it must know.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from itertools import chain

import grpc
import psutil

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.control.position import position_to_message
from edl_allreduce.position import Position
from edl_allreduce.worker.untold import Activity, Untold

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.25  # until a coordinator says otherwise
RETRY_SECONDS = (0.02, 0.25)  # between two tries to reach a coordinator: the first, the longest
REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)


class Session:
    """The connection to whichever coordinator there is.

    Messages that concern the main thread wait in `inbox`; Abandon, Reform and Leave act at once, from the stream's own
    thread. The end of it all (refused, or no coordinator for too long) arrives in the inbox as None.

    Args:
        address: the coordinator's, "host:port".
        token: the job's.
        hello: who this worker is.
        certificate: the one that the coordinator must show, in PEM; None: it shows none.
    Attributes:
        on_abandon: called when the round in progress has failed; set by whoever can break it off.
        standing: tells a new coordinator what this worker is doing.
        activity: tells what the training thread is doing right now.
        patience: seconds to go on without a coordinator.
        life_line: a pipe's descriptor whose end says that the whole job is over; None: there is none.
        leaving: this worker has been told to go.
        abandoned_round: the newest round that has failed.
    """

    def __init__(self, address: str, token: str, hello: pb.Hello, certificate: bytes | None = None) -> None:
        self.inbox: queue.SimpleQueue[pb.ToWorker | None] = queue.SimpleQueue()
        self.leaving = False
        self.abandoned_round = 0
        self.patience = 60.0
        self.life_line: int | None = None
        self.on_abandon: Callable[[], None] = lambda: None
        self.standing: Callable[[], pb.Standing] = lambda: pb.Standing(state="preparing")
        self.activity: Callable[[], Activity] = Activity
        self._address, self._token, self._hello, self._certificate = address, token, hello, certificate
        self._reform_round = 0
        self._checkpoint_wanted = False
        self._outbox: queue.SimpleQueue[pb.FromWorker | None] = queue.SimpleQueue()
        self._repeated: list[pb.FromWorker] = []  # what every new coordinator must be told as well
        self._untold = Untold()
        self._process = psutil.Process()
        self._wants: list[pb.FromWorker] = []  # of tasks, until all are done
        self._lock = threading.Lock()
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        self._connected = False
        self._welcomed = False  # by the coordinator of this stream
        self._greeted_before = False
        self._closed = threading.Event()
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

    def takes_checkpoint_wish(self) -> bool:
        """Whether a checkpoint is wanted; it is no longer, then."""
        with self._lock:
            wanted, self._checkpoint_wanted = self._checkpoint_wanted, False
        return wanted

    def leave(self) -> None:
        """This worker has been told to go by somebody else than the coordinator."""
        if not self.leaving:
            self.leaving = True
            self.inbox.put(pb.ToWorker(leave=pb.Leave()))
            self._say_to_all(pb.FromWorker(leaving=pb.Leaving()))

    def ready(self) -> None:
        """The next round may count this worker in."""
        self._outbox.put(pb.FromWorker(ready=pb.Ready()))

    def progress(self, round: int, rank: int, position: Position, step: pb.Step, paused_seconds: float) -> None:
        """Notes a step, to be told with a heartbeat."""
        self._untold.step(round, rank, position, step, paused_seconds)

    def parted(self, message: pb.Parted) -> None:
        """The worker has left a round; its standing must say so already."""
        self._untold.tell_all()
        self._flush()
        self._outbox.put(pb.FromWorker(parted=message))

    def broke(self, error: str, exit_code: int) -> None:
        """The user's code or data has failed, and would fail again."""
        self._say_to_all(pb.FromWorker(broke=pb.Broke(error=error, exit_code=exit_code)))

    def exported(self) -> None:
        """The trained model is in the output; the standing must say so already."""
        self._outbox.put(pb.FromWorker(exported=pb.Exported()))

    def restored(self, position: Position | None) -> None:
        """The weights are those of the newest checkpoint, if there is one; the standing must say so already."""
        found = position_to_message(position) if position else None
        self._outbox.put(pb.FromWorker(restored=pb.Restored(position=found)))

    def checkpointed(self, message: pb.Checkpointed) -> None:
        """A checkpoint is complete, or could not be written."""
        self._outbox.put(pb.FromWorker(checkpointed=message))

    def skipped(self, message: pb.Skipped) -> None:
        """Records are left out."""
        self._say_to_all(pb.FromWorker(skipped=message))

    def notice(self, text: str) -> None:
        """Something the modeler should know, in one line."""
        self._say_to_all(pb.FromWorker(notice=pb.Notice(text=text)))

    def wants_tasks(self, work: int, whole: bool = False) -> None:
        """This worker takes part in a piece of leased work from now on; new coordinators are told as well."""
        self._wants = [pb.FromWorker(wants=pb.Wants(work=work, whole=whole))]
        self._outbox.put(self._wants[0])

    def wants_no_tasks(self) -> None:
        """It does not take part any more."""
        self._wants = []

    def task_done(self, message: pb.TaskDone) -> None:
        """A lease is done."""
        self._outbox.put(pb.FromWorker(task_done=message))

    def figures(self, message: pb.Figures) -> None:
        """The figures of an evaluation."""
        self._say_until_kept(message.work, pb.FromWorker(figures=message))

    def epoch_ended(self, message: pb.EpochEnd) -> None:
        """What training had to say at an epoch's end."""
        self._say_until_kept(message.step, pb.FromWorker(epoch_end=message))

    def close(self) -> None:
        """Ends the stream after everything said has been sent."""
        self._closed.set()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join(timeout=2)

    def _say_to_all(self, message: pb.FromWorker) -> None:
        self._repeated.append(message)
        self._outbox.put(message)

    def _say_until_kept(self, step: int, message: pb.FromWorker) -> None:
        self._untold.figures(step, message)
        self._outbox.put(message)

    # Heartbeats.

    def _beat(self) -> None:
        while not self._closed.wait(self._heartbeat_seconds):
            if self._connected:
                self._flush()

    def _flush(self) -> None:
        for message in self._untold.messages(self.activity(), self._process.memory_info().rss):
            self._outbox.put(message)

    # The stream.

    def _receive(self) -> None:
        try:
            self._stay_connected()
        except Exception:
            log.exception("the connection to the coordinator is given up")
        if not self._closed.is_set():
            self._break_off()
        self.inbox.put(None)  # whatever has happened: nobody waits for more

    def _break_off(self) -> None:
        """Breaks off the round in progress, as far as that works; what the coordinator says is heard all the same."""
        try:
            self.on_abandon()
        except Exception:
            log.exception("the round could not be broken off in order")

    def _stay_connected(self) -> None:
        wait, longest = RETRY_SECONDS
        gone_since = time.monotonic()
        while not self._closed.is_set():
            error = self._connect()
            now = time.monotonic()
            if self._welcomed:  # there was a coordinator
                self._welcomed, gone_since, wait = False, now, RETRY_SECONDS[0]
                log.warning("the coordinator is gone: %s", error)
            if self._closed.is_set() or self._gives_up(error, now - gone_since):
                break
            self._closed.wait(wait)
            wait = min(2 * wait, longest)

    def _gives_up(self, error: grpc.RpcError | None, gone: float) -> bool:
        if isinstance(error, grpc.Call) and error.code() in REFUSED:
            log.error("the coordinator refuses this worker: %s", error.details())
        elif gone > self.patience:
            log.error("no coordinator for %.0f s", gone)
        elif self.life_line is not None and _has_ended(self.life_line):
            log.error("the job has ended")
        else:
            return False
        return True

    def _connect(self) -> grpc.RpcError | None:
        """One stream from hello to its end; the error that ended it."""
        outbox: queue.SimpleQueue[pb.FromWorker | None] = queue.SimpleQueue()
        self._outbox = outbox  # first this, then the standing: nothing gets lost between
        first = [self._greeting(), *self._repeated, *self._untold.said_again(), *self._wants]
        with self._channel() as channel:
            work = control_pb2_grpc.CoordinatorStub(channel).Work
            stream = work(chain(first, iter(outbox.get, None)), metadata=(("authorization", f"Bearer {self._token}"),))
            try:
                for message in stream:
                    self._handle(message)
            except grpc.RpcError as error:
                return error
            finally:
                self._connected = False
                outbox.put(None)
        return None

    def _channel(self) -> grpc.Channel:
        """A channel of its own: it asks anew where the coordinator's name leads."""
        if self._certificate is None:
            return grpc.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(root_certificates=self._certificate)
        return grpc.secure_channel(self._address, credentials, options=CHANNEL_OPTIONS)

    def _greeting(self) -> pb.FromWorker:
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        if self._greeted_before:
            hello.standing.CopyFrom(self.standing())
        return pb.FromWorker(hello=hello)

    def _handle(self, message: pb.ToWorker) -> None:
        match message.WhichOneof("message"):
            case "welcome":
                self._untold.known(message.welcome.told_step)
                self._heartbeat_seconds = message.welcome.heartbeat_seconds or HEARTBEAT_SECONDS
                self._connected = self._welcomed = True
                if not self._greeted_before:
                    self._greeted_before = True
                    self.inbox.put(message)
            case "kept":
                self._untold.kept(message.kept.step)
            case "reform":
                self._reform_round = message.reform.round
                self.inbox.put(message)
            case "abandon":
                self.abandoned_round = message.abandon.round
                self._break_off()
                self.inbox.put(message)  # for whoever waits there in a round
            case "stop":
                self.inbox.put(message)
                self._break_off()
            case "leave":
                self.leaving = True
                self.inbox.put(message)
            case "checkpoint":
                with self._lock:
                    self._checkpoint_wanted = True
                self.inbox.put(message)
            case _:
                self.inbox.put(message)


CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", 512 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the old one's wait before it connects again
    ("grpc.keepalive_time_ms", 3000),  # a coordinator that cannot be reached is noticed without its help
    ("grpc.keepalive_timeout_ms", 3000),
]


def _has_ended(pipe: int) -> bool:
    readable, _, _ = select.select([pipe], [], [], 0)
    return bool(readable) and os.read(pipe, 1) == b""
