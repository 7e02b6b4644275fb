"""Many nodes, many prompts, and the metadata of a picture."""

import asyncio
import collections
import io
import json
import uuid

import pytest
from PIL import Image

from tests.conformance.engines import Engine
from tests.conformance.graphs import basic, empty_image, node, save
from tests.conformance.scenarios.outputs import view
from tests.conformance.traffic import Traffic

pytestmark = pytest.mark.anyio

CHAIN = 200
CHAIN_MESSAGES = {"execution_start": 1, "execution_cached": 1, "executed": 1, "execution_success": 1}
"""The recorded messages of a chain of 200 nodes, apart from two progress_state and one executing per node."""


async def test_a_chain_reports_every_node(engine: Engine) -> None:
    """A chain of 200 nodes sends two progress snapshots and one `executing` per node."""
    graph = {"1": empty_image(), str(CHAIN): save(str(CHAIN - 1), "rec/chain")}
    graph |= {str(number): node("ImageInvert", image=[str(number - 1), 0]) for number in range(2, CHAIN)}
    async with Traffic(engine.url, engine.nodes) as traffic:
        await traffic.until_idle()
        history = await traffic.run(graph)
        kinds = collections.Counter(entry["data"]["type"] for entry in traffic.recording()["ws"])
    assert history["status"]["completed"]
    del kinds["status"]
    assert kinds == {**CHAIN_MESSAGES, "progress_state": 2 * CHAIN, "executing": CHAIN + 1}


async def test_shared_ancestors_run_once(engine: Engine) -> None:
    """Forty blends, each of the previous one with itself, are checked and run as forty nodes, not once per path."""
    graph = {"1": empty_image(8)}
    for number in range(2, 42):
        twice = {"image1": [str(number - 1), 0], "image2": [str(number - 1), 0]}
        graph[str(number)] = node("ImageBlend", **twice, blend_factor=0.5, blend_mode="normal")
    async with Traffic(engine.url, engine.nodes) as traffic:
        history = await traffic.run({**graph, "42": save("41", "rec/shared")})
    assert history["status"]["completed"]


async def test_undeclared_inputs_are_ignored(engine: Engine) -> None:
    """Undeclared inputs are ignored, including lists that are no valid links."""
    graph = basic("rec/undeclared")
    graph["2"]["inputs"] |= {"note": "x", "list": [1, 2, 3], "nothing": None}
    async with Traffic(engine.url, engine.nodes) as traffic:
        history = await traffic.run(graph)
    assert history["status"]["completed"]


async def test_concurrent_prompts_all_run(engine: Engine) -> None:
    """Twenty concurrent prompts run one after another, each completely, with distinct files."""
    client_id = str(uuid.uuid4())
    async with Traffic(engine.url, engine.nodes) as traffic:
        await traffic.until_idle()
        socket = await traffic.socket(client_id)
        prompts = await asyncio.gather(*(traffic.submit(basic("rec/conc"), client_id) for _ in range(20)))
        for prompt_id in prompts:
            await socket.until_end(prompt_id)
        histories = [await traffic.history(prompt_id) for prompt_id in prompts]
        texts = [entry["data"] for entry in traffic.recording()["ws"]]
    files = {history["outputs"]["2"]["images"][0]["filename"] for history in histories}
    assert len(files) == 20
    order = [text["data"]["prompt_id"] for text in texts if text["type"] != "status"]
    runs = [prompt_id for prompt_id, before in zip(order, [None, *order], strict=False) if prompt_id != before]
    assert sorted(runs) == sorted(prompts)


async def test_a_picture_contains_its_graph(engine: Engine) -> None:
    """A saved PNG contains the prompt and the client's extra_pnginfo as JSON texts."""
    client_id = str(uuid.uuid4())
    graph = basic("rec/extra")
    async with Traffic(engine.url, engine.nodes) as traffic:
        socket = await traffic.socket(client_id)
        extra = {"extra_pnginfo": {"workflow": {"nodes": list[str]()}}}
        prompt_id = await traffic.submit(graph, client_id, extra_data=extra)
        await socket.until_end(prompt_id)
        entry = (await traffic.history(prompt_id))["outputs"]["2"]["images"][0]
        content = await traffic.bytes_of(view(entry))
    with Image.open(io.BytesIO(content)) as image:
        texts = {key: json.loads(value) for key, value in image.info.items()}
    assert texts == {"prompt": graph, "workflow": {"nodes": []}}
