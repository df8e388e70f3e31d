"""Reads a running job's history for whoever asks: what has been written so far, and every line as it is written.

The file is the buffer. Who reads slowly falls behind in it and costs no memory; there is no limit to how many read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, BinaryIO

from edl_allreduce.history import is_wanted, parsed

if TYPE_CHECKING:
    from rendezvous.coordinator import Coordinator

CHUNK_BYTES = 1 << 18


async def read(coordinator: Coordinator, follow: bool, steps: bool) -> AsyncGenerator[str, None]:
    """The lines of the history (see `edl_allreduce.history`), in order.

    Args:
        follow: go on with what is written from now on, until the job has ended.
        steps: every step, and every task of an evaluation or a prediction, as well.
    """
    telemetry, fresh = coordinator.telemetry, asyncio.Event()
    if telemetry.history is None:
        return

    def wake(_: object) -> None:
        fresh.set()

    ended = asyncio.ensure_future(coordinator.ended.wait())
    ended.add_done_callback(wake)
    telemetry.listeners.append(wake)
    try:
        with open(telemetry.history.name, "rb") as file:
            lines = _Lines(file, steps)
            while True:
                last = not follow or coordinator.ended.is_set()
                fresh.clear()
                while (found := await asyncio.to_thread(lines.more)) is not None:
                    for line in found:
                        yield line
                if last:
                    return
                await fresh.wait()
    finally:
        telemetry.listeners.remove(wake)
        ended.cancel()


class _Lines:
    """The whole lines of a file that grows; without one that a dying coordinator has cut off: it is not JSON."""

    def __init__(self, file: BinaryIO, steps: bool) -> None:
        self._file, self._steps = file, steps
        self._rest = b""

    def more(self) -> list[str] | None:
        """Some lines more; None when there are none yet."""
        data = self._file.read(CHUNK_BYTES)
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [text for line in whole if (text := self._told(line))]

    def _told(self, line: bytes) -> str:
        told = parsed(line)
        return line.decode() if told is not None and is_wanted(told, self._steps) else ""
