"""Errors of the API, as RFC 9457 has them: application/problem+json with status, title and detail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

MAX_BODY = 1 << 14


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that says what was wrong."""
    content = {"status": status, "title": HTTPStatus(status).phrase, "detail": detail}
    return Response(json.dumps(content), status, headers, "application/problem+json")


def handle(request: Request, error: Exception) -> Response:
    """The answer to a request that an endpoint, or the router, has refused."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:  # the router's
        detail = f"{request.method} {request.url.path[:200]}: {detail.lower()}"
    return problem(error.status_code, detail, error.headers)


def number_of(request: Request, name: str, default: float, low: float, high: float) -> float:
    """A number in the query.

    Raises:
        HTTPException: it is none, or out of bounds (400).
    """
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise HTTPException(400, f"{name}: expected a number from {low:g} to {high:g}, got {text[:100]!r}")
    return number


async def body_of(request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    """The JSON object that is a request's body; its members' names are known.

    Raises:
        HTTPException: it is too large (413), not JSON (415, 400), or has other members (422).
    """
    data = b""
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY:
                raise HTTPException(413, f"a body may have {MAX_BODY} bytes")
    except ClientDisconnect:
        raise HTTPException(400, "the body is not complete") from None
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"expected application/json, got {kind[:100]!r}")
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "expected a JSON object")
    if unknown := sorted(body.keys() - set(names)):
        raise HTTPException(422, f"{unknown[0][:100]!r} is not known; expected {', '.join(names) or 'nothing'}")
    return body
