"""What both clients do with requests and answers: their HTTP options, and the checks of an answer."""

import logging
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import httpx

from comfyui_modal_client._errors import (
    ApiUnreachable,
    ClientError,
    DownloadFailed,
    UploadFailed,
    origin,
    problem_of,
    retry_after_of,
)
from comfyui_modal_client._events import Following, JobEvent
from comfyui_modal_client._operations import Call, ReceiveFile, SendFile
from comfyui_modal_client._version import __version__

TIMEOUT_S = 60.0
ATTEMPTS = 4
MAX_RETRY_AFTER_S = 30.0
KEY_PREFIX = "ck_"
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""The limit of an answer of the API, and of the bucket's to an upload. The API's largest have a few MiB."""


class HttpOptions(TypedDict):
    """Options of an httpx client."""

    headers: Mapping[str, str]
    timeout: float
    verify: ssl.SSLContext


def http_options(timeout_s: float, tls: ssl.SSLContext | None) -> HttpOptions:
    """Return the options that the HTTP clients for the API and for the bucket share: all but the API key."""
    logging.getLogger("httpx").addFilter(_hide_signatures)  # the same filter is added only once
    return {
        # A few kilobytes of gzip can be gigabytes of text, and a range and the checksum of a file are of its own bytes.
        "headers": {"user-agent": f"comfyui-modal-client/{__version__}", "accept-encoding": "identity"},
        "timeout": timeout_s,
        "verify": tls or httpx.create_ssl_context(),
    }


def _hide_signatures(record: logging.LogRecord) -> bool:
    """Remove the query of presigned URLs from httpx's log of requests. Anyone who has it can use the file."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            one.copy_with(query=None) if isinstance(one, httpx.URL) and b"signature=" in one.query.lower() else one
            for one in record.args
        )
    return True


def authorization(api_key: str) -> str:
    """Return the header of a key, which may have white space around it, as a file's last line has.

    Raises `ClientError` for a text that cannot be a key, and never repeats it.
    """
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ClientError(
            "the API key is empty or has characters that no key has, such as spaces or line ends:"
            " give it as `comfyui-modal keys create` printed it"
        )
    return f"Bearer {key}"


def base_url(api_url: str) -> str:
    """Return the URL to which paths are added. Raises `ApiUnreachable` for a text that is no URL."""
    if api_url.strip().startswith(KEY_PREFIX):  # the arguments were exchanged, and no message may repeat a key
        raise ApiUnreachable("an API key was given as the URL of the API: the URL must begin with http:// or https://")
    try:
        url = httpx.URL(api_url.rstrip("/"))
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ApiUnreachable(
            f"{api_url.rpartition('@')[2]} is not the URL of an API: it must begin with http:// or https://"
        )
    return str(url)


def request_of(call: Call) -> Mapping[str, Any]:
    """Return the arguments of httpx's `request`."""
    return {"url": call.path, "params": call.params, "json": call.json, "headers": call.headers}


class Body:
    """The body of an answer, of at most MAX_ANSWER_BYTES, so that no server can exhaust the memory."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._received = bytearray()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ApiUnreachable(f"{origin(response.url)} compressed its answer, which the client does not accept")

    def add(self, chunk: bytes) -> None:
        if len(self._received) + len(chunk) > MAX_ANSWER_BYTES:
            raise ApiUnreachable(f"the answer of {origin(self._response.url)} has more than {MAX_ANSWER_BYTES} bytes")
        self._received += chunk  # a list of chunks of two bytes would take thirty times their size

    def complete(self) -> httpx.Response:
        """Return the answer with its whole body."""
        return httpx.Response(
            self._response.status_code,
            headers=self._response.headers,
            content=bytes(self._received),
            request=self._response.request,
        )


def check_answer(response: httpx.Response) -> httpx.Response:
    """Return an answer of the API, or raise the `ApiProblem` that it is."""
    if response.is_error:
        raise problem_of(response)
    return response


def received(following: Following, chunk: bytes) -> Iterator[JobEvent]:
    """Yield the events that are complete with these bytes. Raises `ApiUnreachable` for bytes that are no events."""
    events = following.received(chunk)
    while True:
        try:
            event = next(events)
        except StopIteration:
            return
        except ValueError as error:
            raise ApiUnreachable(f"the API answered with something that is no event: {error}") from None
        yield event


def check_upload(step: SendFile, response: httpx.Response, *, attempt: int) -> None:
    """Raise `UploadFailed` if the bucket has not stored the file."""
    # The upload may not overwrite, so the bucket refuses a repeated one if the first was stored.
    may_be_stored = step.may_be_stored or attempt > 1
    if response.is_success or (response.status_code == 412 and may_be_stored):
        return
    raise UploadFailed(
        f"the bucket refused the upload of {step.path.name}: it answered {response.status_code}",
        response.status_code,
        retry_after_of(response),
    )


def check_download(step: ReceiveFile, response: httpx.Response) -> None:
    """Raise `DownloadFailed` if the bucket does not send the file."""
    if response.status_code in (200, 206):
        return
    hint = "; its URL may have expired: get the job again for a new one" if response.status_code == 403 else ""
    raise DownloadFailed(
        f"{step.draft.name}: the bucket answered {response.status_code}{hint}",
        response.status_code,
        retry_after_of(response),
    )
