"""What has happened to a job, line by line: told by its coordinator while it runs, read from its file afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.client import RETRY_SECONDS, Client

Line = dict[str, Any]


def told(client: Client, await_end: Callable[[float], bool], follow: bool, steps: bool) -> Iterator[Line]:
    """What the coordinator tells of the history, from its beginning.

    One that takes over has the whole history; what has been told is not told again.

    Args:
        await_end: waits for the job's end, at most so many seconds; says whether it has ended.
        follow: go on with what happens until the job has ended.
        steps: every step as well.
    """
    import grpc

    count = 0
    while (address := client.await_address()) is not None:
        with client.connected(address) as stub:
            try:
                for number, event in enumerate(client.events(stub, follow, steps)):
                    if number >= count:
                        count += 1
                        yield json.loads(event.json)
                return
            except grpc.RpcError:  # it is not there yet, or any more
                pass
        await_end(RETRY_SECONDS)


def written(path: Path, steps: bool) -> Iterator[Line]:
    """The lines of a history file. One that was cut off, as its coordinator died, is passed over."""
    try:
        with path.open("rb") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict) and (steps or "loss" not in line):
                    yield line
    except FileNotFoundError:
        return
