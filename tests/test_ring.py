"""The ring of this process: made again and again, and nobody else's descriptors touched."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import pytest

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

import tensorflow as tf
from horovod.tensorflow import mpi_ops

from edl_allreduce.worker import ring
from edl_allreduce.worker.ring import Ring


def test_a_ring_is_made_again_with_settings_of_horovod_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "2")
    monkeypatch.setenv("HOROVOD_FUSION_THRESHOLD", "1048576")
    mine = Ring("127.0.0.1", spared=0)
    assert os.environ["HOROVOD_CYCLE_TIME"] == "2"
    for _ in range(3):  # a plain Horovod 0.28.1 crashes at the second
        mine.join()
        assert mine.broadcast(b"again") == b"again"
        mine.leave()


def test_only_a_small_tensor_waits_for_others_to_travel_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "600")  # milliseconds; a plain Horovod 0.28.1 lets everything wait for it
    monkeypatch.setenv("HOROVOD_FUSION_THRESHOLD", "65536")
    mine, small, large = Ring("127.0.0.1", spared=0), tf.ones([4]), tf.ones([1 << 14])
    collectives: dict[str, Callable[[], object]] = {
        "broadcast": lambda: mpi_ops.broadcast(small, root_rank=0, name="test_broadcast"),
        "large": lambda: mpi_ops._allreduce(large, name="test_large", op=mpi_ops.Sum),
        "group": lambda: mpi_ops._grouped_allreduce([small, small], name="test_group", op=mpi_ops.Sum),
        "small": lambda: mpi_ops._allreduce(small, name="test_small", op=mpi_ops.Sum),
    }
    mine.join()
    seconds = {}
    for name, collective in collectives.items():
        began = time.monotonic()
        collective()
        seconds[name] = time.monotonic() - began
    began = time.monotonic()
    mine.leave()
    seconds["leave"] = time.monotonic() - began
    assert seconds.pop("small") >= 0.6 and seconds["group"] >= 0.06
    assert max(seconds.values()) < 0.5, seconds


def test_a_descriptor_that_is_no_longer_the_rings_socket_is_left_alone() -> None:
    reused = os.eventfd(0) if hasattr(os, "eventfd") else os.open(os.devnull, os.O_RDONLY)
    here, there = socket.socketpair()
    try:
        for fd in (reused, here.fileno()):
            ring._shut(fd, "socket:[1]", spared=0)
            assert not ring._established(fd, "socket:[1]")
        here.sendall(b"still open")
        assert there.recv(20) == b"still open"
    finally:
        os.close(reused)
        here.close()
        there.close()
