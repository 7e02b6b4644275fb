"""Jobs of Comfy API v2: their shapes, what they share with /v1, cancellation, workflows and logs."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.models import ErrorDetail, ProgressDetails
from storage.jobs.record import JobRecord
from tests.contract.comfy_v2.shapes import check_shape, refused, shaped
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work
from tests.support.records import OUTPUT
from tests.support.sse import listening

pytestmark = pytest.mark.anyio

JOBS = "/api/v2/jobs"


async def submit_v2(api: Api, **fields: Any) -> dict[str, Any]:
    return shaped(await api.client.post(JOBS, json={"workflow": BLUE, **fields}), 201, "job")


async def shown(api: Api, job_id: str) -> dict[str, Any]:
    return shaped(await api.client.get(f"{JOBS}/{job_id}"), 200, "job")


async def test_a_new_job_is_answered_whole(api: Api) -> None:
    """A submission is answered 201 with the whole job, whose links are relative to the host and whose end is known."""
    job = await submit_v2(api, metadata={"order": "4711"})
    assert (job["status"], job["progress"], job["outputs"], job["error"]) == ("queued", None, [], None)
    assert (job["queue_position"], job["metadata"]) == (None, {"order": "4711"})
    url = f"{JOBS}/{job['id']}"
    assert job["urls"] == {"self": url, "events": f"{url}/events", "cancel": f"{url}/cancel", "logs": f"{url}/logs"}
    assert datetime.fromisoformat(job["expires_at"]) - datetime.fromisoformat(job["created_at"]) == timedelta(days=14)
    assert api.services.launcher.spawned == ["default"]  # type: ignore[attr-defined]  # the in-memory one counts
    assert await shown(api, job["id"]) == job | {"queue_position": 1}


async def test_links_include_the_path_of_a_proxy(clock: ManualClock) -> None:
    """Behind a proxy that serves the API below a path, links begin with that path and still name no host."""
    config = ApiConfig(api_key=KEY, public_url="https://example.org/comfy/")
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        job = await submit_v2(api)
        assert job["urls"]["self"] == f"/comfy{JOBS}/{job['id']}"


async def test_a_finished_job_shows_its_outputs(api: Api) -> None:
    """A finished job shows its outputs as assets whose ids say where they are, with presigned URLs."""
    job = await submit_v2(api)
    await work(api, OUTPUT, OUTPUT.model_copy(update={"key": OUTPUT.key.replace("/0000/", "/0007/"), "type": "model"}))
    job = await shown(api, job["id"])
    assert (job["status"], job["progress"]["value"], job["queue_position"]) == ("succeeded", 1, None)
    assert job["expires_at"] == "2026-11-30T12:00:00.000000+00:00"
    assert job["metrics"] == {"queue_ms": 0, "execution_ms": 0}
    assert [(one["id"], one["type"], one["hash"]) for one in job["outputs"]] == [
        (f"{job['id']}.1.0", "image", None),
        (f"{job['id']}.1.7", "file", None),
    ]


async def test_both_surfaces_show_the_same_jobs(api: Api) -> None:
    """A job of one surface can be read, listed, found by its labels and cancelled on the other."""
    theirs, ours = await submit_v2(api, metadata={"a": "b"}), await submit(api, metadata={"a": "b"})
    ids = {theirs["id"], ours["job_id"]}
    assert (await api.client.get(f"/v1/jobs/{theirs['id']}")).json()["metadata"] == {"a": "b"}
    assert (await shown(api, ours["job_id"]))["metadata"] == {"a": "b"}
    assert {row["job_id"] for row in (await api.client.get("/v1/jobs?metadata[a]=b")).json()["jobs"]} == ids
    listed = shaped(await api.client.get(f"{JOBS}?metadata[a]=b"), 200, "job_list")
    assert {row["id"] for row in listed["jobs"]} == ids
    shaped(await api.client.post(f"{JOBS}/{ours['job_id']}/cancel"), 200, "job")
    assert (await api.client.get(f"/v1/jobs/{ours['job_id']}")).json()["error_detail"]["code"] == "cancelled"


FRAMES = {"status": "status_frame", "progress": "progress", "preview": "preview_frame", "output": "output"}
CANCEL = ErrorDetail(code="cancelled", message="Cancelled by user")
FAULT = ErrorDetail(code="node_error", message="out of range", node_id="2", class_type="SaveImage")


async def test_every_end_has_its_status(memory_api: Api) -> None:
    """Each state of a job has a status of this API, and a failed node's error names the node."""
    api = memory_api
    ids = [(await submit_v2(api))["id"] for _ in range(3)]
    now = api.stores.clock.now()

    def running(record: JobRecord) -> JobRecord:
        return record.claim(worker="w", now=now, lease_s=60)

    for job_id in ids:
        await api.stores.jobs.evolve("default", job_id, running)
    assert (await shown(api, ids[0]))["status"] == "running"
    await api.stores.jobs.evolve("default", ids[0], lambda record: record.cancel(now=now))
    assert (await shown(api, ids[0]))["status"] == "canceling"
    for job_id, error in ((ids[0], CANCEL), (ids[1], FAULT)):
        await api.stores.jobs.evolve("default", job_id, lambda r, e=error: r.fail(attempt=1, now=now, error=e))  # type: ignore[misc]
    assert (await shown(api, ids[0]))["status"] == "canceled"
    failed = await shown(api, ids[1])
    assert (failed["status"], failed["error"]["code"], failed["error"]["node_id"]) == (
        "failed",
        "node_execution_error",
        "2",
    )
    for limit in ("queue_timeout_s", "deadline_s"):
        late = (await submit(api, **{limit: 1}))["job_id"]
        after = now + timedelta(seconds=2)
        await api.stores.jobs.evolve("default", late, lambda record, now=after: record.expire_in_queue(now=now))  # type: ignore[misc]
        assert (await shown(api, late))["status"] == "expired"


async def test_progress_is_a_fraction(memory_api: Api) -> None:
    """A running job shows its progress from 0 to 1 with the node and the step."""
    api = memory_api
    job_id = (await submit_v2(api))["id"]
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    details = ProgressDetails(current_node="3", nodes_completed=1, nodes_total=4, step="12/49")
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(
        claimed, lambda r: r.report(attempt=1, now=now, lease_s=60, progress=31, details=details, outputs=())
    )
    progress = (await shown(api, job_id))["progress"]
    assert (progress["value"], progress["nodes_done"], progress["nodes_total"]) == (0.31, 1, 4)
    assert (progress["current_node"], progress["step"], progress["steps"]) == ("3", 12, 49)


async def test_cancel_answers_at_once_and_may_be_repeated(memory_api: Api) -> None:
    """Cancelling answers 200 with the job: a running one is being cancelled, an ended one stays as it ended."""
    api = memory_api
    job_id = (await submit_v2(api))["id"]
    await api.queue.claim("default", "w")
    for _ in range(2):
        job = shaped(await api.client.post(f"{JOBS}/{job_id}/cancel"), 200, "job")
        assert job["status"] == "canceling"
    done = (await submit_v2(api))["id"]
    await work(api)
    assert shaped(await api.client.post(f"{JOBS}/{done}/cancel"), 200, "job")["status"] == "succeeded"


async def test_the_workflow_is_the_submitted_graph(api: Api) -> None:
    """The workflow of a job is its graph in API format."""
    job = await submit_v2(api)
    found = shaped(await api.client.get(f"{JOBS}/{job['id']}/workflow"), 200, "workflow")
    assert found == {"workflow": BLUE, "format": "api"}


async def test_the_workflow_has_the_inputs_of_the_other_surface(api: Api) -> None:
    """The workflow of a job that came by /v1 is the graph that runs: its inputs are set, long ones too."""
    inputs = [
        {"node": "1", "field": "width", "value": 16},
        {"node": "2", "field": "filename_prefix", "value": "x" * 70_000},
    ]
    job = await submit(api, inputs=inputs)
    found = shaped(await api.client.get(f"{JOBS}/{job['job_id']}/workflow"), 200, "workflow")["workflow"]
    assert (found["1"]["inputs"]["width"], found["2"]["inputs"]["filename_prefix"]) == (16, "x" * 70_000)
    assert found["1"]["inputs"]["height"] == BLUE["1"]["inputs"]["height"]


async def test_a_log_is_there_once_the_engine_wrote_one(api: Api) -> None:
    """A job without a log answers 204; later its log says whether more may follow."""
    job = await submit_v2(api)
    none = await api.client.get(job["urls"]["logs"])
    assert (none.status_code, none.content) == (204, b"")
    await api.stores.logs.write("default", job["id"], 1, ["a line", "another"])
    await work(api)
    log = shaped(await api.client.get(job["urls"]["logs"]), 200, "logs")
    assert (log["text"], log["truncated"], log["complete"]) == ("a line\nanother\n", False, True)


async def test_the_queue_position_counts_the_jobs_ahead(memory_api: Api, clock: ManualClock) -> None:
    """A queued job shows its place in its pool's queue, behind jobs of a higher priority."""
    api = memory_api
    first = await submit_v2(api)
    second = await submit(api, priority=5)
    records = [(await api.stores.jobs.read("default", one)).record for one in (first["id"], second["job_id"])]
    page = await api.queue.first("default")
    assert [api.queue.position(record, page) for record in records] == [2, 1]
    assert api.queue.position(records[0], replace(page, keys=page.keys[:1], more=True)) is None


async def test_a_stream_begins_with_the_queue_position(memory_api: Api) -> None:
    """The first status of a job that waits has its place in the queue, and no later one has."""
    job = await submit_v2(memory_api)
    async with listening(memory_api.client, job["urls"]["events"]) as stream:
        assert (await stream.next()).data == {"status": "queued", "queue_position": 1}
        await work(memory_api, OUTPUT)
        rest = await stream.rest()
    assert rest[-1].data == {"status": "succeeded", "queue_position": None}
    for event in rest:
        check_shape(event.data, FRAMES[event.name])
    assert {event.name for event in rest} == {"status", "progress", "output"}


async def test_a_list_has_pages(api: Api, clock: ManualClock) -> None:
    """The list is newest first, its cursor leads through all pages, and a large `limit` gets the largest page."""
    ids = []
    for second in range(3):
        clock.set(clock.now().replace(second=second))
        ids.append((await submit_v2(api))["id"])
    first = shaped(await api.client.get(JOBS, params={"limit": 2}), 200, "job_list")
    assert [row["id"] for row in first["jobs"]] == [ids[2], ids[1]]
    answer = await api.client.get(JOBS, params={"limit": 2, "cursor": first["next_cursor"]})
    rest = shaped(answer, 200, "job_list")
    assert ([row["id"] for row in rest["jobs"]], rest["next_cursor"]) == ([ids[0]], None)
    assert len(shaped(await api.client.get(f"{JOBS}?limit=5000"), 200, "job_list")["jobs"]) == 3


async def test_a_removed_job_is_unknown(api: Api) -> None:
    """A job that was removed answers 404 here, where /v1 says 410."""
    job_id = (await submit_v2(api))["id"]
    assert (await api.client.delete(f"/v1/jobs/{job_id}?purge=true")).status_code == 204
    assert (await api.client.get(f"/v1/jobs/{job_id}")).status_code == 410
    for path in ("", "/workflow", "/logs"):
        refused(await api.client.get(f"{JOBS}/{job_id}{path}"), 404, "not_found")
    refused(await api.client.post(f"{JOBS}/{job_id}/cancel"), 404, "not_found")


@pytest.mark.parametrize("job_id", ["x", "a%20b", "%00", "%F0%9F%98%80", "a" * 300])
async def test_text_that_is_no_id_is_unknown(memory_api: Api, job_id: str) -> None:
    """A job id that cannot be one answers 404 by every path of a job."""
    for path in ("", "/workflow", "/logs", "/events"):
        refused(await memory_api.client.get(f"{JOBS}/{job_id}{path}"), 404, "not_found")
    refused(await memory_api.client.post(f"{JOBS}/{job_id}/cancel"), 404, "not_found")
