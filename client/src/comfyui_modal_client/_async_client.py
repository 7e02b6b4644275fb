"""The client for asyncio. Its methods are documented at `Client`, whose docstrings they share."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, closing
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar, Unpack

import httpx

from comfyui_modal_client import _operations as op
from comfyui_modal_client._answers import AcceptedJob, Batch, BatchPage, Job, JobPage
from comfyui_modal_client._client import Client, ignore
from comfyui_modal_client._errors import reached
from comfyui_modal_client._events import RECONNECT_S, Following, JobEvent
from comfyui_modal_client._files import CHUNK_BYTES, Downloaded
from comfyui_modal_client._retries import Retries
from comfyui_modal_client._transport import (
    ATTEMPTS,
    MAX_RETRY_AFTER_S,
    TIMEOUT_S,
    Body,
    authorization,
    base_url,
    check_answer,
    check_download,
    check_upload,
    http_options,
    received,
    request_of,
)
from comfyui_modal_client._types import JobOptions, Json, ListOptions

T = TypeVar("T")


def _documented_as(original: type) -> Callable[[type[T]], type[T]]:
    """Give the methods of a class the docstrings of another class's methods of the same names."""

    def document(copy: type[T]) -> type[T]:
        for name, method in vars(copy).items():
            if not name.startswith("_") and not method.__doc__:
                method.__doc__ = getattr(original, name).__doc__
        return copy

    return document


@_documented_as(Client)
class AsyncClient:
    """A client of one API for asyncio: `Client`, with the same arguments, and methods that are awaited.

    `on_change` is an ordinary function. Files are read, written and hashed in threads.
    """

    def __init__(
        self,
        api_url: str,
        api_key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        max_retry_after_s: float = MAX_RETRY_AFTER_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        options = http_options(timeout_s, tls)
        self._retries = Retries(attempts, max_retry_after_s)
        self._api = httpx.AsyncClient(base_url=base_url(api_url), **options)
        self._api.headers["authorization"] = authorization(api_key)
        self._bucket = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._api.aclose()
        await self._bucket.aclose()

    # Jobs

    async def submit(
        self,
        workflow: Mapping[str, Any],
        *,
        inputs: Sequence[Mapping[str, Any]] = (),
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> AcceptedJob:
        return await self._run(
            op.make("/v1/jobs", {"workflow": workflow, "inputs": inputs, **options}, idempotency_key)
        )

    async def submit_named(
        self, name: str, inputs: Mapping[str, Any], *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> AcceptedJob:
        return await self._run(op.make(op.workflow_path(name, "jobs"), {"inputs": inputs, **options}, idempotency_key))

    async def job(self, job_id: str) -> Job:
        return await self._run(op.get(op.job_path(job_id)))

    async def wait(
        self, job_id: str, on_change: Callable[[Job], None] = ignore, *, timeout_s: float | None = None
    ) -> Job:
        return await self._run(op.wait_for_job(job_id, on_change, timeout_s))

    async def events(self, job_id: str) -> AsyncIterator[JobEvent]:
        following = Following(op.job_path(job_id, "events"))
        while not following.is_over:
            async with aclosing(await self._opened(following)) as response:
                following.is_over = response.status_code == 204
                try:
                    async for chunk in response.aiter_raw():
                        for event in received(following, chunk):
                            yield event
                except httpx.TransportError:
                    pass  # the next connection continues after the last event
            if not following.is_over:
                await asyncio.sleep(RECONNECT_S)

    async def _opened(self, following: Following) -> httpx.Response:
        async for attempt in self._retries.attempts_of(is_repeatable=True):
            with attempt, reached(self._api.base_url):
                request = self._api.build_request("GET", following.path, headers=following.headers)
                response = await self._api.send(request, stream=True)
                return check_answer(await _received(aclosing(response)) if response.is_error else response)
        raise AssertionError  # the last attempt raises its error

    async def retry(self, job_id: str, *, idempotency_key: str | None = None) -> AcceptedJob:
        return await self._run(op.make(op.job_path(job_id, "retry"), {}, idempotency_key))

    async def jobs(self, **options: Unpack[ListOptions]) -> JobPage:
        return await self._run(op.list_jobs(options))

    async def cancel(self, job_id: str) -> Job:
        return await self._run(op.answer_of(op.Call("DELETE", op.job_path(job_id))))

    async def remove(self, job_id: str) -> Job | None:
        return await self._run(op.remove(job_id))

    async def logs(self, job_id: str, attempt: int | None = None) -> str:
        return await self._run(op.logs(job_id, attempt))

    # Files

    async def upload(self, path: str | Path, *, idempotency_key: str | None = None) -> str:
        return await self._run(op.upload(Path(path), idempotency_key))

    async def input_file(self, path: str | Path, name: str | None = None) -> Json:
        return await self._run(op.input_file(Path(path), name))

    async def download(self, output: Mapping[str, Any], folder: str | Path) -> Downloaded:
        return await self._run(op.download(output, Path(folder)))

    async def download_all(self, job_id: str, folder: str | Path) -> list[Downloaded]:
        return await self._run(op.download_all(job_id, Path(folder)))

    # Batches

    async def submit_batch(self, *, idempotency_key: str | None = None, **fields: Any) -> Batch:
        return await self._run(op.make("/v1/batches", fields, idempotency_key))

    async def batch(self, batch_id: str) -> Batch:
        return await self._run(op.get(op.batch_path(batch_id)))

    async def batches(self, *, limit: int = 20, cursor: str | None = None) -> BatchPage:
        return await self._run(op.get("/v1/batches", {"limit": limit, "cursor": cursor}))

    async def wait_batch(
        self, batch_id: str, on_change: Callable[[Batch], None] = ignore, *, timeout_s: float | None = None
    ) -> Batch:
        return await self._run(op.wait_for_batch(batch_id, on_change, timeout_s))

    async def cancel_batch(self, batch_id: str) -> Batch:
        return await self._run(op.answer_of(op.Call("DELETE", op.batch_path(batch_id))))

    # Workflows

    async def workflows(self) -> list[Json]:
        return await self._run(op.get_rows("/v1/workflows", "workflows"))

    async def workflow(self, name: str) -> Json:
        return await self._run(op.get(op.workflow_path(name)))

    async def convert_workflow(self, document: Json) -> Json:
        return await self._run(op.answer_of(op.Call("POST", "/v1/workflows/convert", json={"workflow": document})))

    async def inspect_workflow(self, document: Json) -> Json:
        return await self._run(op.answer_of(op.Call("POST", "/v1/workflows/inspect", json={"workflow": document})))

    # Webhooks

    async def test_webhook(self, url: str) -> Json:
        # Not repeated: the receiver would get two events.
        call = op.Call("POST", "/v1/webhooks/test", json={"url": url}, is_repeatable=False)
        return await self._run(op.answer_of(call))

    async def deliveries(self, job_id: str) -> list[Json]:
        return await self._run(op.get_pages(op.job_path(job_id, "deliveries"), "deliveries"))

    async def redeliver(self, job_id: str, event_id: str) -> Json:
        path = op.job_path(job_id, "deliveries", event_id, "redeliver")
        return await self._run(op.answer_of(op.Call("POST", path, is_repeatable=False)))

    # The deployment

    async def health(self) -> Json:
        return await self._run(op.get("/health"))

    async def nodes(self, *, pool: str | None = None, limit: int = 200, cursor: str | None = None) -> Json:
        return await self._run(op.get("/v1/nodes", {"pool": pool, "limit": limit, "cursor": cursor}))

    async def node(self, class_type: str, *, pool: str | None = None) -> Json:
        return await self._run(op.get(op.node_path(class_type), {"pool": pool}))

    async def models(
        self, *, folder: str | None = None, pool: str | None = None, limit: int = 200, cursor: str | None = None
    ) -> Json:
        return await self._run(op.get("/v1/models", {"folder": folder, "pool": pool, "limit": limit, "cursor": cursor}))

    async def system(self) -> Json:
        return await self._run(op.get("/v1/system"))

    async def limits(self) -> Json:
        return await self._run(op.get("/v1/limits"))

    async def _run(self, plan: op.Plan[T]) -> T:
        """Perform the steps of an operation."""
        with closing(plan):
            result: Any = None
            while True:
                try:
                    step = plan.send(result)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
                result = None
                match step:
                    case op.Call():
                        result = await self._call(step)
                    case op.SendFile():
                        await self._send(step)
                    case op.ReceiveFile():
                        await self._receive(step)
                    case op.Work():
                        result = await asyncio.to_thread(step.function)

    async def _call(self, step: op.Call) -> httpx.Response:
        async for attempt in self._retries.attempts_of(is_repeatable=step.is_repeatable):
            with attempt, reached(self._api.base_url):
                return check_answer(await _received(self._api.stream(step.method, **request_of(step))))
        raise AssertionError  # the last attempt raises its error

    async def _send(self, step: op.SendFile) -> None:
        created = step.created
        async for attempt in self._retries.attempts_of(is_repeatable=True):
            with attempt, reached(created["url"]), step.path.open("rb") as file:
                answer = self._bucket.stream(
                    created["method"], created["url"], headers=created["headers"], content=_chunks(file)
                )
                check_upload(step, await _received(answer), attempt=attempt.num)

    async def _receive(self, step: op.ReceiveFile) -> None:
        async for attempt in self._retries.attempts_of(is_repeatable=True):
            with attempt, reached(step.url):
                async with self._bucket.stream("GET", step.url, headers=step.draft.headers) as response:
                    check_download(step, response)
                    step.draft.begin(response)
                    async for chunk in response.aiter_raw():
                        await asyncio.to_thread(step.draft.write, chunk)


async def _received(answer: AbstractAsyncContextManager[httpx.Response]) -> httpx.Response:
    """Receive a whole answer."""
    async with answer as response:
        body = Body(response)
        async for chunk in response.aiter_raw():
            body.add(chunk)
    return body.complete()


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk
