"""A headless Chromium for the tests of the viewer, with an empty profile, ended whatever happens."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",  # containers have none
    "--disable-gpu",  # WebGL is computed
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def program() -> Path | None:
    """The browser's executable, None if none is installed."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    return Path(found) if found else None


@contextmanager
def browser_or_skip() -> Iterator[Browser]:
    """A running browser; the test that asks for it is skipped where none is installed, but fails in `.ci/run`."""
    found = program()
    if found is None:
        reason = "no Chromium is installed (Debian: apt-get install chromium); the viewer can't be tested"
        if os.environ.get("LIVERLOOP_CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
