"""What both clients do with requests and answers: their HTTP options, and the checks of an answer."""

import ssl
from collections.abc import Mapping
from typing import Any, TypedDict

import httpx

from comfyui_modal_client._errors import ApiUnreachable, DownloadFailed, UploadFailed, problem_of, retry_after_of
from comfyui_modal_client._operations import Call, ReceiveFile, SendFile
from comfyui_modal_client._version import __version__

TIMEOUT_S = 60.0
ATTEMPTS = 4
MAX_RETRY_AFTER_S = 30.0


class HttpOptions(TypedDict):
    """Options of an httpx client."""

    headers: Mapping[str, str]
    timeout: float
    verify: ssl.SSLContext


def http_options(timeout_s: float, tls: ssl.SSLContext | None) -> HttpOptions:
    """Return the options that the HTTP clients for the API and for the bucket share: all but the API key."""
    return {
        "headers": {"user-agent": f"comfyui-modal-client/{__version__}"},
        "timeout": timeout_s,
        "verify": tls or httpx.create_ssl_context(),
    }


def base_url(api_url: str) -> str:
    """Return the URL to which paths are added. Raises `ApiUnreachable` for a text that is no URL."""
    try:
        url = httpx.URL(api_url.rstrip("/"))
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ApiUnreachable(f"{api_url} is not the URL of an API: it must begin with http:// or https://")
    return str(url)


def request_of(call: Call) -> Mapping[str, Any]:
    """Return the arguments of httpx's `request`."""
    return {"url": call.path, "params": call.params, "json": call.json, "headers": call.headers}


def check_answer(response: httpx.Response) -> httpx.Response:
    """Return an answer of the API, or raise the `ApiProblem` that it is."""
    if response.is_error:
        raise problem_of(response)
    return response


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
        f"{step.name}: the bucket answered {response.status_code}{hint}",
        response.status_code,
        retry_after_of(response),
    )
