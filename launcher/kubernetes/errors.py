"""What an API server's answer means that is an error, in one line for people."""

from __future__ import annotations

import contextlib
import json

from edl_allreduce.errors import EdlError, UsageError

SUBMITTER = "docker/rbac/submitter.yaml has what a submitter needs"
_UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _BUSY, _BROKEN = 401, 403, 404, 429, 500


class Refused(UsageError):
    """The API server does not do what it was asked for; its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Missing(Refused):
    """There is no such object."""


class Unreachable(EdlError):
    """There is no answer from the API server."""


def understood(status: int, reason: object, body: object, host: str) -> EdlError:
    """The error for an answer.

    Args:
        status: of HTTP; 0: there was none.
        reason: a few words that came with it.
        body: a Status as JSON, where there is one.
        host: the API server's URL.
    """
    message = " ".join(str(reason).split())
    with contextlib.suppress(TypeError, ValueError, KeyError):
        message = str(json.loads(body)["message"])  # type: ignore[arg-type]
    if status == _UNAUTHORISED:
        return Refused(status, f"the cluster at {host} does not accept this user; log in to it again")
    if status == _FORBIDDEN:  # by the user's roles, or by a policy
        return Refused(status, f"{message}; {SUBMITTER}" if " cannot " in message else message)
    if status == _NOT_FOUND:
        return Missing(status, message)
    if status in (0, _BUSY) or status >= _BROKEN:
        return Unreachable(f"the cluster at {host}: {message}{f' ({status})' if status else ''}")
    return Refused(status, message)


def unanswered(error: BaseException, host: str) -> Unreachable:
    """The error for a connection that has failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    why = " ".join(str(error).split()) or type(error).__name__
    return Unreachable(f"the cluster at {host} does not answer: {why}; `kubectl get nodes` may tell more")
