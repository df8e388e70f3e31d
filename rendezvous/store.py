"""Horovod's rendezvous store for one round: where the members find each other's addresses.

A member gives the addresses for all its peers in one request, `POST /<scope>/<rank>`, which is answered when all these
peers have given theirs, with what they have for this member: N requests for N members, and nobody asks again and again.
That is our change of Horovod (horovod_rendezvous_patches.py); what Horovod's own store answers is answered as well.

One thread serves all members, those that wait included.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

BACKLOG = 4096  # all members come at the same moment
MAX_REQUEST = 1 << 24  # bytes; 100,000 addresses have fewer
# A peer's rank, and the length of what follows: what is meant for that peer, or is its own.
_ENTRY = struct.Struct("!II")

Row = dict[int, bytes]  # by peer


class RoundStore:
    """The store of one round, open until `close`.

    Args:
        address: the IP address to bind to.
        content: what answers; one of its own if none is given.
    """

    def __init__(self, address: str, content: Content | None = None) -> None:
        self._content = content or Content()
        self._socket = socket.create_server((address, 0), backlog=BACKLOG)
        self._port = int(self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._closed = asyncio.Event()
        threading.Thread(target=self._serve, name="store", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that the members are told."""
        return self._port

    def close(self) -> None:
        """Refuses connections from now on; who still waits for an answer is disconnected."""
        self._loop.call_soon_threadsafe(self._closed.set)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._answer_all())
        self._loop.close()

    async def _answer_all(self) -> None:
        open_ones: set[asyncio.Transport] = set()
        server = await self._loop.create_server(lambda: _Connection(self._content, open_ones), sock=self._socket)
        await self._closed.wait()
        server.close()
        for transport in list(open_ones):
            transport.abort()
        await asyncio.sleep(0)  # in which they are closed


class Answer:
    """The one answer that a request gets, now or later; to whom it goes is the connection's matter."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def send(self, status: str, body: bytes = b"") -> None:
        """Sends status and body, and ends the connection."""
        self._transport.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self._transport.close()


class Content:
    """What members have stored, and who waits for what."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._rows: dict[tuple[str, int], Row] = {}
        self._waiting: dict[tuple[str, int], tuple[Answer, set[int]]] = {}

    def take(self, method: str, path: str, body: bytes, answer: Answer) -> None:
        """Answers a request, unless that has to wait.

        Raises:
            ValueError: it cannot be understood.
        """
        if method == "POST":
            scope, _, rank = path.rpartition("/")
            self._exchange(scope, int(rank), _unpacked(body), answer)
        elif method == "GET" and path not in self._values:
            answer.send("404 Not Found")
        elif method in ("GET", "PUT", "DELETE"):
            if method == "PUT":
                self._values[path] = body
            answer.send("200 OK", self._values[path] if method == "GET" else b"")
        else:
            raise ValueError(f"no such method: {method}")

    def _exchange(self, scope: str, rank: int, row: Row, answer: Answer) -> None:
        self._rows[scope, rank] = row
        self._waiting[scope, rank] = answer, {peer for peer in row if (scope, peer) not in self._rows}
        for peer in row:
            if (scope, peer) in self._waiting:
                self._waiting[scope, peer][1].discard(rank)
                self._answer_if_complete(scope, peer)
        self._answer_if_complete(scope, rank)

    def _answer_if_complete(self, scope: str, rank: int) -> None:
        answer, missing = self._waiting.get((scope, rank), (None, ()))
        if answer and not missing:
            del self._waiting[scope, rank]
            column = {peer: self._rows[scope, peer].get(rank, b"") for peer in self._rows[scope, rank]}
            answer.send("200 OK", b"".join(_ENTRY.pack(peer, len(own)) + own for peer, own in column.items()))


class _Connection(asyncio.Protocol):
    """One request of a member's, of which the bytes come in pieces."""

    def __init__(self, content: Content, open_ones: set[asyncio.Transport]) -> None:
        self._content, self._open_ones = content, open_ones
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_ones.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport:
            self._open_ones.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        try:
            if len(self._received) > MAX_REQUEST:
                raise ValueError("a request too long")
            if end and len(body) >= (length := _content_length(bytes(head))):
                method, path, _ = head.split(b"\r\n")[0].decode("ascii").split(" ")
                self._content.take(method, path, bytes(body[:length]), Answer(self._transport))
        except ValueError:
            Answer(self._transport).send("400 Bad Request")


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _unpacked(body: bytes) -> Row:
    row, at = {}, 0
    while at < len(body):
        if at + _ENTRY.size > len(body):
            raise ValueError("an entry is cut off")
        peer, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        row[peer] = body[at : at + length]
        at += length
    return row
