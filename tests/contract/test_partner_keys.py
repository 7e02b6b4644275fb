"""A key for partner nodes reaches the engine and is shown nowhere else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from infra.settings import Settings
from storage import keys
from storage.access.partner_keys import PartnerKeyStore
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock, SystemClock
from storage.errors import SealBroken
from storage.jobs.record import JobRecord
from storage.stores import Stores
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, Api, running_api
from tests.support.records import a_job
from tests.support.scripted_comfy import Play, ScriptedComfy, serving
from tests.support.shop import LEASE_S, MAX_ATTEMPTS, Shop
from tests.support.stage import ScriptedHost
from tests.support.workbench import quick_policy
from workers.attempt import Attempt
from workers.comfy.files import FolderFiles
from workers.comfy.http_engine import HttpEngine
from workflows.catalogue import Catalogue

pytestmark = pytest.mark.anyio

KEY = "comfyui-0123456789abcdef"
JOB = {"workflow": BLUE, "extra_data": {"api_key_comfy_org": KEY}}


def settings(*secrets: str) -> Settings:
    return Settings(bucket="tests", webhook_secret=SecretStr(" ".join(secrets) or new_secret()))


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore(SystemClock())


@pytest.fixture
async def api(objects: MemoryObjectStore) -> AsyncIterator[Api]:
    async with running_api(objects, SystemClock(), settings=settings()) as api:
        yield api


async def succeed(play: Play) -> None:
    await play.succeed({})


async def run(stores: Stores, folder: Path, comfy: ScriptedComfy) -> JobRecord:
    claimed = await stores.queue.claim("default", "w1")
    assert claimed is not None
    folders: dict[str, Any] = {f"{name}_dir": folder / name for name in ("input", "output", "temp")}
    engine = HttpEngine(comfy.url, FolderFiles(**folders))
    try:
        async with asyncio.timeout(20):
            await Attempt(claimed, stores, ScriptedHost.of(engine), Catalogue.absent(), quick_policy()).run()
    finally:
        await engine.close()
    return (await stores.jobs.read("default", claimed.record.job_id)).record


async def test_a_partner_key_reaches_only_the_engine(
    api: Api, objects: MemoryObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No response, object or log line shows the key, and it is deleted after the job."""
    caplog.set_level(logging.DEBUG)
    accepted = await api.client.post("/v1/jobs", json=JOB)
    assert accepted.status_code == 202, accepted.text
    job_id = accepted.json()["job_id"]
    assert await _is_stored(objects, job_id)
    seen = [accepted.text, await _stored(objects)]
    async with serving(succeed) as comfy:
        record = await run(api.stores, tmp_path, comfy)
        (posted,) = comfy.state.posts
    assert posted["extra_data"]["api_key_comfy_org"] == KEY
    assert record.status == "completed"
    await api.stores.jobs.settled()
    assert not await _is_stored(objects, job_id)
    paths = ("/v1/jobs", *(f"/v1/jobs/{job_id}{part}" for part in ("", "/workflow", "/logs", "/deliveries")))
    seen += [(await api.client.get(path)).text for path in paths]
    seen += [await _stored(objects), caplog.text]
    assert not any(KEY in text for text in seen)


async def test_a_partner_key_is_deleted_however_its_job_ends(clock: ManualClock) -> None:
    """The key is deleted after a cancellation, a time limit or the loss of the last worker; a requeued job keeps it."""
    shop = Shop(MemoryObjectStore(clock), clock)
    cancelled, late, lost = [await _with_key(shop, priority=n, queue_timeout_s=3600 * n + 60) for n in range(3)]
    await shop.jobs.evolve("default", cancelled.job_id, lambda r: r.cancel(now=clock.now()))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert (await shop.claim()).job_id == lost.job_id
        shop.pass_time(LEASE_S + 1)
        assert await _have_keys(shop) == {late.job_id, lost.job_id}, attempt
        await shop.reaper.sweep()
    assert await _have_keys(shop) == {late.job_id}
    shop.pass_time(hours=2)
    await shop.reaper.sweep()
    assert await _have_keys(shop) == set()
    assert {(await shop.read(job)).status for job in (cancelled, late, lost)} == {"failed"}


async def test_a_partner_key_is_deleted_after_a_crash(clock: ManualClock) -> None:
    """The timer that a crash at the end of a job leaves behind has the key deleted."""
    shop = Shop(MemoryObjectStore(clock), clock)
    job = await _with_key(shop, queue_timeout_s=3600)
    ended = await shop.jobs.evolve("default", job.job_id, lambda r: r.cancel(now=clock.now()))
    await shop.jobs.settled()
    for key in (job.timer, keys.partner_key("default", job.job_id)):
        await shop.objects.put(key, b"")
    shop.pass_time(hours=1)
    await shop.reaper.sweep()
    assert await _have_keys(shop) == set()
    assert (await shop.read(job)).status is ended.record.status


async def _with_key(shop: Shop, **fields: object) -> JobRecord:
    record = a_job(created_at=shop.clock.now(), timeout_s=3600, has_partner_key=True, **fields)
    extras = {keys.partner_key("default", record.job_id): b"sealed"}
    return (await shop.jobs.create(record, workflow=b"{}", extras=extras)).record


async def _have_keys(shop: Shop) -> set[str]:
    """Return the ids of the jobs that have a partner key."""
    return {key.split("/")[3] for key in await shop.keys("tenants/default/jobs/") if key.endswith("/partner_key")}


async def _stored(objects: MemoryObjectStore) -> str:
    page = await objects.list("")
    return "\n".join([(await objects.get(key)).body.decode(errors="replace") for key in page.keys])


async def _is_stored(objects: MemoryObjectStore, job_id: str) -> bool:
    key = keys.partner_key("default", job_id)
    return key in (await objects.list(key)).keys


async def test_every_job_of_a_batch_has_the_partner_key(api: Api, tmp_path: Path) -> None:
    """Each job of a batch sends the key to the engine."""
    sets: list[list[Any]] = [[], []]
    accepted = await api.client.post("/v1/batches", json={**JOB, "input_sets": sets})
    assert accepted.status_code == 202, accepted.text
    async with serving(succeed) as comfy:
        for _ in sets:
            await run(api.stores, tmp_path, comfy)
        assert [post["extra_data"]["api_key_comfy_org"] for post in comfy.state.posts] == [KEY, KEY]


async def test_a_partner_key_is_refused_without_a_secret(objects: MemoryObjectStore) -> None:
    """Without a secret to seal it, a partner key is refused and not stored."""
    async with running_api(objects, SystemClock()) as api:
        refused = await api.client.post("/v1/jobs", json=JOB)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/partner-keys-unsealed")
        assert refused.json()["pointer"] == "/extra_data"
        assert objects.keys() == ()


@pytest.mark.parametrize(
    "extra_data", [{}, {"api_key_comfy_org": ""}, {"api_key_comfy_org": KEY, "auth_token": "x"}, "x"]
)
async def test_other_extra_data_is_refused(api: Api, extra_data: Any) -> None:
    """Extra data without a key, or with other fields, is refused, and no refusal repeats the key."""
    refused = await api.client.post("/v1/jobs", json={"workflow": BLUE, "extra_data": extra_data})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/validation-error")
    assert KEY not in refused.text


async def test_a_seal_is_bound_to_secret_and_job(objects: MemoryObjectStore) -> None:
    """A seal is opened by any secret still configured, and not by another secret, for another job or after a change."""
    old, new = new_secret(), new_secret()
    before, after, other = (PartnerKeyStore(objects, secrets) for secrets in ([old], [new, old], [new]))
    sealed = before.sealed("t", "j", KEY)
    await objects.put(keys.partner_key("t", "j"), sealed)
    assert await after.read("t", "j") == KEY
    for store, job_id, body in ((other, "j", sealed), (before, "k", sealed), (before, "j", sealed[:-1] + b"x")):
        await objects.put(keys.partner_key("t", job_id), body)
        with pytest.raises(SealBroken):
            await store.read("t", job_id)
    await objects.delete(keys.partner_key("t", "j"))
    with pytest.raises(SealBroken):
        await after.read("t", "j")
