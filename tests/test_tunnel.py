"""A port of this machine that leads to a coordinator elsewhere: many connections, TLS, a coordinator that moves."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control import control_pb2_grpc
from edl_allreduce.errors import JobFailed
from launcher.client import Client
from launcher.kubernetes.certificates import Certificate, make_certificate
from launcher.kubernetes.tunnel import Tunnel, pinned

HOST = "job.ml.svc"
NOW = datetime.datetime.now(datetime.timezone.utc)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make_certificate("job", "ml", NOW)


class Echo:
    """A server that says its name and then everything that it hears."""

    def __init__(self, name: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._name, self._tls = name, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port))

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            speaking = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with speaking:
                speaking.sendall(self._name)
                while heard := speaking.recv(1 << 16):
                    speaking.sendall(heard)
        except OSError:
            pass


def server_side(certificate: Certificate, tmp_path: Path) -> ssl.SSLContext:
    (tmp_path / "crt").write_text(certificate.certificate)
    (tmp_path / "key").write_text(certificate.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    return context


def read(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (piece := connection.recv(1 << 16)):
        got += piece
    return got


def say(tunnel: Tunnel, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", tunnel.port), timeout=10) as connection:
        connection.sendall(text)
        return read(connection, len(text) + 1)


def leading(echo: Echo, certificate: Certificate) -> Tunnel:
    """A tunnel to a server with TLS, of which this certificate is expected."""
    return Tunnel(echo.dial, pinned(certificate.certificate), HOST)


def test_many_connections_pass_at_once() -> None:
    with closing(Echo(b"a")) as echo, Tunnel(echo.dial) as tunnel, ThreadPoolExecutor(20) as threads:
        texts = [bytes([number]) * (50_000 + number) for number in range(60)]
        assert list(threads.map(lambda text: say(tunnel, text), texts)) == [b"a" + text for text in texts]


def test_tls_is_taken_off_on_this_end(certificate: Certificate, tmp_path: Path) -> None:
    with closing(Echo(b"a", server_side(certificate, tmp_path))) as echo, leading(echo, certificate) as tunnel:
        assert say(tunnel, b"secret" * 50_000) == b"a" + b"secret" * 50_000


def test_another_certificate_is_not_trusted(certificate: Certificate, tmp_path: Path) -> None:
    other = make_certificate("job", "ml", NOW)
    with closing(Echo(b"a", server_side(other, tmp_path))) as echo, leading(echo, certificate) as tunnel:
        assert say(tunnel, b"x") == b""


def test_each_connection_goes_to_who_is_there_just_then() -> None:
    first, second = Echo(b"1"), Echo(b"2")
    there: list[Echo] = [first]

    def dial() -> socket.socket:
        if not there:
            raise JobFailed("nobody is there")
        return there[-1].dial()

    with closing(first), closing(second), Tunnel(dial) as tunnel:
        assert say(tunnel, b"") == b"1"
        there.clear()
        assert say(tunnel, b"x") == b""
        there.append(second)
        assert say(tunnel, b"y") == b"2y"


def test_a_closed_tunnel_ends_its_connections() -> None:
    with closing(Echo(b"a")) as echo:
        tunnel = Tunnel(echo.dial).open()
        connection = socket.create_connection(("127.0.0.1", tunnel.port), timeout=10)
        assert read(connection, 1) == b"a"
        tunnel.close()
        assert read(connection, 1) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", tunnel.port), timeout=1)


def test_a_certificate_is_for_the_service_and_for_this_end(certificate: Certificate) -> None:
    made = x509.load_pem_x509_certificate(certificate.certificate.encode())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {HOST, "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert made.not_valid_before_utc < NOW - datetime.timedelta(hours=1)
    assert made.not_valid_after_utc > NOW + datetime.timedelta(days=3000)
    assert certificate.key not in repr(certificate)


# The client's calls through it.


class Coordinator(control_pb2_grpc.CoordinatorServicer):
    """Answers with what it was asked, for those who have the token."""

    def __init__(self) -> None:
        self.stopped = ""

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.Status]:
        if dict(context.invocation_metadata()).get("authorization") == "Bearer t0ken":
            yield pb.Status(phase="training", target_workers=3)

    def Stop(self, request: pb.StopRequest, context: grpc.ServicerContext) -> pb.Empty:
        self.stopped = request.reason
        return pb.Empty()


class Way:
    """Leads to a coordinator through a tunnel."""

    name, logs_hint, host, patience = "job", "edl logs job", HOST, 10.0

    def __init__(self, address: str, certificate: str) -> None:
        self._address, self.certificate = address, certificate.encode()

    def address(self) -> str:
        return self._address

    def token(self) -> str:
        return "t0ken"

    def how_it_ended(self) -> str:
        return "done"


@contextmanager
def serving(servicer: Coordinator, certificate: Certificate) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    control_pb2_grpc.add_CoordinatorServicer_to_server(servicer, server)
    pair = (certificate.key.encode(), certificate.certificate.encode())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield port
    server.stop(None)


def test_a_client_speaks_tls_through_a_tunnel(certificate: Certificate) -> None:
    servicer = Coordinator()  # type: ignore[abstract]  # of its calls these two are enough
    with (
        serving(servicer, certificate) as port,
        Tunnel(lambda: socket.create_connection(("127.0.0.1", port))) as tunnel,
    ):
        client = Client(Way(tunnel.address, certificate.certificate), lambda seconds: False)
        assert client.newest(5.0).target_workers == 3
        client.stop("enough")
        assert servicer.stopped == "enough"


def test_a_client_trusts_the_jobs_certificate_alone(certificate: Certificate) -> None:
    other = make_certificate("job", "ml", NOW)
    with serving(Coordinator(), other) as port:  # type: ignore[abstract]
        client = Client(Way(f"127.0.0.1:{port}", certificate.certificate), lambda seconds: False)
        with pytest.raises(JobFailed, match="job job: its coordinator at .* has not answered for 1 s; edl logs job"):
            client.newest(1.0)
