"""The HTTP face on a real server, over the in-memory store and the real S3 server."""

import asyncio
import base64
import threading
from typing import Any

import httpx
import pytest

from app import __version__
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.launcher import NoLauncher
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api, submit, work
from tests.support.graphs import example
from tests.support.plain_http import NO_TLS
from tests.support.records import OUTPUT
from workers.lite.nodes import node_classes
from workflows.library import shipped

pytestmark = pytest.mark.anyio


@pytest.mark.real_bucket("what a client sees first")
async def test_a_submission_is_stored_before_it_is_answered(api: Api) -> None:
    """The first version's fields, and a worker asked for."""
    accepted = await submit(api, priority=3, metadata={"order": "4711"}, timeout_s=9)
    assert accepted["status"] == "queued"
    assert accepted["estimated_time"] == 30
    assert accepted["created_at"] == "2026-11-23T12:00:00.000000+00:00"
    stored = await api.stores.jobs.read("default", accepted["job_id"])
    assert (stored.record.priority, stored.record.timeout_s) == (3, 9)
    assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}/workflow")).json() == BLUE
    assert api.services.launcher.spawned == ["default"]  # type: ignore[attr-defined]  # the in-memory one counts


class SilentLauncher(NoLauncher):
    """Whoever starts workers does not answer."""

    async def spawn(self, pool: str) -> str | None:
        await asyncio.Event().wait()
        return None


async def test_a_launcher_that_hangs_keeps_no_answer(clock: ManualClock) -> None:
    """The job is accepted all the same: the reaper asks for a worker again."""
    config = ApiConfig(api_key=KEY, spawn_wait_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config, SilentLauncher()) as api:
        assert (await submit(api))["status"] == "queued"


async def test_a_finished_job_shows_its_outputs(api: Api) -> None:
    """With presigned URLs and never a byte of their content."""
    accepted = await submit(api)
    await work(api, OUTPUT)
    job = (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).json()
    assert (job["status"], job["progress"], job["error"]) == ("completed", 100, None)
    (output,) = job["outputs"]
    assert output["url"].startswith(("http", "memory"))
    assert {key: output[key] for key in ("filename", "type", "node_id", "width")} == {
        "filename": "blue_00001_.png",
        "type": "image",
        "node_id": "2",
        "width": 8,
    }
    assert "key" not in output
    assert "data" not in output


@pytest.mark.real_bucket("presigned URLs")
async def test_an_output_redirects_to_a_fresh_url(api: Api) -> None:
    """302, or the URL as JSON; one that is not there is a problem."""
    accepted = await submit(api)
    await work(api, OUTPUT)
    path = f"/v1/jobs/{accepted['job_id']}/outputs"
    found = await api.client.get(f"{path}/0", follow_redirects=False)
    assert (found.status_code, found.headers["cache-control"]) == (302, "no-store")
    assert set((await api.client.get(f"{path}/0?redirect=false")).json()) == {"url", "url_expires_at"}
    assert (await api.client.get(f"{path}/1")).json()["type"] == "/problems/unknown-output"


@pytest.mark.real_bucket("the order of a LIST")
async def test_the_list_is_the_first_versions_with_a_cursor(api: Api, clock: ManualClock) -> None:
    """Newest first; the cursor leads on; a status filters."""
    ids = []
    for second in range(3):
        clock.set(clock.now().replace(second=second))
        ids.append((await submit(api))["job_id"])
    first = (await api.client.get("/v1/jobs?limit=2")).json()
    assert [job["job_id"] for job in first["jobs"]] == [ids[2], ids[1]]
    fields = {"job_id", "status", "created_at", "progress", "has_warnings", "workflow_shape", "cost"}
    assert set(first["jobs"][0]) == fields
    second = (await api.client.get(f"/v1/jobs?limit=2&cursor={first['next_cursor']}")).json()
    assert ([job["job_id"] for job in second["jobs"]], second["next_cursor"]) == ([ids[0]], None)
    assert (await api.client.get("/v1/jobs?status=completed")).json()["jobs"] == []


async def test_deleting_a_queued_job_fails_it(api: Api) -> None:
    """With the first version's words, and no worker gets it."""
    accepted = await submit(api)
    response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}")
    assert (response.status_code, response.json()["error"]) == (200, "Cancelled by user")
    assert await api.queue.claim("default", "w") is None


async def test_deleting_a_finished_job_leaves_it(api: Api) -> None:
    """What is completed stays completed."""
    accepted = await submit(api)
    await work(api)
    response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}")
    assert (response.status_code, response.json()["status"]) == (200, "completed")


async def test_deleting_a_running_job_asks_its_worker(clock: ManualClock) -> None:
    """202 while the worker has not stopped it, and the wish is in the record."""
    config = ApiConfig(api_key=KEY, cancel_wait_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        accepted = await submit(api)
        assert await api.queue.claim("default", "w") is not None
        response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}")
        assert (response.status_code, response.json()["status"]) == (202, "running")
        assert response.json()["cancel_requested_at"] is not None


async def test_the_log_of_each_attempt_is_told(api: Api) -> None:
    """As text; 404 while there is none, and for an attempt that never was."""
    accepted = await submit(api)
    path = f"/v1/jobs/{accepted['job_id']}/logs"
    assert (await api.client.get(path)).json()["type"] == "/problems/no-log"
    now = api.stores.clock.now()
    for attempt in (1, 2):
        claimed = await api.queue.claim("default", "w")
        assert claimed is not None
        await api.stores.logs.write("default", accepted["job_id"], attempt, [f"attempt {attempt}", "naïve"])
        if attempt == 1:
            await api.stores.jobs.evolve_from(claimed, lambda r: r.release(attempt=1, now=now))
    current = await api.client.get(path)
    assert current.text == "attempt 2\nnaïve\n"
    assert (current.headers["content-type"], current.headers["job-attempt"]) == ("text/plain; charset=utf-8", "2")
    assert (await api.client.get(f"{path}?attempt=1")).text.startswith("attempt 1")
    for wrong in ("0", "3", "x"):
        assert (await api.client.get(f"{path}?attempt={wrong}")).status_code == 422


@pytest.mark.real_bucket("bytes of files")
async def test_media_of_every_kind_are_stored(api: Api) -> None:
    """base64 in the body, a URL, an upload: the worker finds each under its name."""
    wanted = {"size_bytes": len(PNG), "content_type": "image/png"}
    created = (await api.client.post("/v1/uploads", json=wanted)).json()
    await api.objects.put(f"tenants/default/uploads/{created['upload_id']}/data", PNG, content_type="image/png")
    media = [
        {"name": "a.png", "data": base64.b64encode(PNG).decode()},
        {"name": "b.png", "url": "https://example.com/b.png"},
        {"name": "c.png", "upload_id": created["upload_id"]},
    ]
    inputs = [
        {"node": "1", "field": "width", "value": 16},
        {"node": "2", "field": "filename_prefix", "value": base64.b64encode(PNG).decode(), "type": "image_base64"},
        {"node": "2", "field": "filename_prefix", "value": "https://example.com/d.png", "type": "image_url"},
    ]
    accepted = await submit(api, media=media, inputs=inputs)
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert {medium.name for medium in record.input_files} == {
        "a.png",
        "b.png",
        "c.png",
        "input_2_1.png",
        "input_2_2.png",
    }
    bodies = {medium.name: (await api.objects.get(medium.key)).body for medium in record.input_files}
    assert set(bodies.values()) == {PNG}
    assert [given.value for given in record.inputs] == [16, "input_2_1.png", "input_2_2.png"]


async def test_a_long_prompt_is_kept_whole(api: Api) -> None:
    """A text beyond the spool's threshold is no medium, and is not cut."""
    prompt = "a cat, " * 12_000
    accepted = await submit(api, inputs=[{"node": "2", "field": "filename_prefix", "value": prompt}])
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert [given.value for given in await api.stores.jobs.inputs(record)] == [prompt]


async def test_long_inputs_are_no_part_of_the_record(api: Api) -> None:
    """Which lists read by the hundred, and a worker writes again with each progress; purging removes them as well."""
    texts = [{"node": "2", "field": "filename_prefix", "value": "€" * 300_000}] * 3
    accepted = await submit(api, inputs=texts, webhook_events=[])
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert len(record.model_dump_json()) < 10_000
    assert [given.model_dump() for given in await api.stores.jobs.inputs(record)] == texts
    assert (await api.client.delete(f"/v1/jobs/{record.job_id}?purge=true")).status_code == 204
    assert not [key for key in await api.keys() if key.endswith("values.json")]


async def test_long_inputs_of_a_batch_are_no_part_of_its_records(api: Api) -> None:
    """Each job has its own."""
    sets = [[{"node": "2", "field": "filename_prefix", "value": letter * 100_000}] for letter in "ab"]
    response = await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": sets})
    jobs = [(await api.stores.jobs.read("default", job["job_id"])).record for job in response.json()["jobs"]]
    found = [[given.model_dump() for given in await api.stores.jobs.inputs(job)] for job in jobs]
    assert (found, [job.inputs for job in jobs]) == (sets, [(), ()])


async def test_known_node_classes_are_checked(api: Api) -> None:
    """Once a worker has said what its engine can do."""
    await api.stores.engine_info.publish("default", {"EmptyImage": {"input": {}, "output": ["IMAGE"]}})
    response = await api.client.post("/v1/jobs", json={"workflow": BLUE})
    assert response.json()["type"] == "/problems/unknown-node-class"
    assert response.json()["pointer"] == "/workflow/2/class_type"


async def test_a_graph_that_the_engine_would_refuse_is_refused_with_all_its_faults(api: Api) -> None:
    """Each with its place in the request, in `inputs` if it came from there, and all in ComfyUI's words beside."""
    classes = {name: node.object_info() for name, node in node_classes().items()}
    await api.stores.engine_info.publish("default", classes)
    workflow = {**BLUE, "1": {**BLUE["1"], "inputs": {**BLUE["1"]["inputs"], "height": "tall"}}}
    given = [{"node": "1", "field": "width", "value": 10**6}]
    response = await api.client.post("/v1/jobs", json={"workflow": workflow, "inputs": given})
    problem = response.json()
    assert (response.status_code, problem["type"]) == (422, "/problems/value-out-of-range")
    assert problem["detail"].endswith("(and 1 more)")
    assert [(error["type"], error["pointer"]) for error in problem["errors"]] == [
        ("/problems/value-out-of-range", "/inputs/0/value"),
        ("/problems/wrong-input-type", "/workflow/1/inputs/height"),
    ]
    assert [error["type"] for error in problem["node_errors"]["1"]["errors"]] == [
        "value_bigger_than_max",
        "invalid_input_type",
    ]
    assert problem["node_errors"]["1"]["dependent_outputs"] == ["2"]


async def test_a_loader_may_name_what_the_job_brings(api: Api) -> None:
    """A picture of `media` or of an input passes; one that nobody brings is a missing medium."""
    classes = {name: node.object_info() for name, node in node_classes().items()}
    await api.stores.engine_info.publish("default", classes)
    workflow = {**BLUE, "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}}}
    cat = base64.b64encode(PNG).decode()
    refused = await api.client.post("/v1/jobs", json={"workflow": workflow})
    assert refused.json()["type"] == "/problems/missing-medium"
    media = [{"name": "cat.png", "data": cat}]
    assert (await api.client.post("/v1/jobs", json={"workflow": workflow, "media": media})).status_code == 202
    inputs = [{"node": "1", "field": "image", "value": cat, "type": "image_base64"}]
    assert (await api.client.post("/v1/jobs", json={"workflow": workflow, "inputs": inputs})).status_code == 202


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer", KEY])
async def test_without_the_key_nothing_is_told(memory_api: Api, header: str | None) -> None:
    """401 with a challenge; probes and docs are open."""
    async with httpx.AsyncClient(base_url=memory_api.client.base_url, verify=NO_TLS) as client:
        headers = {} if header is None else {"authorization": header}
        response = await client.get("/v1/jobs", headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "/problems/unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/health")).json() == {"status": "ok", "version": __version__}
        assert (await client.get("/ready")).status_code == 200


async def test_an_api_without_a_key_lets_nobody_in(clock: ManualClock) -> None:
    """A forgotten setting must not open the door."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=None)) as api:
        assert (await api.client.get("/v1/jobs")).status_code == 401


async def test_the_docs_page_asks_nobody_else(memory_api: Api) -> None:
    """Every file is our own, and the policy forbids others."""
    page = await memory_api.client.get("/docs")
    assert "http" not in page.text.replace("<!doctype html>", "")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js"):
        asset = await memory_api.client.get(f"/docs/{name}")
        assert (asset.status_code, len(asset.content) > 50) == (200, True)
    assert (await memory_api.client.get("/openapi.json")).json()["openapi"] == "3.1.0"


async def test_every_problem_type_is_explained(memory_api: Api) -> None:
    """The type is a path of the API itself."""
    for path in (await memory_api.client.get("/problems")).json():
        assert "What to do" in (await memory_api.client.get(path)).text


async def test_answers_carry_safe_headers(memory_api: Api) -> None:
    """And an id to ask about."""
    headers = (await memory_api.client.get("/v1/jobs")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_shipped_examples_are_accepted(memory_api: Api) -> None:
    """Each of them, as it is."""
    for name in shipped():
        assert (await memory_api.client.post("/v1/jobs", json={"workflow": example(name)})).status_code == 202


@pytest.mark.parametrize(("count", "thread"), [(2, "MainThread"), (300, "heavy_0")])
async def test_many_outputs_are_shown_off_the_event_loop(
    memory_api: Api, monkeypatch: pytest.MonkeyPatch, count: int, thread: str
) -> None:
    """A job may have a thousand, which take 30 ms."""
    job_id = (await submit(memory_api))["job_id"]
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    now = memory_api.stores.clock.now()
    outputs = tuple(OUTPUT.model_copy(update={"filename": f"{number}.png"}) for number in range(count))
    await memory_api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=outputs))
    threads: set[str] = set()
    sign = memory_api.objects.presign_get

    def signing(*args: Any, **options: Any) -> Any:
        threads.add(threading.current_thread().name)
        return sign(*args, **options)

    monkeypatch.setattr(memory_api.objects, "presign_get", signing)
    assert len((await memory_api.client.get(f"/v1/jobs/{job_id}")).json()["outputs"]) == count
    assert threads == {thread}
