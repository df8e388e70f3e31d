"""Horovod's rendezvous store for one round: where the members find each other's addresses.

The server is Horovod's own, bound to one address. Its *elastic* handler is never mounted: that one unpickles what an
unauthenticated client sends.
"""

from __future__ import annotations

import threading

from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer


class RoundStore:
    """The store of one round, open until `close`.

    Args:
        address: the IP address to bind to.
    """

    def __init__(self, address: str) -> None:
        self._server = RendezvousHTTPServer((address, 0), RendezvousHandler, verbose=0)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="store", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that the members are told."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Refuses connections from now on."""
        self._server.socket.close()
        threading.Thread(target=self._server.shutdown, name="store-end", daemon=True).start()
