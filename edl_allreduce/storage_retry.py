"""Tries again, in one place, what may work in a moment: a store that answers 503, a broken connection, a full disk.

What the cloud packages do of their own accord (measured with a store that answers 503): gcsfs tries 6 times over 31 to
36 s, s3fs 5 times over 0 to 15 s (botocore's back-off is random), and only 2 s when an answer breaks off in the middle.
So patience is a matter of time here, not of tries: it makes up for what is missing and adds nothing to what is enough.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from edl_allreduce.errors import StorageError

PATIENCE_SECONDS = 30.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0

log = logging.getLogger(__name__)

Result = TypeVar("Result")
_enabled: ContextVar[bool] = ContextVar("persistence", default=True)


class PassingError(StorageError):
    """A StorageError whose cause may pass by itself."""


class FullError(PassingError):
    """There is no room left on a disk of this machine, or in a quota."""


def persist(
    action: Callable[[], Result],
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """What `action` returns; after a PassingError it is done again, with exponential back-off, for 30 s.

    The pauses are 0.5, 1, 2, 4, 8, 8, … s; the 30 s are counted from the beginning of the first try, and no pause
    begins that would end after them. Each failure is logged.

    Args:
        pause, clock: of seconds; tests have their own.

    Raises:
        PassingError: of the last try. Whatever else `action` raises, at once.
    """
    if not _enabled.get():
        return action()
    until = clock() + PATIENCE_SECONDS
    seconds = FIRST_PAUSE_SECONDS
    while True:
        try:
            return action()
        except PassingError as error:
            if clock() + seconds > until:
                raise
            log.warning("%s; trying again in %g s", error, seconds)
        pause(seconds)
        seconds = min(2 * seconds, LONGEST_PAUSE_SECONDS)


@contextmanager
def no_persistence() -> Iterator[None]:
    """Inside, in this thread, `persist` tries once: for callers who have a back-off of their own."""
    before = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(before)
