"""The HTTP API on a real server, with the in-memory store and the real S3 server."""

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
    """An accepted job is stored with its options when the response arrives, and a worker has been requested."""
    accepted = await submit(api, priority=3, metadata={"order": "4711"}, timeout_s=9)
    assert accepted["status"] == "queued"
    assert accepted["estimated_time"] == 30
    assert accepted["created_at"] == "2026-11-23T12:00:00.000000+00:00"
    stored = await api.stores.jobs.read("default", accepted["job_id"])
    assert (stored.record.priority, stored.record.timeout_s) == (3, 9)
    assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}/workflow")).json() == BLUE
    assert api.services.launcher.spawned == ["default"]  # type: ignore[attr-defined]  # the in-memory one counts


class SilentLauncher(NoLauncher):
    """A launcher that never answers."""

    async def spawn(self, pool: str) -> str | None:
        await asyncio.Event().wait()
        return None


async def test_a_launcher_that_hangs_does_not_delay_the_response(clock: ManualClock) -> None:
    """A job is accepted although the launcher hangs; the reaper requests a worker later."""
    config = ApiConfig(api_key=KEY, spawn_wait_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config, SilentLauncher()) as api:
        assert (await submit(api))["status"] == "queued"


async def test_a_finished_job_shows_its_outputs(api: Api) -> None:
    """A finished job shows its outputs with presigned URLs and without their content or storage keys."""
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
async def test_an_output_redirects_to_a_new_url(api: Api) -> None:
    """An output answers with a redirect or with its URL as JSON, and an unknown output with a problem."""
    accepted = await submit(api)
    await work(api, OUTPUT)
    path = f"/v1/jobs/{accepted['job_id']}/outputs"
    found = await api.client.get(f"{path}/0", follow_redirects=False)
    assert (found.status_code, found.headers["cache-control"]) == (302, "no-store")
    assert set((await api.client.get(f"{path}/0?redirect=false")).json()) == {"url", "url_expires_at"}
    assert (await api.client.get(f"{path}/1")).json()["type"] == "/problems/unknown-output"


@pytest.mark.real_bucket("the order of a LIST")
async def test_the_job_list_has_the_first_versions_fields_and_a_cursor(api: Api, clock: ManualClock) -> None:
    """Jobs are listed newest first, in pages that a cursor continues, and can be filtered by status."""
    ids = []
    for second in range(3):
        clock.set(clock.now().replace(second=second))
        ids.append((await submit(api))["job_id"])
    first = (await api.client.get("/v1/jobs?limit=2")).json()
    assert [job["job_id"] for job in first["jobs"]] == [ids[2], ids[1]]
    assert set(first["jobs"][0]) >= {"job_id", "status", "created_at", "progress"}
    second = (await api.client.get(f"/v1/jobs?limit=2&cursor={first['next_cursor']}")).json()
    assert ([job["job_id"] for job in second["jobs"]], second["next_cursor"]) == ([ids[0]], None)
    assert (await api.client.get("/v1/jobs?status=completed")).json()["jobs"] == []


async def test_deleting_a_queued_job_fails_it(api: Api) -> None:
    """A queued job that is deleted fails with "Cancelled by user" and is not claimed by a worker."""
    accepted = await submit(api)
    response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}")
    assert (response.status_code, response.json()["error"]) == (200, "Cancelled by user")
    assert await api.queue.claim("default", "w") is None


async def test_deleting_a_finished_job_does_not_change_it(api: Api) -> None:
    """A completed job stays completed when it is deleted."""
    accepted = await submit(api)
    await work(api)
    response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}")
    assert (response.status_code, response.json()["status"]) == (200, "completed")


async def test_deleting_a_running_job_requests_its_cancellation(clock: ManualClock) -> None:
    """Deleting a running job returns 202 with cancel_requested_at set until its worker has stopped it."""
    config = ApiConfig(api_key=KEY, cancel_wait_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        accepted = await submit(api)
        assert await api.queue.claim("default", "w") is not None
        response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}")
        assert (response.status_code, response.json()["status"]) == (202, "running")
        assert response.json()["cancel_requested_at"] is not None


async def test_the_log_of_each_attempt_is_shown(api: Api) -> None:
    """The log of each attempt is returned as text, and an attempt without a log gets a problem."""
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
    """Input files given as base64, as a URL or as an upload are stored, each under its name."""
    upload_request = {"size_bytes": len(PNG), "content_type": "image/png"}
    created = (await api.client.post("/v1/uploads", json=upload_request)).json()
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


async def test_a_long_prompt_is_kept_in_full(api: Api) -> None:
    """A prompt longer than the spool's threshold is stored in full and not as an input file."""
    prompt = "a cat, " * 12_000
    accepted = await submit(api, inputs=[{"node": "2", "field": "filename_prefix", "value": prompt}])
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert [given.value for given in await api.stores.jobs.inputs(record)] == [prompt]


async def test_long_inputs_are_stored_outside_the_record(api: Api) -> None:
    """Long inputs are stored outside the job's record, which stays small, and are purged with the job."""
    texts = [{"node": "2", "field": "filename_prefix", "value": "€" * 300_000}] * 3
    accepted = await submit(api, inputs=texts, webhook_events=[])
    record = (await api.stores.jobs.read("default", accepted["job_id"])).record
    assert len(record.model_dump_json()) < 10_000
    assert [given.model_dump() for given in await api.stores.jobs.inputs(record)] == texts
    assert (await api.client.delete(f"/v1/jobs/{record.job_id}?purge=true")).status_code == 204
    assert not [key for key in await api.keys() if key.endswith("values.json")]


async def test_inputs_of_many_lists_are_stored_outside_the_record(api: Api) -> None:
    """Inputs with thousands of lists, which take long to parse for their length, are stored outside the record."""
    given = [{"node": "2", "field": "filename_prefix", "value": {"__value__": [[]] * 3_000}}]
    record = (await api.stores.jobs.read("default", (await submit(api, inputs=given))["job_id"])).record
    assert record.inputs == ()
    assert [one.model_dump() for one in await api.stores.jobs.inputs(record)] == given


async def test_long_inputs_of_a_batch_are_stored_outside_its_records(api: Api) -> None:
    """Each job of a batch keeps its own long inputs outside its record."""
    sets = [[{"node": "2", "field": "filename_prefix", "value": letter * 100_000}] for letter in "ab"]
    response = await api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": sets})
    jobs = [(await api.stores.jobs.read("default", job["job_id"])).record for job in response.json()["jobs"]]
    found = [[given.model_dump() for given in await api.stores.jobs.inputs(job)] for job in jobs]
    assert (found, [job.inputs for job in jobs]) == (sets, [(), ()])


async def test_known_node_classes_are_checked(api: Api) -> None:
    """A node class that the engine lacks is refused once a worker has published the engine's classes."""
    await api.stores.engine_info.publish("default", {"EmptyImage": {"input": {}, "output": ["IMAGE"]}})
    response = await api.client.post("/v1/jobs", json={"workflow": BLUE})
    assert response.json()["type"] == "/problems/unknown-node-class"
    assert response.json()["pointer"] == "/workflow/2/class_type"


async def test_a_graph_that_the_engine_would_refuse_is_refused_with_all_errors(api: Api) -> None:
    """All errors of a graph are reported with pointers into the request, and again in ComfyUI's own format."""
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


async def test_a_loader_may_name_an_input_file_of_the_job(api: Api) -> None:
    """A loader accepts the name of an input file of the job, and a name without such a file is refused."""
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
async def test_requests_without_a_valid_key_are_refused(memory_api: Api, header: str | None) -> None:
    """A request without a valid key gets 401 with a challenge, while probes stay open."""
    async with httpx.AsyncClient(base_url=memory_api.client.base_url, verify=NO_TLS) as client:
        headers = {} if header is None else {"authorization": header}
        response = await client.get("/v1/jobs", headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "/problems/unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/health")).json() == {"status": "ok", "version": __version__}
        assert (await client.get("/ready")).status_code == 200


async def test_an_api_without_a_key_refuses_every_request(clock: ManualClock) -> None:
    """An API without a configured key refuses every request that needs a key."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=None)) as api:
        assert (await api.client.get("/v1/jobs")).status_code == 401


async def test_the_docs_page_loads_only_its_own_files(memory_api: Api) -> None:
    """The docs page loads only files of this API, and its content security policy forbids all others."""
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
    """Each problem type is a path of this API that explains what to do."""
    for path in (await memory_api.client.get("/problems")).json():
        assert "What to do" in (await memory_api.client.get(path)).text


async def test_responses_carry_security_headers(memory_api: Api) -> None:
    """Every response has the security headers and a request id."""
    headers = (await memory_api.client.get("/v1/jobs")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_shipped_examples_are_accepted(memory_api: Api) -> None:
    """Each shipped example workflow is accepted unchanged."""
    for name in shipped():
        assert (await memory_api.client.post("/v1/jobs", json={"workflow": example(name)})).status_code == 202


@pytest.mark.parametrize(("count", "thread"), [(2, "MainThread"), (300, "heavy")])
async def test_many_outputs_are_rendered_off_the_event_loop(
    memory_api: Api, monkeypatch: pytest.MonkeyPatch, count: int, thread: str
) -> None:
    """URLs of a job with many outputs are signed in a thread, because a thousand of them take 30 ms."""
    job_id = (await submit(memory_api))["job_id"]
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    now = memory_api.stores.clock.now()
    outputs = tuple(OUTPUT.model_copy(update={"filename": f"{number}.png"}) for number in range(count))
    await memory_api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=outputs))
    threads: set[str] = set()
    sign = memory_api.objects.presign_get

    def signing(*args: Any, **options: Any) -> Any:
        threads.add(threading.current_thread().name.partition("_")[0])
        return sign(*args, **options)

    monkeypatch.setattr(memory_api.objects, "presign_get", signing)
    assert len((await memory_api.client.get(f"/v1/jobs/{job_id}")).json()["outputs"]) == count
    assert threads == {thread}
