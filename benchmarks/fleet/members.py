"""Members of a ring with real Horovod and without TensorFlow's own start: `python -m benchmarks.fleet.members NUMBER`.

Each is forked from a process that has loaded Horovod's library and has no threads yet: hundreds fit into memory. Every
line of the standard input is a command, `join PORT` or `leave`; when all have done it, a line of JSON on the standard
output says when, in monotonic seconds, what they have used, and how many sockets they have.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any

ADDRESS, INTERFACE = "127.0.0.1", "lo"
CYCLE_MILLISECONDS = "10"  # members that have nothing to do sleep ten times as long
TIMEOUT_SECONDS = "300"
LEAVE = 0
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_COMMAND = struct.Struct("!H")  # a port, or LEAVE
_ANSWER = struct.Struct("!?ddI")  # whether it went well, when, seconds of a core, sockets


def run(number: int) -> None:
    """Forks the members and passes on commands until the input ends."""
    library = _library()
    answers, answer = os.pipe()
    commands, members = [], []
    try:
        for rank in range(number):
            command, its_command = os.pipe()
            if (member := os.fork()) == 0:
                _live(library, rank, number, command, answer)
            os.close(command)
            commands.append(its_command)
            members.append(member)
        print("ready", flush=True)
        for line in sys.stdin:
            words = line.split()
            for each in commands:
                os.write(each, _COMMAND.pack(int(words[1]) if words[0] == "join" else LEAVE))
            print(json.dumps(_summary(answers, number)), flush=True)
    finally:
        for member in members:
            os.kill(member, signal.SIGKILL)


def _library() -> ctypes.CDLL:
    """Horovod's, with TensorFlow's, which it needs; that of Python is not loaded."""
    folders = {}
    for name in ("tensorflow", "horovod"):
        found = importlib.util.find_spec(name)
        assert found and found.origin
        folders[name] = Path(found.origin).parent
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        ctypes.CDLL(str(folders["tensorflow"] / name), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next((folders["horovod"] / "tensorflow").glob("mpi_lib*.so"))))


def _live(library: ctypes.CDLL, rank: int, size: int, commands: int, answers: int) -> None:
    """What a member does: as `worker.ring.Ring` joins and leaves."""
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the one that forks is killed
    os.environ.update(_environment(rank, size))
    none = (ctypes.c_int * 0)()
    while command := os.read(commands, _COMMAND.size):
        port, before = _COMMAND.unpack(command)[0], time.process_time()
        if port == LEAVE:
            library.horovod_shutdown()
            done = True
        else:
            os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"] = str(port)
            done = bool(library.horovod_init(none, 0, none, none, 0))
        os.write(answers, _ANSWER.pack(done, time.monotonic(), time.process_time() - before, _sockets()))
    os._exit(0)


def _environment(rank: int, size: int) -> dict[str, str]:
    places = {"RANK": rank, "SIZE": size, "LOCAL_RANK": 0, "LOCAL_SIZE": 1, "CROSS_RANK": 0, "CROSS_SIZE": 1}
    return {f"HOROVOD_{name}": str(value) for name, value in places.items()} | {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_HOSTNAME": f"worker-{rank}",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": ADDRESS,
        "HOROVOD_GLOO_IFACE": INTERFACE,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": TIMEOUT_SECONDS,
        "HOROVOD_CYCLE_TIME": CYCLE_MILLISECONDS,
        "HOROVOD_ELASTIC": "0",
    }


def _sockets() -> int:
    with os.scandir("/proc/self/fd") as entries:
        return sum(stat.S_ISSOCK(entry.stat().st_mode) for entry in entries if entry.is_symlink())


def _summary(answers: int, number: int) -> dict[str, Any]:
    received = b""
    while len(received) < number * _ANSWER.size:
        received += os.read(answers, 1 << 16)
    done, when, used, sockets = zip(*_ANSWER.iter_unpack(received), strict=True)
    return {"done": sum(done), "when": max(when), "seconds": sum(used), "fewest": min(sockets), "most": max(sockets)}


if __name__ == "__main__":
    run(int(sys.argv[1]))
