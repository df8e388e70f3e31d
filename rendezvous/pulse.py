"""Tells when this coordinator was held up itself (stopped, frozen with its machine), and tells its supervisor it lives.

Workers give up a stream over which no answer comes, and greet anew. To a coordinator that goes on after it was held up
it looks as if all of them had hung up and were strangers now: it would drop every worker, and with them the newest
weights. So it goes instead, and the next one learns from the workers' greetings how things are.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

HELD_UP_SECONDS = 2.5  # less than it takes a worker at least to give up its stream (`keepalive` in `worker.session`)
AFTER_SECONDS = 3.0  # so long what has happened meanwhile may come to be read
BEAT_SECONDS = 0.5
COUNTED_SECONDS = 1.0  # of the time between two beats; more is not the workers' fault
VARIABLE = "EDL_PULSE"  # the descriptor of the supervisor's pipe


class Pulse:
    """Of the event loop: `beat` is called by it, every BEAT_SECONDS.

    Args:
        pipe: a descriptor that does not block, into which every beat is told; None: nobody listens.
        clock: seconds, monotonic.
    """

    def __init__(self, pipe: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe, self._clock = pipe, clock
        self._seen = self._counted = clock()
        self._last: float | None = None
        self._doubtful_until: float | None = None

    def now(self) -> float:
        """Seconds on a clock that hardly goes on while the event loop does not.

        What workers have said is read late then: nobody has missed a deadline by that.
        """
        return self._counted + min(self._clock() - self._seen, COUNTED_SECONDS)

    def beat(self) -> None:
        """The event loop gets on."""
        self._look()
        self._counted = self.now()
        self._last = self._seen = self._clock()
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # full, since the supervisor is held up as well; or gone
                os.write(self._pipe, b".")

    def work(self) -> None:
        """The event loop has much to do: it gets on, though the next beat is late."""
        if self._clock() - self._seen > BEAT_SECONDS:
            self.beat()

    def was_held_up(self) -> bool:
        """Whether the event loop did not get on for long, just now."""
        self._look()
        return self._doubtful_until is not None and self._clock() < self._doubtful_until

    def _look(self) -> None:
        now = self._clock()
        if self._last is not None and now - self._last > HELD_UP_SECONDS:
            self._doubtful_until, self._last = now + AFTER_SECONDS, now


def supervisors_pipe() -> int | None:
    """The pipe that the supervisor listens to; None: there is none."""
    number = os.environ.pop(VARIABLE, "")
    return int(number) if number.isdecimal() else None
