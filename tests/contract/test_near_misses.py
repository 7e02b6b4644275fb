"""What a newcomer sends: misspelt parameters, bodies of other APIs, a URL where a file belongs."""

import base64
import re
from typing import Any

import pytest

from app.openapi import OPERATIONS
from app.operations import Operation
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.intake.fetch import RemoteFetcher
from tests.support.api_server import BLUE, PNG, Api, running_api

pytestmark = pytest.mark.anyio

EDITOR = {"nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4}
DANGLING = {"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.path.startswith("/v1/")], ids=lambda operation: operation.id
)
async def test_an_unknown_query_parameter_is_refused(memory_api: Api, operation: Operation) -> None:
    """Every operation refuses a query parameter that it does not declare, and names those that it takes."""
    path = operation.path.replace("{name}", "still").replace("{", "").replace("}", "")
    response = await memory_api.client.request(operation.method, path, params={"nonsense": "1"})
    problem = response.json()
    assert (response.status_code, problem["type"]) == (422, "/problems/unknown-parameter")
    takes = [one.written for one in operation.parameters if one.where == "query"]
    assert f"'nonsense'; it takes {', '.join(takes) or 'none'}" in problem["detail"]


@pytest.mark.parametrize(
    ("query", "slug", "words"),
    [
        ("statsu=queued", "unknown-parameter", "did you mean status?"),
        ("metadatas[order]=1", "unknown-parameter", "did you mean metadata?"),
        ("metadata=1", "unknown-parameter", "write it as metadata[NAME]"),
        ("Limit=1", "unknown-parameter", "did you mean limit?"),
        ("limit=1&limit=2", "invalid-parameter", "limit is given more than once"),
    ],
)
async def test_a_near_miss_of_a_parameter_gets_a_suggestion(memory_api: Api, query: str, slug: str, words: str) -> None:
    """A misspelt parameter is refused with the similar name, and a repeated one is refused as well."""
    problem = (await memory_api.client.get(f"/v1/jobs?{query}")).json()
    assert problem["type"] == f"/problems/{slug}"
    assert words in problem["detail"] + problem["hint"]


@pytest.mark.parametrize(
    "query", ["a&" * 32_000, "&".join(f"metadata[{n}]=1" for n in range(101)), "cursor=" + "x" * 33_000]
)
async def test_a_long_query_is_refused_before_it_is_parsed(memory_api: Api, query: str) -> None:
    """A query that would take long to parse is refused, with the limits in the answer."""
    problem = (await memory_api.client.get(f"/v1/jobs?{query}")).json()
    assert (problem["type"], problem["detail"]) == (
        "/problems/invalid-parameter",
        "the query may have 32768 bytes and 100 parameters",
    )


async def test_declared_parameters_and_probes_are_answered(memory_api: Api) -> None:
    """Declared parameters are taken, members of `metadata` among them, and probes may carry any parameter."""
    for path in ("/v1/jobs?limit=1&metadata[a]=1&metadata[b]=2", "/health?x=1", "/.well-known/webhook-keys.json?v=2"):
        assert (await memory_api.client.get(path)).status_code == 200, path


async def test_redirect_is_true_or_false(memory_api: Api) -> None:
    """A value of `redirect` that is neither true nor false is refused."""
    problem = (await memory_api.client.get("/v1/jobs/x/outputs/0?redirect=no")).json()
    assert problem["type"] == "/problems/invalid-parameter"


@pytest.mark.parametrize(
    "body",
    [
        BLUE,
        {"prompt": BLUE},
        {"prompt": BLUE, "client_id": "4f1c", "priority": 3},
        {"input": {"workflow": BLUE}},
        {"input": {"workflow": BLUE, "priority": 3}},
        {"workflow": EDITOR, "output": BLUE},
    ],
)
async def test_bodies_of_other_apis_are_taken(memory_api: Api, body: dict[str, Any]) -> None:
    """A bare graph, ComfyUI's body, RunPod's and what graphToPrompt() returns run as the same graph."""
    accepted = await memory_api.client.post("/v1/jobs", json=body)
    assert accepted.status_code == 202, accepted.text
    job_id = accepted.json()["job_id"]
    assert (await memory_api.client.get(f"/v1/jobs/{job_id}/workflow")).json() == BLUE


@pytest.mark.parametrize("form", [BLUE, {"prompt": BLUE}, {"input": {"workflow": BLUE}}])
async def test_jobs_of_a_batch_may_have_these_forms(memory_api: Api, form: dict[str, Any]) -> None:
    """Each of a batch's jobs may be in the form of another API."""
    accepted = await memory_api.client.post("/v1/batches", json={"jobs": [form, {"workflow": BLUE}]})
    assert accepted.status_code == 202, accepted.text


@pytest.mark.parametrize(
    ("body", "slug", "pointer"),
    [
        (DANGLING, "dangling-link", "/1/inputs/images"),
        ({"prompt": DANGLING}, "dangling-link", "/prompt/1/inputs/images"),
        ({"input": {"workflow": DANGLING}}, "dangling-link", "/input/workflow/1/inputs/images"),
        ({"input": {"workflow": BLUE, "priority": "x"}}, "validation-error", "/input/priority"),
        ({"input": {"workflow": BLUE, "images": []}}, "validation-error", "/input/images"),
        ({"prompt": BLUE, "extra_data": {"extra_pnginfo": {}}}, "validation-error", "/extra_data/extra_pnginfo"),
        ({"input": {"workflow": BLUE}, "webhook": "https://a.example"}, "validation-error", "/webhook"),
        (EDITOR, "ui-format-workflow", ""),
        ({"prompt": EDITOR}, "ui-format-workflow", "/prompt"),
        ({"workflow": EDITOR}, "ui-format-workflow", "/workflow"),
        ({"graph": BLUE}, "missing-workflow", "/workflow"),
        ({"prompt": "a cat"}, "missing-workflow", "/workflow"),
        ({"workflow": "{}"}, "not-a-workflow", "/workflow"),
        ({**BLUE, "webhook_url": "https://a.example"}, "missing-workflow", "/workflow"),
    ],
)
async def test_their_refusals_point_into_the_body_as_sent(
    memory_api: Api, body: dict[str, Any], slug: str, pointer: str
) -> None:
    """A refusal of such a body points to the place where the client wrote it; what is ambiguous is refused."""
    problem = (await memory_api.client.post("/v1/jobs", json=body)).json()
    assert (problem["type"], problem["pointer"]) == (f"/problems/{slug}", pointer), problem
    assert not problem["detail"].startswith("/") or problem["detail"].startswith(f"{pointer}: ")
    batch = (await memory_api.client.post("/v1/batches", json={"jobs": [body]})).json()
    assert batch["type"] == problem["type"]
    if slug != "missing-workflow":
        assert batch["pointer"] == f"/jobs/0{pointer}"


async def test_the_editors_file_is_refused_with_the_way_to_export_it(memory_api: Api) -> None:
    """The editor's own file is refused with the menu entry that exports the API format."""
    for body in (EDITOR, {"workflow": EDITOR}):
        problem = (await memory_api.client.post("/v1/jobs", json=body)).json()
        assert "Workflow → Export (API)" in problem["hint"]


async def test_a_missing_workflow_is_refused_with_an_example(memory_api: Api) -> None:
    """A body without a workflow is refused with the right form, and with the member that was probably meant."""
    assert '{"workflow": {"1": {"class_type"' in (await memory_api.client.post("/v1/jobs", json={})).json()["hint"]
    meant = (await memory_api.client.post("/v1/jobs", json={"graph": BLUE})).json()
    assert "rename `graph` to `workflow`" in meant["hint"]


async def test_a_url_is_a_file_of_a_named_workflow(memory_api: Api) -> None:
    """A named workflow's file may be given by its URL alone."""
    body = {"inputs": {"image": "https://h.example/cat.png"}}
    accepted = await memory_api.client.post("/v1/workflows/still/jobs", json=body)
    assert accepted.status_code == 202, accepted.text
    stored = await memory_api.stores.jobs.read("default", accepted.json()["job_id"])
    assert [(file.name, file.size_bytes) for file in stored.record.input_files] == [("image.png", len(PNG))]


@pytest.mark.parametrize(
    ("image", "slug", "pointer"),
    [
        ("http://h/private", "fetch-refused", "/inputs/image"),
        ({"url": "http://h/private"}, "fetch-refused", "/inputs/image/url"),
        ({"data": "!!"}, "bad-base64", "/inputs/image/data"),
        ({"data": base64.b64encode(PNG).decode(), "filename": "../x"}, "bad-media-name", "/inputs/image/filename"),
        ({}, "media-source-ambiguous", "/inputs/image"),
        ("cat.png", "validation-error", "/inputs/image"),
    ],
)
async def test_a_named_workflows_bad_file_is_pointed_to(memory_api: Api, image: Any, slug: str, pointer: str) -> None:
    """A refusal of a named workflow's file points to the input as the client wrote it."""
    problem = (await memory_api.client.post("/v1/workflows/still/jobs", json={"inputs": {"image": image}})).json()
    assert (problem["type"], problem["pointer"]) == (f"/problems/{slug}", pointer), problem


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b"", "the body is empty"),
        (b"\xff", "the byte at position 0 is not UTF-8"),
        (b"{\n'workflow': 1}", "line 2, column 1"),
    ],
)
async def test_a_body_that_is_not_json_is_described(memory_api: Api, raw: bytes, detail: str) -> None:
    """A body that is not JSON is refused with the place of its first fault."""
    headers = {"content-type": "application/json"}
    problem = (await memory_api.client.post("/v1/jobs", content=raw, headers=headers)).json()
    assert problem["type"] == "/problems/malformed-json"
    assert detail in problem["detail"]


URLS = (
    "ftp://x/y",
    "nonsense",
    "",
    "data:image/png;base64,AAAA",
    "http://[",
    "http://a:x/",
    "http://xn--a/",
    "http://x/\n",
)


@pytest.mark.parametrize("url", URLS)
async def test_a_malformed_url_is_refused_in_plain_words(clock: ManualClock, url: str) -> None:
    """A URL of a file that cannot be fetched is refused without the words of a parser, and so is one of a receiver."""
    async with running_api(MemoryObjectStore(clock), clock, fetcher=RemoteFetcher()) as api:
        value = {"node": "2", "field": "filename_prefix", "type": "image_url", "value": url}
        for body in ({"inputs": [value]}, {"webhook_url": url}):
            problem = (await api.client.post("/v1/jobs", json={"workflow": BLUE} | body)).json()
            assert re.search(r"none of http://, https://|malformed|not a host name|not an http", problem["detail"])
            assert not re.search(r"[A-Z]\w+Error|scheme|Codepoint|cast|Invalid", problem["detail"])


@pytest.mark.parametrize("data", ["!!", "A", "AA=A", "AAAA=", "ä"])
async def test_bad_base64_is_refused_in_plain_words(memory_api: Api, data: str) -> None:
    """Base64 that cannot be decoded is refused with what is wrong with it."""
    body = {"workflow": BLUE, "media": [{"name": "a.png", "data": data}]}
    detail = (await memory_api.client.post("/v1/jobs", json=body)).json()["detail"]
    assert re.search("character|padding|length", detail)
    assert not re.search("Only|Invalid|Leading|string", detail)
