"""Node data that a worker publishes in addition to ComfyUI's object_info."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from infra.check_image import examine
from storage import keys
from storage.pools.engine_info import EngineInfo
from tests.support.engines import LITE, EngineChoice, engine_choices
from tests.support.workbench import workbench
from workers.comfy.engine import Prompt
from workers.comfy.execution import Execution
from workers.comfy.http_engine import HttpEngine
from workers.comfy.process import EngineProcess
from workflows.declarations import declared
from workflows.messages import Executed

pytestmark = pytest.mark.anyio

ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
INFO: dict[str, Any] = {"Context": {"input": {}}, "KSampler": {"input": {}}, "Broken": {"input": {}}}


@asynccontextmanager
async def server(found_inside: dict[str, Any] | None) -> AsyncIterator[HttpEngine]:
    """An engine that answers these two requests; `found_inside` is None for a ComfyUI without the custom node."""
    app = web.Application()
    app.router.add_get("/object_info", _answering(INFO))
    if found_inside is not None:
        app.router.add_get("/comfyui-modal/declarations", _answering(found_inside))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = HttpEngine("http://{}:{}".format(*runner.addresses[0]))
    try:
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()


def _answering(body: dict[str, Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


async def test_declarations_of_the_custom_node_are_added() -> None:
    """Declarations of this project's custom node are merged into object_info, and only for known classes and keys."""
    inside = {
        "Context": {"open_inputs": True, "unchecked_inputs": ["*"], "checked_files": {"a": {}}, "input": "not this"},
        "KSampler": {"open_inputs": False},
        "Gone": {"open_inputs": True},
    }
    async with server(inside) as engine:
        found = await engine.declarations()
    assert found == {
        "Context": {"input": {}, "open_inputs": True, "unchecked_inputs": ["*"], "checked_files": {"a": {}}},
        "KSampler": {"input": {}, "open_inputs": False},
        "Broken": {"input": {}},
    }


async def test_an_engine_without_the_custom_node_has_only_object_info() -> None:
    """An engine that is used by URL has only the declarations of ComfyUI's object_info."""
    async with server(None) as engine:
        assert await engine.declarations() == INFO


@pytest.mark.parametrize(
    "choice", [choice for choice in engine_choices() if choice.settings.comfyui_url is None], ids=lambda c: c.name
)
async def test_every_engine_of_a_worker_has_declarations(choice: EngineChoice, tmp_path: Path) -> None:
    """Every isolated engine of a worker declares which classes have open inputs and which files their checks need."""
    report = await examine(EngineProcess(choice.spec(tmp_path / "engine")), {})
    known = {name: about["open_inputs"] for name, about in report.object_info.items() if "open_inputs" in about}
    if choice is LITE:
        assert known == {"LiteOpenInputs": True}
    else:
        assert known["KSampler"] is False
        latent = report.object_info["LoadLatent"]["checked_files"]["latent"]  # its own check needs a file
        assert (latent["is"], latent["below"]) == ("file", "input")
        assert len(known) == len(report.object_info)


async def test_a_worker_publishes_declarations(tmp_path: Path) -> None:
    """The published engine information contains the declarations that submissions are checked against."""
    async with workbench(tmp_path) as bench:
        stored = await bench.objects.get(keys.engine_info("default"))
    published = EngineInfo.from_bytes(stored.body).object_info
    assert [name for name, about in published.items() if declared(about).open_inputs] == ["LiteOpenInputs"]


async def test_lite_passes_open_inputs(tmp_path: Path) -> None:
    """The lite engine passes all inputs to a class with open inputs, and only declared inputs to any other."""
    graph = {
        "1": {"class_type": "PrimitiveInt", "inputs": {"value": 3, "stray": 1}},
        "2": {"class_type": "LiteOpenInputs", "inputs": {"number": ["1", 0], "strength.1": 0.5}},
    }
    host = EngineProcess(LITE.spec(tmp_path))
    await host.start()
    try:
        messages = [message async for message in Execution(host.engine, Prompt(ONE, TWO, graph))]
    finally:
        await host.stop()
    (shown,) = [message.output["text"] for message in messages if isinstance(message, Executed)]
    assert json.loads(shown[0]) == {"number": 3, "strength_1": 0.5}
