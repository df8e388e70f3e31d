"""What the modeler should know although the job goes on: a logger whose lines a worker also tells its coordinator."""

from __future__ import annotations

import logging
from collections.abc import Callable

notices = logging.getLogger("edl_allreduce.notices")


class Teller(logging.Handler):
    """Hands every line to a function.

    Args:
        tell: takes the text, one line; any thread may call it.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Passes the line on."""
        self._tell(" ".join(record.getMessage().split()))
