"""The blocking client. Its methods document those of `AsyncClient` too."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar, Unpack

import httpx

from comfyui_modal_client import _operations as op
from comfyui_modal_client._answers import AcceptedJob, Batch, BatchPage, Job, JobPage
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


def ignore(_: object) -> None:
    """Do nothing with a change."""


class Client:
    """A blocking client of one API.

    `api_url` is the URL that `comfyui-modal up` or `deploy` prints, and `api_key` a key of `comfyui-modal keys create`.

    A request whose connection breaks, or that is answered 429 or 5xx, is sent up to `attempts` times, and no repeated
    request creates anything twice. The pauses grow from 0.1 s to 5 s, or are what `Retry-After` says; an answer with a
    `Retry-After` above `max_retry_after_s` seconds is raised at once. `timeout_s` limits connecting, each write and
    each read, in seconds. `tls` replaces httpx's TLS settings, for example for a private certificate authority.

    A text that cannot be a key raises `ClientError`. Every method raises `ApiUnreachable` without a usable answer, and
    `ApiProblem` if the API refuses. Answers are the JSON objects of the API's reference, and those about jobs and
    batches have types. Times are ISO 8601 in UTC.
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
        self._api = httpx.Client(base_url=base_url(api_url), **options)
        self._api.headers["authorization"] = authorization(api_key)
        self._bucket = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._api.close()
        self._bucket.close()

    # Jobs

    def submit(
        self,
        workflow: Mapping[str, Any],
        *,
        inputs: Sequence[Mapping[str, Any]] = (),
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> AcceptedJob:
        """Submit a graph in ComfyUI's API format, and return the job as it was accepted.

        `inputs` are values to set in the graph: `{"node": "16", "field": "seed", "value": 7}`. `options` are those of
        `JobOptions`. The answer has `job_id`, `status`, `warnings` (why outputs do not run) and `estimated_time` in
        seconds. Of requests with the same `idempotency_key`, 1 to 255 characters, only the first makes a job within
        24 hours; without one, each call makes a job.

        Raises `InvalidRequest` for a graph that cannot run, with every fault in `errors`, `Conflict` for a key that
        another request had, and `TooManyRequests` if a quota is exhausted.
        """
        fields = {"workflow": workflow, "inputs": inputs, **options}
        return self._run(op.make("/v1/jobs", fields, idempotency_key))

    def submit_named(
        self, name: str, inputs: Mapping[str, Any], *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> AcceptedJob:
        """Submit a workflow by its name, and return the job as `submit` does.

        `inputs` are the workflow's inputs by name. A file is `{"upload_id": client.upload("cat.png")}`, or has `url` or
        `data` (base64) instead, and `filename` if its suffix matters.

        Raises `NotFound` for an unknown name, and what `submit` raises.
        """
        return self._run(op.make(op.workflow_path(name, "jobs"), {"inputs": inputs, **options}, idempotency_key))

    def job(self, job_id: str) -> Job:
        """Return the job: `status`, `progress` in percent, `outputs` with fresh URLs, `error`, `error_detail` and more.

        Raises `NotFound`, or `Gone` for a job that was removed less than 30 days ago.
        """
        return self._run(op.get(op.job_path(job_id)))

    def wait(self, job_id: str, on_change: Callable[[Job], None] = ignore, *, timeout_s: float | None = None) -> Job:
        """Wait until the job is `completed` or `failed`, and return it. A failed job raises nothing: see `error`.

        `on_change` gets the job at once and after each change. The wait is a long poll, which a restart of the API
        does not end as long as it answers again within the client's attempts.

        Raises `WaitTimedOut` after `timeout_s` seconds; the job goes on.
        """
        return self._run(op.wait_for_job(job_id, on_change, timeout_s))

    def events(self, job_id: str) -> Iterator[JobEvent]:
        """Yield what happens to the job, until it has ended: its state at first, and then each change.

        All outputs come before the last event, a `status` of `completed` or `failed`. A stream that breaks is continued
        after the last event. Previews are made while events are followed.

        Raises `NotFound`, `Gone`, or `TooManyRequests` if too many streams stay open.
        """
        following = Following(op.job_path(job_id, "events"))
        while not following.is_over:
            with closing(self._opened(following)) as response:
                following.is_over = response.status_code == 204
                try:
                    for chunk in response.iter_raw():
                        yield from received(following, chunk)
                except httpx.TransportError:
                    pass  # the next connection continues after the last event
            if not following.is_over:
                time.sleep(RECONNECT_S)

    def _opened(self, following: Following) -> httpx.Response:
        for attempt in self._retries.attempts_of(is_repeatable=True):
            with attempt, reached(self._api.base_url):
                request = self._api.build_request("GET", following.path, headers=following.headers)
                response = self._api.send(request, stream=True)
                return check_answer(_received(closing(response)) if response.is_error else response)
        raise AssertionError  # the last attempt raises its error

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> AcceptedJob:
        """Submit a job that has ended again, with the same inputs, and return the new job as `submit` does.

        Raises `Conflict` if the job has not ended or its inputs are gone, and what `submit` raises.
        """
        return self._run(op.make(op.job_path(job_id, "retry"), {}, idempotency_key))

    def jobs(self, **options: Unpack[ListOptions]) -> JobPage:
        """Return a page of jobs, newest first: `jobs` and `next_cursor`, which is None on the last page.

        `options` are those of `ListOptions`. With the filters `error_code`, `workflow` and `metadata`, a page that is
        not the last may have few rows, or none. Raises `InvalidRequest` for a malformed filter.
        """
        return self._run(op.list_jobs(options))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job, and return it. A running one may take seconds to stop; one that has ended is unchanged."""
        return self._run(op.answer_of(op.Call("DELETE", op.job_path(job_id))))

    def remove(self, job_id: str) -> Job | None:
        """Remove a job and its files. Returns the job if it still runs, and will be removed when it has stopped."""
        return self._run(op.remove(job_id))

    def logs(self, job_id: str, attempt: int | None = None) -> str:
        """Return the last lines of the engine's log of an attempt, by default the current one.

        Raises `NotFound` while there is no log.
        """
        return self._run(op.logs(job_id, attempt))

    # Files

    def upload(self, path: str | Path, *, idempotency_key: str | None = None) -> str:
        """Upload a file directly to the bucket, in constant memory, and return its `upload_id`.

        It can be used in any number of jobs for 7 days. Of uploads with the same `idempotency_key` only the first is
        stored within 24 hours, so give each content a key of its own.

        Raises `Conflict` for a key that a file of another name or size had, `InvalidRequest` for a file that is too
        large, and `UploadFailed` if the bucket refuses it.
        """
        return self._run(op.upload(Path(path), idempotency_key))

    def input_file(self, path: str | Path, name: str | None = None) -> Json:
        """Upload a file, and return its entry for `media`. `name` is as the loader node names it, by default the
        file's."""
        return self._run(op.input_file(Path(path), name))

    def download(self, output: Mapping[str, Any], folder: str | Path) -> Downloaded:
        """Download an output of a job to a folder, which is made if it is missing, and check the SHA-256.

        No file is overwritten: if another file has the name, (1) is added to it. If a file there already has the
        output's bytes, nothing is downloaded. An interrupted download continues where it broke off, and leaves no file
        if it fails.

        Raises `DownloadFailed` for other bytes, or if the bucket refuses: the URL of an output is valid until its
        `url_expires_at`.
        """
        return self._run(op.download(output, Path(folder)))

    def download_all(self, job_id: str, folder: str | Path) -> list[Downloaded]:
        """Download all outputs that a job has so far, each as `download` does, with fresh URLs."""
        return self._run(op.download_all(job_id, Path(folder)))

    # Batches

    def submit_batch(self, *, idempotency_key: str | None = None, **fields: Any) -> Batch:
        """Submit up to 1,000 jobs, which are accepted together or not at all, and return the batch.

        `fields` are `workflow`, `input_sets` (the `inputs` of each job) and `JobOptions`, or `jobs`, a list of whole
        jobs. The answer has `batch_id`, `status`, `counts` by status and `jobs` in the order of the request. Raises
        what `submit` raises; the `pointer` says which job is at fault.
        """
        return self._run(op.make("/v1/batches", fields, idempotency_key))

    def batch(self, batch_id: str) -> Batch:
        """Return the batch as it is now. Its `status` is `queued`, `running` or `finished`."""
        return self._run(op.get(op.batch_path(batch_id)))

    def batches(self, *, limit: int = 20, cursor: str | None = None) -> BatchPage:
        """Return a page of batches, newest first: `batches` and `next_cursor`, which is None on the last page.

        A page has `limit` rows, 1 to 200. `cursor` is the `next_cursor` of the page before.
        """
        return self._run(op.get("/v1/batches", {"limit": limit, "cursor": cursor}))

    def wait_batch(
        self, batch_id: str, on_change: Callable[[Batch], None] = ignore, *, timeout_s: float | None = None
    ) -> Batch:
        """Wait until every job of the batch has ended, and return the batch.

        `on_change` gets the batch at once and after each change, at most a few seconds later. Raises `WaitTimedOut`
        after `timeout_s` seconds.
        """
        return self._run(op.wait_for_batch(batch_id, on_change, timeout_s))

    def cancel_batch(self, batch_id: str) -> Batch:
        """Cancel every job of the batch that has not ended, and return the batch."""
        return self._run(op.answer_of(op.Call("DELETE", op.batch_path(batch_id))))

    # Workflows

    def workflows(self) -> list[Json]:
        """Return the workflows that can be run by name, each with its `inputs` and whether it is `runnable`."""
        return self._run(op.get_rows("/v1/workflows", "workflows"))

    def workflow(self, name: str) -> Json:
        """Return one workflow, with its graph as `workflow`. Raises `NotFound`."""
        return self._run(op.get(op.workflow_path(name)))

    def convert_workflow(self, document: Json) -> Json:
        """Convert what ComfyUI's editor saves to the API format.

        Returns `workflow`, `notes` about nodes that are left out, `inputs`, and `unknown_classes`; if there are any,
        `workflow` is None. Raises `ApiProblem` for a node that cannot be converted exactly.
        """
        return self._run(op.answer_of(op.Call("POST", "/v1/workflows/convert", json={"workflow": document})))

    def inspect_workflow(self, document: Json) -> Json:
        """Return what a workflow needs, and what the deployment lacks for it.

        `packs` and `models` are what it names, `inputs` and `outputs` those of its graph; `missing_classes` and
        `missing_models` are what the deployment does not have.
        """
        return self._run(op.answer_of(op.Call("POST", "/v1/workflows/inspect", json={"workflow": document})))

    # Webhooks

    def test_webhook(self, url: str) -> Json:
        """Send a signed test event to a receiver, and return its delivery: `status`, `reason` and `attempts`."""
        # Not repeated: the receiver would get two events.
        call = op.Call("POST", "/v1/webhooks/test", json={"url": url}, is_repeatable=False)
        return self._run(op.answer_of(call))

    def deliveries(self, job_id: str) -> list[Json]:
        """Return the deliveries of a job's events, each with its `attempts`."""
        return self._run(op.get_pages(op.job_path(job_id, "deliveries"), "deliveries"))

    def redeliver(self, job_id: str, event_id: str) -> Json:
        """Send one of a job's events once more, with the same id, and return its delivery."""
        path = op.job_path(job_id, "deliveries", event_id, "redeliver")
        return self._run(op.answer_of(op.Call("POST", path, is_repeatable=False)))

    # The deployment

    def health(self) -> Json:
        """Return `status` and `version` of the API. No key is checked."""
        return self._run(op.get("/health"))

    def nodes(self, *, pool: str | None = None, limit: int = 200, cursor: str | None = None) -> Json:
        """Return a page of the node classes that the deployment has, by name: `nodes` and `next_cursor`.

        `pool` names a GPU pool, by default the default one. Until one of its workers has started, `published_at` is
        None and there are no nodes. Raises `InvalidRequest` for a pool that the deployment does not have.
        """
        return self._run(op.get("/v1/nodes", {"pool": pool, "limit": limit, "cursor": cursor}))

    def node(self, class_type: str, *, pool: str | None = None) -> Json:
        """Return one node class with its inputs: types, defaults, ranges and choices. Raises `NotFound`."""
        return self._run(op.get(op.node_path(class_type), {"pool": pool}))

    def models(
        self, *, folder: str | None = None, pool: str | None = None, limit: int = 200, cursor: str | None = None
    ) -> Json:
        """Return a page of the model files that the deployment has: `models` and `next_cursor`.

        `folder` is ComfyUI's name for a kind, such as `loras`. `pool` and errors are those of `nodes`.
        """
        return self._run(op.get("/v1/models", {"folder": folder, "pool": pool, "limit": limit, "cursor": cursor}))

    def system(self) -> Json:
        """Return the API's version, and for each pool what its last worker runs on."""
        return self._run(op.get("/v1/system"))

    def limits(self) -> Json:
        """Return every limit that a request can meet, by name; None where the deployment has none."""
        return self._run(op.get("/v1/limits"))

    def _run(self, plan: op.Plan[T]) -> T:
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
                        result = self._call(step)
                    case op.SendFile():
                        self._send(step)
                    case op.ReceiveFile():
                        self._receive(step)
                    case op.Work():
                        result = step.function()

    def _call(self, step: op.Call) -> httpx.Response:
        for attempt in self._retries.attempts_of(is_repeatable=step.is_repeatable):
            with attempt, reached(self._api.base_url):
                return check_answer(_received(self._api.stream(step.method, **request_of(step))))
        raise AssertionError  # the last attempt raises its error

    def _send(self, step: op.SendFile) -> None:
        created = step.created
        for attempt in self._retries.attempts_of(is_repeatable=True):
            with attempt, reached(created["url"]), step.path.open("rb") as file:
                answer = self._bucket.stream(
                    created["method"], created["url"], headers=created["headers"], content=_chunks(file)
                )
                check_upload(step, _received(answer), attempt=attempt.num)

    def _receive(self, step: op.ReceiveFile) -> None:
        for attempt in self._retries.attempts_of(is_repeatable=True):
            with (
                attempt,
                reached(step.url),
                self._bucket.stream("GET", step.url, headers=step.draft.headers) as response,
            ):
                check_download(step, response)
                step.draft.begin(response)
                # Pieces as they arrive: a gathered one would be lost with the connection.
                for chunk in response.iter_raw():
                    step.draft.write(chunk)


def _received(answer: AbstractContextManager[httpx.Response]) -> httpx.Response:
    """Receive a whole answer."""
    with answer as response:
        body = Body(response)
        for chunk in response.iter_raw():
            body.add(chunk)
    return body.complete()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
