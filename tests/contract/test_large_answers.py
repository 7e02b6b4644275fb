"""Responses of an engine are limited to a size that a worker can hold, and to valid Unicode text."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from workers.comfy.http import MAX_ANSWER_BYTES
from workers.comfy.http_engine import HttpEngine
from workers.errors import OutputFailed

pytestmark = pytest.mark.anyio

NAMES = (
    rb'{"Loads": {"input": {"required": {"file": [["nearest\udce9", "\ud83d\ude00", "\\udce9", "\ude00\ud83dx"]]}}}}'
)


@pytest.fixture
async def engine() -> AsyncIterator[HttpEngine]:
    """An engine whose history of `large` exceeds the limit by one byte, and whose history of `small` does not."""

    async def history(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        head = f'{{"{name}": {{"status": {{"completed": true}}, "outputs": {{"1": {{"text": ["'.encode()
        tail = b'"]}}}}'
        size = MAX_ANSWER_BYTES + (1 if name == "large" else 0)
        return web.Response(body=head + b"x" * (size - len(head) - len(tail)) + tail, content_type="application/json")

    async def object_info(_: web.Request) -> web.Response:
        return web.Response(body=NAMES, content_type="application/json")

    app = web.Application()
    app.router.add_get("/history/{name}", history)
    app.router.add_get("/object_info", object_info)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = HttpEngine("http://{}:{}".format(*runner.addresses[0]))
    yield engine
    await engine.close()
    await runner.cleanup()


async def test_a_file_name_that_is_not_utf8_is_made_readable(engine: HttpEngine) -> None:
    """Lone surrogates, which Python lists for such a name, are replaced, and pairs and other texts are kept."""
    info = await engine.object_info()
    (names,) = info["Loads"]["input"]["required"]["file"]
    assert names == ["nearest\ufffd", "\U0001f600", "\\udce9", "\ufffd\ufffdx"]
    json.dumps(info, ensure_ascii=False).encode()


async def test_an_oversized_history_fails_the_job_and_not_the_worker(engine: HttpEngine) -> None:
    """An oversized history is a failed output, which is not retried since the same graph would return it again."""
    found = await engine.history("small")
    assert found is not None
    assert found.completed
    with pytest.raises(OutputFailed, match="32 MiB of text"):
        await engine.history("large")
