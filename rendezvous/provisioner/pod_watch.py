"""Follows what happens to a job's pods without asking again and again: a list, then a watch from its version on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from edl_allreduce.errors import EdlError
from rendezvous.provisioner.kubernetes import Api, Expired
from rendezvous.provisioner.pods import Document

log = logging.getLogger(__name__)

RETRY_SECONDS = (0.5, 30.0)  # between two tries to reach the API server: the first, the longest


class PodWatch:
    """A thread that tells on the event loop what it sees. When it has lost the thread, it lists all pods anew.

    Args:
        api: the job's objects.
        seen: called with every pod that is new or has changed.
        gone: called with every pod that has been deleted, as it was last.
        listed: called with all pods there are, and when they were asked for, by the monotonic clock.
    """

    def __init__(
        self,
        api: Api,
        seen: Callable[[Document], None],
        gone: Callable[[Document], None],
        listed: Callable[[list[Document], float], None],
    ) -> None:
        self._api, self._seen, self._gone, self._listed = api, seen, gone, listed
        self._stopped = threading.Event()
        self._version = ""  # up to which all has been told; empty: not known

    def start(self, version: str) -> None:
        """Follows what happens since this version."""
        self._version, self._loop = version, asyncio.get_running_loop()
        threading.Thread(target=self._work, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Tells nothing any more."""
        self._stopped.set()

    def _work(self) -> None:
        wait, longest = RETRY_SECONDS
        while not self._stopped.is_set():
            if self._follow():
                wait = RETRY_SECONDS[0]
            else:
                self._stopped.wait(wait)
                wait = min(2 * wait, longest)

    def _follow(self) -> bool:
        """One watch, from its beginning to its end; whether the API server could be reached."""
        reached = False
        try:
            if not self._version:
                asked_at = time.monotonic()
                documents, self._version = self._api.list_pods()
                self._tell(self._listed, documents, asked_at)
            for kind, document in self._api.watch_pods(self._version):
                reached, self._version = True, document["metadata"]["resourceVersion"]
                if kind != "BOOKMARK":
                    self._tell(self._gone if kind == "DELETED" else self._seen, document)
        except Expired as expired:
            log.info("pods are listed anew: %s", expired)
            self._version = ""
        except EdlError as error:
            log.warning("pods cannot be watched: %s", error)
            self._version = ""
            return reached
        except Exception:  # whatever it was: pods must be watched
            log.exception("pods cannot be watched")
            self._version = ""
            return False
        return True

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        if not self._stopped.is_set():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(call, *arguments)
