"""Documents that would fill the API's memory, or keep others waiting: refused, or worked on a few at a time."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect

from app.body import MAX_VALUES
from app.body.large import LargeBodies
from app.config import ApiConfig
from app.problems import Problem
from app.submission.batches import prepared_batch
from app.submission.preparation import Preparation, PreparedWorkflow
from app.submission.request import BatchRequest, JobOptions
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, Api, running_api
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
    "a byte of no UTF-8": b"\xff" + b"a" * LONG,
    "half a character": b"\\ud800" + b"a" * LONG,
    "half an escape": b"\\u12" + b"g" * LONG,
}
PLACES = {
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


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BAD_TEXTS)
async def test_a_long_string_that_is_none_is_refused(api: Api, kind: str, place: str) -> None:
    """Wherever it stands: as the same string would be if it were short."""
    answer = await sent(api, PLACES[place](BAD_TEXTS[kind]))
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
async def test_a_long_string_is_as_long_as_it_is(api: Api, document: Any) -> None:
    """No limit on a length takes it for something shorter."""
    answer = await sent(api, document)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-error")
    batch = await sent(api, {"jobs": [document]}, "/v1/batches")
    assert (batch.status_code, batch.json()["type"]) == (422, "/problems/validation-error")
    named = {name: value for name, value in document.items() if name not in ("workflow", "inputs")}
    assert (await sent(api, named | {"inputs": {"prompt": "x"}}, "/v1/workflows/still/jobs")).status_code == 422


async def test_a_receiver_to_be_tried_has_a_length(api: Api) -> None:
    """As one of a job."""
    answer = await sent(api, {"url": "https://h.example/" + "x" * LONG}, "/v1/webhooks/test")
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation-error")


async def test_a_long_prompt_arrives_whole(api: Api) -> None:
    """In the graph, as an input, and in a batch."""
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


async def test_long_texts_together_have_a_limit(api: Api) -> None:
    """Of one request: three fit here, in one graph or in the inputs of several jobs."""
    value = {"node": "2", "field": "filename_prefix", "value": "x" * LONG}
    assert (await sent(api, {"workflow": BLUE, "input_sets": [[value]] * 2}, "/v1/batches")).status_code == 202
    for path, document in (
        ("/v1/jobs", {"workflow": with_prefix("x" * LONG), "inputs": [value] * 2}),
        ("/v1/batches", {"workflow": BLUE, "input_sets": [[value]] * 3}),
    ):
        answer = await sent(api, document, path)
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/text-too-long")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999"])
async def test_a_number_beyond_a_double_is_refused(api: Api, number: bytes) -> None:
    """In a graph or as an input: what JSON cannot write must not be stored."""
    graph = json.dumps(BLUE).replace('"width": 8', '"width": N').encode().replace(b"N", number)
    value = b',"inputs":[{"node":"1","field":"width","value":' + number + b"}]"
    for body in (b'{"workflow":' + graph + b"}", b'{"workflow":' + json.dumps(BLUE).encode() + value + b"}"):
        answer = await sent(api, body)
        assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-json")


async def test_many_values_are_refused_while_they_arrive(api: Api) -> None:
    """And others are answered meanwhile: the slowest of them within seconds."""
    body = b'{"x":[' + b",".join([b"[]"] * (MAX_VALUES * 2)) + b"]}"
    slowest, asked = 0.0, asyncio.create_task(sent(api, body))
    while not asked.done():
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(0.01)
        slowest = max(slowest, asyncio.get_running_loop().time() - started)
    assert (await asked).json()["type"] == "/problems/request-too-large"
    assert slowest < 3


async def test_large_documents_wait_for_a_place() -> None:
    """A tenant has half of them; another one's place does not depend on it; whoever waits too long is told so."""
    places = LargeBodies(4, wait_s=0.05)
    first, second = await places.enter("a"), await places.enter("a")
    with pytest.raises(Problem) as refused:
        await places.enter("a")
    assert refused.value.type.slug == "too-many-large-requests"
    await places.enter("b")
    await places.enter("b")
    with pytest.raises(Problem):
        await places.enter("c")
    second()
    await places.enter("c")
    first()
    await places.enter("a")


async def test_a_place_is_left_with_the_request(clock: ManualClock) -> None:
    """Accepted or refused: one after the other is worked on where there is one place."""
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


async def test_a_tenant_has_few_unfinished_bodies(clock: ManualClock) -> None:
    """However small: one more is refused at once, and another tenant's is not. They free their places by their end."""
    config = ApiConfig(api_key=KEY, max_unfinished_requests=2)
    begun, gate = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"workflow":'
        begun.release()
        await gate.wait()
        yield b"7}"

    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        headers = {"content-type": "application/json"}
        pending = [asyncio.create_task(api.client.post("/v1/jobs", content=slow(), headers=headers)) for _ in range(2)]
        for _ in pending:
            await begun.acquire()
        async with asyncio.timeout(20):
            while not await refused(api):
                pass
        async with await api.client_of("acme") as other:
            assert (await other.post("/v1/jobs", json={"workflow": BLUE})).status_code == 202
        gate.set()
        assert [(await one).status_code for one in pending] == [422, 422]
        assert (await sent(api, {"workflow": BLUE})).status_code == 202


async def refused(api: Api) -> bool:
    """Whether a request is refused for the number of unfinished ones; they count once their heads have been read."""
    answer = await sent(api, {"workflow": BLUE})
    if answer.status_code == 202:
        return False
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/too-many-requests")
    assert answer.headers["retry-after"] == "1"
    return True


async def test_few_large_bodies_are_received_at_once(clock: ManualClock) -> None:
    """A tenant's further ones wait until one of its first ends; a small request does not."""
    config = ApiConfig(api_key=KEY, max_receiving_requests=2)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"workflow":"' + b"x" * 200_000
        begun.set()
        await gate.wait()
        yield b'"}'

    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        headers = {"content-type": "application/json"}
        first = asyncio.create_task(api.client.post("/v1/jobs", content=slow(), headers=headers))
        await begun.wait()
        second = asyncio.create_task(sent(api, {"workflow": BLUE, "metadata": {"k": ["x" * 60_000] * 3}}))
        assert (await sent(api, {"workflow": BLUE})).status_code == 202
        await asyncio.wait({second}, timeout=0.3)
        assert not second.done()
        gate.set()
        assert (await first).status_code == 422
        assert (await second).status_code == 422


async def test_a_batch_does_not_multiply_a_graph_without_bound(clock: ManualClock) -> None:
    """Each of its jobs stores the graph that was sent once."""
    config = ApiConfig(api_key=KEY, max_batch_graph_bytes=10_000)
    value = [{"node": "1", "field": "width", "value": 8}]
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        few, many = ({"workflow": BLUE, "input_sets": [value] * count} for count in (2, 200))
        assert (await sent(api, few, "/v1/batches")).status_code == 202
        refused = await sent(api, many, "/v1/batches")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/too-many-jobs")
        assert refused.json()["pointer"] == "/input_sets"


async def test_a_batch_has_so_many_nodes_in_all(clock: ManualClock) -> None:
    """Each of its jobs has the graph's nodes checked anew."""
    config = ApiConfig(api_key=KEY, max_batch_nodes=100)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        few, many = ({"workflow": BLUE, "input_sets": [[]] * count} for count in (50, 51))
        assert (await sent(api, few, "/v1/batches")).status_code == 202
        refused = await sent(api, many, "/v1/batches")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/too-many-jobs")


async def test_the_sets_of_a_batch_are_checked_off_the_event_loop(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small its document is."""
    threads: set[str] = set()
    known = Catalogue.check

    def check(self: Catalogue, *args: Any) -> Any:
        threads.add(threading.current_thread().name)
        return known(self, *args)

    monkeypatch.setattr(Catalogue, "check", check)
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY)) as api:
        assert (await sent(api, {"workflow": BLUE, "input_sets": [[]] * 3}, "/v1/batches")).status_code == 202
    assert threads == {"heavy_0"}


async def test_a_batch_whose_client_has_gone_is_checked_no_further() -> None:
    """Nothing of it is prepared."""
    request = BatchRequest.model_validate({"workflow": BLUE, "input_sets": [[]] * 3})

    async def is_gone() -> bool:
        return True

    class Nothing(Preparation):
        def __init__(self) -> None: ...

        async def check(self, options: JobOptions, root: str) -> None: ...

        async def workflow(self, document: Any, root: str) -> PreparedWorkflow:
            return PreparedWorkflow.of(document)

    with pytest.raises(ClientDisconnect):
        await prepared_batch(Nothing(), request, ApiConfig(api_key=KEY), is_gone)
