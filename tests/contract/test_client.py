"""The Python client, blocking and for asyncio, against a running API and against servers that fail."""

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from comfyui_modal_client import (
    ApiProblem,
    ApiUnreachable,
    AsyncClient,
    Client,
    Conflict,
    DownloadFailed,
    InvalidRequest,
    Job,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
    UploadFailed,
    WaitTimedOut,
)
from tests.support.api_server import BLUE, KEY, Api, work
from tests.support.client_answers import MADE, TERMINAL, document, output_at
from tests.support.clients import OpenClient
from tests.support.graphs import publish
from tests.support.scripted_http import Answer, scripted_http

pytestmark = pytest.mark.anyio

UNKNOWN = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"


def problem(status: int, retry_after: str | None = None, **members: Any) -> Answer:
    headers = {"content-type": "application/problem+json"} | ({"retry-after": retry_after} if retry_after else {})
    return Answer(status, json.dumps({"type": "/problems/x", "title": "No", **members}).encode(), headers)


async def test_a_job_is_submitted_waited_for_and_listed(memory_api: Api, open_client: OpenClient) -> None:
    """A wait passes on each state of the job and returns the last, and the job is in the list."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        accepted = await client.submit(BLUE, metadata={"order": "7"}, priority=3)
        states: list[str] = []
        has_begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def note(job: Job) -> None:
            states.append(job["status"])
            loop.call_soon_threadsafe(has_begun.set)

        waiting = asyncio.create_task(client.wait(accepted["job_id"], note))
        await has_begun.wait()
        await work(memory_api)
        job = await waiting
        assert (job["metadata"], job["priority"]) == ({"order": "7"}, 3)
        assert (states[0], states[-1]) == ("queued", "completed")
        page = await client.jobs(status="completed", limit=5)
        assert [row["job_id"] for row in page["jobs"]] == [accepted["job_id"]]
        assert page["next_cursor"] is None
        assert await client.remove(accepted["job_id"]) is None
        with pytest.raises(ApiProblem):
            await client.job(accepted["job_id"])


async def test_the_list_of_jobs_can_be_filtered(memory_api: Api, open_client: OpenClient) -> None:
    """The filters of the API select jobs, those by metadata too."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        wanted = await client.submit(BLUE, metadata={"order": "1"})
        await client.submit(BLUE, metadata={"order": "2"})
        page = await client.jobs(metadata={"order": "1"}, created_after="2020-01-01T00:00:00Z", status=None)
        assert [row["job_id"] for row in page["jobs"]] == [wanted["job_id"]]
        assert (await client.jobs(created_before="2020-01-01T00:00:00Z"))["jobs"] == []


async def test_a_wait_can_be_limited(memory_api: Api, open_client: OpenClient) -> None:
    """A wait ends with `WaitTimedOut`, which is a `TimeoutError`, and the job goes on."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        job_id = (await client.submit(BLUE))["job_id"]
        with pytest.raises(WaitTimedOut, match=f"{job_id} has not ended in time") as caught:
            await client.wait(job_id, timeout_s=0.1)
        assert isinstance(caught.value, TimeoutError)
        assert (await client.job(job_id))["status"] == "queued"
        assert (await client.cancel(job_id))["error"] == "Cancelled by user"


async def test_workflows_are_run_by_name(memory_api: Api, open_client: OpenClient) -> None:
    """A workflow by name has typed inputs, and its job is an ordinary one."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        assert "words" in [workflow["name"] for workflow in await client.workflows()]
        assert "workflow" in await client.workflow("words")
        accepted = await client.submit_named("words", {}, metadata={"a": "b"})
        assert (await client.job(accepted["job_id"]))["metadata"] == {"a": "b"}


async def test_batches_are_submitted_waited_for_and_cancelled(memory_api: Api, open_client: OpenClient) -> None:
    """A wait for a batch returns it when all of its jobs have ended."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        first = await client.submit_batch(workflow=BLUE, input_sets=[[], []])
        await work(memory_api)
        with pytest.raises(WaitTimedOut):
            await client.wait_batch(first["batch_id"], timeout_s=0.1)
        await work(memory_api)
        finished = await client.wait_batch(first["batch_id"])
        assert finished["counts"]["completed"] == 2
        second = await client.submit_batch(jobs=[{"workflow": BLUE}], idempotency_key="k")
        assert (await client.submit_batch(jobs=[{"workflow": BLUE}], idempotency_key="k")) == second
        assert (await client.cancel_batch(second["batch_id"]))["counts"]["failed"] == 1
        assert (await client.batch(second["batch_id"]))["status"] == "finished"
        page = await client.batches(limit=5)
        assert {row["batch_id"] for row in page["batches"]} == {first["batch_id"], second["batch_id"]}


async def test_the_deployment_is_described(memory_api: Api, open_client: OpenClient) -> None:
    """Health, versions and limits are documents of the API."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        assert (await client.health())["status"] == "ok"
        assert "pools" in await client.system()
        assert (await client.limits())["max_batch_jobs"] == 1000
        await publish(memory_api.stores)
        page = await client.nodes(limit=1)
        (first,) = page["nodes"]
        assert await client.nodes(limit=1, cursor=page["next_cursor"]) != page
        assert (await client.node(first["class_type"]))["inputs"]
        assert isinstance((await client.models(folder="loras"))["models"], list)
        with pytest.raises(InvalidRequest, match="this deployment has"):
            await client.nodes(pool="nothing")


async def test_problems_are_typed(memory_api: Api, open_client: OpenClient) -> None:
    """A refusal raises the exception of its status, with the problem's members."""
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        with pytest.raises(NotFound) as caught:
            await client.job(UNKNOWN)
        assert (caught.value.status, caught.value.code) == (404, "unknown-job")
        with pytest.raises(InvalidRequest) as invalid:
            await client.submit({"1": {"class_type": "EmptyImage"}}, priority=10**9)
        assert invalid.value.errors or invalid.value.pointer
        await client.submit(BLUE, idempotency_key="k")
        with pytest.raises(Conflict):
            await client.submit(BLUE, priority=1, idempotency_key="k")
    async with open_client(str(memory_api.client.base_url), "none") as client:
        with pytest.raises(Unauthorized):
            await client.jobs()


async def test_a_lost_answer_creates_nothing_twice(open_client: OpenClient) -> None:
    """A submission whose connection breaks is sent again with the same Idempotency-Key."""
    with scripted_http(Answer(0), Answer(502, b"<html>"), document({"job_id": "j"})) as server:
        async with open_client(server.url) as client:
            assert (await client.submit(BLUE))["job_id"] == "j"
        keys = {request.headers["idempotency-key"] for request in server.received}
    assert (len(server.received), len(keys)) == (3, 1)


async def test_a_test_event_is_requested_once(open_client: OpenClient) -> None:
    """A request that would do something twice is not sent again after its connection broke."""
    with scripted_http(Answer(0), document({})) as server:
        async with open_client(server.url) as client:
            with pytest.raises(ApiUnreachable):
                await client.test_webhook("https://example.com/hook")
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(open_client: OpenClient, status: int) -> None:
    """A request that is refused for now is sent again after `Retry-After`; a longer pause is left to the caller."""
    with scripted_http(problem(status, "0"), document(TERMINAL)) as server:
        async with open_client(server.url) as client:
            assert (await client.job("j"))["status"] == "completed"
    assert len(server.received) == 2
    kind = TooManyRequests if status == 429 else ServerError
    with scripted_http(problem(status, "40", detail="too many jobs")) as server:
        async with open_client(server.url) as client:
            with pytest.raises(kind, match="too many jobs") as caught:
                await client.submit(BLUE)
    assert (caught.value.retry_after, len(server.received)) == (40, 1)


async def test_a_date_in_retry_after_is_understood(open_client: OpenClient) -> None:
    """`Retry-After` may be a date, and one that has passed means now."""
    with scripted_http(problem(429, "Sat, 01 Jan 2022 00:00:00 GMT"), document(TERMINAL)) as server:
        async with open_client(server.url) as client:
            assert (await client.job("j"))["status"] == "completed"


async def test_an_answer_of_another_server_is_no_traceback(open_client: OpenClient) -> None:
    """A page of some other server is `ApiUnreachable`, and so is a URL that is none."""
    with scripted_http(Answer(200, b"<html>")) as server:
        async with open_client(server.url) as client:
            with pytest.raises(ApiUnreachable, match=f"{server.url} did not answer"):
                await client.health()
    with pytest.raises(ApiUnreachable, match="localhost:8000 is not the URL"):
        open_client("localhost:8000")
    async with open_client("http://127.0.0.1:1", attempts=1) as client:
        with pytest.raises(ApiUnreachable, match=r"http://127\.0\.0\.1:1 cannot be reached"):
            await client.health()


async def test_a_file_is_uploaded_without_the_key(open_client: OpenClient, tmp_path: Path) -> None:
    """A file goes to the bucket as a whole, again after a broken connection, and the API key does not."""
    path = tmp_path / "cat.png"
    path.write_bytes(MADE)
    # The first transfer arrives, and its answer is lost: the bucket refuses to overwrite it by the second.
    with scripted_http(Answer(0), Answer(412)) as bucket:
        created = {
            "upload_id": "u",
            "method": "PUT",
            "url": f"{bucket.url}/data?X-Amz-Signature=s",
            "headers": {"content-length": str(len(MADE)), "if-none-match": "*"},
        }
        with scripted_http(document(created)) as api:
            async with open_client(api.url) as client:
                assert await client.input_file(path, "folder/cat.png") == {"name": "folder/cat.png", "upload_id": "u"}
        assert [request.body for request in bucket.received] == [MADE, MADE]
        assert "authorization" not in bucket.received[0].headers
    with scripted_http(Answer(412)) as bucket, scripted_http(document(created | {"url": bucket.url})) as api:
        async with open_client(api.url) as client:
            with pytest.raises(UploadFailed, match=r"cat\.png: it answered 412"):
                await client.upload(path)
            assert await client.upload(path, idempotency_key="k") == "u"  # the first upload with this key is there
        assert api.received[-1].headers["idempotency-key"] == "k"


async def test_an_interrupted_download_is_continued(open_client: OpenClient, tmp_path: Path) -> None:
    """A download continues after the bytes that have arrived, or anew if the bucket sends all of them."""
    rest = Answer(206, MADE[1000:])
    with scripted_http(Answer(503), Answer(200, MADE, cut=1000), rest) as bucket:
        async with open_client(bucket.url) as client:
            saved = await client.download(output_at(bucket.url), tmp_path / "new")
        assert bucket.received[2].headers["range"] == "bytes=1000-"
        assert "authorization" not in bucket.received[2].headers
    assert (saved.state, saved.path, saved.path.read_bytes()) == ("new", tmp_path / "new" / "x.png", MADE)
    with scripted_http(Answer(200, MADE, cut=1000), Answer(200, MADE)) as bucket:
        async with open_client(bucket.url) as client:
            saved = await client.download(output_at(bucket.url, "y.png"), tmp_path)
    assert saved.path.read_bytes() == MADE


async def test_a_download_overwrites_no_file_and_repeats_nothing(open_client: OpenClient, tmp_path: Path) -> None:
    """A file of another content keeps its name, and an output that is there already is not downloaded again."""
    (tmp_path / "x.png").write_text("mine")
    with scripted_http(Answer(200, MADE)) as bucket:
        async with open_client(bucket.url) as client:
            saved = [await client.download(output_at(bucket.url), tmp_path) for _ in range(2)]
        assert len(bucket.received) == 1
    assert [(one.path.name, one.state) for one in saved] == [("x (1).png", "renamed"), ("x (1).png", "already there")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x (1).png", "x.png"]
    assert (tmp_path / "x.png").read_text() == "mine"


@pytest.mark.parametrize("filename", ["../x.png", "/etc/x.png", "..", ""])
async def test_a_download_stays_in_its_folder(open_client: OpenClient, tmp_path: Path, filename: str) -> None:
    """The name of an output leads to no other folder."""
    with scripted_http(Answer(200, MADE)) as bucket:
        async with open_client(bucket.url) as client:
            saved = await client.download(output_at(bucket.url) | {"filename": filename}, tmp_path / "out")
    assert (saved.path.parent, saved.path.read_bytes()) == (tmp_path / "out", MADE)


@pytest.mark.parametrize(
    ("answer", "words"), [(Answer(200, b"other"), "the bytes differ"), (Answer(403), "get the job again")]
)
async def test_a_failed_download_leaves_no_file(
    open_client: OpenClient, tmp_path: Path, answer: Answer, words: str
) -> None:
    """A download of other bytes, or one that the bucket refuses, raises `DownloadFailed` and leaves nothing."""
    with scripted_http(answer) as bucket:
        async with open_client(bucket.url) as client:
            with pytest.raises(DownloadFailed, match=words) as caught:
                await client.download(output_at(bucket.url), tmp_path)
    assert "Signature" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


async def test_all_outputs_of_a_job_are_downloaded(open_client: OpenClient, tmp_path: Path) -> None:
    """The outputs are downloaded by the URLs of a fresh answer."""
    with scripted_http(Answer(200, MADE)) as bucket:
        outputs = [output_at(bucket.url, name) for name in ("a.png", "b.png")]
        with scripted_http(document(TERMINAL | {"outputs": outputs})) as api:
            async with open_client(api.url) as client:
                saved = await client.download_all("j", tmp_path)
    assert [one.path.name for one in saved] == ["a.png", "b.png"]


def test_both_clients_have_the_same_documented_methods() -> None:
    """The client for asyncio has the methods, parameters and docstrings of the blocking one."""

    def methods(kind: type) -> dict[str, tuple[str, str | None]]:
        public = {name: method for name, method in vars(kind).items() if not name.startswith("_")}
        # Only the kind of an iterator differs.
        return {
            name: (str(inspect.signature(method)).replace("AsyncIterator", "Iterator"), method.__doc__)
            for name, method in public.items()
        }

    assert methods(Client) == methods(AsyncClient)
    assert all(doc for _, doc in methods(Client).values())
