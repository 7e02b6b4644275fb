"""A receiver of webhooks in the bench's own loop, for exact times of arrival."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.bench.overhead.waiting import Waiting


class Receiver:
    """`arrived` has the wall-clock time of each event by the job that `job_of` finds in it."""

    def __init__(self, job_of: Callable[[Any], str]) -> None:
        self.url = ""
        self.arrived = Waiting[float]()
        self._job_of = job_of

    async def take(self, request: web.Request) -> web.Response:
        now = time.time()
        self.arrived.happened(self._job_of(json.loads(await request.read())), now)
        return web.Response(status=204)


@asynccontextmanager
async def receiving(job_of: Callable[[Any], str]) -> AsyncIterator[Receiver]:
    receiver, app = Receiver(job_of), web.Application()
    app.router.add_post("/", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield receiver
    finally:
        await runner.cleanup()
