"""A team of processes, the members of a ring, to which a benchmark talks by lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from edl_allreduce.errors import EdlError
from rendezvous.store import RoundStore

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ADDRESS = "127.0.0.1"
END_SECONDS = 10.0  # for members to end by themselves


class Team:
    """Members of a ring, as long as the context of `team` is open."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def ask(self, **question: Any) -> list[Any]:
        """What each member answers, by rank.

        Raises:
            EdlError: one has died.
        """
        for process in self._processes:
            assert process.stdin
            process.stdin.write(f"{json.dumps(question)}\n")
            process.stdin.flush()
        return [self._answer(process) for process in self._processes]

    def join(self) -> list[Any]:
        """All members form a ring, with a store of its own; what they answer."""
        store = RoundStore(ADDRESS)
        try:
            return self.ask(do="join", store=store.port)
        finally:
            store.close()

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> Any:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            command = " ".join(map(str, process.args))  # type: ignore[arg-type]
            raise EdlError(f"{command} has ended with exit code {process.wait()}; what it said is above")
        return json.loads(line)


@contextmanager
def team(module: str, size: int, environ: Mapping[str, str], *arguments: str) -> Iterator[Team]:
    """Starts `python -m MODULE RANK SIZE PORT ARGUMENTS` for each rank; PORT is free, for connections of their own."""
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        processes = []
        for rank in range(size):
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(rank), str(size), str(port), *arguments],
                cwd=REPOSITORY,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | dict(environ),
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield Team(processes)
        for process in processes:  # nobody asks any more: they leave the ring together
            assert process.stdin
            process.stdin.close()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)


def questions() -> Iterator[dict[str, Any]]:
    """In a member: what it is asked, one after the other, until nobody asks any more."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(value: Any) -> None:
    """In a member: the answer to the last question."""
    print(json.dumps(value), flush=True)
