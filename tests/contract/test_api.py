"""The HTTP face on a real server, over the in-memory store and the real S3 server."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.config import ApiConfig
from storage.clock import ManualClock
from storage.memory import MemoryObjectStore
from storage.objects import ObjectStore
from storage.record import Output, ProgressDetails
from tests.support.api_server import KEY, PNG, Api, running_api
from workflows import examples

pytestmark = pytest.mark.anyio

BLUE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
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
    now = api.services.clock.now()
    await api.services.jobs.evolve_from(claimed, lambda r: r.complete(attempt=r.attempt, now=now, outputs=outputs))


async def test_a_submission_is_stored_before_it_is_answered(api: Api) -> None:
    """The first version's fields, and a worker asked for."""
    accepted = await submit(api, priority=3, metadata={"order": "4711"}, timeout_s=9)
    assert accepted["status"] == "queued"
    assert accepted["estimated_time"] == 30
    assert accepted["created_at"] == "2026-11-23T12:00:00.000000+00:00"
    stored = await api.services.jobs.read("default", accepted["job_id"])
    assert (stored.record.priority, stored.record.timeout_s) == (3, 9)
    assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}/workflow")).json() == BLUE
    assert api.services.launcher.spawned == ["default"]  # type: ignore[attr-defined]  # the in-memory one counts


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
    assert set(first["jobs"][0]) == {"job_id", "status", "created_at", "progress"}
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
        await asyncio.sleep(1.5)
        requests = memory_api.objects.requests  # type: ignore[attr-defined]  # the in-memory store counts
        before = requests["GET"]
        await asyncio.sleep(2.2)
        assert requests["GET"] - before <= 4
        now = memory_api.services.clock.now()
        await memory_api.services.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=()))
        answers = await asyncio.gather(*waiting)
    assert {answer.json()["status"] for answer in answers} == {"completed"}


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
    now = api.services.clock.now()
    await api.services.jobs.evolve_from(
        claimed,
        lambda r: r.report(attempt=1, now=now, lease_s=60, progress=42, details=details, outputs=(OUTPUT,)),
    )
    job = (await api.client.get(url)).json()
    assert (job["progress"], job["progress_details"]["step"], len(job["outputs"])) == (42, "3/8", 1)


async def test_media_of_every_kind_are_stored(api: Api) -> None:
    """base64 in the body, a URL, an upload: the worker finds each under its name."""
    created = (await api.client.post("/v1/uploads", json={"size_bytes": 3, "content_type": "image/png"})).json()
    await api.objects.put(f"tenants/default/uploads/{created['upload_id']}/data", b"abc", content_type="image/png")
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
    record = (await api.services.jobs.read("default", accepted["job_id"])).record
    assert {medium.name for medium in record.media} == {"a.png", "b.png", "c.png", "input_2_1.png"}
    bodies = {medium.name: (await api.objects.get(medium.key)).body for medium in record.media}
    assert (bodies["a.png"], bodies["b.png"], bodies["c.png"]) == (PNG, PNG, b"abc")
    assert record.inputs[1].value == "input_2_1.png"


async def test_a_long_prompt_is_kept_whole(api: Api) -> None:
    """A text beyond the spool's threshold is no medium, and is not cut."""
    prompt = "a cat, " * 12_000
    accepted = await submit(api, inputs=[{"node": "2", "field": "filename_prefix", "value": prompt}])
    record = (await api.services.jobs.read("default", accepted["job_id"])).record
    assert record.inputs[0].value == prompt


async def test_known_node_classes_are_checked(api: Api) -> None:
    """Once a worker has said what its engine can do."""
    await api.services.engine_info.publish("default", {"EmptyImage": {"input": {}, "output": ["IMAGE"]}})
    response = await api.client.post("/v1/jobs", json={"workflow": BLUE})
    assert response.json()["type"] == "/problems/unknown-node-class"
    assert response.json()["pointer"] == "/workflow/2/class_type"


def changed(node: str, field: str, value: Any) -> dict[str, Any]:
    return BLUE | {node: {**BLUE[node], "inputs": {**BLUE[node]["inputs"], field: value}}}


def media(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"workflow": BLUE, "media": list(entries)}


GOOD = base64.b64encode(b"good").decode()
BAD_SUBMISSIONS: list[tuple[str, Any, int, str, str | None]] = [
    ("no workflow", {}, 422, "missing-workflow", "/workflow"),
    ("null workflow", {"workflow": None}, 422, "missing-workflow", "/workflow"),
    ("UI format", {"workflow": {"nodes": [], "links": []}}, 422, "ui-format-workflow", "/workflow"),
    ("a list", {"workflow": []}, 422, "not-a-workflow", "/workflow"),
    ("no nodes", {"workflow": {}}, 422, "not-a-workflow", "/workflow"),
    ("a node without class", {"workflow": {"1": {"inputs": {}}}}, 422, "bad-node", "/workflow/1"),
    (
        "dangling link",
        {"workflow": changed("2", "images", ["9", 0])},
        422,
        "dangling-link",
        "/workflow/2/inputs/images",
    ),
    ("cycle", {"workflow": changed("1", "width", ["2", 0])}, 422, "workflow-cycle", None),
    (
        "no leaf",
        {"workflow": {"1": {"class_type": "A", "inputs": {"x": ["1", 0]}}}},
        422,
        "workflow-cycle",
        "/workflow/1",
    ),
    (
        "unknown input node",
        {"workflow": BLUE, "inputs": [{"node": "7", "field": "x", "value": 1}]},
        422,
        "unknown-input-node",
        "/inputs/0/node",
    ),
    (
        "unknown input field",
        {"workflow": BLUE, "inputs": [{"node": "1", "field": "widht", "value": 1}]},
        422,
        "unknown-input-field",
        "/inputs/0/field",
    ),
    ("11 media", media(*({"name": f"{n}.png", "data": GOOD} for n in range(11))), 422, "too-many-media", "/media"),
    ("bad base64", media({"name": "a.png", "data": "!!"}), 422, "bad-base64", "/media/0/data"),
    ("empty medium", media({"name": "a.png", "data": ""}), 422, "bad-base64", "/media/0/data"),
    ("path in a name", media({"name": "../a.png", "data": GOOD}), 422, "bad-media-name", "/media/0/name"),
    ("hidden name", media({"name": ".env", "data": GOOD}), 422, "bad-media-name", "/media/0/name"),
    ("empty name", media({"name": "", "data": GOOD}), 422, "bad-media-name", "/media/0/name"),
    (
        "one name twice",
        media({"name": "a.png", "data": GOOD}, {"name": "a.png", "data": GOOD}),
        422,
        "duplicate-media-name",
        "/media/1/name",
    ),
    (
        "two sources",
        media({"name": "a", "data": GOOD, "url": "https://x.y/z"}),
        422,
        "media-source-ambiguous",
        "/media/0",
    ),
    ("no source", media({"name": "a.png"}), 422, "media-source-ambiguous", "/media/0"),
    ("unknown upload", media({"name": "a.png", "upload_id": "nope"}), 422, "unknown-upload", "/media/0/upload_id"),
    ("private URL", media({"name": "a.png", "url": "http://h/private"}), 422, "fetch-refused", "/media/0/url"),
    ("dead URL", media({"name": "a.png", "url": "http://h/down"}), 422, "fetch-failed", "/media/0/url"),
    ("priority is a text", {"workflow": BLUE, "priority": "high"}, 422, "validation-error", "/priority"),
    ("priority too high", {"workflow": BLUE, "priority": 10**9}, 422, "validation-error", "/priority"),
    ("timeout of zero", {"workflow": BLUE, "timeout_s": 0}, 422, "validation-error", "/timeout_s"),
    ("timeout too long", {"workflow": BLUE, "timeout_s": 10**6}, 422, "validation-error", "/timeout_s"),
    ("metadata of numbers", {"workflow": BLUE, "metadata": {"a": 1}}, 422, "validation-error", "/metadata/a"),
    (
        "17 metadata",
        {"workflow": BLUE, "metadata": {str(n): "" for n in range(17)}},
        422,
        "validation-error",
        "/metadata",
    ),
    ("webhook is no URL", {"workflow": BLUE, "webhook_url": "ftp://x"}, 422, "validation-error", "/webhook_url"),
    ("unknown event", {"workflow": BLUE, "webhook_events": ["no"]}, 422, "validation-error", "/webhook_events/0"),
    ("unknown field", {"workflow": BLUE, "wait": True}, 422, "validation-error", "/wait"),
    ("inputs is an object", {"workflow": BLUE, "inputs": {}}, 422, "validation-error", "/inputs"),
    ("body is a list", [], 422, "validation-error", ""),
    (
        "picture is a number",
        {"workflow": BLUE, "inputs": [{"node": "1", "field": "width", "value": 1, "type": "image_base64"}]},
        422,
        "validation-error",
        "/inputs/0/value",
    ),
]


@pytest.mark.parametrize(
    ("body", "status", "slug", "pointer"),
    [case[1:] for case in BAD_SUBMISSIONS],
    ids=[case[0] for case in BAD_SUBMISSIONS],
)
async def test_a_bad_submission_is_refused_and_leaves_nothing(
    memory_api: Api, body: Any, status: int, slug: str, pointer: str | None
) -> None:
    """Status, stable type, place, and what to do; the bucket is as it was."""
    response = await memory_api.client.post("/v1/jobs", json=body)
    problem = response.json()
    assert (response.status_code, problem["type"]) == (status, f"/problems/{slug}"), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["hint"]
    if pointer is not None:
        assert problem["pointer"] == pointer
    assert await memory_api.keys() == ()


async def test_a_refusal_leaves_nothing_on_the_real_server(s3_objects: ObjectStore, clock: ManualClock) -> None:
    """Also when good media came before the bad one."""
    async with running_api(s3_objects, clock) as api:
        body = media({"name": "a.png", "data": GOOD}, {"name": "b.png", "data": "!!"})
        assert (await api.client.post("/v1/jobs", json=body)).status_code == 422
        assert await api.keys() == ()


async def test_media_beyond_the_limit_are_the_first_versions_400(clock: ManualClock) -> None:
    """51 MB in base64 where 50 are allowed; more nodes and longer texts than allowed."""
    async with running_api(MemoryObjectStore(clock), clock) as api:
        body = media({"name": "a.bin", "data": base64.b64encode(bytes(51 * 1024**2)).decode()})
        response = await api.client.post("/v1/jobs", json=body)
        assert (response.status_code, response.json()["type"]) == (400, "/problems/medium-too-large")
        assert await api.keys() == ()


@pytest.mark.parametrize(
    ("limit", "body", "slug"),
    [
        ({"max_nodes": 1}, {"workflow": BLUE}, "too-many-nodes"),
        ({"max_text_bytes": 1000}, {"workflow": changed("2", "filename_prefix", "x" * 70_000)}, "text-too-long"),
        ({"max_request_bytes": 100}, {"workflow": BLUE}, "request-too-large"),
        (
            {"max_inputs": 0},
            {"workflow": BLUE, "inputs": [{"node": "1", "field": "width", "value": 1}]},
            "validation-error",
        ),
    ],
)
async def test_every_limit_is_kept(clock: ManualClock, limit: dict[str, Any], body: Any, slug: str) -> None:
    """Each is a setting with a name."""
    config = replace(ApiConfig(api_key=KEY), **limit)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        response = await api.client.post("/v1/jobs", json=body)
        assert response.json()["type"] == f"/problems/{slug}"
        assert await api.keys() == ()


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "slug"),
    [
        (b"{", "application/json", 400, "malformed-json"),
        (b'{"workflow": NaN}', "application/json", 400, "malformed-json"),
        (b"[" * 100_000, "application/json", 400, "malformed-json"),
        (b'{"workflow": ' + b"[" * 100 + b"]" * 100 + b"}", "application/json", 400, "malformed-json"),
        (b"{}", "text/plain", 415, "unsupported-media-type"),
    ],
)
async def test_what_is_not_json_is_refused(
    memory_api: Api, raw: bytes, content_type: str, status: int, slug: str
) -> None:
    """By what it says it is, and by what it is."""
    response = await memory_api.client.post("/v1/jobs", content=raw, headers={"content-type": content_type})
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{slug}")


UNKNOWN = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", f"/v1/jobs/{UNKNOWN}", 404, "unknown-job"),
        ("GET", "/v1/jobs/..%2f..%2fx", 404, "not-found"),
        ("DELETE", f"/v1/jobs/{UNKNOWN}", 404, "unknown-job"),
        ("GET", f"/v1/jobs/{UNKNOWN}/outputs/0", 404, "unknown-job"),
        ("GET", f"/v1/jobs/{UNKNOWN}/workflow", 404, "unknown-job"),
        ("GET", "/v1/jobs?cursor=nonsense", 422, "bad-cursor"),
        ("GET", "/v1/jobs?limit=0", 422, "invalid-parameter"),
        ("GET", "/v1/jobs?limit=x", 422, "invalid-parameter"),
        ("GET", "/v1/jobs?status=done", 422, "invalid-parameter"),
        ("GET", f"/v1/jobs/{UNKNOWN}?wait=61", 422, "invalid-parameter"),
        ("PUT", "/v1/jobs", 405, "method-not-allowed"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/problems/nothing", 404, "not-found"),
        ("GET", "/docs/../secret", 404, "not-found"),
    ],
)
async def test_a_bad_request_is_a_problem(memory_api: Api, method: str, path: str, status: int, slug: str) -> None:
    """Each with its own type."""
    response = await memory_api.client.request(method, path)
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{slug}")


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ({}, "validation-error"),
        ({"size_bytes": 0}, "validation-error"),
        ({"size_bytes": 6 * 1024**3}, "upload-too-large"),
        ({"size_bytes": 1, "content_type": "x\r\ny"}, "validation-error"),
    ],
)
async def test_a_bad_upload_is_refused(memory_api: Api, body: Any, slug: str) -> None:
    """Before anything is signed."""
    response = await memory_api.client.post("/v1/uploads", json=body)
    assert response.json()["type"] == f"/problems/{slug}"
    assert await memory_api.keys() == ()


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic dXNlcjpwYXNz", "Bearer", KEY])
async def test_without_the_key_nothing_is_told(memory_api: Api, header: str | None) -> None:
    """401 with a challenge; probes and docs are open."""
    async with httpx.AsyncClient(base_url=memory_api.client.base_url) as client:
        headers = {} if header is None else {"authorization": header}
        response = await client.get("/v1/jobs", headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "/problems/unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/health")).json() == {"status": "ok"}
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
    for name in examples.names():
        assert (await memory_api.client.post("/v1/jobs", json={"workflow": examples.load(name)})).status_code == 202
