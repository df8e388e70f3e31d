"""One change of Horovod's source: what the modules that list changes are made of."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Patch:
    """One text of Horovod's source, found exactly once, and what takes its place.

    Attributes:
        to_build: without it Horovod does not compile today; all others change what it does.
    """

    file: str
    old: str
    new: str
    why: str
    to_build: bool = False
