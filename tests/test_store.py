"""Members of a round find each other's addresses, and none is left waiting."""

from __future__ import annotations

import errno
import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from rendezvous.store import RoundStore

ADDRESS = "127.0.0.1"


@pytest.fixture
def store() -> Iterator[RoundStore]:
    opened = RoundStore(ADDRESS)
    yield opened
    opened.close()


def ask(store: RoundStore, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(ADDRESS, store.port, timeout=10)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def packed(row: dict[int, bytes]) -> bytes:
    return b"".join(struct.pack("!II", peer, len(own)) + own for peer, own in row.items())


def refused(store: RoundStore) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((ADDRESS, store.port)) == errno.ECONNREFUSED


def threads() -> int:
    return sum(each.name == "store" for each in threading.enumerate())


def test_each_member_gets_what_all_others_have_for_it(store: RoundStore) -> None:
    size = 20

    def member(rank: int) -> tuple[int, bytes]:
        row = {peer: f"{rank} to {peer}".encode() for peer in range(size) if peer != rank}
        return ask(store, "POST", f"/global/{rank}", packed(row))

    with ThreadPoolExecutor(size) as pool:
        answers = list(pool.map(member, range(size)))
    for rank, (status, column) in enumerate(answers):
        assert status == 200
        assert column == packed({peer: f"{peer} to {rank}".encode() for peer in range(size) if peer != rank})


def test_only_the_peers_that_a_member_names_are_waited_for(store: RoundStore) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, store, "POST", "/global/0", packed({1: b"a"}))
        assert ask(store, "POST", "/global/1", packed({0: b"b"})) == (200, packed({0: b"a"}))
        assert first.result() == (200, packed({1: b"b"}))


def test_a_lost_answer_can_be_asked_for_again(store: RoundStore) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask, store, "POST", "/global/0", packed({1: b"a"}))
        ask(store, "POST", "/global/1", packed({0: b"b"}))
    assert ask(store, "POST", "/global/1", packed({0: b"b"})) == (200, packed({0: b"a"}))


def test_scopes_are_apart(store: RoundStore) -> None:
    with socket.create_connection((ADDRESS, store.port)) as waiting:
        waiting.sendall(b"POST /global/0 HTTP/1.1\r\nContent-Length: 9\r\n\r\n" + packed({1: b"a"}))
        assert ask(store, "POST", "/set/1", packed({})) == (200, b"")
        waiting.settimeout(0.1)
        with pytest.raises(TimeoutError):
            waiting.recv(1)


def test_who_waits_is_told_when_the_round_is_given_up() -> None:
    store = RoundStore(ADDRESS)
    with socket.create_connection((ADDRESS, store.port), timeout=10) as waiting:
        waiting.sendall(b"POST /global/0 HTTP/1.1\r\nContent-Length: 9\r\n\r\n" + packed({1: b"a"}))
        ask(store, "GET", "/global/key")  # by now the first one is waiting
        store.close()
        assert waiting.recv(1) == b""
    assert any(refused(store) for _ in range(1000))


def test_waiting_takes_no_threads(store: RoundStore) -> None:
    waiting = [socket.create_connection((ADDRESS, store.port)) for _ in range(50)]
    for rank, each in enumerate(waiting):
        body = packed({99: b"a"})
        each.sendall(b"POST /global/%d HTTP/1.1\r\nContent-Length: 9\r\n\r\n" % rank + body)
    ask(store, "GET", "/global/key")
    assert threads() == 1
    for each in waiting:
        each.close()


def test_horovods_own_requests(store: RoundStore) -> None:
    assert ask(store, "GET", "/global/0") == (404, b"")
    assert ask(store, "PUT", "/global/0", b"address") == (200, b"")
    assert ask(store, "GET", "/global/0") == (200, b"address")
    assert ask(store, "DELETE", "/global/0") == (200, b"")


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /global/first HTTP/1.1\r\n\r\n",
        b"POST /global/0 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /global/0 HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"PATCH /global/0 HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /global/\xff HTTP/1.1\r\n\r\n",
    ],
)
def test_what_cannot_be_understood_is_refused(store: RoundStore, request_: bytes) -> None:
    with socket.create_connection((ADDRESS, store.port), timeout=10) as connection:
        connection.sendall(request_)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert ask(store, "PUT", "/global/0") == (200, b"")
