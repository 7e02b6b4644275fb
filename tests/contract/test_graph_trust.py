"""Graph trust: what the API accepts and refuses by the level of a deployment and of a key."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.config import ApiConfig
from app.submission import batches
from app.submission.acceptance import Identity
from app.submission.batches import AcceptedBatch, BatchAcceptance, PreparedBatch
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.record import JobRecord
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api
from tests.support.graphs import EMPTY, PARTLY_GOOD, node, publish, saved
from workflows.policy import GraphTrust

pytestmark = pytest.mark.anyio

SAVES_ANYWHERE = {
    "1": EMPTY,
    "3": node("Image Save", images=["1", 0], output_path="x", filename_prefix="y", extension="png"),
}
VIDEO = {"frame_rate": 8, "loop_count": 0, "format": "image/gif", "pingpong": False, "save_output": True}
UNDECLARED_INPUT = {
    "1": EMPTY,
    "2": node("VHS_VideoCombine", images=["1", 0], filename_prefix="A", **VIDEO, not_declared="x"),
}
UNUSED = {"1": EMPTY, "2": saved("1"), "9": node("ImageInvert", image=["77", 0])}
PASTED = {"1": node("LoadImage", image="pasted/image (3).png"), "2": saved("1")}


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(MemoryObjectStore(clock), clock) as api:
        await publish(api.stores)
        yield api


async def record_of(api: Api, job_id: str, tenant: str = "default") -> JobRecord:
    return (await api.stores.jobs.read(tenant, job_id)).record


@pytest.mark.parametrize("graph", [SAVES_ANYWHERE, UNDECLARED_INPUT], ids=["a denied class", "an undeclared input"])
@pytest.mark.parametrize(
    ("of_deployment", "of_key", "level"),
    [
        ("own", None, "own"),
        ("strangers", None, "strangers"),
        ("own", "strangers", "strangers"),
        ("strangers", "own", "own"),
    ],
)
async def test_a_keys_level_overrides_the_deployments(
    clock: ManualClock, graph: dict[str, Any], of_deployment: GraphTrust, of_key: GraphTrust | None, level: GraphTrust
) -> None:
    """The key's level is stored and shown with the job, and a refusal names the setting that allows the graph."""
    config = ApiConfig(api_key=KEY, graphs=of_deployment)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        await publish(api.stores)
        async with await api.client_of("acme", graphs=of_key) as client:
            for path, body in (("jobs", {"workflow": graph}), ("batches", {"jobs": [{"workflow": graph}]})):
                answer = await client.post(f"/v1/{path}", json=body)
                if level == "strangers":
                    assert answer.status_code == 422, answer.text
                    assert "COMFYUI_MODAL_" in answer.json()["hint"]
                    continue
                assert answer.status_code == 202, answer.text
                job_id = answer.json().get("job_id") or answer.json()["jobs"][0]["job_id"]
                assert (await record_of(api, job_id, "acme")).graphs == "own"
                assert (await client.get(f"/v1/jobs/{job_id}")).json()["graphs"] == "own"


async def test_a_named_workflow_has_the_operators_trust(clock: ManualClock) -> None:
    """A job of a named workflow has the level `own`, whatever the level of its key."""
    config = ApiConfig(api_key=KEY, graphs="strangers")
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        given = {"image": {"data": base64.b64encode(PNG).decode()}}
        answer = await api.client.post("/v1/workflows/still/jobs", json={"inputs": given})
        assert answer.status_code == 202, answer.text
        assert (await record_of(api, answer.json()["job_id"])).graphs == "own"
        answer = await api.client.post("/v1/jobs", json={"workflow": BLUE})
        assert (await record_of(api, answer.json()["job_id"])).graphs == "strangers"


async def test_an_unused_node_causes_no_refusal(api: Api) -> None:
    """A faulty node that no output needs causes neither a refusal nor a warning, since ComfyUI ignores it."""
    answer = await api.client.post("/v1/jobs", json={"workflow": UNUSED, "strict": True})
    assert (answer.status_code, answer.json()["warnings"]) == (202, {})


async def test_a_batch_shows_which_jobs_have_warnings(api: Api) -> None:
    """The response, its repetition and the batch show which jobs have warnings, and the job shows them in full."""
    document = {"jobs": [{"workflow": UNUSED}, {"workflow": PARTLY_GOOD}]}
    first, second = [
        await api.client.post("/v1/batches", json=document, headers={"Idempotency-Key": "b"}) for _ in range(2)
    ]
    assert (first.status_code, second.status_code) == (202, 200)
    shown = (await api.client.get(f"/v1/batches/{first.json()['batch_id']}")).json()
    for batch in (first.json(), second.json(), shown):
        assert [job["has_warnings"] for job in batch["jobs"]] == [False, True]
    assert (await api.client.get(f"/v1/jobs/{shown['jobs'][1]['job_id']}")).json()["warnings"]


async def test_jobs_of_a_batch_share_equal_warnings(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal warnings of a batch's jobs are in memory and counted once, and each job shows them."""
    prepared, accept = [], BatchAcceptance.batch

    async def noted(self: BatchAcceptance, batch: PreparedBatch, identity: Identity) -> AcceptedBatch:
        prepared.append(batch)
        return await accept(self, batch, identity)

    monkeypatch.setattr(BatchAcceptance, "batch", noted)
    monkeypatch.setattr(batches, "MOST_WARNING_BYTES", 2_000)
    for document in (
        {"workflow": PARTLY_GOOD, "input_sets": [[]] * 20},
        {"jobs": [{"workflow": PARTLY_GOOD}] * 20},
    ):
        answer = await api.client.post("/v1/batches", json=document)
        assert answer.status_code == 202, answer.text
        assert len({id(job.warnings) for job in prepared.pop().jobs}) == 1
        last = await record_of(api, answer.json()["jobs"][-1]["job_id"])
        assert list(last.warnings) == ["9"]


async def test_the_different_warnings_of_a_batch_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose jobs have too many bytes of different warnings is refused, with the job at which they are."""
    monkeypatch.setattr(batches, "MOST_WARNING_BYTES", 2_000)
    graph = {**BLUE, "8": node("EmptyImage", **EMPTY["inputs"]), "9": saved("8")}
    sets = [[{"node": "8", "field": "width", "value": f"bad {number}"}] for number in range(20)]
    few, many = ({"workflow": graph, "input_sets": sets[:count]} for count in (1, 20))
    own = {"jobs": [{"workflow": graph, "inputs": inputs} for inputs in sets]}
    assert (await api.client.post("/v1/batches", json=few)).status_code == 202
    for document, where in ((many, "/input_sets/"), (own, "/jobs/")):
        problem = (await api.client.post("/v1/batches", json=document)).json()
        assert problem["type"] == "/problems/too-many-jobs"
        assert problem["pointer"].startswith(where)


async def test_valid_outputs_are_accepted_with_warnings(api: Api) -> None:
    """The response, the job and the list show warnings, and a strict job is refused with the same errors."""
    answer = await api.client.post("/v1/jobs", json={"workflow": PARTLY_GOOD})
    assert answer.status_code == 202, answer.text
    (warning,) = answer.json()["warnings"].values()
    assert warning["detail"] == "node 9 (PreviewImage) lacks its required input images"
    assert (warning["dependent_outputs"], warning["errors"][0]["type"]) == (["9"], "required_input_missing")
    job = (await api.client.get(f"/v1/jobs/{answer.json()['job_id']}")).json()
    assert job["warnings"] == answer.json()["warnings"]
    assert [row["has_warnings"] for row in (await api.client.get("/v1/jobs")).json()["jobs"]] == [True]
    refused = await api.client.post("/v1/jobs", json={"workflow": PARTLY_GOOD, "strict": True})
    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (422, "/problems/missing-required-input")
    assert (problem["detail"], problem["node_errors"]["9"]["errors"]) == (warning["detail"], warning["errors"])


async def test_a_pasted_picture_keeps_its_name(api: Api) -> None:
    """A medium's name may contain folders, and without the file the job is refused with a hint at `media`."""
    refused = (await api.client.post("/v1/jobs", json={"workflow": PASTED})).json()
    assert (refused["type"], refused["pointer"]) == ("/problems/missing-medium", "/workflow/1/inputs/image")
    assert "`media`" in refused["hint"]
    media = [{"name": "pasted/image (3).png", "data": base64.b64encode(PNG).decode()}]
    answer = await api.client.post("/v1/jobs", json={"workflow": PASTED, "media": media})
    assert answer.status_code == 202, answer.text
    (file,) = (await record_of(api, answer.json()["job_id"])).input_files
    assert file.name == "pasted/image (3).png"


@pytest.mark.parametrize("names", [("a", "a/b.png"), ("a/b.png", "a"), ("a/b.png", "a/b.png")])
async def test_a_name_is_not_both_file_and_folder(api: Api, names: tuple[str, str]) -> None:
    """Media names that would need one path as both a file and a folder are refused."""
    media = [{"name": name, "data": base64.b64encode(PNG).decode()} for name in names]
    answer = await api.client.post("/v1/jobs", json={"workflow": BLUE, "media": media})
    problem = answer.json()
    assert (problem["type"], problem["pointer"]) == ("/problems/duplicate-media-name", "/media/1/name")
