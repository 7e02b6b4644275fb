"""Checks of `doctor` against an API with scripted answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from infra import doctor
from infra.doctor import ApiChecks
from infra.findings import CheckFailed

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def ready_after(refusals: int) -> AsyncIterator[str]:
    """Serve an API whose /ready answers 503 for the given number of requests; yield its URL."""
    left = refusals

    async def ready(_: web.Request) -> web.Response:
        nonlocal left
        left -= 1
        return web.Response(status=200 if left < 0 else 503)

    app = web.Application()
    app.router.add_get("/ready", ready)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_the_ready_check_is_repeated_for_a_starting_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ready check is repeated, because the first connection to the bucket may take longer than /ready waits."""
    monkeypatch.setattr(doctor, "READY_PAUSE_S", 0.0)
    async with ready_after(doctor.READY_TRIES - 1) as url:
        assert await ApiChecks(url, "key").ready() == f"{url} is ready"
    async with ready_after(doctor.READY_TRIES) as url:
        with pytest.raises(CheckFailed, match="/ready answered 503"):
            await ApiChecks(url, "key").ready()
