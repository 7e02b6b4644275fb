"""Responses of an engine are limited to a size that a worker can hold, and to valid Unicode text."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from workers.comfy.engine import EngineSilent
from workers.comfy.http import MAX_ANSWER_BYTES, ComfyHttp
from workers.comfy.http_engine import HttpEngine
from workers.errors import EngineUnavailable, OutputFailed
from workflows.json_weight import WEIGHT_OF_COMMA, WEIGHT_OF_PART, weight

pytestmark = pytest.mark.anyio

NAMES = (
    rb'{"Loads": {"input": {"required": {"file": [["nearest\udce9", "\ud83d\ude00", "\\udce9", "\ude00\ud83dx"]],'
    b'"raw": [["\xed\xa0\x80"]], "number": [[1e400, -1e400, NaN, ' + b"9" * 5_000 + b", 7]]}}}}"
)


@pytest.fixture
async def engine() -> AsyncIterator[HttpEngine]:
    """An engine whose history of `large` exceeds the limit by one byte, and that of `small` has just the most weight.

    Its history of `wide` is in UTF-16, those of `many` and `numbers` have too many lists and numbers, and that of
    `endless` never ends.
    """

    async def history(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name == "wide":
            return web.Response(body=json.dumps({name: {"status": {}}}).encode("utf-16"))
        if name == "numbers":
            numbers = b"0," * (MAX_ANSWER_BYTES // (2 + WEIGHT_OF_COMMA)) + b"0"
            return web.Response(body=b'{"numbers": {"status": {}, "outputs": {"1": {"x": [' + numbers + b"]}}}}")
        if name == "many":
            lists = b"[" + b"[]," * (MAX_ANSWER_BYTES // WEIGHT_OF_PART) + b"0]"
            return web.Response(body=b'{"many": {"status": {}, "outputs": {"1": {"x": ' + lists + b"}}}}")
        if name == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.01)
        head = f'{{"{name}": {{"status": {{"completed": true}}, "outputs": {{"1": {{"text": ["'.encode()
        tail = b'"]}}}}'
        taken = len(head + tail) - 1 if name == "large" else weight(head + tail)
        return web.Response(body=head + b"x" * (MAX_ANSWER_BYTES - taken) + tail, content_type="application/json")

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


async def test_raw_surrogates_and_endless_numbers_are_replaced(engine: HttpEngine) -> None:
    """Surrogates as raw bytes become U+FFFD, and numbers beyond a double become null instead of an infinity."""
    info = await engine.object_info()
    required = info["Loads"]["input"]["required"]
    assert set(required["raw"][0][0]) == {"\ufffd"}
    assert required["number"] == [[None, None, None, None, 7]]


async def test_an_answer_in_utf_16_is_no_json(engine: HttpEngine) -> None:
    """An answer in another encoding, which Python's parser would detect, is not accepted."""
    with pytest.raises(EngineUnavailable):
        await engine.history("wide")


async def test_an_oversized_history_fails_the_job_and_not_the_worker(engine: HttpEngine) -> None:
    """An oversized history is a failed output, which is not retried since the same graph would return it again."""
    found = await engine.history("small")
    assert found is not None
    assert found.completed
    with pytest.raises(OutputFailed, match="32 MiB of text"):
        await engine.history("large")


@pytest.mark.parametrize("prompt_id", ["many", "numbers"])
async def test_an_answer_of_too_many_values_is_not_parsed(engine: HttpEngine, prompt_id: str) -> None:
    """A history of few MiB that would take many times as much in memory fails the job as a larger one does."""
    with pytest.raises(OutputFailed, match="too many values"):
        await engine.history(prompt_id)


async def test_an_answer_that_does_not_end_is_given_up(engine: HttpEngine) -> None:
    """An answer that keeps coming counts as none once its time has passed."""
    http = ComfyHttp(engine.url, request_s=0.1)
    with pytest.raises(EngineSilent):
        await http.get_json("/history/endless")
    await http.close()
