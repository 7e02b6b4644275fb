"""/v1/workflows: the named workflows, and jobs with typed inputs."""

import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import PNG, Api, running_api
from workers.lite.nodes import node_classes
from workflows.library import shipped

pytestmark = pytest.mark.anyio

DATA = base64.b64encode(PNG).decode()


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(MemoryObjectStore(clock), clock) as api:
        yield api


async def post(api: Api, name: str, **document: Any) -> Any:
    return await api.client.post(f"/v1/workflows/{name}/jobs", json=document)


async def test_workflows_are_listed(api: Api, clock: ManualClock) -> None:
    """Workflows are listed with typed inputs, and with whether the engine can run them once that is known."""
    rows = {row["name"]: row for row in (await api.client.get("/v1/workflows")).json()["workflows"]}
    assert list(rows) == list(shipped())
    assert rows["still"]["runnable"] is None
    assert rows["still"]["inputs"][1] == {
        "name": "width",
        "type": "integer",
        "description": "the height follows",
        "required": False,
        "default": 640,
        "min": 16,
        "max": 4096,
        "choices": [],
    }
    classes = {name: declared.object_info() for name, declared in node_classes(faults_too=False).items()}
    await api.stores.engine_info.publish("default", classes)
    clock.set(clock.now() + timedelta(seconds=5))
    rows = {row["name"]: row for row in (await api.client.get("/v1/workflows")).json()["workflows"]}
    assert (rows["still"]["runnable"], rows["still"]["missing"]) == (True, [])
    assert rows["wan22"]["runnable"] is False
    assert any("WanVideoSampler" in what for what in rows["wan22"]["missing"])


async def test_a_workflow_is_shown_with_its_graph(api: Api) -> None:
    """A workflow is shown with its graph, and an unknown name gets a problem that suggests known names."""
    found = (await api.client.get("/v1/workflows/wan22")).json()
    assert found["workflow"]["107"]["class_type"] == "LoadImage"
    assert found["vram_gb"] == 48
    missing = await api.client.get("/v1/workflows/nothing")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/unknown-workflow")
    assert "still" in missing.json()["detail"]
    misspelt = await api.client.get("/v1/workflows/stil")
    assert misspelt.json()["hint"] == "did you mean still?"


async def test_a_job_runs_a_named_workflow(api: Api) -> None:
    """Typed inputs are set at their fields in the graph, and pictures become input files."""
    accepted = await post(
        api, "wan22", inputs={"image": {"data": DATA, "filename": "cat.png"}, "prompt": "rain", "seed": 7}, priority=2
    )
    assert accepted.status_code == 202, accepted.text
    stored = await api.stores.jobs.read("default", accepted.json()["job_id"])
    values = {(value.node, value.field): value.value for value in stored.record.inputs}
    assert values == {
        ("107", "image"): "cat.png",
        ("16", "positive_prompt"): "rain",
        ("27", "seed"): 7,
        ("90", "seed"): 7,
    }
    assert stored.record.priority == 2
    assert (await api.client.get(f"/v1/jobs/{stored.record.job_id}/workflow")).json() == dict(shipped()["wan22"].graph)


async def test_missing_inputs_have_their_defaults(api: Api) -> None:
    """A job without optional inputs uses their defaults, and a medium without a name is named."""
    assert (await post(api, "words")).status_code == 202
    accepted = await post(api, "still", inputs={"image": {"data": DATA}})
    stored = await api.stores.jobs.read("default", accepted.json()["job_id"])
    assert [value.value for value in stored.record.inputs] == ["image.png"]


@pytest.mark.parametrize(
    ("name", "document", "pointer"),
    [
        ("still", {}, "/inputs/image"),
        ("still", {"inputs": {}}, "/inputs/image"),
        ("still", {"inputs": {"image": {"data": DATA}, "width": "320"}}, "/inputs/width"),
        ("still", {"inputs": {"image": {"data": DATA}, "width": 15}}, "/inputs/width"),
        ("still", {"inputs": {"image": {"data": DATA}, "width": 4097}}, "/inputs/width"),
        ("still", {"inputs": {"image": {"data": DATA}, "width": 20.5}}, "/inputs/width"),
        ("still", {"inputs": {"image": {"data": DATA}, "height": 20}}, "/inputs/height"),
        ("still", {"inputs": {"image": "cat.png"}}, "/inputs/image"),
        ("still", {"inputs": {"image": {}}}, "/inputs/image"),
        ("words", {"inputs": {"first": 3}}, "/inputs/first"),
        ("words", {"inputs": {"first": "a"}, "media": [{"name": "a.png", "data": DATA}]}, ""),
        ("wan22", {"inputs": {"image": {"data": DATA}, "attention": "magic"}}, "/inputs/attention"),
        ("wan22", {"inputs": {"image": {"data": DATA}, "width": 1280, "height": 1280, "frames": 161}}, "/inputs"),
        ("wan22", {"inputs": {"image": {"data": DATA}, "width": 1280, "height": 1280}}, "/inputs"),
        ("words", {"priority": 1000000}, "/priority"),
    ],
)
async def test_invalid_inputs_are_refused(api: Api, name: str, document: dict[str, Any], pointer: str) -> None:
    """Invalid inputs are refused with a pointer, and nothing is stored."""
    refused = await post(api, name, **document)
    assert refused.status_code == 422, refused.text
    assert refused.json()["pointer"] == pointer
    assert (await api.client.get("/v1/jobs")).json()["jobs"] == []


async def test_a_job_above_the_workflows_cap_is_refused(api: Api) -> None:
    """The product of width, height and frames is limited, including the defaults of omitted inputs."""
    refused = await post(api, "wan22", inputs={"image": {"data": DATA}, "width": 1280, "height": 1280, "frames": 161})
    text = refused.json()["errors"][0]["detail"] if "errors" in refused.json() else refused.json()["detail"]
    assert "width × height × frames is 263782400, at most 111513600 is allowed: lower one of them" in text
    shown = (await api.client.get("/v1/workflows/wan22")).json()
    assert shown["cap"] == {"inputs": ["width", "height", "frames"], "product": 111513600}
    assert (await post(api, "wan22", inputs={"image": {"data": DATA}, "width": 1280, "height": 720})).is_success


@pytest.mark.parametrize(("given", "limit_s"), [({}, 3600), ({"timeout_s": 60}, 60)])
async def test_a_workflow_sets_the_run_time_limit_of_its_jobs(api: Api, given: dict[str, int], limit_s: int) -> None:
    """A job's own limit precedes its workflow's limit, which precedes the deployment's."""
    accepted = await post(api, "wan21-t2v", inputs={}, **given)
    stored = await api.stores.jobs.read("default", accepted.json()["job_id"])
    assert stored.record.timeout_s == limit_s
    other = await post(api, "words")
    assert (await api.stores.jobs.read("default", other.json()["job_id"])).record.timeout_s == 1800


async def test_an_idempotency_key_belongs_to_one_workflow(api: Api) -> None:
    """A repeated request creates one job, and the same key for another workflow is refused."""
    headers = {"idempotency-key": "k"}
    responses = [await api.client.post("/v1/workflows/words/jobs", json={}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in responses] == [202, 200]
    assert responses[0].json()["job_id"] == responses[1].json()["job_id"]
    other = await api.client.post("/v1/workflows/silence/jobs", json={}, headers=headers)
    assert other.json()["type"] == "/problems/idempotency-key-reused"


async def test_an_asset_is_the_input_of_a_named_workflow(api: Api) -> None:
    """A file input of a named workflow takes an asset, whose bytes are used in place."""
    parts = {"data": {"content_type": "image/png", "file_path": "x.png"}, "files": {"file": PNG}}
    asset_id = (await api.client.post("/api/v2/assets", **parts)).json()["id"]  # type: ignore[arg-type]  # of httpx
    job = await post(api, "still", inputs={"image": {"asset_id": asset_id}})
    assert job.status_code == 202, job.text
    record = (await api.stores.jobs.read("default", job.json()["job_id"])).record
    assert "/uploads/" in record.input_files[0].key
    missing = await post(api, "still", inputs={"image": {"asset_id": "unknown"}})
    assert (missing.status_code, missing.json()["pointer"]) == (422, "/inputs/image/asset_id")
