"""Appends lines to a file although its disk is full for a while: a training does not end because nobody can note it."""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TextIO

log = logging.getLogger(__name__)

MAX_LINES = 1 << 20  # that wait for room; beyond that the oldest are lost


class PatientFile:
    """What cannot be written now is written together with a later line, in order.

    Args:
        file: open for appending. Nobody else writes to it from now on.
    Attributes:
        name: of the file.
    """

    def __init__(self, file: TextIO) -> None:
        self.name = file.name
        self._descriptor = file.fileno()
        self._lines: deque[bytes] = deque()
        self._begun = b""  # what is missing of a line that could be written in part only
        self._full = False

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._descriptor

    def write(self, text: str, /) -> int:
        """Takes a whole line."""
        self._lines.append(text.encode())
        try:
            while self._begun or self._lines:
                self._begun = self._begun or self._lines.popleft()
                self._begun = self._begun[os.write(self._descriptor, self._begun) :]
        except OSError as error:
            self._wait(error)
        else:
            self._full = False
        return len(text)

    def _wait(self, error: OSError) -> None:
        if not self._full:
            log.warning("%s: %s; what is to be written waits", self.name, error.strerror)
        self._full = True
        if len(self._lines) > MAX_LINES:
            self._lines.popleft()
