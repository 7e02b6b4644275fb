"""Refusals of the HTTP API: each has its own problem type and leaves nothing stored."""

import asyncio
import base64
from typing import Any

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api

pytestmark = pytest.mark.anyio


def changed(node: str, field: str, value: Any) -> dict[str, Any]:
    return BLUE | {node: {**BLUE[node], "inputs": {**BLUE[node]["inputs"], field: value}}}


def media(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"workflow": BLUE, "media": list(entries)}


GOOD = base64.b64encode(PNG).decode()
PICTURE = base64.b64encode(PNG).decode()
BAD_RECEIVERS = (
    "http://[",
    "https://",
    "https:///path",
    "https://user:password@h.example/",
    "https://h.example:99999/",
    "https://h.example:x/",
    "https://h.example:0/",
    "https://h.example/a b",
    "https://h.example/\u2028",
)

BAD_SUBMISSIONS: list[tuple[str, Any, int, str, str | None]] = [
    ("no workflow", {}, 422, "missing-workflow", "/workflow"),
    ("a prompt's body", {"workflow": {"prompt": BLUE}}, 422, "not-a-workflow", "/workflow/prompt"),
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
        "a class that runs code",
        {"workflow": {**BLUE, "3": {"class_type": "RunPython", "inputs": {}}}},
        422,
        "node-not-allowed",
        "/workflow/3/class_type",
    ),
    ("a long name", {"workflow": {**BLUE, "3" * 300: BLUE["1"]}}, 422, "bad-node", f"/workflow/{'3' * 256}"),
    (
        "many inputs",
        {"workflow": {**BLUE, "3": {"class_type": "A", "inputs": {f"x{n}": n for n in range(1_001)}}}},
        422,
        "bad-node",
        "/workflow/3/inputs",
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
    (
        "a picture that ends early",
        media({"name": "a.png", "data": base64.b64encode(PNG[:40]).decode()}),
        422,
        "bad-medium",
        "/media/0/data",
    ),
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
        "a medium with the name of an input's file",
        {
            "workflow": BLUE,
            "inputs": [{"node": "2", "field": "filename_prefix", "value": PICTURE, "type": "image_base64"}],
            "media": [{"name": "input_2_0.png", "data": GOOD}],
        },
        422,
        "duplicate-media-name",
        "/inputs",
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
    *(
        (f"webhook to {url}", {"workflow": BLUE, "webhook_url": url}, 422, "validation-error", "/webhook_url")
        for url in BAD_RECEIVERS
    ),
    ("a pool that is not there", {"workflow": BLUE, "gpu": "H100"}, 422, "unknown-gpu", "/gpu"),
    (
        "a picture behind a dead URL",
        {
            "workflow": BLUE,
            "inputs": [{"node": "1", "field": "width", "value": "http://h/down", "type": "image_url"}],
        },
        422,
        "fetch-failed",
        "/inputs/0/value",
    ),
    ("queue limit of ages", {"workflow": BLUE, "queue_timeout_s": 10**13}, 422, "validation-error", "/queue_timeout_s"),
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
async def test_a_bad_submission_is_refused_and_stores_nothing(
    memory_api: Api, body: Any, status: int, slug: str, pointer: str | None
) -> None:
    """A bad submission gets a problem with status, type, pointer and hint, and nothing is stored."""
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


async def test_a_long_name_is_shortened_in_a_problem(memory_api: Api) -> None:
    """A problem repeats at most 200 characters of a pool's name or an upload's id."""
    long = "n" * 100_000
    for path, body in (
        ("/v1/workflows/inspect", {"workflow": BLUE, "gpu": long}),
        ("/v1/jobs", media({"name": "a.png", "upload_id": long})),
    ):
        response = await memory_api.client.post(path, json=body)
        assert response.status_code == 422
        assert "n" * 190 in response.text
        assert len(response.text) < 1_000


@pytest.mark.parametrize("url", BAD_RECEIVERS)
async def test_a_test_webhook_to_an_invalid_url_is_refused(memory_api: Api, url: str) -> None:
    """A test webhook to an invalid URL is refused, and nothing is stored."""
    response = await memory_api.client.post("/v1/webhooks/test", json={"url": url})
    assert (response.status_code, response.json()["pointer"]) == (422, "/url")
    assert await memory_api.keys() == ()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", media({"name": "a.png", "upload_id": "x" * 10_000})),
        ("/v1/jobs", media({"name": "a.png", "asset_id": "x" * 10_000})),
        ("/v1/jobs", {"workflow": BLUE, "gpu": "x" * 10_000}),
        ("/v1/workflows/inspect", {"workflow": BLUE, "gpu": "x" * 10_000}),
        ("/v1/workflows/convert", {"workflow": BLUE, "gpu": "x" * 10_000}),
    ],
)
async def test_an_error_repeats_the_start_of_a_long_name(memory_api: Api, path: str, body: Any) -> None:
    """An error that names what does not exist repeats at most 200 characters of the name."""
    response = await memory_api.client.post(path, json=body)
    assert response.status_code == 422
    assert "x" * 201 not in response.text


async def test_a_refusal_stores_nothing_on_the_real_server(s3_objects: ObjectStore, clock: ManualClock) -> None:
    """Input files that were stored before a bad file are removed from the real S3 server."""
    async with running_api(s3_objects, clock) as api:
        body = media({"name": "a.png", "data": GOOD}, {"name": "b.png", "data": "!!"})
        assert (await api.client.post("/v1/jobs", json=body)).status_code == 422
        assert await api.keys() == ()


async def test_media_above_the_size_limit_get_the_first_versions_400(clock: ManualClock) -> None:
    """An input file of 51 MiB, where 50 MiB are allowed, gets the first version's 400, and nothing is stored."""
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
async def test_every_limit_is_enforced(clock: ManualClock, limit: dict[str, Any], body: Any, slug: str) -> None:
    """A submission that exceeds a configured limit is refused with that limit's problem."""
    config = ApiConfig(api_key=KEY, **limit)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        response = await api.client.post("/v1/jobs", json=body)
        assert response.json()["type"] == f"/problems/{slug}"
        assert await api.keys() == ()


@pytest.mark.parametrize("limit", [{"body_idle_s": 0.2}, {"max_body_s": 0.2}])
async def test_a_body_that_does_not_arrive_in_time_is_refused(clock: ManualClock, limit: dict[str, Any]) -> None:
    """A request whose body does not arrive in time gets 408, and the connection ends."""
    head = f"POST /v1/jobs HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {KEY}\r\n"
    head += "content-type: application/json\r\ncontent-length: 100\r\n\r\n"
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, **limit)) as api:
        reader, writer = await asyncio.open_connection(api.client.base_url.host, api.client.base_url.port)
        writer.write(head.encode())
        for _ in range(3):
            writer.write(b" ")
            await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/request-timeout" in answer


@pytest.mark.parametrize(
    ("raw", "content_type", "status", "slug"),
    [
        (b"{", "application/json", 400, "malformed-json"),
        (b'{"workflow": NaN}', "application/json", 400, "malformed-json"),
        (b"[" * 100_000, "application/json", 400, "malformed-json"),
        (b'{"workflow": ' + b"[" * 100 + b"]" * 100 + b"}", "application/json", 400, "malformed-json"),
        (b'{"workflow": {"1": "\\ud800"}}', "application/json", 400, "malformed-json"),
        (b'{"metadata": {"\\udfff": "x"}}', "application/json", 400, "malformed-json"),
        (b'{"workflow": "' + b"x" * 70_000 + b'\\ud800"}', "application/json", 400, "malformed-json"),
        (b"{}", "text/plain", 415, "unsupported-media-type"),
    ],
)
async def test_a_body_that_is_not_json_is_refused(
    memory_api: Api, raw: bytes, content_type: str, status: int, slug: str
) -> None:
    """A body is refused if its content type or its content is not JSON."""
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
        ("GET", "/docs/secret", 404, "not-found"),
        ("DELETE", f"/v1/jobs/{UNKNOWN}?purge=maybe", 422, "invalid-parameter"),
    ],
)
async def test_a_bad_request_is_a_problem(memory_api: Api, method: str, path: str, status: int, slug: str) -> None:
    """Each bad request gets a problem of its own type."""
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
    """A bad upload is refused before anything is signed or stored."""
    response = await memory_api.client.post("/v1/uploads", json=body)
    assert response.json()["type"] == f"/problems/{slug}"
    assert await memory_api.keys() == ()
