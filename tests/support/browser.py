"""A real browser for tests: the system's Chromium, without a window, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

__all__ = ["browsing", "needs_chromium", "opened"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_MS = 20_000


def needs_chromium() -> str:
    """The path of Chromium: what CHROMIUM names, or one on the PATH.

    Skips the test where there is none; in CI that is a failure.
    """
    named = os.environ.get("CHROMIUM", "")
    if named and shutil.which(named) is None:
        pytest.fail(f"CHROMIUM={named} is not a program")
    for name in (named,) if named else _NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    message = "there is no chromium on the PATH (Debian: apt-get install chromium)"
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(message)
    pytest.skip(message)


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser of the test's own."""
    path = needs_chromium()
    async with async_playwright() as playwright:
        # Its sandbox needs what containers do not give, and it is shown nothing but what the tests make.
        browser = await playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def opened(
    browser: Browser, address: str, *, expected: tuple[str, ...] = (), **context: Any
) -> AsyncIterator[Page]:
    """The page, in a context of its own. Whatever the browser complains of fails the test, but for what is `expected`."""
    made = await browser.new_context(**context)
    made.set_default_timeout(_PATIENCE_MS)
    complaints: list[str] = []

    def note(words: str) -> None:
        if not any(each in words for each in expected):
            complaints.append(words)

    page = await made.new_page()
    page.on("pageerror", lambda error: note(str(error)))
    page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
    try:
        await page.goto(f"http://{address}/")
        yield page
        assert complaints == []
    finally:
        await made.close()
