"""Every error a user can meet, in one tree, so that each is shown as one clear line with an exit code of its own.

    EdlError                 anything we raise on purpose                          exit code 1
    ├── UsageError           a flag, a parameter or a combination is wrong         exit code 2
    ├── StorageError         a path or URL cannot be listed, read or written       exit code 3
    ├── DataError            a data file is damaged, or a record is not what it should be   exit code 4
    │   └── CorruptFile      a RecordIO file breaks its format at a known offset
    ├── ModelError           the user's model code is missing something or failed  exit code 5
    └── JobFailed            a running job ended without its result                exit code 6

A message says what was wrong, where, what was received, and what to do about it. Programs that catch these errors may
rely on the types; the texts are for people.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdlError(Exception):
    """Anything edl_allreduce raises on purpose; its text is meant to be shown as it is, without a traceback."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What notebooks (IPython) show of it."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(EdlError):
    """A flag, a parameter or a combination of them is wrong; nothing has been started."""

    exit_code = 2


class StorageError(EdlError):
    """A path or URL cannot be listed, read or written."""

    exit_code = 3


class DataError(EdlError):
    """A data file is damaged, or a record is not what it should be."""

    exit_code = 4


class CorruptFile(DataError):
    """A file of records breaks its format.

    Attributes:
        path: the file, as the user named it.
        offset: the byte offset of the chunk that is broken.
        problem: what is wrong there.
    """

    def __init__(self, path: str, offset: int, problem: str) -> None:
        super().__init__(f"{path}, offset {offset}: {problem}")
        self.path, self.offset, self.problem = path, offset, problem

    def __reduce__(self) -> tuple[type[CorruptFile], tuple[str, int, str]]:
        return type(self), (self.path, self.offset, self.problem)


class ModelError(EdlError):
    """The user's model code is missing something, or failed; the text names the user's file and line."""

    exit_code = 5


class JobFailed(EdlError):
    """A running job ended without its result."""

    exit_code = 6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'num_epochs'?)"` for the known name nearest to `name`, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
