"""What has happened to a job, line by line: told by its coordinator while it runs, read from its file afterwards."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edl_allreduce import storage
from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.history import Line, is_wanted, parsed
from edl_allreduce.job_folder import RUNS
from launcher.client import RETRY_SECONDS, Client


def told(client: Client, await_end: Callable[[float], bool], follow: bool, steps: bool) -> Iterator[Line]:
    """What the coordinator tells of the history, from its beginning.

    One that takes over has the whole history; what has been told is not told again.

    Args:
        await_end: waits for the job's end, at most so many seconds; says whether it has ended.
        follow: go on with what happens until the job has ended.
        steps: every step, and every task of an evaluation or a prediction, as well.

    Raises:
        JobFailed: no coordinator answers any more.
    """
    import grpc

    count, silent_since = 0, None
    while (address := client.await_address()) is not None:
        with client.connected(address) as stub:
            try:
                for number, event in enumerate(client.events(stub, follow, steps)):
                    silent_since = None
                    if number >= count:
                        count += 1
                        yield json.loads(event.json)
                return
            except grpc.RpcError:  # it is not there yet, or any more
                silent_since = silent_since or time.monotonic()
        if silent_since and time.monotonic() - silent_since > client.following_patience and not await_end(0):
            raise client.silence(address, client.following_patience)
        await_end(RETRY_SECONDS)


def written(path: Path, steps: bool) -> Iterator[Line]:
    """The lines of a history file."""
    try:
        with path.open("rb") as file:
            yield from _lines(file, steps)
    except FileNotFoundError:
        return


def recorded(output: str, name: str, steps: bool) -> Iterator[Line]:
    """The history that a job on Kubernetes has left in its output.

    Raises:
        UsageError: there is none that could be read here.
    """
    folder = storage.join(output, RUNS, name) if output else ""
    try:
        found = storage.names_in(folder) if folder else None
        parts = [each for each in found or () if re.fullmatch(r"history-\d+\.jsonl", each)]
        if not parts:
            where = f"its output, {folder}, and cannot be read from here" if folder else "its output, if it has one"
            raise UsageError(f"job {name} has ended; its history is in {where}")
        pieces = (storage.read_bytes(storage.join(folder, part)) for part in sorted(parts))
        yield from _lines(_split(pieces), steps)
    except StorageError as error:
        raise UsageError(f"job {name} has ended; its history cannot be read: {error}") from None


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    yield rest


def _lines(texts: Iterable[bytes], steps: bool) -> Iterator[Line]:
    """The lines that are whole; one that was cut off, as its coordinator died, is passed over."""
    for text in texts:
        line = parsed(text)
        if line is not None and is_wanted(line, steps):
            yield line
