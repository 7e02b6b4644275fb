"""Quotas of a tenant, which are checked at submission, on both stores."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.config import ApiConfig
from infra.settings import Settings
from storage import keys
from storage.access.byte_ledger import ByteLedger
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.concurrency import gather
from storage.index_keys import ListEntry
from storage.jobs.active_jobs import COUNT_LIFE
from storage.webhooks.signing import new_secret
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api, work
from tests.support.records import OUTPUT

pytestmark = pytest.mark.anyio

LOADS_A_PICTURE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}
A_PICTURE = {"name": "a.png", "data": base64.b64encode(PNG).decode()}


@asynccontextmanager
async def limited(objects: ObjectStore, clock: ManualClock, **limits: int) -> AsyncIterator[Api]:
    async with running_api(objects, clock, ApiConfig(api_key=KEY, **limits)) as api:
        yield api


async def submit(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/v1/jobs", json={"workflow": BLUE}, headers=headers)


async def submit_batch(client: httpx.AsyncClient, jobs: int, **headers: str) -> httpx.Response:
    return await client.post("/v1/batches", json={"workflow": BLUE, "input_sets": [[]] * jobs}, headers=headers)


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    return answer.status_code, answer.json()["type"], answer.headers.get("retry-after")


def pass_time(clock: ManualClock, span: timedelta) -> None:
    clock.set(clock.now() + span + timedelta(milliseconds=1))


async def test_the_active_jobs_of_a_tenant_are_limited(objects: ObjectStore, clock: ManualClock) -> None:
    """A job above the quota gets 429 with Retry-After until another job ends, and other tenants are unaffected."""
    async with limited(objects, clock, max_active_jobs=2) as api, await api.client_of("other") as other:
        jobs = [(await submit(api.client)).json()["job_id"] for _ in range(2)]
        before = await api.keys()
        assert refusal(await submit(api.client)) == (429, "/problems/too-many-active-jobs", "5")
        assert await api.keys() == before
        assert (await submit(other)).status_code == 202
        await api.client.delete(f"/v1/jobs/{jobs[0]}")
        pass_time(clock, COUNT_LIFE)
        assert (await submit(api.client)).status_code == 202
        assert (await submit(api.client)).status_code == 429


async def test_a_running_job_is_active_but_not_queued(clock: ManualClock) -> None:
    """A running job counts for the quota of active jobs and not for that of queued jobs."""
    for limits, status in (({"max_queued_jobs": 1}, 202), ({"max_active_jobs": 1}, 429)):
        async with limited(MemoryObjectStore(clock), clock, **limits) as api:
            await submit(api.client)
            assert (await submit(api.client)).status_code == 429
            assert await api.queue.claim("default", "w") is not None
            pass_time(clock, COUNT_LIFE)
            assert (await submit(api.client)).status_code == status


async def test_a_batch_counts_all_its_jobs(clock: ManualClock) -> None:
    """A batch is accepted as a whole or refused, and a batch that exceeds the quota alone gets a permanent problem."""
    async with limited(MemoryObjectStore(clock), clock, max_queued_jobs=3) as api:
        assert (await submit_batch(api.client, 2)).status_code == 202
        before = await api.keys()
        assert refusal(await submit_batch(api.client, 2)) == (429, "/problems/too-many-queued-jobs", "5")
        assert await api.keys() == before
        assert refusal(await submit_batch(api.client, 4)) == (422, "/problems/too-many-jobs", None)
        assert (await submit_batch(api.client, 1)).status_code == 202


@pytest.mark.parametrize("send", [submit, submit_batch])
async def test_a_repeated_request_needs_no_quota(clock: ManualClock, send: Any) -> None:
    """A repeat succeeds although the quota is used up, and a refused request is accepted later with the same key."""
    more = () if send is submit else (1,)
    async with limited(MemoryObjectStore(clock), clock, max_active_jobs=1) as api:
        first = (await send(api.client, *more, **{"idempotency-key": "a"})).json()
        assert (await send(api.client, *more, **{"idempotency-key": "b"})).status_code == 429
        again = await send(api.client, *more, **{"idempotency-key": "a"})
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
        assert again.json().get("job_id") == first.get("job_id")
        for row in (await api.client.get("/v1/jobs")).json()["jobs"]:
            await api.client.delete(f"/v1/jobs/{row['job_id']}")
        pass_time(clock, COUNT_LIFE)
        assert (await send(api.client, *more, **{"idempotency-key": "b"})).status_code == 202
        assert (await send(api.client, *more, **{"idempotency-key": "b"})).status_code == 200


async def test_concurrent_submissions_do_not_exceed_the_quota(clock: ManualClock) -> None:
    """Concurrent submissions in one process share one count."""
    async with limited(MemoryObjectStore(clock), clock, max_active_jobs=5) as api:
        answers = await gather(*(submit(api.client) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 15


async def test_a_stale_index_key_causes_no_refusal(clock: ManualClock) -> None:
    """Before a refusal, stale index keys are detected by reading the records, and deleted."""
    bucket = MemoryObjectStore(clock)
    async with limited(bucket, clock, max_active_jobs=1) as api:
        ended = (await submit(api.client)).json()["job_id"]
        stored = (await api.stores.jobs.read("default", ended)).record
        stale = ListEntry(stored.created_at, ended, 0).key("default", "queued")
        await api.client.delete(f"/v1/jobs/{ended}")
        await bucket.put(stale, b"")
        pass_time(clock, COUNT_LIFE)
        assert (await submit(api.client)).status_code == 202
        assert stale not in await api.keys()
        assert (await submit(api.client)).status_code == 429


@pytest.mark.real_bucket("index keys of ended jobs are deleted some time after the commit")
@pytest.mark.parametrize("limits", [{"max_active_jobs": 2}, {"max_active_jobs": 1}, {"max_queued_jobs": 1}])
async def test_a_client_below_its_quota_is_never_refused(
    objects: ObjectStore, clock: ManualClock, limits: dict[str, int]
) -> None:
    """A client that submits, waits for the end and repeats is accepted every time, also where a count is cached."""
    async with limited(objects, clock, **limits) as api:
        for number in range(40):
            accepted = await submit(api.client)
            assert accepted.status_code == 202, (number, accepted.text)
            url = f"/v1/jobs/{accepted.json()['job_id']}"
            if number % 4:
                await work(api)
            else:
                await api.client.delete(url)
            assert (await api.client.get(f"{url}?wait=10")).json()["status"] in ("completed", "failed")


async def test_jobs_that_another_process_ends_do_not_count(clock: ManualClock) -> None:
    """A process that counted jobs before another process ended them accepts new ones."""
    bucket = MemoryObjectStore(clock)
    async with limited(bucket, clock, max_active_jobs=3) as first, limited(bucket, clock, max_active_jobs=3) as second:
        for _ in range(5):
            jobs = [(await submit(first.client)).json()["job_id"] for _ in range(3)]
            assert (await submit(first.client)).status_code == 429
            for job in jobs:
                await second.client.delete(f"/v1/jobs/{job}")


async def test_clients_at_their_quota_share_counts(clock: ManualClock) -> None:
    """Refusals that are decided at the same time share one count by the records."""
    bucket = MemoryObjectStore(clock)
    async with limited(bucket, clock, max_active_jobs=20) as api:
        await gather(*(submit(api.client) for _ in range(20)))
        await api.stores.jobs.settled()
        assert (await submit(api.client)).status_code == 429
        bucket.requests.clear()
        # Not 40 requests: on a loaded machine they would arrive one after the other, and each would need a new count.
        loads = await gather(*(api.stores.active_jobs.verified("default", at_most=20) for _ in range(40)))
        assert {load.active for load in loads} == {20}
        assert bucket.requests["GET"] == 20


async def test_without_quotas_nothing_is_counted(clock: ManualClock) -> None:
    """A submission makes no LIST without quotas, and at most a few in two seconds with a quota."""
    costs = []
    for limits in ({}, {"max_active_jobs": 10_000}):
        bucket = MemoryObjectStore(clock)
        async with limited(bucket, clock, **limits) as api:
            bucket.requests.clear()
            await gather(*(submit(api.client) for _ in range(2)))
            await submit(api.client)
            costs.append(bucket.requests["LIST"])
    assert costs[0] == 0
    assert costs[1] in (2, 4)  # the first two may have counted concurrently


async def test_more_jobs_than_one_list_returns_are_counted(clock: ManualClock) -> None:
    """Jobs are counted page by page, and not beyond the quota."""
    bucket = MemoryObjectStore(clock)
    for number in range(2500):
        entry = ListEntry(clock.now(), f"00000000-0000-4000-8000-{number:012d}", 0)
        await bucket.put(entry.key("default", "queued"), b"")
    async with limited(bucket, clock, max_queued_jobs=10_000) as api:
        load = await api.stores.active_jobs.of("default", at_most=10_000)
        assert (load.queued, load.active) == (2500, 2500)
        pass_time(clock, COUNT_LIFE)
        bucket.requests.clear()
        assert (await api.stores.active_jobs.of("default", at_most=1500)).queued == 2000
        assert bucket.requests["LIST"] == 3


async def upload(client: httpx.AsyncClient, size: int, **headers: str) -> httpx.Response:
    return await client.post("/v1/uploads", json={"size_bytes": size, "content_type": "image/png"}, headers=headers)


async def test_the_bytes_of_a_tenant_per_day_are_limited(objects: ObjectStore, clock: ManualClock) -> None:
    """Uploads are charged with their announced size, and Retry-After of a refusal ends at midnight."""
    async with limited(objects, clock, max_upload_bytes_a_day=100) as api, await api.client_of("other") as other:
        assert (await upload(api.client, 60)).status_code == 201
        refused = await upload(api.client, 41)
        assert refusal(refused) == (429, "/problems/too-many-bytes", str(12 * 3600))
        assert (await upload(other, 41)).status_code == 201
        assert (await upload(api.client, 40)).status_code == 201
        assert (await upload(api.client, 1)).status_code == 429
        assert refusal(await upload(api.client, 101)) == (422, "/problems/upload-too-large", None)
        pass_time(clock, timedelta(hours=12))
        assert (await upload(api.client, 100)).status_code == 201


async def test_files_in_a_request_are_charged(clock: ManualClock) -> None:
    """Files in a request are charged once each, even if many jobs of a batch use them."""
    document = {"workflow": LOADS_A_PICTURE, "media": [A_PICTURE]}
    async with limited(MemoryObjectStore(clock), clock, max_upload_bytes_a_day=2 * len(PNG)) as api:
        assert (await api.client.post("/v1/jobs", json=document)).status_code == 202
        batch = document | {"input_sets": [[], [], []]}
        assert (await api.client.post("/v1/batches", json=batch)).status_code == 202
        refused = await api.client.post("/v1/jobs", json=document)
        assert refused.json()["type"] == "/problems/too-many-bytes"
        assert (await submit(api.client)).status_code == 202


async def test_an_output_that_many_jobs_of_a_batch_copy_is_charged_for_each(clock: ManualClock) -> None:
    """Each job of a batch that names an output is charged for its copy; files of the batch itself are stored once."""
    async with limited(MemoryObjectStore(clock), clock, max_upload_bytes_a_day=5 * len(PNG)) as api:
        job_id = (await submit(api.client)).json()["job_id"]
        key = keys.output("default", job_id, 1, 0, "x.png")
        await api.objects.put(key, PNG)
        await work(api, OUTPUT.model_copy(update={"key": key, "size_bytes": len(PNG)}))
        (output,) = (await api.client.get(f"/v1/jobs/{job_id}")).json()["outputs"]
        job = {"workflow": LOADS_A_PICTURE, "media": [{"name": "a.png", "asset_id": output["asset_id"]}]}
        for batch, status in (
            ({"jobs": [job] * 3}, 202),
            (job | {"input_sets": [[]] * 9}, 202),
            ({"jobs": [job] * 2}, 429),
        ):
            assert (await api.client.post("/v1/batches", json=batch)).status_code == status


async def test_a_batch_that_is_refused_while_its_files_are_copied_stays_charged(clock: ManualClock) -> None:
    """Where an output is removed while others are copied, the copies lie in the bucket for a while, and are charged."""
    async with limited(MemoryObjectStore(clock), clock, max_upload_bytes_a_day=3 * len(PNG)) as api:
        jobs = []
        for is_there in (True, False):
            job_id = (await submit(api.client)).json()["job_id"]
            key = keys.output("default", job_id, 1, 0, "x.png")
            if is_there:
                await api.objects.put(key, PNG)
            await work(api, OUTPUT.model_copy(update={"key": key, "size_bytes": len(PNG)}))
            (output,) = (await api.client.get(f"/v1/jobs/{job_id}")).json()["outputs"]
            jobs.append({"workflow": LOADS_A_PICTURE, "media": [{"name": "a.png", "asset_id": output["asset_id"]}]})
        refused = await api.client.post("/v1/batches", json={"jobs": jobs})
        assert refused.json()["type"] == "/problems/unknown-asset"
        assert [(await upload(api.client, count * len(PNG))).status_code for count in (2, 1)] == [429, 201]


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/uploads", {"size_bytes": len(PNG), "content_type": "image/png"}),
        ("/v1/batches", {"workflow": LOADS_A_PICTURE, "input_sets": [[]], "media": [A_PICTURE]}),
    ],
    ids=["upload", "batch"],
)
async def test_concurrent_repeats_of_a_request_are_charged_once(
    objects: ObjectStore, clock: ManualClock, path: str, document: Any
) -> None:
    """Of equal requests with one Idempotency-Key at the same time one creates the resource, and one is charged."""
    async with limited(objects, clock, max_upload_bytes_a_day=1_000 * len(PNG)) as api:
        sent = (api.client.post(path, json=document, headers={"idempotency-key": "a"}) for _ in range(8))
        statuses = Counter(answer.status_code for answer in await gather(*sent))
        assert statuses == {200: 7, 201 if path == "/v1/uploads" else 202: 1}
        ledger = ByteLedger(objects, clock)
        assert not await ledger.charge("default", 999 * len(PNG) + 1, limit=1_000 * len(PNG))
        assert await ledger.charge("default", 999 * len(PNG), limit=1_000 * len(PNG))


async def test_a_repeated_upload_is_charged_once(clock: ManualClock) -> None:
    """A repeated upload is charged once, and a repeated refused upload is refused again."""
    async with limited(MemoryObjectStore(clock), clock, max_upload_bytes_a_day=100) as api:
        statuses = [(await upload(api.client, 60, **{"idempotency-key": "a"})).status_code for _ in range(3)]
        assert statuses == [201, 200, 200]
        statuses = [(await upload(api.client, 50, **{"idempotency-key": "b"})).status_code for _ in range(2)]
        assert statuses == [429, 429]
        assert (await upload(api.client, 40)).status_code == 201


@pytest.mark.real_bucket("conditional writes in a race")
async def test_concurrent_charges_do_not_exceed_the_limit(objects: ObjectStore, clock: ManualClock) -> None:
    """Concurrent charges by several processes on one bucket never exceed the limit."""
    ledgers = [ByteLedger(objects, clock) for _ in range(8)]
    paid = await gather(*(ledger.charge("acme", 30, limit=100) for ledger in ledgers))
    assert sorted(paid) == [False] * 5 + [True] * 3


async def test_a_process_with_a_late_clock_does_not_reset_the_day(clock: ManualClock) -> None:
    """Bytes charged for the new day remain charged when a process with a late clock charges others."""
    bucket = MemoryObjectStore(clock)
    late, ledger = ByteLedger(bucket, ManualClock(clock.now())), ByteLedger(bucket, clock)
    clock.set(clock.now() + timedelta(hours=12))
    assert await ledger.charge("acme", 100, limit=100)
    assert not await late.charge("acme", 1, limit=100)
    assert (ledger.seconds_to_midnight(), late.seconds_to_midnight()) == (24 * 3600, 12 * 3600)


async def test_what_a_refused_request_brought_is_not_charged(clock: ManualClock) -> None:
    """Bytes of a request that is refused after they were counted, or that repeats a concurrent one, are given back."""
    data = base64.b64encode(PNG).decode()
    document = {"workflow": BLUE, "media": [{"name": "a.png", "data": data}]}
    limits = {"max_upload_bytes_a_day": 2 * len(PNG), "max_webhook_targets": 1}
    settings = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()))
    config = ApiConfig(api_key=KEY, **limits)
    async with running_api(MemoryObjectStore(clock), clock, config, settings=settings) as api:
        await api.client.post("/v1/jobs", json={"workflow": BLUE, "webhook_url": "https://a.example/"})
        for _ in range(3):
            refused = await api.client.post("/v1/jobs", json=document | {"webhook_url": "https://b.example/"})
            assert refused.json()["type"] == "/problems/too-many-webhook-targets"
        headers = {"idempotency-key": "a"}
        same = await gather(*(api.client.post("/v1/jobs", json=document, headers=headers) for _ in range(2)))
        assert sorted(answer.status_code for answer in same) == [200, 202]
        assert (await api.client.post("/v1/jobs", json=document)).status_code == 202
        assert (await api.client.post("/v1/jobs", json=document)).status_code == 429


async def test_more_than_a_whole_quota_gets_no_retry_after(clock: ManualClock) -> None:
    """A request that no day and no month has room for gets a refusal without Retry-After."""
    data = base64.b64encode(PNG).decode()
    settings = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()))
    config = ApiConfig(api_key=KEY, max_upload_bytes_a_day=10, max_webhook_targets=1)
    async with running_api(MemoryObjectStore(clock), clock, config, settings=settings) as api:
        files = {"workflow": BLUE, "media": [{"name": "a.png", "data": data}]}
        refused = await api.client.post("/v1/jobs", json=files)
        assert refusal(refused) == (429, "/problems/too-many-bytes", None)
        assert "on a whole day" in refused.json()["detail"]
        jobs = [{"workflow": BLUE, "webhook_url": f"https://{name}.example/"} for name in "ab"]
        refused = await api.client.post("/v1/batches", json={"jobs": jobs})
        assert refusal(refused) == (429, "/problems/too-many-webhook-targets", None)


async def test_a_forgotten_receiver_makes_room(clock: ManualClock) -> None:
    """Retry-After of too many receivers is when the first is forgotten, which makes room before a sweep deletes it."""
    settings = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()))
    config = ApiConfig(api_key=KEY, max_webhook_targets=1)
    async with running_api(MemoryObjectStore(clock), clock, config, settings=settings) as api:
        for hook in ("https://a.example/", "https://b.example/"):
            document = {"workflow": BLUE, "webhook_url": hook}
            if hook == "https://b.example/":
                clock.set(clock.now() + timedelta(days=10))
                refused = await api.client.post("/v1/jobs", json=document)
                assert refusal(refused) == (429, "/problems/too-many-webhook-targets", str(20 * 24 * 3600))
                clock.set(clock.now() + timedelta(days=20))
            assert (await api.client.post("/v1/jobs", json=document)).status_code == 202


async def test_the_webhook_targets_of_a_tenant_are_limited(clock: ManualClock) -> None:
    """A target above the limit is refused, known targets are accepted with any query, and each tenant has its own."""
    hooks = ["https://a.example/hook", "https://b.example/hook", "https://c.example/hook"]
    settings = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()))
    config = ApiConfig(api_key=KEY, max_webhook_targets=2)
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock, config, settings=settings) as api, await api.client_of("other") as other:

        async def submit_with(client: httpx.AsyncClient, hook: str) -> httpx.Response:
            return await client.post("/v1/jobs", json={"workflow": BLUE, "webhook_url": hook})

        for hook in hooks[:2]:
            assert (await submit_with(api.client, hook)).status_code == 202
        before = await api.keys()
        assert refusal(await submit_with(api.client, hooks[2]))[:2] == (429, "/problems/too-many-webhook-targets")
        assert await api.keys() == before
        assert (await submit_with(api.client, f"{hooks[0]}?job=1")).status_code == 202
        assert (await submit_with(other, hooks[2])).status_code == 202
        for document in ({"jobs": [{"workflow": BLUE}]}, {"workflow": BLUE, "input_sets": [[]]}):
            batch = await api.client.post("/v1/batches", json=document | {"webhook_url": hooks[2]})
            assert refusal(batch)[:2] == (429, "/problems/too-many-webhook-targets")
        tested = await api.client.post("/v1/webhooks/test", json={"url": hooks[2]})
        assert refusal(tested)[:2] == (429, "/problems/too-many-webhook-targets")


@pytest.mark.parametrize("path", ["/v1/webhooks/test", "/v1/jobs"])
async def test_webhook_targets_of_concurrent_requests_are_limited(clock: ManualClock, path: str) -> None:
    """Concurrent requests with new targets are accepted up to the limit, and accepted targets remain known."""
    settings = Settings(bucket="tests", webhook_secret=SecretStr(new_secret()))
    config = ApiConfig(api_key=KEY, max_webhook_targets=3, webhook_test_wait_s=0.0)
    hooks = [f"https://{number}.example/hook" for number in range(12)]
    async with running_api(MemoryObjectStore(clock), clock, config, settings=settings) as api:

        async def submit_target(hook: str) -> int:
            document = {"url": hook} if path == "/v1/webhooks/test" else {"workflow": BLUE, "webhook_url": hook}
            return (await api.client.post(path, json=document)).status_code

        statuses = await asyncio.gather(*map(submit_target, hooks))
        assert Counter(statuses) == {202: 3, 429: 9}
        assert [await submit_target(hook) for hook in hooks] == statuses
        listed = (await api.client.get("/v1/webhooks/endpoints")).json()["endpoints"]
        assert {endpoint["url"] for endpoint in listed} == {
            hook for hook, status in zip(hooks, statuses, strict=True) if status == 202
        }
