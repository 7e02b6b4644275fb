"""Requests that would fill the API's memory or delay others are refused or processed a few at a time."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from app import heavy
from app.body import MAX_VALUES
from app.body.arriving import ArrivingBodies
from app.body.large import LargeBodies
from app.config import ApiConfig
from app.problems import Problem
from app.submission import batches
from app.submission.batches import JOBS_BETWEEN_CHECKS, prepared_batch
from app.submission.preparation import Preparation, PreparedWorkflow
from app.submission.request import BatchRequest, JobOptions
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api
from tests.support.waiting import until
from workflows.catalogue import Catalogue

pytestmark = pytest.mark.anyio

LONG = 70_000
KIB = 1024


def with_prefix(text: str) -> dict[str, Any]:
    return BLUE | {"2": {**BLUE["2"], "inputs": {**BLUE["2"]["inputs"], "filename_prefix": text}}}


async def sent(api: Api, document: Any, path: str = "/v1/jobs") -> httpx.Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await api.client.post(path, content=body, headers={"content-type": "application/json"})


@pytest.fixture
async def api(clock: ManualClock) -> Any:
    config = ApiConfig(api_key=KEY, max_total_text_bytes=200 * KIB)
    async with running_api(MemoryObjectStore(clock), clock, config) as running:
        yield running


BAD_TEXTS = {
    "an unknown escape": b"\\q" + b"a" * LONG,
    "a line break": b"a\n" + b"a" * LONG,
    "a byte that is not UTF-8": b"\xff" + b"a" * LONG,
    "half a character": b"\\ud800" + b"a" * LONG,
    "half an escape": b"\\u12" + b"g" * LONG,
}
POSITIONS = {
    "a value": lambda text: b'{"workflow":{"1":{"class_type":"SaveImage","inputs":{"x":"' + text + b'"}}}}',
    "a name": lambda text: b'{"workflow":{"' + text + b'":{"class_type":"SaveImage","inputs":{}}}}',
    "an input": lambda text: (
        b'{"workflow":{"1":{"class_type":"A","inputs":{"x":1}}},"inputs":[{"node":"1","field":"x","value":"'
        + text
        + b'"}]}'
    ),
    "metadata": lambda text: b'{"workflow":{},"metadata":{"k":"' + text + b'"}}',
    "an unknown field": lambda text: b'{"' + text + b'":1}',
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", BAD_TEXTS)
async def test_an_invalid_long_string_is_refused(api: Api, kind: str, position: str) -> None:
    """An invalid long string is refused at every position, like a short string."""
    answer = await sent(api, POSITIONS[position](BAD_TEXTS[kind]))
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-json")


@pytest.mark.parametrize(
    "document",
    [
        {"workflow": BLUE, "metadata": {"k": "x" * LONG}},
        {"workflow": BLUE, "metadata": {"x" * LONG: ""}},
        {"workflow": BLUE, "extra_data": {"api_key_comfy_org": "x" * LONG}},
        {"workflow": BLUE, "webhook_url": "https://h.example/" + "x" * LONG},
        {"workflow": BLUE, "inputs": [{"node": "x" * LONG, "field": "x", "value": 1}]},
    ],
)
async def test_a_long_string_counts_with_its_full_length(api: Api, document: Any) -> None:
    """A string that is stored outside the document is still checked against the limit on its length."""
    answer = await sent(api, document)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-error")
    batch = await sent(api, {"jobs": [document]}, "/v1/batches")
    assert (batch.status_code, batch.json()["type"]) == (422, "/problems/validation-error")
    named_job = {name: value for name, value in document.items() if name not in ("workflow", "inputs")}
    assert (await sent(api, named_job | {"inputs": {"prompt": "x"}}, "/v1/workflows/still/jobs")).status_code == 422


async def test_the_url_of_a_test_webhook_has_a_maximum_length(api: Api) -> None:
    """The URL of a test webhook has the same maximum length as that of a job."""
    answer = await sent(api, {"url": "https://h.example/" + "x" * LONG}, "/v1/webhooks/test")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-error")


async def test_a_long_prompt_is_stored_in_full(api: Api) -> None:
    """A long prompt is accepted in the graph, as an input and in a batch, and is stored in full."""
    text = "x" * LONG
    own = await sent(api, {"workflow": with_prefix(text)})
    stored = (await api.client.get(f"/v1/jobs/{own.json()['job_id']}/workflow")).json()
    assert stored["2"]["inputs"]["filename_prefix"] == text
    value = {"node": "2", "field": "filename_prefix", "value": text}
    for path, document in (
        ("/v1/jobs", {"workflow": BLUE, "inputs": [value]}),
        ("/v1/batches", {"workflow": BLUE, "input_sets": [[value]]}),
        ("/v1/batches", {"jobs": [{"workflow": BLUE, "inputs": [value]}]}),
    ):
        assert (await sent(api, document, path)).status_code == 202


async def test_the_total_length_of_long_texts_is_limited(api: Api) -> None:
    """The long texts of one request are limited in sum, in a graph and in the inputs of several jobs."""
    value = {"node": "2", "field": "filename_prefix", "value": "x" * LONG}
    assert (await sent(api, {"workflow": BLUE, "input_sets": [[value]] * 2}, "/v1/batches")).status_code == 202
    for path, document in (
        ("/v1/jobs", {"workflow": with_prefix("x" * LONG), "inputs": [value] * 2}),
        ("/v1/batches", {"workflow": BLUE, "input_sets": [[value]] * 3}),
    ):
        answer = await sent(api, document, path)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/text-too-long")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999"])
async def test_a_number_outside_the_range_of_a_double_is_refused(api: Api, number: bytes) -> None:
    """A number that JSON cannot represent as a double is refused in a graph and as an input."""
    graph = json.dumps(BLUE).replace('"width": 8', '"width": N').encode().replace(b"N", number)
    value = b',"inputs":[{"node":"1","field":"width","value":' + number + b"}]"
    for body in (b'{"workflow":' + graph + b"}", b'{"workflow":' + json.dumps(BLUE).encode() + value + b"}"):
        answer = await sent(api, body)
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-json")


async def test_many_values_are_refused_while_they_arrive(api: Api) -> None:
    """A body with too many values is refused while it arrives, and the event loop stays responsive."""
    body = b'{"x":[' + b",".join([b"[]"] * (MAX_VALUES * 2)) + b"]}"
    slowest, pending_request = 0.0, asyncio.create_task(sent(api, body))
    while not pending_request.done():
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        slowest = max(slowest, asyncio.get_running_loop().time() - started)
    assert (await pending_request).json()["type"] == "/problems/request-too-large"
    assert slowest < 3


async def test_tenants_whose_requests_last_keep_no_other_out() -> None:
    """Where each tenant has one place besides, two that hold all of the common ones do not delay a third."""
    slots = LargeBodies(4, wait_s=0.05, one_of_each=True)
    held = [await slots.enter(tenant) for tenant in ("a", "a", "b", "b")]
    for tenant in ("c", "d"):
        leave = await slots.enter(tenant)
        leave()
    held += [await slots.enter("c"), await slots.enter("c")]
    common = [await slots.enter("d"), await slots.enter("d")]
    with pytest.raises(Problem):
        await slots.enter("c")  # it has its half
    held.append(await slots.enter("e"))
    with pytest.raises(Problem):
        await slots.enter("e")  # its own place is taken, and so are those of all
    for leave in (*held, *common):
        leave()
    assert [await slots.enter("e") for _ in range(2)]


async def test_large_documents_wait_for_a_slot() -> None:
    """A tenant has at most half of the slots, and a request that waits too long for a slot is refused."""
    slots = LargeBodies(4, wait_s=0.05)
    first, second = await slots.enter("a"), await slots.enter("a")
    with pytest.raises(Problem) as refused:
        await slots.enter("a")
    assert refused.value.type.slug == "too-many-large-requests"
    await slots.enter("b")
    await slots.enter("b")
    with pytest.raises(Problem):
        await slots.enter("c")
    second()
    await slots.enter("c")
    first()
    await slots.enter("a")


async def test_a_slot_is_released_with_its_request(clock: ManualClock) -> None:
    """An accepted or refused request releases its slot for the next request."""
    config = ApiConfig(api_key=KEY, max_large_requests=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        padding = {str(number): "x" * 60_000 for number in range(20)}
        node = {"class_type": "EmptyImage", "inputs": {**BLUE["1"]["inputs"], **padding}}
        statuses = [
            answer.status_code
            for answer in await asyncio.gather(
                *(sent(api, {"workflow": BLUE | {"1": node}}) for _ in range(3)),
                *(sent(api, {"workflow": BLUE, "metadata": padding}) for _ in range(3)),
            )
        ]
        assert statuses == [202] * 3 + [422] * 3


async def test_the_unfinished_bodies_of_a_tenant_are_limited(clock: ManualClock) -> None:
    """Another request of a tenant with too many unfinished bodies is refused, and other tenants are unaffected."""
    config = ApiConfig(api_key=KEY, max_unfinished_requests=2)
    body_started, gate = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"workflow":'
        body_started.release()
        await gate.wait()
        yield b"7}"

    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        headers = {"content-type": "application/json"}
        pending = [asyncio.create_task(api.client.post("/v1/jobs", content=slow(), headers=headers)) for _ in range(2)]
        for _ in pending:
            await body_started.acquire()
        async with asyncio.timeout(20):
            while not await refused(api):
                pass
        async with await api.client_of("acme") as other:
            assert (await other.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202
        gate.set()
        assert [(await request).status_code for request in pending] == [422, 422]
        assert (await sent(api, {"workflow": BLUE})).status_code == 202


async def refused(api: Api) -> bool:
    """Whether a request is refused for too many unfinished requests, which count once their heads are read."""
    answer = await sent(api, {"workflow": BLUE})
    if answer.status_code == 202:
        return False
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/too-many-requests")
    assert answer.headers["retry-after"] == "1"
    return True


async def test_concurrent_large_bodies_are_limited(clock: ManualClock) -> None:
    """Further large bodies of a tenant wait until an earlier body has ended, while a small request proceeds."""
    config = ApiConfig(api_key=KEY, max_receiving_requests=2)
    body_started, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"workflow":"' + b"x" * 200_000
        body_started.set()
        await gate.wait()
        yield b'"}'

    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        headers = {"content-type": "application/json"}
        first = asyncio.create_task(api.client.post("/v1/jobs", content=slow(), headers=headers))
        await body_started.wait()
        second = asyncio.create_task(sent(api, {"workflow": BLUE, "metadata": {"k": ["x" * 60_000] * 3}}))
        assert (await sent(api, {"workflow": BLUE})).status_code == 202
        await asyncio.wait({second}, timeout=0.3)
        assert not second.done()
        gate.set()
        assert (await first).status_code == 422
        assert (await second).status_code == 422


def slow_bodies() -> dict[str, tuple[str, str, bytes]]:
    """Return a path, a media type and the beginning of a body, for each kind that takes a place while it arrives."""
    part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return {
        "job": ("/v1/jobs", "application/json", b'{"workflow":"' + b"x" * LONG),
        "asset": ("/api/v2/assets", "multipart/form-data; boundary=b", part + b"x" * LONG),
    }


@pytest.mark.parametrize("kind", slow_bodies())
async def test_slow_bodies_hold_up_no_other_tenant(clock: ManualClock, kind: str) -> None:
    """With all places taken by slow bodies, a small body of many values passes, and a larger one gets a slow one's."""
    path, media_type, beginning = slow_bodies()[kind]

    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield beginning
        await gate.wait()

    many_values = BLUE | {str(number): BLUE["1"] for number in range(10, 400)}
    assert len(json.dumps(many_values)) < 64 * KIB
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY)) as api:
        places = ArrivingBodies(2, slow_s=0.05, check_s=0.02)
        api.app.state.context = replace(api.app.state.context, receiving=places)
        async with await api.client_of("a") as first, await api.client_of("b") as second:
            headers = {"content-type": media_type}
            pending = [
                asyncio.create_task(client.post(path, content=slow(), headers=headers)) for client in (first, second)
            ]
            await until(lambda: len(places._waiting) == 2)
            assert (await sent(api, {"workflow": many_values})).status_code == 202
            assert not any(task.done() for task in pending)
            assert (await sent(api, {"workflow": with_prefix("x" * LONG)})).status_code == 202
            gate.set()  # the client reads its answer once it has sent its body
            answers = await asyncio.gather(*pending)
            (ended,) = [answer for answer in answers if answer.status_code == 408]
            assert ended.headers["connection"] == "close"
            assert "others wait for its place" in ended.text


async def test_documents_with_many_values_are_limited(clock: ManualClock) -> None:
    """Documents of more than 64 KiB in memory are worked on a few at a time, whatever the size of their bodies."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, max_receiving_requests=2)) as api:
        places = api.app.state.context.working
        leave = await places.enter("default")
        pending = asyncio.create_task(sent(api, [[]] * 3_000))
        await until(lambda: bool(places._of_tenant["default"]._waiters))
        assert (await sent(api, {"workflow": BLUE})).status_code == 202
        leave()
        assert (await pending).status_code == 422


async def test_the_total_graph_size_of_a_batch_is_limited(clock: ManualClock) -> None:
    """A batch is limited in graph bytes, because each of its jobs stores the graph that was sent once."""
    config = ApiConfig(api_key=KEY, max_batch_graph_bytes=10_000)
    value = [{"node": "1", "field": "width", "value": 8}]
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        few, many = ({"workflow": BLUE, "input_sets": [value] * count} for count in (2, 200))
        assert (await sent(api, few, "/v1/batches")).status_code == 202
        refused = await sent(api, many, "/v1/batches")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/too-many-jobs")
        assert refused.json()["pointer"] == "/input_sets"


async def test_the_total_nodes_of_a_batch_are_limited(clock: ManualClock) -> None:
    """A batch is limited in nodes, because the graph is checked again for each of its jobs."""
    config = ApiConfig(api_key=KEY, max_batch_nodes=100)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        few, many = ({"workflow": BLUE, "input_sets": [[]] * count} for count in (50, 51))
        assert (await sent(api, few, "/v1/batches")).status_code == 202
        refused = await sent(api, many, "/v1/batches")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/too-many-jobs")
        refused = await sent(api, {"jobs": [{"workflow": BLUE}] * 51}, "/v1/batches")
        assert (refused.status_code, refused.json()["pointer"]) == (422, "/jobs/50")


async def test_the_total_values_of_a_batch_are_limited(clock: ManualClock) -> None:
    """A batch is limited in values, because those of its graph are checked again for each of its jobs."""
    config = ApiConfig(api_key=KEY, max_batch_values=1_000)
    large = BLUE | {"3": {"class_type": "EmptyImage", "inputs": {"width": {"a": [0] * 400}}}}
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        few, many = ({"workflow": large, "input_sets": [[]] * count} for count in (2, 3))
        assert (await sent(api, few, "/v1/batches")).status_code == 202
        refused = await sent(api, many, "/v1/batches")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/too-many-jobs")
        assert refused.json()["pointer"] == "/input_sets"


async def test_input_sets_are_checked_off_the_event_loop(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input sets of a batch are checked in a thread, even if the document is small."""
    threads: set[str] = set()
    known = Catalogue.check

    def check(self: Catalogue, *args: Any) -> Any:
        threads.add(threading.current_thread().name)
        return known(self, *args)

    monkeypatch.setattr(Catalogue, "check", check)
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY)) as api:
        assert (await sent(api, {"workflow": BLUE, "input_sets": [[]] * 3}, "/v1/batches")).status_code == 202
    assert threads
    assert threads <= {"heavy_0", "heavy_1"}


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One item for each call of the threads for CPU-bound work."""
    turns: list[None] = []
    known = heavy._EXECUTOR.submit

    def submit(*args: Any) -> Any:
        turns.append(None)
        return known(*args)

    monkeypatch.setattr(heavy._EXECUTOR, "submit", submit)
    return turns


async def test_many_input_sets_are_checked_in_one_turn(clock: ManualClock, turns: list[None]) -> None:
    """A batch waits as often for the threads with many sets as with one, unless they take long."""
    taken = []
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY)) as api:
        for count in (1, JOBS_BETWEEN_CHECKS):
            turns.clear()
            answer = await sent(api, {"workflow": BLUE, "input_sets": [[]] * count}, "/v1/batches")
            assert (answer.status_code, len(answer.json()["jobs"])) == (202, count)
            taken.append(len(turns))
    assert taken[0] == taken[1]


async def test_input_sets_that_take_long_are_checked_in_several_turns(
    clock: ManualClock, turns: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets that fill a turn each are checked in turns of their own, each once and in order."""
    monkeypatch.setattr(batches, "PIECE_S", 0)
    sets = [[{"node": "1", "field": "color", "value": number}] for number in range(20)]
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY)) as api:
        jobs = (await sent(api, {"workflow": BLUE, "input_sets": sets}, "/v1/batches")).json()["jobs"]
        records = [(await api.stores.jobs.read("default", job["job_id"])).record for job in jobs]
    assert [record.inputs[0].value for record in records] == list(range(20))
    assert len(turns) >= len(sets)


async def test_the_first_invalid_input_set_is_named(clock: ManualClock) -> None:
    """The answer points at the first invalid set, whatever finds the faults of later ones."""
    unknown, known = ({"node": node, "field": "color", "value": 1} for node in ("9", "1"))
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY, max_inputs=1)) as api:
        for sets, pointer in (
            ([[known], [unknown], [known, known]], "/input_sets/1/"),
            ([[known], [known, known], [unknown]], "/input_sets/1"),
        ):
            refused = await sent(api, {"workflow": BLUE, "input_sets": sets}, "/v1/batches")
            assert refused.status_code == 422
            assert refused.json()["pointer"].startswith(pointer), refused.text


async def test_a_batch_of_a_disconnected_client_is_not_prepared() -> None:
    """Preparation of a batch stops when its client has disconnected."""
    request = BatchRequest.model_validate({"workflow": BLUE, "input_sets": [[]] * 3})

    async def is_gone() -> bool:
        return True

    class Nothing(Preparation):
        def __init__(self) -> None: ...

        async def check(self, options: JobOptions, root: str, *, brings_files: bool = True) -> None: ...

        async def workflow(self, document: Any, root: str, pool: str) -> PreparedWorkflow:
            return PreparedWorkflow.of(document)

    with pytest.raises(ClientDisconnect):
        await prepared_batch(Nothing(), request, ApiConfig(api_key=KEY), is_gone)
