"""A member of a ring of two that measures reductions, and plain TCP beside them: see benchmarks/allreduce.py."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from horovod.tensorflow import mpi_ops

from benchmarks.ring.team import ADDRESS, answer, questions
from edl_allreduce.worker.memory import keep_freed_memory
from edl_allreduce.worker.ring import Ring

FLOAT_BYTES = 4
LOOK_SECONDS = 0.05


def main(rank: int, size: int, port: int) -> None:
    """Answers until nobody asks any more."""
    keep_freed_memory()  # as workers do
    wire, ring = connect(rank, port), Ring(ADDRESS, spared=port)
    for question in questions():
        match question:
            case {"do": "join", "store": store}:
                ring.join(rank, size, (ADDRESS, store))
                answer("joined")
            case {"do": "reduce", "bytes": amount, "repeats": repeats, "tcp": with_tcp}:
                measures = [reduction([amount], grouped=True)]  # a bucket of a step of ours
                if with_tcp:
                    measures.append(exchange(wire, amount))
                answer(in_turn(wire, measures, repeats))
            case {"do": "reduce many", "tensors": tensors, "repeats": repeats, "grouped": grouped}:
                answer(in_turn(wire, [reduction(tensors, grouped)], repeats))
    ring.leave()


def connect(rank: int, port: int) -> socket.socket:
    """A connection between the two, the first of which listens."""
    if rank == 0:
        with socket.create_server((ADDRESS, port)) as server:
            wire, _ = server.accept()
    else:
        wire = socket.socket()
        while wire.connect_ex((ADDRESS, port)):
            wire.close()
            wire = socket.socket()
            time.sleep(LOOK_SECONDS)  # the other process does not listen yet: no event tells
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return wire


def in_turn(wire: socket.socket, measures: list[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Seconds of each measure, in turn; both processes begin each one together."""
    found: list[list[float]] = [[] for _ in measures]
    for number in range(repeats + 1):
        for measure, seconds in zip(measures, found, strict=True):
            wire.sendall(b"!")
            wire.recv(1)
            took = measure()
            if number:  # the first one warms up
                seconds.append(took)
    return found


def reduction(tensors: list[int], grouped: bool) -> Callable[[], float]:
    """Sums tensors of so many bytes over both processes, as a step does: they were computed a moment ago."""
    values = [tf.Variable(tf.ones([max(1, amount // FLOAT_BYTES)])) for amount in tensors]
    tag = f"{len(tensors)}x{sum(tensors)}{'g' if grouped else ''}"

    def reduce() -> Any:
        computed = [each.value() + 1.0 for each in values]
        with tf.control_dependencies(computed):
            began = tf.timestamp()
        with tf.control_dependencies([began]):
            if grouped:
                sums = mpi_ops._grouped_allreduce(computed, name=tag, op=mpi_ops.Sum)
            else:
                sums = [mpi_ops._allreduce(each, name=f"{tag}.{i}", op=mpi_ops.Sum) for i, each in enumerate(computed)]
        with tf.control_dependencies(sums):
            return tf.timestamp() - began, [each[0] for each in sums]  # else nobody would need the sums

    traced = tf.function(reduce, autograph=False).get_concrete_function()
    return lambda: float(traced()[0])


def exchange(wire: socket.socket, amount: int) -> Callable[[], float]:
    """Sends so many bytes and receives as many, at the same time: what each member of a ring of two has to do."""
    outgoing, incoming = memoryview(bytes(amount)), memoryview(bytearray(amount))

    def send_and_receive() -> float:
        began = time.perf_counter()
        sender = threading.Thread(target=wire.sendall, args=(outgoing,))
        sender.start()
        received = 0
        while received < amount:
            received += wire.recv_into(incoming[received:])
        sender.join()
        return time.perf_counter() - began

    return send_and_receive


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
