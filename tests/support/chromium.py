"""A real Chromium where there is one; tests that need it are skipped by name elsewhere."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request, ViewportSize, async_playwright

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(FOUND is None, reason="there is no Chromium here: apt-get install chromium")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WAIT_MS = 30_000
"""How long a step may take on a machine that is busy with other tests."""


@dataclass(slots=True)
class Visit:
    """A page, and what it did that no page of ours may do."""

    page: Page
    context: BrowserContext
    faults: list[str] = field(default_factory=list)
    """Violations of the policy, errors of scripts, and dialogs."""
    hosts: set[str] = field(default_factory=set)
    """The origins that requests went to."""

    async def until(self, condition: str) -> None:
        """Wait until an expression is true. The pages' policy forbids what `wait_for_function` does for that."""
        async with asyncio.timeout(WAIT_MS / 1000):
            while not await self.page.evaluate(condition):
                await self.page.wait_for_timeout(50)

    async def confirm_questions(self) -> None:
        """Answer yes to all questions of this page and of later ones. Any other dialog is a fault."""
        await self.page.add_init_script("window.confirm = () => true")
        await self.page.evaluate("window.confirm = () => true")

    async def log_in(self, url: str, key: str) -> None:
        """Take the cookie of a session. What the page of the login does is a test of its own."""
        answer = await self.context.request.post(f"{url}/ui/login", form={"key": key}, headers={"origin": url})
        assert answer.ok, answer.status


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Tests may run as root in a container, where Chromium cannot make its sandbox, and without a GPU to imitate.
        browser = await playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, *, width: int = 1280, height: int = 900) -> AsyncIterator[Visit]:
    """Open an empty page in a profile of its own, which has no cookies."""
    # An animation would keep the processor busy for as long as a job runs.
    size = ViewportSize(width=width, height=height)
    context = await browser.new_context(viewport=size, reduced_motion="reduce")
    context.set_default_timeout(WAIT_MS)
    try:
        visit = Visit(await context.new_page(), context)
        _watch(visit)
        yield visit
    finally:
        await context.close()


def _watch(visit: Visit) -> None:
    page = visit.page

    def on_request(request: Request) -> None:
        scheme, _, rest = request.url.partition("://")
        if scheme in ("http", "https"):
            visit.hosts.add(f"{scheme}://{rest.partition('/')[0]}")

    page.on("request", on_request)
    page.on("pageerror", lambda error: visit.faults.append(f"error: {error}"))
    page.on(
        "console",
        lambda message: (
            visit.faults.append(f"console: {message.text}") if "Content Security Policy" in message.text else None
        ),
    )
    page.on("dialog", lambda dialog: visit.faults.append(f"dialog: {dialog.message}"))
