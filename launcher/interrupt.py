"""Lets Ctrl-C and SIGTERM end a job in order: the first one stops it cleanly, the second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from edl_allreduce.errors import EdlError
from launcher.handle import JobHandle


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the job has been stopped."""

    def _render_traceback_(self) -> list[str]:
        """What notebooks (IPython) show of it."""
        return ["KeyboardInterrupt: the job was stopped"]


class Interruption:
    """While entered, signals meant for this process end the job that it guards.

    Outside the main thread, where Python knows no signals, it does nothing.

    Args:
        signals: the numbers of these signals; others do what they always do.
    """

    def __init__(self, signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self._signals = signals
        self._received: list[int] = []
        self._answered = 0
        self._job: JobHandle | None = None
        self._note: Callable[[str], None] = lambda line: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._receive) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def guard(self, job: JobHandle, note: Callable[[str], None]) -> None:
        """From now on signals end this job, and so do those that came before; `note` tells the user."""
        self._note, self._job = note, job
        self._answer()

    def raise_if_interrupted(self) -> None:
        """Does what the first signal would have done without us.

        Raises:
            KeyboardInterrupt: it was Ctrl-C.
            SystemExit: it was SIGTERM.
        """
        if self._received:
            raise Interrupted if self._received[0] == signal.SIGINT else SystemExit(128 + self._received[0])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        self._answer()

    def _answer(self) -> None:
        """Ends the job in a thread of its own, since a signal may have struck while a lock was held."""
        if self._job is None or len(self._received) == self._answered:
            return
        self._answered = len(self._received)
        end = self._stop if self._answered == 1 else self._kill
        threading.Thread(target=end, args=(self._job,), name="interrupt", daemon=True).start()

    def _stop(self, job: JobHandle) -> None:
        self._note("stopping the job … (again to end it at once)")
        self._try(job.stop)

    def _kill(self, job: JobHandle) -> None:
        self._note("ending all processes of the job")
        self._try(job.kill)

    def _try(self, end: Callable[[], None]) -> None:
        try:
            end()
        except EdlError as error:
            self._note(f"error: {error}")
