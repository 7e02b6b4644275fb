"""Isolation of two tenants: no request of one tenant reveals or changes anything of the other.

The tests go through the whole table of operations, so that a new operation cannot be forgotten.
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
from app.operations import Operation
from app.problems import PROBLEM_TYPES
from storage.access.api_keys import new_key
from storage.clock import ManualClock
from storage.index_keys import ListEntry
from storage.jobs.models import Output
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.operations import EVERY_OPERATION
from tests.support.post import Post
from tests.support.watched_bucket import WatchedBucket
from workers.webhooks.post import Answer

pytestmark = pytest.mark.anyio

VICTIM, ATTACKER = "acme", "acme-2"
"""One name is a prefix of the other, so that their folders are adjacent."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNKNOWN_PARAMETER = PROBLEM_TYPES["unknown-parameter"].status
SHARED = {
    "class_type": "LoadImage",
    "name": "still",
    "type": "comfyui.job.completed.v1",
    "number": "0",
    "hash": f"blake3:{'0' * 64}",
}
"""Path parameters that belong to no tenant."""
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
VARYING = frozenset({"date", "x-comfy-request-id", "x-request-id"})


@dataclass(frozen=True, slots=True)
class Resources:
    """The ids of a tenant's resources; the job has ended and has an output, a log, a delivery and a dead letter."""

    job_id: str
    batch_id: str
    event_id: str
    upload_id: str

    @classmethod
    def unknown(cls) -> "Resources":
        job_id = str(uuid.uuid4())
        return cls(job_id, str(uuid.uuid4()), f"evt_{job_id}_000001", str(uuid.uuid4()))

    def ids(self) -> Mapping[str, str]:
        """The ids by the names of path parameters."""
        return {"job_id": self.job_id, "batch_id": self.batch_id, "event_id": self.event_id, "asset_id": self.upload_id}


@dataclass(frozen=True, slots=True)
class World:
    """An API with both tenants."""

    api: Api
    bucket: WatchedBucket
    post: Post
    attacker: httpx.AsyncClient
    theirs: Resources
    own: Resources

    def victims_objects(self) -> dict[str, bytes]:
        """All objects of the victim."""
        return {key: body for key, body in self.bucket.contents().items() if is_victims(key)}

    async def seen(self, call: Callable[[], Awaitable[httpx.Response]], ids: Resources) -> tuple[Any, ...]:
        """A response and its cost, without ids and without headers that differ between requests."""
        self.bucket.watch()
        answer = await call()
        headers = {name: value for name, value in answer.headers.items() if name not in VARYING}
        cost = Counter(self.bucket.requests), [(verb, blind(key, ids)) for verb, key in self.bucket.touched]
        return answer.status_code, blind(answer.text, ids), blind(str(headers), ids), cost


def is_victims(key: str) -> bool:
    """Whether a key is in the victim's folder, or is an index key that names the victim."""
    return f"/{VICTIM}/" in key or key.endswith(f"-{VICTIM}")


def blind(text: str, ids: Resources) -> str:
    for name in (ids.event_id, ids.job_id, ids.batch_id, ids.upload_id):
        text = text.replace(name, "ID")
    return re.sub(r"evt_[0-9a-f-]{36}|[0-9a-f]{8}-[0-9a-f-]{27}", "NEW", text)


async def create_resources(api: Api, post: Post, tenant: str) -> Resources:
    """Creates one resource of each kind for the tenant."""
    hook: dict[str, Any] = {"webhook_url": "https://hooks.example/x", "webhook_events": ["completed"]}
    async with await api.client_of(tenant) as client:
        headers = {"idempotency-key": "once"}
        job_id = (await client.post("/v1/jobs", json={"workflow": BLUE, **hook}, headers=headers)).json()["job_id"]
        await complete_job(api, tenant)
        post.receiver.answers = [Answer(415, 5)]
        await post.send()
        (event_id,) = (letter["event_id"] for letter in (await client.get("/v1/dead-letters")).json()["dead_letters"])
        await api.stores.endpoints.failed(tenant, hook["webhook_url"], disable=None, scale=1)
        upload_request = {"size_bytes": 3, "content_type": "model/gltf-binary"}
        upload_id = (await client.post("/v1/uploads", json=upload_request)).json()["upload_id"]
        await api.objects.put(f"tenants/{tenant}/uploads/{upload_id}/data", b"{ }", content_type="model/gltf-binary")
        batch = await client.post("/v1/batches", json={"jobs": [{"workflow": BLUE}]})
        return Resources(job_id, batch.json()["batch_id"], event_id, upload_id)


async def complete_job(api: Api, tenant: str) -> None:
    """Completes the queued job as its worker."""
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
async def world(clock: ManualClock) -> AsyncIterator[World]:
    bucket = WatchedBucket(clock)
    config = ApiConfig(api_key=KEY, webhook_test_wait_s=0.05, cancel_wait_s=0.05, max_stream_s=0.1)
    async with running_api(bucket, clock, config) as api, await api.client_of(ATTACKER) as attacker:
        post = Post(bucket, clock)
        own = await create_resources(api, post, ATTACKER)
        for key in (await bucket.list("queue/")).keys:
            await bucket.delete(key)  # so that the other tenant's job is claimed next
        theirs = await create_resources(api, post, VICTIM)
        await attacker.get("/v1/system")  # its key is cached from here on
        yield World(api, bucket, post, attacker, theirs, own)


def path_of(operation: Operation, ids: Resources) -> str:
    """The operation's path for these ids; raises KeyError for a parameter whose owner is not declared."""
    path = operation.path
    for parameter in operation.parameters:
        if parameter.where == "path":
            path = path.replace(f"{{{parameter.name}}}", {**SHARED, **ids.ids()}[parameter.name])
    return path


BY_ID = [operation for operation in EVERY_OPERATION if "_id}" in operation.path]


@pytest.mark.parametrize("operation", BY_ID, ids=lambda operation: operation.id)
async def test_a_foreign_id_is_indistinguishable_from_an_unknown_id(world: World, operation: Operation) -> None:
    """By every method, a foreign and an unknown id give the same response and the same bucket requests."""
    before = world.victims_objects()
    for query in ("", *QUERIES.get(operation.id, ())):
        for method in METHODS:
            answers = []
            for ids in (world.theirs, Resources.unknown()):
                path = path_of(operation, ids) + query
                answers.append(await world.seen(lambda path=path, m=method: world.attacker.request(m, path), ids))  # type: ignore[misc]
                assert not [key for _, key in world.bucket.touched if is_victims(key)]
            assert answers[0] == answers[1]
            # Another method of the path refuses the parameter before it looks for the id.
            assert answers[0][0] in (
                (404, 405) if not query or method == operation.method.upper() else (400, 404, 405, 422)
            )
    assert world.victims_objects() == before


async def test_the_foreign_ids_exist(world: World) -> None:
    """The victim itself can read all resources whose ids are refused to the attacker."""
    async with await world.api.client_of(VICTIM) as victim:
        for operation in BY_ID:
            if operation.method == "get":
                answer = await victim.get(path_of(operation, world.theirs), follow_redirects=False)
                assert answer.status_code in (200, 302), operation.id
    assert {operation.id for operation in EVERY_OPERATION} >= set(QUERIES)


async def test_an_event_is_found_only_by_its_own_job(world: World) -> None:
    """A redelivery is refused if the job or the event belongs to the other tenant."""
    before = world.victims_objects()
    for job_id, event_id in (
        (world.theirs.job_id, world.own.event_id),
        (world.own.job_id, world.theirs.event_id),
    ):
        answer = await world.attacker.post(f"/v1/jobs/{job_id}/deliveries/{event_id}/redeliver")
        assert answer.status_code == 404
    assert world.victims_objects() == before


@pytest.mark.parametrize("operation", EVERY_OPERATION, ids=lambda operation: operation.id)
async def test_no_operation_touches_another_tenant(world: World, operation: Operation) -> None:
    """An accepted operation with the attacker's own ids neither accesses nor returns anything of the victim."""
    before = world.victims_objects()
    for query in ("", *QUERIES.get(operation.id, ())):
        world.bucket.watch()
        path = path_of(operation, world.own) + query
        answer = await world.attacker.request(
            operation.method, path, json=operation.example, headers={"idempotency-key": "mine"}, follow_redirects=False
        )
        assert answer.status_code < 500
        assert not [key for _, key in world.bucket.touched if is_victims(key)]
        for secret in (*world.theirs.ids().values(), world.theirs.upload_id, SECRET_LINE):
            assert secret not in answer.text + str(answer.headers)
    assert world.victims_objects() == before


async def test_a_foreign_upload_is_indistinguishable_from_an_unknown_upload(world: World) -> None:
    """Every request that names a foreign upload gets the response for an unknown upload."""
    before = world.victims_objects()
    cases: Mapping[str, Callable[[str], Any]] = {
        "/v1/jobs": lambda upload: {"workflow": LOADS, "media": [{"name": "a.png", "upload_id": upload}]},
        "/v1/batches": lambda upload: {
            "workflow": LOADS,
            "input_sets": [[]],
            "media": [{"name": "a.png", "upload_id": upload}],
        },
        "/v1/workflows/still/jobs": lambda upload: {"inputs": {"image": {"upload_id": upload}}},
    }
    assert {
        operation.path.replace("{name}", "still") for operation in EVERY_OPERATION if takes_media(operation)
    } == set(cases)
    for path, document in cases.items():
        answers = []
        for ids in (world.theirs, Resources.unknown()):
            body = document(ids.upload_id)
            answers.append(await world.seen(lambda path=path, b=body: world.attacker.post(path, json=b), ids))  # type: ignore[misc]
            assert not [key for _, key in world.bucket.touched if is_victims(key)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 422
        accepted = await world.attacker.post(path, json=document(world.own.upload_id))
        assert accepted.status_code == 202, accepted.text
    assert world.victims_objects() == before


def takes_media(operation: Operation) -> bool:
    return operation.request is not None and "media" in operation.request.model_fields


async def test_foreign_dead_letters_are_not_replayed(world: World) -> None:
    """A replay, of named events or of all, affects only the tenant's own dead letters."""
    before = world.victims_objects()
    named = await world.attacker.post("/v1/dead-letters/replay", json={"event_ids": [world.theirs.event_id]})
    assert (named.status_code, named.json()) == (202, {"replayed": []})
    everything = await world.attacker.post("/v1/dead-letters/replay", json={})
    assert everything.json() == {"replayed": [world.own.event_id]}
    assert world.victims_objects() == before


async def test_lists_show_only_the_tenants_own_resources(world: World) -> None:
    """Lists show only the tenant's own resources, even with a cursor of the other tenant."""
    stored = (await world.api.stores.jobs.read(VICTIM, world.theirs.job_id)).record
    entry = ListEntry(stored.created_at, stored.job_id, None).key(VICTIM, None).rsplit("/", 1)[1]
    for cursor in ("", f"&cursor={_cursor(entry)}"):
        shown = (await world.attacker.get(f"/v1/jobs?limit=200{cursor}")).json()["jobs"]
        assert world.theirs.job_id not in {row["job_id"] for row in shown}
    filters = {
        "created_after": "2000-01-01T00:00:00Z",
        "metadata[a]": "b",
        "workflow": "still",
        "error_code": "cancelled",
    }
    for name, value in filters.items():
        shown = (await world.attacker.get("/v1/jobs", params={name: value})).json()["jobs"]
        assert world.theirs.job_id not in {row["job_id"] for row in shown}
    letters = (await world.attacker.get("/v1/dead-letters")).json()["dead_letters"]
    assert [letter["event_id"] for letter in letters] == [world.own.event_id]
    assert len((await world.attacker.get("/v1/webhooks/endpoints")).json()["endpoints"]) == 1


async def test_a_foreign_batch_is_an_unknown_filter(world: World) -> None:
    """Jobs filtered by a foreign batch get the response, at the cost, of an unknown batch."""
    answers = []
    for ids in (world.theirs, Resources.unknown()):
        path = f"/v1/jobs?batch_id={ids.batch_id}"
        answers.append(await world.seen(lambda path=path: world.attacker.get(path), ids))  # type: ignore[misc]
        assert not [key for _, key in world.bucket.touched if is_victims(key)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_an_idempotency_key_belongs_to_its_tenant(world: World) -> None:
    """The same idempotency key of another tenant causes neither a replay nor a conflict."""
    before = world.victims_objects()
    async with await world.api.client_of("third") as third:
        for body in ({"workflow": BLUE}, {"workflow": BLUE, "priority": 1}):
            answer = await third.post("/v1/jobs", json=body, headers={"idempotency-key": "once"})
            assert answer.status_code == (202 if "priority" not in body else 409)
            assert answer.headers.get("idempotency-replayed") is None
    assert world.victims_objects() == before


@pytest.mark.parametrize("tenant", [VICTIM, ATTACKER])
async def test_presigned_urls_point_to_the_tenants_own_objects(world: World, tenant: str) -> None:
    """Presigned URLs of outputs and uploads point into the tenant's own folder."""
    own = {VICTIM: world.theirs, ATTACKER: world.own}[tenant]
    async with await world.api.client_of(tenant) as client:
        shown = (await client.get(f"/v1/jobs/{own.job_id}")).json()["outputs"][0]["url"]
        put = (await client.post("/v1/uploads", json={"size_bytes": 1, "content_type": "image/png"})).json()["url"]
    assert shown.startswith(f"memory://tenants/{tenant}/jobs/{own.job_id}/")
    assert put.startswith(f"memory://tenants/{tenant}/uploads/")


async def test_response_times_do_not_reveal_foreign_ids(world: World) -> None:
    """Response times do not distinguish foreign from unknown ids, or wrong secrets of known keys from unknown keys."""
    chance = random.Random(7)  # noqa: S311  shuffles, guards nothing
    known = await world.api.new_key(VICTIM)
    wrong, unknown = new_key(known.split("_")[2]), new_key("aaaaaaaa")
    unknown_id = str(uuid.uuid4())
    kinds: Sequence[tuple[Callable[[], Awaitable[httpx.Response]], Callable[[], Awaitable[httpx.Response]]]] = (
        (
            lambda: world.attacker.get(f"/v1/jobs/{world.theirs.job_id}"),
            lambda: world.attacker.get(f"/v1/jobs/{unknown_id}"),
        ),
        (lambda: _with_key(world, wrong), lambda: _with_key(world, unknown)),
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
    """The share of pairs in which `some` is slower than `others` (Mann and Whitney's U): 0.5 if both are alike.

    With 100 values of each kind, its standard deviation is 0.04 if there is no difference.
    """
    ordered = sorted(others)
    wins = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in some)
    return wins / (2 * len(some) * len(others))


async def _with_key(world: World, key: str) -> httpx.Response:
    return await world.attacker.get("/v1/jobs/x", headers={"authorization": f"Bearer {key}"})


def _cursor(entry: str) -> str:
    return base64.urlsafe_b64encode(entry.encode()).decode().rstrip("=")
