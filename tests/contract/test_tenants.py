"""Two tenants: whatever one of them asks, of the other it learns and changes nothing.

The table of operations is gone through as a whole, so that a new one cannot be forgotten.
"""

import base64
import random
import re
import time
import uuid
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.config import ApiConfig
from app.openapi import OPERATIONS
from app.operations import Operation
from storage.access.api_keys import new_key
from storage.clock import ManualClock
from storage.index_keys import ListEntry
from storage.jobs.models import Output
from storage.webhooks.post import Answer
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.post import Post
from tests.support.watched_bucket import WatchedBucket

pytestmark = pytest.mark.anyio

VICTIM, ATTACKER = "acme", "acme-2"
"""Of which one's name begins with the other's: their folders lie side by side."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SHARED = {"name": "still", "type": "comfyui.job.completed.v1", "number": "0"}
"""Parameters of a path that are no tenant's."""
QUERIES = {
    "get_job": ("?wait=1",),
    "cancel_job": ("?purge=true",),
    "get_output": ("?redirect=false",),
    "get_logs": ("?attempt=1",),
}
LOADS = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}
SECRET_LINE = f"said for {VICTIM} alone"
VARYING = frozenset({"date", "x-request-id"})


@dataclass(frozen=True, slots=True)
class Belongings:
    """The ids of what a tenant has; `job_id` is over and has an output, a log, a delivery and a dead letter."""

    job_id: str
    batch_id: str
    event_id: str
    upload_id: str

    @classmethod
    def unknown(cls) -> "Belongings":
        job_id = str(uuid.uuid4())
        return cls(job_id, str(uuid.uuid4()), f"evt_{job_id}_000001", str(uuid.uuid4()))

    def ids(self) -> Mapping[str, str]:
        """By the names of parameters."""
        return {"job_id": self.job_id, "batch_id": self.batch_id, "event_id": self.event_id}


@dataclass(frozen=True, slots=True)
class Town:
    """An API with both tenants in it."""

    api: Api
    bucket: WatchedBucket
    post: Post
    attacker: httpx.AsyncClient
    theirs: Belongings
    own: Belongings

    def taken(self) -> dict[str, bytes]:
        """Everything of the victim."""
        return {key: body for key, body in self.bucket.contents().items() if is_victims(key)}

    async def seen(self, call: Callable[[], Awaitable[httpx.Response]], ids: Belongings) -> tuple[Any, ...]:
        """An answer and its cost, without what differs from request to request and without the ids."""
        self.bucket.watch()
        answer = await call()
        headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
        cost = Counter(self.bucket.requests), [(verb, blind(key, ids)) for verb, key in self.bucket.touched]
        return answer.status_code, blind(answer.text, ids), blind(str(headers), ids), cost


def is_victims(key: str) -> bool:
    """A key below the tenant's folder, or a hint that names it."""
    return f"/{VICTIM}/" in key or key.endswith(f"-{VICTIM}")


def blind(text: str, ids: Belongings) -> str:
    for name in (ids.event_id, ids.job_id, ids.batch_id, ids.upload_id):
        text = text.replace(name, "ID")
    return re.sub(r"evt_[0-9a-f-]{36}|[0-9a-f]{8}-[0-9a-f-]{27}", "NEW", text)


async def settled(api: Api, post: Post, tenant: str) -> Belongings:
    """Give the tenant one of everything."""
    hook: dict[str, Any] = {"webhook_url": "https://hooks.example/x", "webhook_events": ["completed"]}
    async with await api.client_of(tenant) as client:
        headers = {"idempotency-key": "once"}
        job_id = (await client.post("/v1/jobs", json={"workflow": BLUE, **hook}, headers=headers)).json()["job_id"]
        await ended(api, tenant)
        post.receiver.answers = [Answer(415, 5)]
        await post.send()
        (event_id,) = (letter["event_id"] for letter in (await client.get("/v1/dead-letters")).json()["dead_letters"])
        await api.stores.endpoints.failed(tenant, hook["webhook_url"], disable=None, scale=1)
        wanted = {"size_bytes": 3, "content_type": "model/gltf-binary"}
        upload_id = (await client.post("/v1/uploads", json=wanted)).json()["upload_id"]
        await api.objects.put(f"tenants/{tenant}/uploads/{upload_id}/data", b"{ }", content_type="model/gltf-binary")
        batch = await client.post("/v1/batches", json={"jobs": [{"workflow": BLUE}]})
        return Belongings(job_id, batch.json()["batch_id"], event_id, upload_id)


async def ended(api: Api, tenant: str) -> None:
    """Be the worker of the one job that waits."""
    claimed = await api.queue.claim("default", "w")
    assert claimed is not None
    record = claimed.record
    assert record.tenant == tenant
    output = Output(
        filename="a.png",
        type="image",
        node_id="2",
        key=f"tenants/{tenant}/jobs/{record.job_id}/outputs/001/0000/a.png",
        size_bytes=3,
        content_type="image/png",
        sha256="0" * 64,
    )
    await api.stores.logs.write(tenant, record.job_id, 1, [f"said for {tenant} alone"])
    now = api.stores.clock.now()
    await api.stores.jobs.evolve_from(claimed, lambda r: r.complete(attempt=1, now=now, outputs=(output,)))


@pytest.fixture
async def town(clock: ManualClock) -> AsyncIterator[Town]:
    bucket = WatchedBucket(clock)
    config = ApiConfig(api_key=KEY, webhook_test_wait_s=0.05, cancel_wait_s=0.05)
    async with running_api(bucket, clock, config) as api, await api.client_of(ATTACKER) as attacker:
        post = Post(bucket, clock)
        own = await settled(api, post, ATTACKER)
        for key in (await bucket.list("queue/")).keys:
            await bucket.delete(key)  # so that the next job to be claimed is the other tenant's
        theirs = await settled(api, post, VICTIM)
        await attacker.get("/v1/system")  # its key is known from here on
        yield Town(api, bucket, post, attacker, theirs, own)


def path_of(operation: Operation, ids: Belongings) -> str:
    """KeyError for a parameter of which nobody has said whose it is."""
    path = operation.path
    for parameter in operation.parameters:
        if parameter.where == "path":
            path = path.replace(f"{{{parameter.name}}}", {**SHARED, **ids.ids()}[parameter.name])
    return path


BY_ID = [operation for operation in OPERATIONS if "_id}" in operation.path]


@pytest.mark.parametrize("operation", BY_ID, ids=lambda operation: operation.id)
async def test_a_foreign_id_is_an_unknown_id(town: Town, operation: Operation) -> None:
    """By every method: the same status, headers and body, the same requests to the bucket, and none to the victim's."""
    before = town.taken()
    for query in ("", *QUERIES.get(operation.id, ())):
        for method in METHODS:
            answers = []
            for ids in (town.theirs, Belongings.unknown()):
                path = path_of(operation, ids) + query
                answers.append(await town.seen(lambda path=path, m=method: town.attacker.request(m, path), ids))  # type: ignore[misc]
                assert not [key for _, key in town.bucket.touched if is_victims(key)]
            assert answers[0] == answers[1]
            assert answers[0][0] in (404, 405)
    assert town.taken() == before


async def test_there_are_foreign_ids_to_try(town: Town) -> None:
    """The victim itself finds all of it: what the attacker is refused is there."""
    async with await town.api.client_of(VICTIM) as victim:
        for operation in BY_ID:
            if operation.method == "get":
                answer = await victim.get(path_of(operation, town.theirs), follow_redirects=False)
                assert answer.status_code in (200, 302), operation.id
    assert {operation.id for operation in OPERATIONS} >= set(QUERIES)


async def test_the_attackers_own_event_is_not_reached_by_a_foreign_job(town: Town) -> None:
    """Nor a foreign event by its own job."""
    before = town.taken()
    for job_id, event_id in (
        (town.theirs.job_id, town.own.event_id),
        (town.own.job_id, town.theirs.event_id),
    ):
        answer = await town.attacker.post(f"/v1/jobs/{job_id}/deliveries/{event_id}/redeliver")
        assert answer.status_code == 404
    assert town.taken() == before


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
async def test_no_operation_touches_another_tenant(town: Town, operation: Operation) -> None:
    """With its own ids and a body that is accepted: no key of the victim is read or written, no answer names one."""
    before = town.taken()
    for query in ("", *QUERIES.get(operation.id, ())):
        town.bucket.watch()
        path = path_of(operation, town.own) + query
        answer = await town.attacker.request(
            operation.method, path, json=operation.example, headers={"idempotency-key": "mine"}, follow_redirects=False
        )
        assert answer.status_code < 500
        assert not [key for _, key in town.bucket.touched if is_victims(key)]
        for secret in (*town.theirs.ids().values(), town.theirs.upload_id, SECRET_LINE):
            assert secret not in answer.text + str(answer.headers)
    assert town.taken() == before


async def test_a_foreign_upload_is_an_unknown_upload(town: Town) -> None:
    """In every body that names one."""
    before = town.taken()
    cases: Mapping[str, Callable[[str], Any]] = {
        "/v1/jobs": lambda upload: {"workflow": LOADS, "media": [{"name": "a.png", "upload_id": upload}]},
        "/v1/batches": lambda upload: {
            "workflow": LOADS,
            "input_sets": [[]],
            "media": [{"name": "a.png", "upload_id": upload}],
        },
        "/v1/workflows/still/jobs": lambda upload: {"inputs": {"image": {"upload_id": upload}}},
    }
    assert {operation.path.replace("{name}", "still") for operation in OPERATIONS if takes_media(operation)} == set(
        cases
    )
    for path, document in cases.items():
        answers = []
        for ids in (town.theirs, Belongings.unknown()):
            body = document(ids.upload_id)
            answers.append(await town.seen(lambda path=path, b=body: town.attacker.post(path, json=b), ids))  # type: ignore[misc]
            assert not [key for _, key in town.bucket.touched if is_victims(key)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 422
        accepted = await town.attacker.post(path, json=document(town.own.upload_id))
        assert accepted.status_code == 202, accepted.text
    assert town.taken() == before


def takes_media(operation: Operation) -> bool:
    return operation.request is not None and "media" in operation.request.model_fields


async def test_foreign_dead_letters_are_not_replayed(town: Town) -> None:
    """Neither by name nor with all of one's own."""
    before = town.taken()
    named = await town.attacker.post("/v1/dead-letters/replay", json={"event_ids": [town.theirs.event_id]})
    assert (named.status_code, named.json()) == (202, {"replayed": []})
    everything = await town.attacker.post("/v1/dead-letters/replay", json={})
    assert everything.json() == {"replayed": [town.own.event_id]}
    assert town.taken() == before


async def test_lists_show_ones_own_alone(town: Town) -> None:
    """Also from a cursor that the other tenant was given."""
    stored = (await town.api.stores.jobs.read(VICTIM, town.theirs.job_id)).record
    entry = ListEntry(stored.created_at, stored.job_id, None).key(VICTIM, None).rsplit("/", 1)[1]
    for cursor in ("", f"&cursor={_cursor(entry)}"):
        shown = (await town.attacker.get(f"/v1/jobs?limit=200{cursor}")).json()["jobs"]
        assert town.theirs.job_id not in {row["job_id"] for row in shown}
    letters = (await town.attacker.get("/v1/dead-letters")).json()["dead_letters"]
    assert [letter["event_id"] for letter in letters] == [town.own.event_id]
    assert len((await town.attacker.get("/v1/webhooks/endpoints")).json()["endpoints"]) == 1


async def test_an_idempotency_key_is_ones_own(town: Town) -> None:
    """The same key, and even the same body, makes another tenant's request no replay, and no conflict."""
    before = town.taken()
    async with await town.api.client_of("third") as third:
        for body in ({"workflow": BLUE}, {"workflow": BLUE, "priority": 1}):
            answer = await third.post("/v1/jobs", json=body, headers={"idempotency-key": "once"})
            assert answer.status_code == (202 if "priority" not in body else 409)
            assert answer.headers.get("idempotency-replayed") is None
    assert town.taken() == before


@pytest.mark.parametrize("tenant", [VICTIM, ATTACKER])
async def test_presigned_urls_lead_to_ones_own_objects(town: Town, tenant: str) -> None:
    """An output's, and an upload's."""
    own = {VICTIM: town.theirs, ATTACKER: town.own}[tenant]
    async with await town.api.client_of(tenant) as client:
        shown = (await client.get(f"/v1/jobs/{own.job_id}")).json()["outputs"][0]["url"]
        put = (await client.post("/v1/uploads", json={"size_bytes": 1, "content_type": "image/png"})).json()["url"]
    assert shown.startswith(f"memory://tenants/{tenant}/jobs/{own.job_id}/")
    assert put.startswith(f"memory://tenants/{tenant}/uploads/")


async def test_time_does_not_tell_a_foreign_id_from_an_unknown_one(town: Town) -> None:
    """Nor a wrong secret of a known key from an unknown key: drawn in turn, neither kind is mostly the slower one."""
    chance = random.Random(7)  # noqa: S311  shuffles, guards nothing
    known = await town.api.new_key(VICTIM)
    wrong, unknown = new_key(known.split("_")[2]), new_key("aaaaaaaa")
    stranger = str(uuid.uuid4())
    kinds: Sequence[tuple[Callable[[], Awaitable[httpx.Response]], Callable[[], Awaitable[httpx.Response]]]] = (
        (
            lambda: town.attacker.get(f"/v1/jobs/{town.theirs.job_id}"),
            lambda: town.attacker.get(f"/v1/jobs/{stranger}"),
        ),
        (lambda: _with_key(town, wrong), lambda: _with_key(town, unknown)),
    )
    for first, second in kinds:
        times: tuple[list[float], list[float]] = ([], [])
        turns = [0, 1] * 100
        chance.shuffle(turns)
        for turn in turns:
            started = time.perf_counter()
            await (first, second)[turn]()
            times[turn].append(time.perf_counter() - started)
        assert 0.3 < slower(*times) < 0.7


def slower(some: Sequence[float], others: Sequence[float]) -> float:
    """How often one of `some` is slower than one of `others` (Mann and Whitney's U over all pairs): 0.5 if alike.

    With 100 of each, its standard deviation is 0.04 where there is no difference.
    """
    ordered = sorted(others)
    wins = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in some)
    return wins / (2 * len(some) * len(others))


async def _with_key(town: Town, key: str) -> httpx.Response:
    return await town.attacker.get("/v1/jobs/x", headers={"authorization": f"Bearer {key}"})


def _cursor(entry: str) -> str:
    return base64.urlsafe_b64encode(entry.encode()).decode().rstrip("=")
