"""Stopping prompts, and the queue: its order, deletions, and freeing memory."""

import asyncio
import json
import uuid
from typing import Any

from tests.conformance.graphs import basic, empty_image, save, slow
from tests.conformance.scenarios import Book
from tests.conformance.traffic import Traffic

BOOK = Book()


@BOOK.add(own_nodes=True, varying=True)
async def s40_interrupt(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    prompt_id = await traffic.submit(slow(traffic.nodes, 100, 0.1), client_id)
    await socket.until_step(5)
    await traffic.post("/interrupt")
    await socket.until_end(prompt_id)
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s40b_interrupt_prompt_id(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    running = await traffic.submit(slow(traffic.nodes, 100, 0.1), client_id)
    pending = await traffic.submit(basic("rec/afterint"), client_id)
    await socket.until_step(3)
    await traffic.post("/interrupt", {"prompt_id": str(uuid.uuid4())}, "unknown id")
    await traffic.post("/interrupt", {"prompt_id": pending}, "pending id")
    await asyncio.sleep(0.3)
    await traffic.get("/queue")
    await traffic.post("/interrupt", {"prompt_id": running}, "running id")
    for prompt_id in (running, pending):
        await socket.until_end(prompt_id)
        await traffic.history(prompt_id)


@BOOK.add(own_nodes=True)
async def s40c_interrupt_blocking_node(traffic: Traffic) -> None:
    """A node that does not check for interrupts delays the interrupt until the next node starts."""
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    blocking = {"1": empty_image(16), "2": traffic.nodes.blocking("1", 1.0), "3": save("2", "rec/blk")}
    prompt_id = await traffic.submit(blocking, client_id)
    await socket.until(lambda kind, data: kind == "executing" and data.get("node") == "2")
    await asyncio.sleep(0.2)
    await traffic.post("/interrupt")
    await socket.until_end(prompt_id)
    await traffic.history(prompt_id)


@BOOK.add()
async def s40d_interrupt_idle(traffic: Traffic) -> None:
    await traffic.post("/interrupt")
    await traffic.post("/interrupt", {"prompt_id": "x"})
    await traffic.run(basic("rec/afteridle"))


@BOOK.add(own_nodes=True, varying=True)
async def s40e_interrupt_no_client(traffic: Traffic) -> None:
    """The progress and interrupt of a prompt without a client go to every client, and its end to none."""
    socket = await traffic.socket(str(uuid.uuid4()))
    await traffic.socket(None, name="anonymous")
    prompt_id = await traffic.submit(slow(traffic.nodes, 100, 0.1, preview=False))
    await socket.until_step(3)
    await traffic.post("/interrupt", {"prompt_id": prompt_id})
    await socket.until(lambda kind, _: kind == "execution_interrupted")
    await traffic.until_idle()
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s41_queue_delete_clear(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    running = await traffic.submit(slow(traffic.nodes, 30, 0.1), client_id)
    await socket.until_step(1)
    waiting = [await traffic.submit(basic(f"rec/q{letter}"), client_id) for letter in "abc"]
    await traffic.get("/queue")
    await traffic.get("/prompt")
    await traffic.post("/queue", {"delete": waiting[:1]})
    await traffic.post("/queue", {"delete": waiting[:1]}, "again: still 200")
    await traffic.post("/queue", {"delete": [running]}, "delete of the RUNNING prompt: 200 and no effect")
    await traffic.get("/queue")
    await traffic.post("/queue", {"clear": True})
    await traffic.get("/queue")
    await socket.until_end(running)
    for prompt_id in (waiting[0], waiting[1], running):
        await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s42_priority(traffic: Traffic) -> None:
    """A and B are queued normally, C and E with `front`, and D with a very low number."""
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    await traffic.submit(slow(traffic.nodes, 15, 0.15), client_id)
    await socket.until_step(1)
    places: dict[str, dict[str, Any]] = {
        "A": {},
        "B": {},
        "C": {"front": True},
        "D": {"number": -1_000_000},
        "E": {"front": True},
    }
    prompts = [await traffic.submit(basic(f"rec/prio{name}"), client_id, **place) for name, place in places.items()]
    await traffic.get("/queue")
    for prompt_id in prompts:
        await socket.until_end(prompt_id)


@BOOK.add()
async def s43_free(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    graph = basic("rec/free")
    await socket.until_end(await traffic.submit(json.loads(json.dumps(graph)), client_id))
    await traffic.post("/free", {"unload_models": True, "free_memory": True})
    await asyncio.sleep(0.5)
    prompt_id = await traffic.submit(graph, client_id)
    await socket.until_end(prompt_id)
    await traffic.history(prompt_id)
    await traffic.post("/free", note="no body")


@BOOK.add(own_nodes=True, varying=True)
async def s64_jobs_api(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    about = {"extra_pnginfo": {"workflow": {"id": "wf-77"}}}
    running = await traffic.submit(slow(traffic.nodes, 40, 0.1), client_id, extra_data=about)
    pending, later = [await traffic.submit(basic("rec/jobs"), client_id) for _ in range(2)]
    await socket.until_step(1)
    await traffic.get(f"/api/jobs/{running}", "running")
    await traffic.get(f"/api/jobs/{pending}", "pending")
    for query in ("status=in_progress,pending&limit=5", "workflow_id=wf-77&limit=5", "status=bogus", "limit=0"):
        await traffic.get(f"/api/jobs?{query}")
    await traffic.get(f"/api/jobs/{uuid.uuid4()}", "unknown")
    await traffic.post(f"/api/jobs/{pending}/cancel", note="cancel pending")
    await traffic.post(f"/api/jobs/{running}/cancel", note="cancel running")
    await socket.until_end(running)
    await traffic.post(f"/api/jobs/{running}/cancel", note="cancel finished")
    await traffic.post(f"/api/jobs/{uuid.uuid4()}/cancel", note="cancel unknown")
    await traffic.post("/api/jobs/cancel", {"job_ids": ["not-a-uuid"]})
    await traffic.post("/api/jobs/cancel", {"job_ids": [str(uuid.uuid4())]})
    await socket.until_end(later)
    await traffic.get(f"/api/jobs/{running}", "cancelled while running")
    await traffic.get(f"/api/jobs/{pending}", "cancelled while pending: gone")
    await traffic.get(f"/api/jobs/{later}", "completed")
    await traffic.get("/api/jobs?status=completed&limit=1")
    await traffic.history(running)


@BOOK.add(own_nodes=True, varying=True)
async def s18_extra_data(traffic: Traffic) -> None:
    """A client's extra data are kept with the prompt, except for secrets."""
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    graph = basic("rec/extra")
    graph["2"]["_meta"] = {"title": "Final image"}
    await traffic.submit(slow(traffic.nodes, 20, 0.1), client_id)
    await socket.until_step(1)
    workflow = {"id": "11111111-2222-3333-4444-555555555555", "nodes": []}
    extra = {"extra_pnginfo": {"workflow": workflow}, "api_key_comfy_org": "SECRET-KEY", "tenant": "t1"}
    prompt_id = await traffic.submit(graph, client_id, extra_data=extra)
    await traffic.get("/queue", "is the api key visible in the queue listing?")
    await socket.until_end(prompt_id)
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s31_duplicate_prompt_id(traffic: Traffic) -> None:
    """Three prompts wait with one id, and a deletion removes one of them."""
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    running = await traffic.submit(slow(traffic.nodes, 10, 0.2), client_id)
    await socket.until_step(1)
    prompt_id = str(uuid.uuid4())
    for letter in "ABC":
        body = {"prompt": basic(f"rec/dup{letter}"), "client_id": client_id, "prompt_id": prompt_id}
        await traffic.post("/prompt", body)
    await traffic.get("/queue")
    await traffic.post("/queue", {"delete": [prompt_id]}, "delete removes only the first match")
    await traffic.get("/queue")
    await socket.until_end(running)
    await traffic.until_idle()
    await traffic.history(prompt_id)
    await traffic.get("/queue")
