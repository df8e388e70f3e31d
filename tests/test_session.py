"""A worker's side of its stream: TLS, a coordinator whose name is not known yet, and what a new coordinator is told."""

from __future__ import annotations

import datetime
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.errors import EdlError
from edl_allreduce.position import Position
from edl_allreduce.worker import access
from edl_allreduce.worker.access import own_address
from edl_allreduce.worker.session import Session
from launcher.kubernetes.certificates import Certificate, make_certificate

HELLO = pb.Hello(worker_id=3, host="here", pid=1)


class Coordinator(control_pb2_grpc.CoordinatorServicer):
    """Welcomes whoever comes; notes what it hears."""

    def __init__(self, told_step: int = 0) -> None:
        self.heard: queue.SimpleQueue[pb.FromWorker] = queue.SimpleQueue()
        self.says: queue.SimpleQueue[pb.ToWorker | None] = queue.SimpleQueue()
        self.says.put(pb.ToWorker(welcome=pb.Welcome(told_step=told_step)))

    Watch = Scale = Stop = Events = None  # type: ignore[assignment]

    def Work(self, requests: Iterator[pb.FromWorker], context: Any) -> Iterator[pb.ToWorker]:
        def listen() -> None:
            try:
                for message in requests:
                    self.heard.put(message)
            except grpc.RpcError:
                pass

        threading.Thread(target=listen, daemon=True).start()
        yield from iter(self.says.get, None)

    def hears(self, wanted: Callable[[pb.FromWorker], Any]) -> pb.FromWorker:
        while not wanted(message := self.heard.get(timeout=10)):
            pass
        return message

    def steps(self, last: int) -> list[int]:
        """The steps it is told, until this one."""
        told: list[int] = []
        while last not in told:
            told += [step.step for step in self.heard.get(timeout=10).progress.steps]
        return told


@contextmanager
def serving(coordinator: Coordinator, port: int = 0, certificate: Certificate | None = None) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    control_pb2_grpc.add_CoordinatorServicer_to_server(coordinator, server)
    if certificate:
        pair = (certificate.key.encode(), certificate.certificate.encode())
        port = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield port
    finally:
        coordinator.says.put(None)
        server.stop(0).wait()


@contextmanager
def a_session(port: int, certificate: bytes | None = None, patience: float = 60.0) -> Iterator[Session]:
    session = Session(f"localhost:{port}", "token", HELLO, certificate)
    session.patience = patience
    session.start()
    try:
        yield session
    finally:
        session.close()


def certificate() -> Certificate:
    pytest.importorskip("cryptography")
    return make_certificate("digits", "team", datetime.datetime.now(datetime.timezone.utc))


def test_only_the_coordinator_with_the_right_certificate_is_talked_to() -> None:
    right, wrong = certificate(), certificate()
    coordinator = Coordinator()
    with serving(coordinator, certificate=right) as port:
        with a_session(port, wrong.certificate.encode(), patience=0.5) as session:
            assert session.inbox.get(timeout=10) is None, "it gives up"
        assert coordinator.heard.empty()
        with a_session(port, right.certificate.encode()) as session:
            message = session.inbox.get(timeout=10)
            assert message and message.HasField("welcome")
            assert coordinator.hears(lambda message: message.HasField("hello")).hello.worker_id == 3


def step(session: Session, number: int) -> None:
    session.progress(1, 0, Position(step=number), pb.Step(step=number, loss=0.5), 0.0)


def test_a_new_coordinator_is_told_what_it_cannot_know() -> None:
    """The first has not told where the second could find it; what was kept need not be told again."""
    first, second = Coordinator(), Coordinator(told_step=600)
    with serving(first) as port:
        session = Session(f"localhost:{port}", "token", HELLO)
        session.start()
        assert session.inbox.get(timeout=10)
        for number in range(1, 2001):
            step(session, number)
        session.epoch_ended(pb.EpochEnd(epoch=0, step=400))
        session.epoch_ended(pb.EpochEnd(epoch=1, step=800))
        assert first.steps(2000) == list(range(1, 2001))
        first.says.put(pb.ToWorker(kept=pb.Kept(step=500)))
        first.says.put(pb.ToWorker(checkpoint=pb.Checkpoint()))
        assert session.inbox.get(timeout=10)  # so it has heard the one before
    for number in range(2001, 2101):
        step(session, number)
    with serving(second, port):
        ends = second.hears(lambda message: message.HasField("epoch_end"))
        assert ends.epoch_end.step == 800, "the earlier one is kept"
        assert second.steps(2100) == list(range(601, 2101))
        session.close()


def test_a_member_that_parts_tells_only_what_is_not_kept() -> None:
    coordinator = Coordinator()
    with serving(coordinator) as port, a_session(port) as session:
        assert session.inbox.get(timeout=10)
        for number in range(1, 101):
            session.progress(1, 1, Position(step=number), pb.Step(step=number), 0.0)
        coordinator.says.put(pb.ToWorker(kept=pb.Kept(step=90)))
        coordinator.says.put(pb.ToWorker(checkpoint=pb.Checkpoint()))
        assert session.inbox.get(timeout=10)
        session.parted(pb.Parted(round=1))
        assert coordinator.steps(100) == list(range(91, 101))


def test_a_coordinator_whose_name_is_not_known_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = socket.getaddrinfo, []

    def slow(*arguments: Any, **more: Any) -> Any:
        asked.append(arguments)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known("127.0.0.1", 7077, type=socket.SOCK_DGRAM)

    monkeypatch.setattr(access, "NAME_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert own_address("digits.team.svc", 7077) == "127.0.0.1" and len(asked) == 3
    asked.clear()
    with pytest.raises(EdlError, match=r"coordinator digits.team.svc: Name or service not known, for 0.01 s"):
        own_address("digits.team.svc", 7077, patience=0.01)


def test_it_beats_as_often_as_it_is_told() -> None:
    coordinator = Coordinator()
    coordinator.says.get()
    coordinator.says.put(pb.ToWorker(welcome=pb.Welcome(heartbeat_seconds=0.01)))
    with serving(coordinator) as port:
        session = Session(f"127.0.0.1:{port}", "token", HELLO)
        session.start()
        coordinator.hears(lambda message: message.HasField("progress"))
        began = time.monotonic()
        for _ in range(20):
            coordinator.hears(lambda message: message.HasField("progress"))
        assert time.monotonic() - began < 2.5  # as usual it would be 5 s
        coordinator.says.put(None)
        session.close()


def test_a_round_that_cannot_be_broken_off_in_order_costs_no_connection() -> None:
    def fails() -> None:
        raise OSError(88, "Socket operation on non-socket")

    coordinator = Coordinator()
    with serving(coordinator) as port:
        session = Session(f"127.0.0.1:{port}", "token", HELLO)
        session.on_abandon = fails
        session.start()
        assert session.inbox.get(timeout=10)
        coordinator.says.put(pb.ToWorker(abandon=pb.Abandon(round=3)))
        coordinator.says.put(pb.ToWorker(stop=pb.Stop(reason="enough")))
        told = [session.inbox.get(timeout=10) for _ in range(2)]
        assert [each and each.WhichOneof("message") for each in told] == ["abandon", "stop"]
        assert session.abandoned_round == 3
        coordinator.says.put(None)
        session.close()


def test_a_thread_that_fails_is_the_end_and_not_a_wait_without_end() -> None:
    session = Session("127.0.0.1:1", "token", HELLO)
    broken_off = threading.Event()
    session.on_abandon = broken_off.set
    session._connect = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    session.start()
    assert session.inbox.get(timeout=10) is None and broken_off.is_set()
    session.close()
