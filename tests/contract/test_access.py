"""API keys in the bucket: which keys are accepted, which are refused, and what each lookup costs."""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from app.config import ApiConfig
from app.middleware import LOGGED_CHARACTERS
from app.operations import Operation
from infra.logs import JsonFormatter
from infra.secrecy import Redactor
from storage import keys
from storage.access.api_keys import new_key, new_kid, parse_key
from storage.access.key_store import CACHE_LIFE, FIRST_LOOKUPS, MOST_WAITING, ApiKeyStore, new_record
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore, StoredObject
from storage.clock import ManualClock
from storage.errors import KeyNotFound, PreconditionFailed, StorageUnavailable
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.operations import EVERY_OPERATION
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

PROTECTED = [operation for operation in EVERY_OPERATION if not operation.is_open]


class DownableStore(MemoryObjectStore):
    """A bucket that can be made unreachable."""

    is_down = False

    async def get(self, key: str) -> StoredObject:
        if self.is_down:
            raise StorageUnavailable(key)
        return await super().get(key)


@pytest.fixture
def bucket(clock: ManualClock) -> DownableStore:
    return DownableStore(clock)


@pytest.fixture
async def memory_api(bucket: DownableStore, clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(bucket, clock, ApiConfig(api_key=KEY, webhook_test_wait_s=0.1)) as api:
        yield api


async def get_with_key(api: Api, key: str, path: str = "/v1/jobs") -> httpx.Response:
    return await api.client.get(path, headers={b"authorization": f"Bearer {key}".encode()})


@pytest.mark.real_bucket("what a client sees first")
async def test_a_key_in_the_bucket_authenticates_its_tenant(api: Api) -> None:
    """A job submitted with a bucket key belongs to that key's tenant, and the key from the settings still works."""
    async with await api.client_of("acme") as acme:
        accepted = (await acme.post("/v1/jobs", json={"workflow": BLUE})).json()
    assert (await api.stores.jobs.read("acme", accepted["job_id"])).record.tenant == "acme"
    assert (await get_with_key(api, KEY)).json()["jobs"] == []


async def test_tenants_with_a_common_name_prefix_are_separate(api: Api) -> None:
    """A tenant's job list never shows jobs of a tenant whose name shares a prefix."""
    names = ("acme", "acme-2", "acme2", "a")
    created: dict[str, set[str]] = {}
    for tenant in names:
        async with await api.client_of(tenant) as client:
            jobs = [(await client.post("/v1/jobs", json={"workflow": BLUE})).json() for _ in range(2)]
            created[tenant] = {job["job_id"] for job in jobs}
    for tenant in names:
        async with await api.client_of(tenant) as client:
            for query in ("", "?status=queued"):
                rows = (await client.get(f"/v1/jobs{query}")).json()["jobs"]
                assert {row["job_id"] for row in rows} == created[tenant]


async def test_all_invalid_keys_get_the_same_response(memory_api: Api, clock: ManualClock) -> None:
    """Unknown, mistyped, expired and revoked keys and keys with a wrong secret get byte-identical 401 responses."""
    good = await memory_api.new_key("acme")
    expired = await memory_api.new_key("acme", expires_at=clock.now() + timedelta(hours=1))
    revoked = await memory_api.new_key("acme")
    await memory_api.stores.api_keys.revoke(revoked.split("_")[2])
    clock.set(clock.now() + timedelta(hours=1))
    wrong_secret = new_key(good.split("_")[2])
    answers = [
        await get_with_key(memory_api, key)
        for key in (expired, revoked, wrong_secret, new_key("aaaaaaaa"), good[:-1], "nonsense", "é" * 40)
    ]
    assert {(answer.status_code, answer.text, answer.headers["www-authenticate"]) for answer in answers} == {
        (401, answers[0].text, 'Bearer realm="comfyui-modal", error="invalid_token"')
    }
    assert (await get_with_key(memory_api, good)).status_code == 200


async def test_invented_keys_cost_no_request(memory_api: Api, bucket: DownableStore) -> None:
    """The checksum refuses an invented key; a key with a right checksum costs one GET, and existing keys still work."""
    known, cold = await memory_api.new_key("acme"), await memory_api.new_key("other")
    assert (await get_with_key(memory_api, known)).status_code == 200
    bucket.requests.clear()
    for _ in range(50):
        kid, secret = new_kid(), secrets.token_urlsafe(32)
        answer = await get_with_key(memory_api, f"ck_live_{kid}_{secret}_{secrets.token_hex(4)}", "/v1/workflows/none")
        assert answer.status_code == 401
    assert not bucket.requests
    computed = new_key(new_kid())
    for _ in range(3):
        assert (await get_with_key(memory_api, computed, "/v1/workflows/none")).status_code == 401
    assert bucket.requests == {"GET": 1}
    assert [(await get_with_key(memory_api, key)).status_code for key in (known, cold)] == [200, 200]


async def test_a_key_costs_one_request_per_half_minute(
    memory_api: Api, bucket: DownableStore, clock: ManualClock
) -> None:
    """A known or an unknown key costs one GET per cache period, and a malformed key costs none."""
    good, unknown = await memory_api.new_key("acme"), new_key("aaaaaaaa")
    for key, cost in ((good, 1), (unknown, 1), (good[:-1], 0)):
        bucket.requests.clear()
        for _ in range(3):
            await get_with_key(memory_api, key, "/v1/workflows/none")
        assert bucket.requests["GET"] == cost
        clock.set(clock.now() + CACHE_LIFE + timedelta(milliseconds=1))
        await get_with_key(memory_api, key, "/v1/workflows/none")
        assert bucket.requests["GET"] == 2 * cost
        assert bucket.requests["LIST"] == 0


async def test_a_revoked_key_is_refused_when_its_cache_entry_expires(memory_api: Api, clock: ManualClock) -> None:
    """A key that another process revoked is refused once its cache entry expires, at most 30 seconds later."""
    assert timedelta(seconds=30) >= CACHE_LIFE
    key = await memory_api.new_key("acme")
    assert (await get_with_key(memory_api, key)).status_code == 200
    await ApiKeyStore(memory_api.objects, clock).revoke(key.split("_")[2])
    assert (await get_with_key(memory_api, key)).status_code == 200
    clock.set(clock.now() + CACHE_LIFE + timedelta(milliseconds=1))
    assert (await get_with_key(memory_api, key)).status_code == 401


async def test_a_key_that_this_process_revoked_is_refused_at_once(memory_api: Api) -> None:
    """The process that revokes a key accepts it no longer, although it had the key in its cache."""
    key = await memory_api.new_key("acme")
    assert (await get_with_key(memory_api, key)).status_code == 200
    await memory_api.stores.api_keys.revoke(key.split("_")[2])
    assert (await get_with_key(memory_api, key)).status_code == 401


async def test_a_cached_key_expires_on_time(memory_api: Api, clock: ManualClock) -> None:
    """A key that expires while it is cached is refused from its expiry time on."""
    key = await memory_api.new_key("acme", expires_at=clock.now() + timedelta(seconds=10))
    assert (await get_with_key(memory_api, key)).status_code == 200
    clock.set(clock.now() + timedelta(seconds=10))
    assert (await get_with_key(memory_api, key)).status_code == 401


async def test_invented_kids_do_not_evict_keys(clock: ManualClock) -> None:
    """Known keys and unknown kids are cached separately, so invented kids evict no key."""
    bucket = MemoryObjectStore(clock)
    store = ApiKeyStore(bucket, clock)
    key, record = new_record("acme", now=clock.now())
    await store.add(record)
    assert await store.authenticate(key) == record
    letters = "abcdefghij"
    for number in range(2000):
        kid = "".join(letters[int(digit)] for digit in f"{number:08d}")
        await store.authenticate(new_key(kid))
    bucket.requests.clear()
    assert await store.authenticate(key) == record
    assert not bucket.requests


async def test_no_key_is_accepted_while_the_bucket_is_unreachable(memory_api: Api, bucket: DownableStore) -> None:
    """Even a valid key gets 503 while the bucket is unreachable, and is accepted again afterwards."""
    key = await memory_api.new_key("acme")
    bucket.is_down = True
    refused = await get_with_key(memory_api, key)
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/storage-unavailable")
    assert refused.headers["retry-after"] == "5"
    bucket.is_down = False
    assert (await get_with_key(memory_api, key)).status_code == 200


class HeldStore(MemoryObjectStore):
    """A bucket whose reads wait for `gate`."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.gate = asyncio.Event()

    async def get(self, key: str) -> StoredObject:
        await self.gate.wait()
        return await super().get(key)


async def test_too_many_unknown_keys_get_503(clock: ManualClock) -> None:
    """Unknown keys beyond those that may wait get 503 with Retry-After, never 401, and the settings' key is served."""
    bucket, most = HeldStore(clock), FIRST_LOOKUPS + MOST_WAITING
    async with running_api(bucket, clock, ApiConfig(api_key=KEY)) as api:
        flood = [asyncio.create_task(get_with_key(api, new_key(new_kid()))) for _ in range(most + 3)]
        await until(lambda: sum(request.done() for request in flood) == 3)
        refused = [request.result() for request in flood if request.done()]
        assert {(answer.status_code, answer.json()["type"], answer.headers["retry-after"]) for answer in refused} == {
            (503, "/problems/storage-unavailable", "5")
        }
        assert (await get_with_key(api, KEY)).status_code == 200
        bucket.gate.set()
        answers = await asyncio.gather(*flood)
    assert sorted(answer.status_code for answer in answers) == [401] * most + [503] * 3


async def test_a_record_that_cannot_be_read_authenticates_no_key(memory_api: Api, bucket: DownableStore) -> None:
    """A key whose record is unreadable, or stored under another kid, is refused."""
    key, record = new_record("acme", now=memory_api.stores.clock.now())
    await bucket.put(keys.api_key(record.kid), b'{"newer": true}')
    assert (await get_with_key(memory_api, key)).status_code == 401
    other, borrowed = new_record("acme", now=memory_api.stores.clock.now())
    await bucket.put(keys.api_key("aaaaaaaa"), borrowed.model_dump_json().encode())
    assert (await get_with_key(memory_api, other)).status_code == 401


async def test_records_from_the_settings_need_no_bucket(clock: ManualClock) -> None:
    """Key records from the settings authenticate while the bucket is unreachable."""
    bucket = DownableStore(clock)
    bucket.is_down = True
    key, record = new_record("acme", now=clock.now(), scopes=("jobs:read",))
    store = ApiKeyStore(bucket, clock, fixed=[record])
    assert await store.authenticate(key) == record
    assert await store.authenticate(new_key(record.kid)) is None


@pytest.mark.parametrize("operation", PROTECTED, ids=lambda operation: operation.id)
async def test_every_operation_needs_its_scope(memory_api: Api, operation: Operation) -> None:
    """An operation refuses a key without its scope and changes nothing; its scope and admin are accepted."""
    path = _path(operation)
    needed, other = ("jobs:read", "jobs:write") if operation.method in ("get", "head") else ("jobs:write", "jobs:read")
    without = await memory_api.client_of("acme", other)  # type: ignore[arg-type]  # one of the scopes
    async with without:
        before = await memory_api.keys()
        refused = await without.request(operation.method, path, json=operation.example)
        assert refused.status_code == 403
        if operation.method != "head":
            assert "insufficient-scope" in refused.text
        assert f'error="insufficient_scope", scope="{needed}"' in refused.headers["www-authenticate"]
        assert await memory_api.keys() == before
    for scope in (needed, "admin"):
        # Not read to its end, which a stream of events has after minutes.
        async with (
            await memory_api.client_of("acme", scope) as allowed,  # type: ignore[arg-type]  # as above
            allowed.stream(operation.method, path, json=operation.example) as answer,
        ):
            assert answer.status_code not in (401, 403)


def _path(operation: Operation) -> str:
    path = operation.path
    for parameter in operation.parameters:
        if parameter.where == "path":
            value = 0 if parameter.schema["type"] == "integer" else "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"
            path = path.replace(f"{{{parameter.name}}}", str(value))
    return path


async def test_open_operations_need_no_key(memory_api: Api) -> None:
    """Probes, schemas and public keys answer 200 without an API key."""
    for operation in EVERY_OPERATION:
        if operation.is_open:
            path = operation.path.replace("{type}", "comfyui.job.completed.v1")
            answer = await memory_api.client.get(path, headers={"authorization": ""})
            assert answer.status_code == 200, path


async def test_logs_name_the_key_and_never_show_it(memory_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a request has tenant and kid, and no line contains any part of the secret."""
    key = await memory_api.new_key("acme")
    presented = parse_key(key)
    assert presented is not None
    with caplog.at_level(logging.DEBUG):
        await get_with_key(memory_api, key)
        await get_with_key(memory_api, new_key(presented.kid))
    lines: list[Any] = [record for record in caplog.records if record.getMessage() == "request"]
    assert (lines[0].tenant, lines[0].kid) == ("acme", presented.kid)
    assert not hasattr(lines[1], "kid")
    everything = json.dumps([vars(record) for record in caplog.records], default=str)
    secret = key.removeprefix(f"ck_live_{presented.kid}_")[:20]
    assert presented.kid in everything
    assert secret not in everything
    assert presented.sha256 not in everything


@pytest.mark.parametrize("part", ["a", "%00"])
async def test_a_long_path_has_a_short_log_line(part: str, memory_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """The log keeps only the beginning of a long path, since requests need no key to cause such a line."""
    caplog.set_level(logging.INFO)
    path = "/" + part * (60_000 // len(part))
    answer = await memory_api.client.get(path, headers={"authorization": ""})
    assert answer.status_code == 404
    (line,) = [record for record in caplog.records if record.getMessage() == "request"]
    logged: Any = line
    assert logged.path == unquote(path)[:LOGGED_CHARACTERS] + "…"
    assert len(JsonFormatter("api", Redactor()).format(line)) < 2_000


async def test_a_key_above_its_request_rate_gets_429(clock: ManualClock) -> None:
    """A key above its request rate gets 429 with Retry-After until the next second, while other keys are served."""
    config = ApiConfig(api_key=KEY, max_requests_per_s=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api, await api.client_of("acme") as acme:
        statuses = [(await acme.get("/v1/jobs")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = await acme.get("/v1/jobs")
        assert (refused.json()["type"], refused.headers["retry-after"]) == ("/problems/too-many-requests", "1")
        assert (await api.client.get("/v1/jobs")).status_code == 200
        assert (await acme.get("/health")).status_code == 200
        clock.set(clock.now() + timedelta(seconds=1))
        assert (await acme.get("/v1/jobs")).status_code == 200


@pytest.mark.real_bucket("the order of a LIST")
async def test_the_store_lists_and_revokes_keys(objects: ObjectStore, clock: ManualClock) -> None:
    """Keys are listed oldest first, revoking a key again changes nothing, and a kid is never reused."""
    store = ApiKeyStore(objects, clock)
    records = []
    for name in ("first", "second"):
        _, record = new_record("acme", now=clock.now(), name=name)
        await store.add(record)
        records.append(record)
        clock.set(clock.now() + timedelta(seconds=1))
    assert await store.all() == records
    with pytest.raises(PreconditionFailed):
        await store.add(records[0].model_copy(update={"nonce": "another"}))
    revoked = await store.revoke(records[0].kid)
    assert revoked.revoked_at == clock.now()
    clock.set(clock.now() + timedelta(seconds=1))
    assert await store.revoke(records[0].kid) == revoked
    assert await store.all() == [revoked, records[1]]
    for kid in ("aaaaaaaa", "../x", ""):
        with pytest.raises(KeyNotFound):
            await store.revoke(kid)


@pytest.mark.parametrize("tenant", ["", "-a", "A", "a.b", "a/b", "..", "a" * 64, "a\n", "ä"])
def test_a_tenant_has_a_plain_name(tenant: str, clock: ManualClock) -> None:
    """A tenant name that is unsuitable as a folder name is refused."""
    with pytest.raises(ValueError, match="tenant"):
        new_record(tenant, now=clock.now())


PUBLIC = ["/openapi.json", "/docs", "/docs/swagger-ui.css", "/problems", "/schemas/comfyui.job.completed.v1.json"]


@pytest.mark.parametrize("path", PUBLIC)
async def test_a_public_document_is_sent_once(memory_api: Api, path: str) -> None:
    """A public document is answered with 304 to a client that has it, and compressed only where gzip is accepted."""
    client = memory_api.client
    compressed = await client.get(path, headers={"accept-encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert "max-age" in compressed.headers["cache-control"]
    etag = compressed.headers["etag"]
    for known in (etag, f'"other", {etag}', "*"):
        unchanged = await client.get(path, headers={"if-none-match": known})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    if path != "/docs/swagger-ui.css":
        for other in ("identity", "gzip;q=0", "br, gzip; q=0.0"):
            plain = await client.get(path, headers={"accept-encoding": other, "if-none-match": '"another"'})
            assert "content-encoding" not in plain.headers
            assert plain.content == compressed.content


@pytest.mark.parametrize("path", [*PUBLIC, "/problems/not-found"])
async def test_a_public_document_costs_little(memory_api: Api, path: str) -> None:
    """A repeated request without a key makes at most ten times the Python calls of GET /health."""

    async def calls(asked_path: str) -> int:
        await memory_api.client.get(asked_path)
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count)
        try:
            assert (await memory_api.client.get(asked_path)).status_code == 200
        finally:
            sys.setprofile(None)
        return counted

    assert await calls(path) <= 10 * await calls("/health")
