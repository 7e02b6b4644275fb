"""The HTTP face on a real server, over the in-memory store and the real S3 server."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app import __version__
from app.config import ApiConfig
from infra.compose import reaper
from infra.settings import Settings
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.jobs.values import Output, ProgressDetails
from storage.launcher import NoLauncher
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api
from tests.support.graphs import example
from workers.lite.nodes import node_classes
from workflows.library import shipped

pytestmark = pytest.mark.anyio

OUTPUT = Output(
    filename="blue_00001_.png",
    type="image",
    node_id="2",
    key="tenants/default/jobs/x/outputs/001/0000/blue_00001_.png",
    size_bytes=3,
    content_type="image/png",
    sha256="0" * 64,
    width=8,
    height=8,
    frames=1,
)


@pytest.fixture
async def api(objects: ObjectStore, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(objects, clock) as api:
        yield api


@pytest.fixture
async def memory_api(clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(MemoryObjectStore(clock), clock) as api:
        yield api


async def submit(api: Api, **fields: Any) -> dict[str, Any]:
    response = await api.client.post("/v1/jobs", json={"workflow": BLUE, **fields})
    assert response.status_code == 202, response.text
    accepted: dict[str, Any] = response.json()
    return accepted


async def work(api: Api, *outputs: Output) -> None:
    """Be a worker that runs the best job."""
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=r.attempt, now=now, outputs=outputs))


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


async def test_an_output_redirects_to_a_fresh_url(api: Api) -> None:
    """302, or the URL as JSON; one that is not there is a problem."""
    accepted = await submit(api)
    await work(api, OUTPUT)
    path = f"/v1/jobs/{accepted['job_id']}/outputs"
    found = await api.client.get(f"{path}/0", follow_redirects=False)
    assert (found.status_code, found.headers["cache-control"]) == (302, "no-store")
    assert set((await api.client.get(f"{path}/0?redirect=false")).json()) == {"url", "url_expires_at"}
    assert (await api.client.get(f"{path}/1")).json()["type"] == "/problems/unknown-output"


async def test_the_list_is_the_first_versions_with_a_cursor(api: Api, clock: ManualClock) -> None:
    """Newest first; the cursor leads on; a status filters."""
    ids = []
    for second in range(3):
        clock.set(clock.now().replace(second=second))
        ids.append((await submit(api))["job_id"])
    first = (await api.client.get("/v1/jobs?limit=2")).json()
    assert [job["job_id"] for job in first["jobs"]] == [ids[2], ids[1]]
    assert set(first["jobs"][0]) == {"job_id", "status", "created_at", "progress", "workflow_shape", "cost"}
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


async def test_a_removed_job_is_gone(api: Api) -> None:
    """204, then 410 for everything of it, and it stands in no list; a second removal says the same."""
    accepted = await submit(api)
    await work(api)
    path = f"/v1/jobs/{accepted['job_id']}"
    removed = await api.client.delete(f"{path}?purge=true")
    assert (removed.status_code, removed.content) == (204, b"")
    for method, url in (("GET", path), ("GET", f"{path}/workflow"), ("GET", f"{path}/logs"), ("DELETE", path)):
        gone = await api.client.request(method, url)
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/job-gone")
    assert (await api.client.get("/v1/jobs")).json()["jobs"] == []
    assert (await api.client.get("/v1/jobs?status=completed")).json()["jobs"] == []


async def test_a_queued_job_is_cancelled_and_removed_at_once(api: Api) -> None:
    """Nothing of it is left but the tombstone."""
    accepted = await submit(api)
    assert (await api.client.delete(f"/v1/jobs/{accepted['job_id']}?purge=true")).status_code == 204
    assert await api.queue.claim("default", "w") is None
    assert [key for key in await api.keys() if key.startswith("tenants/")] == [
        keys.record("default", accepted["job_id"])
    ]


async def test_a_running_job_is_removed_when_it_has_stopped(clock: ManualClock) -> None:
    """202 until then."""
    config = ApiConfig(api_key=KEY, cancel_wait_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        accepted = await submit(api)
        claimed = await api.queue.claim("default", "w")
        assert claimed is not None
        asked = await api.client.delete(f"/v1/jobs/{accepted['job_id']}?purge=true")
        assert (asked.status_code, asked.json()["status"]) == (202, "running")
        now = clock.now()
        await api.stores.jobs.evolve_from(claimed, lambda r: r.release(attempt=1, now=now))
        await reaper(Settings(bucket="tests"), api.stores, NoLauncher()).sweep()
        assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).status_code == 410


async def test_a_job_says_when_it_will_be_removed(api: Api) -> None:
    """A week after its end, or sooner where the job says so; longer is refused."""
    for days, wanted in ((None, "2026-11-30T12:00:00.000000+00:00"), (0.5, "2026-11-24T00:00:00.000000+00:00")):
        accepted = await submit(api, **({} if days is None else {"retain_days": days}))
        assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).json()["expires_at"] is None
        await work(api)
        assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).json()["expires_at"] == wanted
    refused = await api.client.post("/v1/jobs", json={"workflow": BLUE, "retain_days": 8})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/retain_days")


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


async def test_a_long_poll_answers_when_the_job_is_over(memory_api: Api) -> None:
    """And 200 of them share one look at the bucket."""
    accepted = await submit(memory_api)
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    url = f"/v1/jobs/{accepted['job_id']}?wait=20"
    limits = httpx.Limits(max_connections=None)
    headers = dict(memory_api.client.headers)
    async with httpx.AsyncClient(
        base_url=memory_api.client.base_url, headers=headers, limits=limits, timeout=30
    ) as client:
        waiting = [asyncio.create_task(client.get(url)) for _ in range(200)]
        requests = memory_api.objects.requests  # type: ignore[attr-defined]  # the in-memory store counts
        async with asyncio.timeout(15):
            while requests["GET"] < len(waiting):  # noqa: ASYNC110  each looks once for itself before it waits
                await asyncio.sleep(0.05)
        before = requests["GET"]
        await asyncio.sleep(2.2)
        assert requests["GET"] - before <= 4
        now = memory_api.stores.clock.now()
        await memory_api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=()))
        answers = await asyncio.gather(*waiting)
    assert {answer.json()["status"] for answer in answers} == {"completed"}


async def test_a_long_poll_ends_when_the_job_is_removed(memory_api: Api) -> None:
    """With 410 as any other look at it, and not with what it was when its time is up."""
    job_id = (await submit(memory_api))["job_id"]
    url = f"/v1/jobs/{job_id}"
    await memory_api.client.delete(url)
    etag = (await memory_api.client.get(url)).headers["etag"]
    waiting = asyncio.create_task(memory_api.client.get(f"{url}?wait=20", headers={"if-none-match": etag}))
    await asyncio.sleep(0.1)
    await memory_api.stores.remover.purge(await memory_api.stores.jobs.read("default", job_id))
    assert (await waiting).status_code == 410


async def test_a_long_poll_with_an_etag_answers_at_the_next_change(api: Api) -> None:
    """304 if nothing changes meanwhile."""
    accepted = await submit(api)
    url = f"/v1/jobs/{accepted['job_id']}"
    etag = (await api.client.get(url)).headers["etag"]
    assert (await api.client.get(url, headers={"if-none-match": etag})).status_code == 304
    unchanged = await api.client.get(f"{url}?wait=1", headers={"if-none-match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    waiting = asyncio.create_task(api.client.get(f"{url}?wait=20", headers={"if-none-match": etag}))
    await asyncio.sleep(0.2)
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    answer = await waiting
    assert answer.json()["status"] == "running"
    details = ProgressDetails(current_node="1", nodes_completed=1, nodes_total=2, step="3/8")
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(
        claimed,
        lambda r: r.report(attempt=1, now=now, lease_s=60, progress=42, details=details, outputs=(OUTPUT,)),
    )
    job = (await api.client.get(url)).json()
    assert (job["progress"], job["progress_details"]["step"], len(job["outputs"])) == (42, "3/8", 1)


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
    ]
    accepted = await submit(api, media=media, inputs=inputs)
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert {medium.name for medium in record.media} == {"a.png", "b.png", "c.png", "input_2_1.png"}
    bodies = {medium.name: (await api.objects.get(medium.key)).body for medium in record.media}
    assert (bodies["a.png"], bodies["b.png"], bodies["c.png"]) == (PNG, PNG, PNG)
    assert record.inputs[1].value == "input_2_1.png"


async def test_a_long_prompt_is_kept_whole(api: Api) -> None:
    """A text beyond the spool's threshold is no medium, and is not cut."""
    prompt = "a cat, " * 12_000
    accepted = await submit(api, inputs=[{"node": "2", "field": "filename_prefix", "value": prompt}])
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert record.inputs[0].value == prompt


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
    cat = base64.b64encode(b"cat").decode()
    refused = await api.client.post("/v1/jobs", json={"workflow": workflow})
    assert refused.json()["type"] == "/problems/missing-medium"
    media = [{"name": "cat.png", "data": cat}]
    assert (await api.client.post("/v1/jobs", json={"workflow": workflow, "media": media})).status_code == 202
    inputs = [{"node": "1", "field": "image", "value": cat, "type": "image_base64"}]
    assert (await api.client.post("/v1/jobs", json={"workflow": workflow, "inputs": inputs})).status_code == 202


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer", KEY])
async def test_without_the_key_nothing_is_told(memory_api: Api, header: str | None) -> None:
    """401 with a challenge; probes and docs are open."""
    async with httpx.AsyncClient(base_url=memory_api.client.base_url) as client:
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
