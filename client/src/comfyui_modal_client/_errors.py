"""The exceptions of the client, and how an answer becomes one. `comfyui_modal_client` draws their tree."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from comfyui_modal_client._json import MAX_ANSWER_WEIGHT, parsed


class ClientError(Exception):
    """The base of all exceptions of this client."""


class ApiUnreachable(ClientError):
    """The API or the bucket sent no usable answer. The message names its URL, without path and query."""


class ApiProblem(ClientError):
    """The API refused the request with an RFC 9457 problem. `str()` is the problem's `detail`."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"the API answered {status}")
        self.status = status
        """The HTTP status."""
        self.type = str(problem.get("type", "about:blank"))
        """The URI of the kind of problem."""
        self.title = str(problem.get("title", ""))
        self.hint = str(problem.get("hint", ""))
        """What to do about it, if the API knows."""
        self.pointer = problem.get("pointer")
        """The JSON pointer of the fault in the request's body, or None."""
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors") or ()
        """Every fault of the request, each with `pointer`, `detail` and perhaps `hint`."""
        self.retry_after = retry_after
        """How many seconds to wait before the request is repeated, or None if the API does not say."""
        self.problem: Mapping[str, Any] = problem
        """The whole problem document."""

    @property
    def code(self) -> str:
        """The last part of `type`, such as `validation-error`."""
        return self.type.rpartition("/")[2]


class InvalidRequest(ApiProblem):
    """The request itself is at fault: 400, 413, 415 or 422. `errors` lists every fault."""


class Unauthorized(ApiProblem):
    """The API key is missing, unknown, revoked or expired: 401."""


class Forbidden(ApiProblem):
    """The API key lacks a scope: 403."""


class NotFound(ApiProblem):
    """There is no such job, batch or workflow of this key's tenant: 404."""


class Gone(ApiProblem):
    """The job has been removed with its files: 410."""


class Conflict(ApiProblem):
    """The request contradicts an earlier one, such as one with the same idempotency key: 409."""


class TooManyRequests(ApiProblem):
    """A quota or a rate is exhausted: 429."""


class ServerError(ApiProblem):
    """The API or a gateway before it failed: 5xx."""


class TransferFailed(ClientError):
    """The bucket refused a file."""

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status of the bucket, or None if its answer was not the fault."""
        self.retry_after = retry_after
        """How many seconds to wait before the request is repeated, or None if the bucket does not say."""


class UploadFailed(TransferFailed):
    """The bucket refused an upload."""


class DownloadFailed(TransferFailed):
    """The bucket refused a download, or its bytes are not those that the job made."""


class WaitTimedOut(ClientError, TimeoutError):
    """The job or batch has not ended within `timeout_s` seconds. It goes on."""


class WebhookRejected(ClientError, ValueError):
    """The webhook is not authentic, or not a JSON object. Answer it 401 and do not process it."""


_PROBLEMS: Mapping[int, type[ApiProblem]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
}


def problem_of(response: httpx.Response) -> ApiProblem:
    """Return the exception for an answer of 400 or more, also of one that no problem document explains."""
    status = response.status_code
    kind = _PROBLEMS.get(status, ServerError if status >= 500 else ApiProblem)
    try:
        body = parsed(response.content, MAX_ANSWER_WEIGHT)
    except ValueError:
        body = None  # a gateway's page
    problem = body if isinstance(body, dict) else {"detail": f"{origin(response.url)} answered {status}"}
    return kind(status, problem, retry_after_of(response))


def retry_after_of(response: httpx.Response) -> float | None:
    """Return the seconds that `Retry-After` names, by number or by date, or None."""
    given = response.headers.get("retry-after", "").strip()
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):  # the latter for a date at the end of time, or an endless time zone
        return None


@contextmanager
def reached(url: str | httpx.URL) -> Iterator[None]:
    """Convert every error of the transport into `ApiUnreachable`."""
    try:
        yield
    except (httpx.RequestError, httpx.InvalidURL) as error:
        # The path and the query of a presigned URL are a secret, so the message has neither.
        # The texts of these errors quote a header or the URL.
        is_quoting = isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL)
        reason = type(error).__name__ if is_quoting else str(error) or type(error).__name__
        raise ApiUnreachable(f"{origin(url)} cannot be reached: {reason}") from error


def origin(url: str | httpx.URL) -> str:
    """Return the scheme, host and port of a URL."""
    try:
        parts = urlsplit(str(url))
    except ValueError:
        return "a URL that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
