"""Every operation of the client, without I/O: a generator that yields steps and receives their results.

`Client` and `AsyncClient` perform the steps, each in its own way, so an operation is written once.
"""

import mimetypes
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from comfyui_modal_client._answers import Batch, Job, JobPage
from comfyui_modal_client._errors import ApiUnreachable, WaitTimedOut, origin
from comfyui_modal_client._files import Downloaded, Draft, find_same, place, safe_name
from comfyui_modal_client._json import MAX_ANSWER_WEIGHT, parsed
from comfyui_modal_client._types import Json, ListOptions

T = TypeVar("T")

LONG_POLL_S = 20
"""How long the API may hold a request until the job changes. Proxies end requests that take a minute."""
UNCHANGED_PAUSE_S = 1.0
"""The least time from a request that should wait to the next, if the answer says that nothing has changed.

A proxy or cache may answer at once in place of the API.
"""
CHANGED_PAUSE_S = 0.1
"""The same for an answer with a change. The API stores at most one progress a second."""
MOST_PAGES = 100
"""Pages of a list that are read to its end. An API that repeats its cursor would be asked without end."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the API. Its result is the answer, an `httpx.Response` below 400."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    """Whether sending it twice does what sending it once does."""


@dataclass(frozen=True, slots=True)
class SendFile:
    """An upload to the bucket, as `created` by POST /v1/uploads."""

    created: Json
    path: Path
    may_be_stored: bool
    """Whether an earlier upload with the same idempotency key may have stored the file."""


@dataclass(frozen=True, slots=True)
class ReceiveFile:
    """A download from the bucket into `draft`. An interrupted one is continued where it broke off."""

    url: str
    draft: Draft


@dataclass(frozen=True, slots=True)
class Work:
    """A function that may block for long, such as the hash of a large file. Its result is what the function returns."""

    function: Callable[[], Any]


Step = Call | SendFile | ReceiveFile | Work
Plan = Generator[Step, Any, T]


def make(path: str, document: Mapping[str, Any], idempotency_key: str | None = None) -> Plan[T]:
    """A POST that creates one resource, however often it is sent: its Idempotency-Key says that it is the same."""
    headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
    return (yield from answer_of(Call("POST", path, json=document, headers=headers)))


def answer_of(call: Call) -> Plan[T]:
    """The JSON object that a request is answered with."""
    response: httpx.Response = yield call
    document: T = _json(response)
    return document


def get(path: str, params: Mapping[str, Any] | None = None) -> Plan[T]:
    return (yield from answer_of(Call("GET", path, params=given(params or {}))))


def get_rows(path: str, name: str) -> Plan[list[Json]]:
    """The array `name` of the JSON object that a GET is answered with."""
    document: Json = yield from get(path)
    rows: list[Json] = member(document, name, list)
    return rows


def get_pages(path: str, name: str) -> Plan[list[Json]]:
    """The rows of all pages of a list. Raises `ApiUnreachable` beyond `MOST_PAGES`."""
    rows: list[Json] = []
    cursor = None
    for _ in range(MOST_PAGES):
        document: Json = yield from get(path, {"cursor": cursor})
        rows += member(document, name, list)
        if document.get("next_cursor") is None:
            return rows
        cursor = member(document, "next_cursor", str)
    raise ApiUnreachable(f"the list of `{name}` has more than {MOST_PAGES} pages: is it the URL of this API?")


def logs(job_id: str, attempt: int | None) -> Plan[str]:
    response: httpx.Response = yield Call("GET", job_path(job_id, "logs"), params=given({"attempt": attempt}))
    return response.text


def remove(job_id: str) -> Plan[Job | None]:
    response: httpx.Response = yield Call("DELETE", job_path(job_id), params={"purge": "true"})
    return None if response.status_code == 204 else _json(response)


def wait_for_job(job_id: str, on_change: Callable[[Job], None], timeout_s: float | None) -> Plan[Job]:
    return (yield from _wait(job_path(job_id), f"job {job_id}", ("completed", "failed"), on_change, timeout_s))


def wait_for_batch(batch_id: str, on_change: Callable[[Batch], None], timeout_s: float | None) -> Plan[Batch]:
    return (yield from _wait(batch_path(batch_id), f"batch {batch_id}", ("finished",), on_change, timeout_s))


def _wait(
    path: str, name: str, ends: Collection[str], on_change: Callable[[T], None], timeout_s: float | None
) -> Plan[T]:
    """Long-poll a document until its `status` is one of `ends`."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    etag = ""
    while True:
        # The first request does not wait, so that `on_change` gets the state of a job that is long under way.
        call = Call("GET", path)
        if etag:
            left = LONG_POLL_S if end is None else min(LONG_POLL_S, end - time.monotonic())
            if left <= 0:
                raise WaitTimedOut(f"{name} has not ended in time, and goes on")
            call = replace(call, headers={"if-none-match": etag})
            if left < 1:  # the API waits for whole seconds
                yield from _sleep(left)
            else:
                call = replace(call, params={"wait": int(left)})
        asked = time.monotonic()
        response: httpx.Response = yield call
        is_changed = response.status_code != 304
        if is_changed:
            found: Any = _json(response)
            document: T = found
            on_change(document)
            if member(found, "status", str) in ends:
                return document
            etag = member(response.headers, "etag", str)
        if "wait" in call.params:
            pause_s = CHANGED_PAUSE_S if is_changed else UNCHANGED_PAUSE_S
            early_s = asked + pause_s - time.monotonic()
            yield from _sleep(early_s if end is None else min(early_s, end - time.monotonic()))


def _sleep(seconds: float) -> Plan[None]:
    if seconds > 0:
        yield Work(partial(time.sleep, seconds))


def upload(path: Path, idempotency_key: str | None = None) -> Plan[str]:
    created: Json = yield from make(
        "/v1/uploads",
        {
            "filename": path.name,
            "size_bytes": path.stat().st_size,
            "content_type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        },
        idempotency_key,
    )
    for name, kind in (("upload_id", str), ("method", str), ("url", str), ("headers", dict)):
        member(created, name, kind)
    _check_sendable(created["method"], created["url"], *created["headers"], *created["headers"].values())
    yield SendFile(created, path, may_be_stored=idempotency_key is not None)
    return str(created["upload_id"])


def input_file(path: Path, name: str | None) -> Plan[Json]:
    return {"name": name or path.name, "upload_id": (yield from upload(path))}


def download(output: Mapping[str, Any], folder: Path) -> Plan[Downloaded]:
    name, sha256, url = (member(output, one, str) for one in ("filename", "sha256", "url"))
    _check_sendable(url)
    name, size = safe_name(name), member(output, "size_bytes", int)
    folder.mkdir(parents=True, exist_ok=True)
    same: Path | None = yield Work(partial(find_same, folder, name, sha256, size))
    if same is not None:
        return Downloaded(same, "already there")
    # The final name appears only after the checksum matches, so an interrupted download never looks complete.
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as drafts,
        Draft(Path(drafts) / "draft", name, size) as draft,
    ):
        yield ReceiveFile(url, draft)
        draft.finish(sha256)
        path = place(draft.path, folder, name)
    return Downloaded(path, "new" if path.name == name else "renamed")


def download_all(job_id: str, folder: Path) -> Plan[list[Downloaded]]:
    # Asked anew, because the URLs of an earlier answer may have expired.
    job: Job = yield from get(job_path(job_id))
    saved = []
    for output in member(job, "outputs", list):
        done = yield from download(output, folder)
        saved.append(done)
    return saved


def list_jobs(options: ListOptions) -> Plan[JobPage]:
    fields = dict(options)
    for name, value in options.get("metadata", {}).items():
        fields[f"metadata[{name}]"] = value
    fields.pop("metadata", None)
    return (yield from get("/v1/jobs", fields))


def job_path(job_id: str, *rest: str) -> str:
    return _path("jobs", job_id, *rest)


def batch_path(batch_id: str) -> str:
    return _path("batches", batch_id)


def workflow_path(name: str, *rest: str) -> str:
    return _path("workflows", name, *rest)


def node_path(class_type: str) -> str:
    return _path("nodes", class_type)


def _path(*parts: str) -> str:
    """Return a path of the API in which no part leads to another path."""
    quoted = (quote(part, safe="", errors="replace") for part in parts)
    # `quote` keeps dots, and httpx would resolve `..` as a folder above.
    return "/".join(("/v1", *(part.replace(".", "%2E") if part in (".", "..") else part for part in quoted)))


def _check_sendable(*texts: object) -> None:
    """Raise `ApiUnreachable` if the API's instructions for the bucket have what no request holds."""
    if not all(isinstance(text, str) and text.isascii() for text in texts):
        raise ApiUnreachable("the URL or the headers of a file are no ASCII text as this API gives it: is it this API?")


def member(document: Any, name: str, kind: type) -> Any:
    """Return a member that the client itself needs. Raises `ApiUnreachable` if it is not of the type."""
    value = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ApiUnreachable(f"the answer has no `{name}` as this API gives it: is it the URL of this API?")
    return value


def given(values: Mapping[str, Any]) -> Json:
    """Return the members that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _json(response: httpx.Response) -> Any:
    try:
        document = parsed(response.content, MAX_ANSWER_WEIGHT)
    except ValueError:
        document = None
    if not isinstance(document, dict):  # some other server's page
        raise ApiUnreachable(f"{origin(response.url)} did not answer with a JSON object: is it the URL of this API?")
    return document
