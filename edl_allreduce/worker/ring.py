"""Joins, severs and leaves Horovod's ring inside a living process: what makes a reform cheap.

Gloo waits for its timeout when the broken peer is not a direct neighbour, or is merely hung. So the ring remembers
which TCP sockets `hvd.init()` opened and shuts them down on failure: every blocked collective then fails at once, on
this worker and in turn on its neighbours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator

import horovod.tensorflow as hvd
import numpy as np
import psutil
import tensorflow as tf
from horovod.tensorflow import mpi_ops

# How often a ring that is severed while it is being made is looked at: no event tells of sockets.
JOIN_LOOK_SECONDS = 0.01
# So long a small tensor waits for others to be fused with, and a group a tenth of it (`horovod_cycle_patches`). What is
# fused is copied twice: on a CPU, for larger tensors, that takes longer than reductions of their own. See
# docs/performance.md.
CYCLE_MILLISECONDS, CPU_FUSION_BYTES = "0.5", str(4 << 20)
SILENCE_LOOK_SECONDS = 0.25  # between two looks at who does not answer; no event tells
_LOOKS = 3  # of these count
_TCP_ESTABLISHED, _TCP_SYN_SENT = 1, 2
# Of struct tcp_info in <linux/tcp.h>: tcpi_state, tcpi_retransmits, tcpi_probes, tcpi_last_ack_recv (milliseconds).
_TCP_INFO = struct.Struct("=BxBB52xI")
_ASK_SECONDS = 1  # of silence, and TCP asks an idle peer whether it is there; the least that can be set
_ASKS = 127  # without an answer, and TCP breaks the connection; the most that can be set
_NO_ANSWER_MILLISECONDS = 1250  # an answer takes less than the quarter of a second
_RETRIES = 2  # so many of TCP's own without an answer are no accident


class Ring:
    """At most one Horovod ring of this process.

    Args:
        address: this worker's own IP address towards the other workers.
        spared: connections to this port are never severed: they are the coordinator's, whose address may change.
        timeout: Gloo's own timeout in seconds, the last resort where nothing severs.
    """

    def __init__(self, address: str, spared: int, timeout: int = 60) -> None:
        self._spared = spared
        self._lock = threading.Lock()
        self._joined = threading.Event()
        self._before: frozenset[tuple[int, str]] = frozenset()
        self._sockets: frozenset[tuple[int, str]] | None = None
        self._open = False
        self._left = threading.Event()
        self._silent: set[str] = set()
        self._looks: deque[set[str]] = deque(maxlen=_LOOKS)
        os.environ["HOROVOD_GLOO_IFACE"] = _interface_of(address)
        os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"] = str(timeout)
        os.environ.setdefault("HOROVOD_CYCLE_TIME", CYCLE_MILLISECONDS)
        if not hvd.nccl_built():
            os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", CPU_FUSION_BYTES)

    def join(self, rank: int = 0, size: int = 1, store: tuple[str, int] | None = None) -> None:
        """Connects to the other members; blocks until all are there.

        Args:
            rank, size: this worker's place in the round.
            store: address and port of the round's store; a ring of one needs none.

        Raises:
            Exception: of Horovod's, when that failed or was severed in the meantime.
        """
        for name in ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"):
            os.environ.pop(name, None)
        os.environ.update(_environment(rank, size, store))
        self._joined.clear()
        with self._lock:
            self._before, self._sockets, self._open, self._silent = _sockets(), None, True, set()
            self._left, self._looks = threading.Event(), deque(maxlen=_LOOKS)
        if size > 1:
            threading.Thread(target=self._look, args=(self._left,), name="silence", daemon=True).start()
        os.environ["HOROVOD_ELASTIC"] = "0"  # else init asks a server of Horovod's own for the rank
        try:
            hvd.init()
        finally:
            self._joined.set()
            os.environ["HOROVOD_ELASTIC"] = "1"  # else traced functions would bake the world size in
        with self._lock:
            self._sockets = _sockets() - self._before
            _keep_asking(self._sockets)

    def sever(self) -> None:
        """Breaks every connection of the ring; may be called from any thread.

        A ring that is just being made opens more connections while it can: they are broken as they come.
        """
        made = False
        while True:
            with self._lock:
                sockets = self._ring_sockets()
                self._silent |= _silent_peers(sockets)
                for fd, name in sockets:
                    _shut(fd, name, self._spared)
                if made or not self._open:
                    return
            made = self._joined.wait(JOIN_LOOK_SECONDS)

    def broadcast(self, data: bytes) -> bytes:
        """Rank 0's bytes, on every member.

        Raises:
            Exception: of Horovod's, when the ring breaks.
        """
        sizes = mpi_ops.broadcast(tf.constant([len(data)], tf.int64), root_rank=0, name="edl_size")
        own = tf.constant(np.frombuffer(data.ljust(int(sizes[0]), b"\0")[: int(sizes[0])], np.uint8))
        return bytes(mpi_ops.broadcast(own, root_rank=0, name="edl_bytes").numpy().tobytes())

    def unreachable(self) -> tuple[str, ...]:
        """Addresses of members from which no answer came in the last moments of this ring."""
        with self._lock:
            return tuple(sorted(self._silent.union(*self._looks)))

    def refused(self) -> bool:
        """Whether this ring could not be made since a member refused a connection; to be asked before it is left."""
        return bool(mpi_ops._basics.MPI_LIB_CTYPES.horovod_connection_refused())

    def broken(self) -> bool:
        """Whether a connection of the ring is no longer established."""
        with self._lock:
            return any(not _established(fd, name) for fd, name in self._ring_sockets())

    def leave(self) -> None:
        """Ends the ring; when it is intact, all members must leave after the same step."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        self._left.set()
        hvd.shutdown()
        with self._lock:
            self._before, self._sockets = frozenset(), frozenset()

    def _look(self, left: threading.Event) -> None:
        """Remembers which peers do not answer: when one of them severs first, no connection is left to be asked."""
        while not left.wait(SILENCE_LOOK_SECONDS):
            with self._lock:
                if self._open:
                    self._looks.append(_silent_peers(self._ring_sockets()))

    def _ring_sockets(self) -> frozenset[tuple[int, str]]:
        if not self._open:
            return frozenset()
        return _sockets() - self._before if self._sockets is None else self._sockets


def _environment(rank: int, size: int, store: tuple[str, int] | None) -> dict[str, str]:
    """The variables that `hvd.init()` reads.

    Every worker is told to be alone on its host. Horovod connects the workers of a host, and those across hosts, once
    more among themselves, for hierarchical reductions only; without them a ring of 3 is made in 60 % of the time.
    """
    values = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_HOSTNAME": f"worker-{rank}"}
    places = {"": (rank, size), "LOCAL_": (0, 1), "CROSS_": (0, 1)}
    for kind, (place, among) in places.items():
        values |= {f"HOROVOD_{kind}RANK": str(place), f"HOROVOD_{kind}SIZE": str(among)}
    if store:
        address, port = store
        values |= {"HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
    return values


def _sockets() -> frozenset[tuple[int, str]]:
    """Every open socket descriptor with its inode name, which tells a reused descriptor from the one it was."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            name = os.readlink(f"/proc/self/fd/{entry}")
            if name.startswith("socket:"):
                found.append((int(entry), name))
    return frozenset(found)


@contextlib.contextmanager
def _handle(fd: int, name: str) -> Iterator[socket.socket | None]:
    """A socket object on a duplicate of `fd`, if that is still the socket called `name`; else None.

    Gloo may have closed it, and somebody else may have got its number for something that is no socket.
    """
    try:
        duplicate = os.dup(fd)
    except OSError:
        yield None
        return
    if os.readlink(f"/proc/self/fd/{duplicate}") != name:
        os.close(duplicate)
        yield None
        return
    with socket.socket(fileno=duplicate) as handle:
        yield handle


def _shut(fd: int, name: str, spared: int) -> None:
    with _handle(fd, name) as handle, contextlib.suppress(OSError):
        if handle is not None and handle.family in (socket.AF_INET, socket.AF_INET6) and _peer_port(handle) != spared:
            handle.shutdown(socket.SHUT_RDWR)  # also wakes what listens, or is still connecting


def _peer_port(handle: socket.socket) -> int | None:
    try:
        return int(handle.getpeername()[1])
    except OSError:
        return None


def _established(fd: int, name: str) -> bool:
    with _handle(fd, name) as handle:
        if handle is None:
            return False
        if handle.family not in (socket.AF_INET, socket.AF_INET6) or handle.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return True
        return handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def _keep_asking(sockets: frozenset[tuple[int, str]]) -> None:
    """Has TCP ask idle peers whether they are there: to whom nothing is to be sent, nobody would notice."""
    options = ((socket.TCP_KEEPIDLE, _ASK_SECONDS), (socket.TCP_KEEPINTVL, _ASK_SECONDS), (socket.TCP_KEEPCNT, _ASKS))
    for fd, name in sockets:
        with _handle(fd, name) as handle, contextlib.suppress(OSError):
            if handle is not None and handle.family in (socket.AF_INET, socket.AF_INET6):
                for option, value in options:
                    handle.setsockopt(socket.IPPROTO_TCP, option, value)
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _silent_peers(sockets: frozenset[tuple[int, str]]) -> set[str]:
    """The addresses of peers that do not answer: to connecting at all, or to several tries of TCP's."""
    silent, connecting = set(), set()
    for fd, name in sockets:
        with _handle(fd, name) as handle, contextlib.suppress(OSError):
            if handle is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            state, retransmits, probes, since_answer = _TCP_INFO.unpack(
                handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            )
            if state == _TCP_SYN_SENT:
                connecting.add(fd)
            elif retransmits >= _RETRIES or (probes and since_answer >= _NO_ANSWER_MILLISECONDS):
                silent.add(_plain(handle.getpeername()[0]))
    return silent | _wanted_peers(connecting)


def _wanted_peers(connecting: set[int]) -> set[str]:
    """The addresses that sockets which are not connected yet try to reach; the socket itself does not tell them."""
    if not connecting:
        return set()  # the list of all connections of this machine may be long
    connections = psutil.Process().net_connections("tcp")
    return {_plain(each.raddr.ip) for each in connections if each.fd in connecting and each.raddr}


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def _interface_of(address: str) -> str:
    for interface, addresses in psutil.net_if_addrs().items():
        if any(each.address.split("%")[0] == address for each in addresses):
            return interface
    raise OSError(f"no network interface of this machine has the address {address}")
