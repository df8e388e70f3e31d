"""Lets any training process say from outside when it had finished which step, in the same way for every framework.

One line per step: seconds of the machine's monotonic clock, the step, and the number of the ring (or process group) in
which the step was done. Linux counts that clock from its start, so the times of all its processes can be compared.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class Stamper:
    """Appends to FOLDER/PID; a line is there as soon as the call returns, whatever happens to the process then.

    Args:
        folder: must exist.
    """

    def __init__(self, folder: str) -> None:
        self._file = os.open(Path(folder, str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, step: int, ring: int = 0) -> None:
        """This process has just finished a step."""
        os.write(self._file, b"%.6f %d %d\n" % (time.monotonic(), step, ring))
