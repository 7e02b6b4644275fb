"""Refusals of Comfy API v2: every one is in the form that its clients map, whatever part of the API refuses."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from app.comfy_v2.errors import CODES, code_of, rendered
from app.comfy_v2.routes import OPERATIONS
from app.config import ApiConfig
from app.problems import PROBLEM_TYPES, Problem
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.contract.comfy_v2.shapes import refused
from tests.support.api_server import BLUE, KEY, Api, running_api
from workers.lite.nodes import node_classes

pytestmark = pytest.mark.anyio

JOBS = "/api/v2/jobs"
EDITOR_FILE = {"nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4}


@pytest.mark.parametrize("slug", PROBLEM_TYPES)
def test_every_problem_has_a_code(slug: str) -> None:
    """Each problem type has one of this API's codes, and no error where the clients see one of Comfy Router."""
    problem = Problem(slug, "why")
    assert code_of(problem) in CODES
    answer = rendered(problem)
    assert answer.status_code in {*CODES.values(), 415, 507}
    assert "x-comfy-error-type" not in answer.headers


async def test_requests_without_a_valid_key_are_refused(memory_api: Api) -> None:
    """A request without a key, or with a wrong one, is unauthorized; the health check needs none."""
    for given in ("", "Bearer wrong", "Basic x"):
        answer = await memory_api.client.get(JOBS, headers={"authorization": given})
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    health = await memory_api.client.get("/api/v2/health", headers={"authorization": ""})
    assert (health.status_code, health.json()) == (200, {"status": "healthy"})
    assert health.headers["x-comfy-request-id"] == health.headers["x-request-id"]


async def test_a_key_without_the_scope_is_forbidden(memory_api: Api) -> None:
    """A key that may only read can neither submit nor cancel."""
    async with await memory_api.client_of("acme", "jobs:read") as reader:
        assert (await reader.get(JOBS)).status_code == 200
        refused(await reader.post(JOBS, json={"workflow": BLUE}), 403, "forbidden")
        refused(await reader.post(f"{JOBS}/x/cancel"), 403, "forbidden")


async def test_unknown_paths_and_methods_are_refused(memory_api: Api) -> None:
    """Errors of the router have this API's form too."""
    refused(await memory_api.client.get("/api/v2/nothing"), 404, "not_found")
    answer = await memory_api.client.put(JOBS)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]
    assert (await memory_api.client.get("/v1/nothing")).headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"{", 400, "invalid_request", "line 1"),
        (b"[]", 422, "invalid_request", "not a JSON object"),
        (b"{}", 422, "invalid_request", "`workflow` is required"),
        (b'{"workflow": null}', 422, "invalid_request", "`workflow` is null"),
    ],
)
async def test_bad_documents_are_refused(memory_api: Api, body: bytes, status: int, code: str, words: str) -> None:
    """A body that is no submission is refused, and the message says what is wrong."""
    answer = await memory_api.client.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert words in refused(answer, status, code)["message"]


async def test_a_body_that_is_too_large_is_refused(clock: ManualClock) -> None:
    """A body beyond the limit is refused in this API's form."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, max_request_bytes=10)) as api:
        refused(await api.client.post(JOBS, json={"workflow": BLUE}), 413, "payload_too_large")


@pytest.mark.parametrize("field", ["webhook_url", "inputs", "priority"])
async def test_other_members_are_refused(memory_api: Api, field: str) -> None:
    """Members that this API reserves or does not have are refused by name, also where they are null."""
    error = refused(await memory_api.client.post(JOBS, json={"workflow": BLUE, field: None}), 422, "invalid_request")
    assert error["message"].startswith(f"/{field}: ")
    assert error["details"]["pointer"] == f"/{field}"


async def test_invalid_graphs_name_the_node(memory_api: Api) -> None:
    """A graph with faults is refused with ComfyUI's node_errors, and the editor's format with a code of its own."""
    broken = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["7", 0]}}}
    error = refused(await memory_api.client.post(JOBS, json={"workflow": broken}), 422, "invalid_workflow")
    assert "1" in error["message"]
    refused(await memory_api.client.post(JOBS, json={"workflow": EDITOR_FILE}), 422, "workflow_format_ui")
    refused(await memory_api.client.post(JOBS, json={"workflow": {}}), 422, "invalid_workflow")


async def test_a_missing_file_is_a_missing_asset(memory_api: Api) -> None:
    """A graph that loads a file that was never uploaded is refused, and the advice names no field of /v1."""
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "nothing.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    await memory_api.stores.engine_info.publish(
        "default", {name: node.object_info() for name, node in node_classes().items()}
    )
    error = refused(await memory_api.client.post(JOBS, json={"workflow": graph}), 422, "missing_asset")
    assert "media" not in error["details"]["hint"]


EXTRA: list[Any] = [{}, {"extra_pnginfo": {}}, {"api_key_comfy_org": ""}, {"api_key_comfy_org": 1}, "x"]


@pytest.mark.parametrize("extra", EXTRA)
async def test_extra_data_takes_the_partner_key_alone(memory_api: Api, extra: Any) -> None:
    """Other members of extra_data, and a key that is none, are refused."""
    answer = await memory_api.client.post(JOBS, json={"workflow": BLUE, "extra_data": extra})
    error = refused(answer, 422, "invalid_request")
    assert error["details"]["pointer"].startswith("/extra_data")


BAD_LABELS: list[tuple[Any, str]] = [
    ("x", ""),
    ({"": "x"}, ""),
    ({"ä": "x"}, "ä"),
    ({"a" * 41: "x"}, "a" * 41),
    ({"a": 1}, "a"),
    ({"a": "x" * 257}, "a"),
    ({"a": "ä" * 129}, "a"),
    ({"a": "line\n"}, "a"),
    ({"a": "\u009f"}, "a"),
    ({"a": "\u202e"}, "a"),
    ({"a": "\u2066"}, "a"),
    ({str(number): "x" for number in range(17)}, ""),
]


@pytest.mark.parametrize(("labels", "key"), BAD_LABELS)
async def test_invalid_labels_are_named(memory_api: Api, labels: Any, key: str) -> None:
    """An invalid label is refused by its key."""
    answer = await memory_api.client.post(JOBS, json={"workflow": BLUE, "metadata": labels})
    error = refused(answer, 422, "metadata_invalid")
    assert error["details"].get("key", "") == key


async def test_the_longest_labels_are_accepted(memory_api: Api) -> None:
    """Sixteen labels with keys of 40 characters and values of 256 bytes are stored as they were sent."""
    labels = {f"{number:02}{'k' * 37}.": "ä" * 128 for number in range(16)}
    answer = await memory_api.client.post(JOBS, json={"workflow": BLUE, "metadata": labels})
    assert answer.json()["metadata"] == labels


FILTERS = [
    ("metadata[]=x", 400, "invalid_metadata_filter"),
    ("&".join(f"metadata[k{number}]=x" for number in range(4)), 400, "invalid_metadata_filter"),
    (f"metadata[a]={'x' * 600}", 400, "invalid_metadata_filter"),
    ("cursor=nonsense", 400, "invalid_cursor"),
    (f"cursor={base64.urlsafe_b64encode(b'x').decode()}", 400, "invalid_cursor"),
    ("limit=0", 422, "invalid_request"),
    ("limit=x", 422, "invalid_request"),
    ("status=queued", 422, "invalid_request"),
]


@pytest.mark.parametrize(("query", "status", "code"), FILTERS)
async def test_a_bad_list_request_is_refused(memory_api: Api, query: str, status: int, code: str) -> None:
    """A filter, cursor or parameter that the list does not take is refused rather than ignored."""
    refused(await memory_api.client.get(f"{JOBS}?{query}"), status, code)


async def test_too_many_requests_may_be_repeated_soon(clock: ManualClock) -> None:
    """A key that sends too fast is refused with the seconds to wait."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, max_requests_per_s=0.5)) as api:
        await api.client.get(JOBS)
        answer = await api.client.get(JOBS)
        refused(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 2


def test_a_wait_of_hours_is_not_advised() -> None:
    """A quota of the day answers without Retry-After, on which the official clients would wait in vain."""
    for seconds, named in (("5", True), ("60", True), ("61", False), ("40000", False)):
        answer = rendered(Problem("too-many-bytes", "why", headers={"Retry-After": seconds}))
        assert (answer.status_code, "retry-after" in answer.headers) == (429, named)


def test_docs_name_every_code_and_no_other() -> None:
    """docs/how-to/comfy-sdk.md lists the code and the status of every refusal in the order of the code."""
    text = (Path(__file__).parents[3] / "docs/how-to/comfy-sdk.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d+) \|", text, re.MULTILINE)
    assert rows == [(code, str(status)) for code, status in CODES.items()]


def test_docs_name_every_operation_and_no_other() -> None:
    """docs/how-to/comfy-sdk.md has a row for every operation."""
    text = (Path(__file__).parents[3] / "docs/how-to/comfy-sdk.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+ /api/v2/\S+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(f"{one.method.upper()} {one.path}" for one in OPERATIONS)
