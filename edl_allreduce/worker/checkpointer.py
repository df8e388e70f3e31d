"""Writes checkpoints in the background while training goes on, so that they cost the training thread next to nothing.

No copy is made. A traced function that returns the identity of every variable hands out references to the buffers in
which their values lie. TensorFlow never writes into a buffer that somebody else refers to: an update in place gives the
variable a new buffer first (`PrepareToUpdateVariable` in its core/kernels/training_op_helpers.h, for sparse updates
`EnsureSparseVariableAccess`), an assignment always does. So the captured values stay those of their step; what is paid
is one copy of the state, spread over the operations of the next step.

The writing thread has the usual priority: with a lower one it is made to wait while it holds Python's lock, and the
training thread with it (measured on a busy machine: the steps lost 8 step times to a checkpoint instead of 3).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from edl_allreduce import checkpoint, storage
from edl_allreduce.checkpoint import Origin
from edl_allreduce.errors import EdlError, StorageError
from edl_allreduce.position import Position
from edl_allreduce.storage_retry import FullError, no_persistence

PAUSES = (2.0, 4.0, 8.0, 16.0)
"""Seconds between the tries to write one checkpoint."""

CLOSE_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """How writing a checkpoint went.

    Attributes:
        bytes: of its state; 0: it is not complete.
        seconds: from the wish to the complete checkpoint, or to giving up.
        blocked_seconds: of these, how long the training thread was held up in `save`.
        error: "": it is complete.
    """

    position: Position
    bytes: int
    seconds: float
    blocked_seconds: float
    error: str


@dataclass(frozen=True)
class _Captured:
    position: Position
    tensors: Sequence[Any]
    since: float
    blocked_seconds: float


class _Closing(Exception):
    """Writing is broken off because the process ends."""


class Checkpointer:
    """Captures a model's state between two steps, and writes it in a thread of its own.

    Every state is captured when `save` is called; so the newest one is written next, and one that has not been begun
    when a newer one comes is dropped, without a report. At most two captured states are held at a time: the one being
    written and the one waiting.

    Args:
        variables: what makes up the state, in the model's order: `TrainStep.variables`.
        output: folder or URL.
        origin: what the checkpoints say about this run.
        keep: how many complete ones to keep; fewer, but the newest, where a disk has no room for one more.
        on_done: called by the writing thread, for each checkpoint once it is complete or given up.
        pauses: seconds between tries.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        output: str,
        origin: Origin,
        keep: int,
        on_done: Callable[[Done], None],
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._variables, self._output, self._origin, self._keep = list(variables), output, origin, keep
        self._names = [str(variable.path) for variable in variables]
        self._on_done, self._pauses = on_done, pauses
        self._capture = tf.function(self._references, autograph=False).get_concrete_function()
        self._changed = threading.Condition()
        self._waiting: _Captured | None = None
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def save(self, position: Position) -> None:
        """Wishes for a checkpoint of the state as it is now; returns at once.

        Args:
            position: what the variables' values are those of.
        """
        since = time.monotonic()
        tensors = self._capture()
        with self._changed:
            self._waiting = _Captured(position, tensors, since, time.monotonic() - since)
            self._changed.notify_all()

    def restore(self, url: str) -> Position:
        """Gives the variables the values of a checkpoint: see `checkpoint.read`."""
        return checkpoint.read(url, self._variables)

    def wait(self, timeout: float) -> bool:
        """Waits at most so many seconds until nothing is being written nor waiting; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and self._waiting is None, timeout)

    def close(self) -> None:
        """Ends the thread. What is being written is broken off and removed; `wait` before that for it to be completed.

        An upload that has begun cannot be broken off; it is left to itself after 5 s.
        """
        with self._changed:
            self._closing, self._waiting = True, None
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def _references(self) -> list[tf.Tensor]:
        return [tf.identity(variable.value) for variable in self._variables]

    def _work(self) -> None:
        while (captured := self._next()) is not None:
            done = self._write(captured)
            del captured  # the state's memory
            if done:
                self._on_done(done)

    def _next(self) -> _Captured | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            captured, self._waiting = self._waiting, None
            self._busy = captured is not None
            return captured

    def _write(self, captured: _Captured) -> Done | None:
        """Tries until it works, a newer state waits, or the pauses are used up. None: the process ends."""
        pauses, keep = iter(self._pauses), self._keep
        while True:
            size, error = self._try(captured)
            pause = next(pauses, None) if isinstance(error, StorageError) else None
            if isinstance(error, FullError) and not storage.is_remote(self._output):
                keep = max(1, keep - 1)  # rather fewer checkpoints than no new one
                self._prune(keep)
            if pause is None or self._newer_within(pause):
                break
            log.warning("%s; trying again", error)
        if self._closing:
            return None
        if not error:
            self._prune(self._keep)
        said = "" if not error else str(error) if isinstance(error, EdlError) else f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - captured.since
        return Done(captured.position, size, seconds, captured.blocked_seconds, said)

    def _newer_within(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is not None or self._closing, seconds)

    def _try(self, captured: _Captured) -> tuple[int, Exception | None]:
        """The bytes of the complete checkpoint, or why there is none."""
        position, tensors = captured.position, captured.tensors
        try:
            with no_persistence():
                made = checkpoint.write(
                    self._output, position, self._names, tensors, self._origin, time.time(), self._check
                )
        except Exception as error:  # nothing that befalls a checkpoint may end the training
            return 0, error
        return made.size, None

    def _prune(self, keep: int) -> None:
        try:
            checkpoint.prune(self._output, keep)
        except EdlError as error:
            log.warning("older checkpoints stay for now: %s", error)

    def _check(self) -> None:
        if self._closing:
            raise _Closing
