"""A proxy in front of a real store that for a while answers 503, cuts connections, or breaks off in the middle."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Faulty:
    """A reverse proxy with faults, as a context manager.

    Args:
        upstream: URL of the store.
    Attributes:
        url: of the proxy.
        requests: how many have come so far.
        faulted: how many of them were answered with a fault.
    """

    def __init__(self, upstream: str) -> None:
        self.requests = self.faulted = 0
        self._kind, self._after, self._left, self._until = "", 0, 0, 0.0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self, upstream.removeprefix("http://")))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, kind: str, requests: int = 1 << 60, seconds: float = 1e9, after: int = 0) -> None:
        """For so many requests, and seconds from now on, once `after` requests have gone well.

        Args:
            kind: an HTTP status; "reset" breaks the connection instead of answering, "half" amid the answer.
        """
        with self._lock:
            self._kind, self._after, self._left, self._until = kind, after, requests, time.monotonic() + seconds

    def heal(self) -> None:
        """No more faults."""
        self.fail("", 0, 0.0)

    def fault(self) -> str:
        """What shall befall the next request; "" is nothing."""
        with self._lock:
            self.requests += 1
            self._after -= 1
            if self._after >= 0 or self._left <= 0 or time.monotonic() > self._until:
                return ""
            self._left -= 1
            self.faulted += 1
            return self._kind

    def __enter__(self) -> Faulty:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to print."""


def _handler(proxy: Faulty, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # an answer is written in two pieces: the second one would wait 40 ms

        def do_GET(self) -> None:
            body = self._body()
            fault = proxy.fault()
            if fault == "reset":
                self._reset()
            elif fault.isdecimal():
                self._answer(int(fault), [], b"")
            else:
                status, headers, answer = self._ask(body)
                self._answer(status, headers, answer, half=fault == "half")

        do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_GET

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(upstream, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            return answer.status, answer.getheaders(), data

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in HOP:
                    self.send_header(name, value)
            length = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self._reset()

        def _reset(self) -> None:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    return Handler
