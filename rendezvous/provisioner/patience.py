"""Calls to the API server that are tried until they work: it may be away, and nobody else would do them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from rendezvous.provisioner.kubernetes import Refused, Unreachable

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = (0.5, 30.0)  # between two tries: the first, the longest
REFUSALS = 8  # then it is refused for good; rights and objects may take some seconds to be there


async def insist(what: str, call: Callable[..., T], *arguments: object) -> T:
    """Calls in a thread until there is an answer.

    Raises:
        Refused: the API server refuses it again and again.
        EdlError: of the call's own.
    """
    (wait, longest), refusals = RETRY_SECONDS, 0
    while True:
        try:
            return await asyncio.to_thread(call, *arguments)
        except Refused as refused:
            refusals += 1
            if refusals == REFUSALS or refused.missing:
                raise
            log.warning("cannot %s: %s", what, refused)
        except Unreachable as error:
            log.warning("cannot %s: %s", what, error)
        await asyncio.sleep(wait)
        wait = min(2 * wait, longest)
