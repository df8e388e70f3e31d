"""What a worker must know before it can talk to its coordinator: its own address, the token, the certificate."""

from __future__ import annotations

import logging
import os
import socket
import time

from edl_allreduce.errors import EdlError

log = logging.getLogger(__name__)

NAME_SECONDS = (0.1, 2.0)  # between two tries to find the coordinator's name: the first, the longest


def own_address(peer: str, port: int, patience: float = 60.0) -> str:
    """The address of this machine that reaches `peer`.

    A name that is not known yet is waited for: that of a coordinator whose pod has just been started.

    Raises:
        EdlError: for so many seconds there was no such name, or no way to it.
    """
    wait, longest = NAME_SECONDS
    gives_up = time.monotonic() + patience
    while True:
        try:
            family, _, _, _, target = socket.getaddrinfo(peer, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
        except OSError as error:
            if time.monotonic() + wait > gives_up:
                raise EdlError(f"coordinator {peer}: {error.strerror or error}, for {patience:g} s") from error
            log.info("coordinator %s: %s", peer, error.strerror or error)
        time.sleep(wait)  # no event tells of names
        wait = min(2 * wait, longest)


def read_certificate() -> bytes | None:
    """The certificate that the coordinator must show, from the file that EDL_TLS_CERTIFICATE names; None: none."""
    path = os.environ.get("EDL_TLS_CERTIFICATE")
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


def read_token() -> str:
    """The job's token, from the file that EDL_TOKEN_FILE names."""
    with open(os.environ["EDL_TOKEN_FILE"], encoding="ascii") as file:
        return file.read().strip()
