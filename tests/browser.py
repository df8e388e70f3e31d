"""A real browser for tests of pages: Debian's Chromium, driven by Playwright, that minds every error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@contextmanager
def browser() -> Iterator[Any]:
    """Skips the test where there is no browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@contextmanager
def opened(browser: Any, url: str, expected: str = "", **settings: Any) -> Iterator[Any]:
    """A page; afterwards no error has been told in its console, and nothing asked of another host.

    Args:
        expected: errors with this in them are part of the test.
        settings: of the browser's context, such as viewport and color_scheme.
    """
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
    page, errors, origin = context.new_page(), [], url.partition("/#")[0]
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(origin) else errors.append(request.url))
    page.goto(url)
    yield page
    context.close()
    unexpected = [error for error in errors if not expected or expected not in error]
    assert not unexpected, unexpected
