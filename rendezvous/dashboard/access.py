"""Who may ask the dashboard for what; everything else about requests that is not of one endpoint alone.

Three rules. Reading and steering a job needs its token in the header X-EDL-Token (or as a bearer's), which no other
site's page can send. The page itself holds nothing of the job. And the server answers to its own names only: a page of
a stranger whose name was made to lead here (DNS rebinding) carries that name in its requests. Behind TLS the API
server's proxy may call it by any name: then only those are answered who hold the token.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import logging
import re
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rendezvous.dashboard.problems import problem

log = logging.getLogger(__name__)

TOKEN_HEADER = "x-edl-token"
PRIVATE_PATHS = ("/metrics", "/api/")  # of these prefixes everything needs the right to read, but for:
DOCUMENT = "/api/openapi.json"
RUNS_PATH = "/runs"  # below it, of each recorded run the same
MAX_TARGET = 4096  # bytes of path and query

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True)
class Rules:
    """Who may do what.

    Attributes:
        hosts: own names, besides localhost and IP addresses.
        proxied: under other names, those who hold the token are answered as well.
        open_to_readers: the job may be read without the token.
    """

    token: str
    hosts: frozenset[str] = frozenset()
    proxied: bool = False
    open_to_readers: bool = False

    def holds_token(self, headers: Headers) -> bool:
        """Whether a request carries the token."""
        given = headers.get(TOKEN_HEADER) or headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def is_own(self, host: str) -> bool:
        """Whether a request's Host is this server's; no IP address can be made to lead where it should not."""
        name = host.lower().rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host.lower()
        name = name.rstrip(".")
        if name in self.hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name.strip("[]")))
        return False

    def refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Why a request is not answered, with the status code; None: it is."""
        holds, own = self.holds_token(headers), self.is_own(headers.get("host", ""))
        private = is_private(path)
        if not own and not (self.proxied and (holds or not private)):
            return 421, f"this server is not called {headers.get('host', '')[:100]!r}"
        if holds or not private or (self.open_to_readers and method in ("GET", "HEAD")):
            return None
        return 401, "the job's token is missing or wrong: it is in the URL that `edl dashboard` prints"


def is_private(path: str) -> bool:
    """Whether a path tells of jobs."""
    path = re.sub(f"^{RUNS_PATH}/[^/]*", "", path)
    return path.startswith(PRIVATE_PATHS) and path != DOCUMENT


class Guard:
    """Stands before an application: applies the rules, adds security headers, survives what goes wrong behind it."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = False

        async def send_with_headers(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        scope["edl.writes"] = self._rules.holds_token(headers)
        refused = self._rules.refusal(scope["method"], scope["path"], headers)
        if len(scope["raw_path"] or b"") + len(scope["query_string"]) > MAX_TARGET:
            refused = 414, f"a path with its query may have {MAX_TARGET} bytes"
        try:
            answer = problem(*refused) if refused else self._app
            await answer(scope, receive, send_with_headers)
        except Exception:
            log.exception("dashboard: %s %s", scope["method"], scope["path"][:200])
            if not began:
                await problem(500, "this is a mistake of ours; the coordinator's log says more")(
                    scope, receive, send_with_headers
                )
