"""A port of this machine that leads to a port of a job's coordinator in a cluster, whichever pod that is just now."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from edl_allreduce.errors import EdlError

LOCALHOST = "127.0.0.1"
PIECE = 1 << 16  # bytes
CONNECT_THREADS = 8
TLS_SECONDS = 10.0
HANG_UP_SECONDS = 2.0


class Tunnel:
    """Listens on 127.0.0.1 from `open` on; each connection is led on by itself.

    Args:
        dial: makes a connection to the other end; blocks; raises EdlError when there is nobody.
        tls: with it, this end is plain and the other one is TLS.
        host: the host for which the other end's certificate is.
    """

    def __init__(self, dial: Callable[[], socket.socket], tls: ssl.SSLContext | None = None, host: str = "") -> None:
        self._dial, self._tls, self._host = dial, tls, host
        self._loop = asyncio.new_event_loop()
        self._threads = ThreadPoolExecutor(CONNECT_THREADS, thread_name_prefix="tunnel")
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunnel", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def address(self) -> str:
        """HOST:PORT of this end."""
        return f"{LOCALHOST}:{self.port}"

    def open(self) -> Tunnel:
        """Listens from now on."""
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def close(self) -> None:
        """Ends all connections, and listens no more."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Tunnel:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, LOCALHOST, 0, limit=PIECE)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._lead_on(reader, writer)
        except (EdlError, OSError, asyncio.CancelledError):
            pass  # whoever has connected sees that the connection ends, and tries again
        finally:
            self._tasks.discard(task)
            await _closed(writer)

    async def _lead_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = await self._loop.run_in_executor(self._threads, self._dial)
        try:
            far_reader, far_writer = await asyncio.open_connection(
                sock=connection,
                limit=PIECE,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
                ssl_handshake_timeout=TLS_SECONDS if self._tls else None,
            )
        except BaseException:
            connection.close()
            raise
        directions = [asyncio.create_task(_copy(*each)) for each in ((reader, far_writer), (far_reader, writer))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in directions:
                each.cancel()
            try:
                await asyncio.gather(*directions, return_exceptions=True)
                await self._hang_up(connection, far_reader)
            finally:
                await _closed(far_writer)

    async def _hang_up(self, connection: socket.socket, reader: asyncio.StreamReader) -> None:
        """Lets the other end close first: the Kubernetes client's thread would tell the terminal of a reset."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            connection.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(_drained(reader), HANG_UP_SECONDS)


async def _drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(PIECE):
        pass


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until either end has had enough."""
    with contextlib.suppress(OSError):
        while data := await source.read(PIECE):
            target.write(data)
            await target.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


def pinned(certificate: str) -> ssl.SSLContext:
    """Trusts this one certificate (PEM) and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    return context
