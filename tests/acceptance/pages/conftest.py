"""One Chromium and one `up` for the tests of the pages, and a page of it that is logged in and watched."""

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from playwright.async_api import Browser, Cookie

from tests.support.chromium import Visit, launched, visiting
from tests.support.up import Up, up

SETTINGS = {"COMFYUI_MODAL_WEBHOOK_LOOPBACK": "true"}
"""Receivers of the tests are on this machine, also when there are two tenants."""


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("pages") / "data", environment=SETTINGS) as running:
        yield running


@pytest.fixture(scope="package")
def url(running: Up) -> str:
    url: str = running.connection["api_url"]
    return url


@pytest.fixture(scope="package")
async def cookies(browser: Browser, running: Up, url: str) -> Sequence[Cookie]:
    """Return the cookies of an operator's session."""
    async with visiting(browser) as visit:
        await visit.log_in(url, running.connection["api_key"])
        return await visit.context.cookies()


@pytest.fixture
async def guest(browser: Browser, running: Up, url: str) -> AsyncIterator[Visit]:
    """Yield a page without a session; nothing that it does may violate the policy or leave this deployment."""
    async with visiting(browser) as visit:
        yield visit
        assert visit.faults == []
        assert visit.hosts <= {url, running.connection["s3_endpoint"].rstrip("/")}


@pytest.fixture
async def visit(guest: Visit, cookies: Sequence[Cookie]) -> Visit:
    """Return a page with the session of an operator."""
    await guest.context.add_cookies(
        [{"name": one["name"], "value": one["value"], "domain": one["domain"], "path": one["path"]} for one in cookies]
    )
    return guest
