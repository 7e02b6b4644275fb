"""DELETE with `purge`, and responses for removed jobs."""

import pytest

from app.config import ApiConfig
from infra.compose.reaper import reaper
from infra.settings import Settings
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.launcher import NoLauncher
from tests.support.api_server import BLUE, KEY, Api, running_api, submit, work

pytestmark = pytest.mark.anyio


async def test_a_removed_job_is_gone(api: Api) -> None:
    """A removed job gets 410 for every request, is in no list, and is not removed again."""
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
    """Removing a queued job leaves only its tombstone."""
    accepted = await submit(api)
    assert (await api.client.delete(f"/v1/jobs/{accepted['job_id']}?purge=true")).status_code == 204
    assert await api.queue.claim("default", "w") is None
    assert [key for key in await api.keys() if key.startswith("tenants/")] == [
        keys.record("default", accepted["job_id"])
    ]


async def test_a_running_job_is_removed_once_it_has_stopped(clock: ManualClock) -> None:
    """Removing a running job gets 202, and the job is removed once it has stopped."""
    config = ApiConfig(api_key=KEY, cancel_wait_s=0.05)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        accepted = await submit(api)
        claimed = await api.queue.claim("default", "w")
        assert claimed is not None
        response = await api.client.delete(f"/v1/jobs/{accepted['job_id']}?purge=true")
        assert (response.status_code, response.json()["status"]) == (202, "running")
        now = clock.now()
        await api.stores.jobs.evolve_from(claimed, lambda r: r.release(attempt=1, now=now))
        await reaper(Settings(bucket="tests"), api.stores, NoLauncher()).sweep()
        assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).status_code == 410


async def test_a_job_shows_when_it_will_be_removed(api: Api) -> None:
    """A finished job shows its removal after a week or its own shorter retention, and a longer retention is refused."""
    for days, expected in ((None, "2026-11-30T12:00:00.000000+00:00"), (0.5, "2026-11-24T00:00:00.000000+00:00")):
        accepted = await submit(api, **({} if days is None else {"retain_days": days}))
        assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).json()["expires_at"] is None
        await work(api)
        assert (await api.client.get(f"/v1/jobs/{accepted['job_id']}")).json()["expires_at"] == expected
    refused = await api.client.post("/v1/jobs", json={"workflow": BLUE, "retain_days": 8})
    assert (refused.status_code, refused.json()["pointer"]) == (422, "/retain_days")
