"""Refusals of Comfy API v2: `{"error": {"code", "message", "details"}}`, which its clients map by `code`.

Every `Problem` that is raised below `/api/v2` is converted here. `ComfyProblem` is a refusal with a code of its own.
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from app.operations import GRAPH_PROBLEMS
from app.problems import Problem

LONGEST_RETRY_S = 60
"""The SDKs wait up to this long in all for a 429 with Retry-After. A longer one would only make them hang."""

CODES: Mapping[str, int] = {
    "invalid_request": 422,
    "invalid_workflow": 422,
    "workflow_format_ui": 422,
    "missing_asset": 422,
    "metadata_invalid": 422,
    "idempotency_key_reuse": 422,
    "invalid_metadata_filter": 400,
    "invalid_cursor": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "blob_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "hash_mismatch": 409,
    "asset_in_use": 409,
    "payload_too_large": 413,
    "queue_full": 429,
    "rate_limited": 429,
    "too_many_streams": 429,
    "upstream_error": 500,
    "not_implemented": 501,
    "upstream_unreachable": 503,
}
"""The codes of this API with their statuses. docs/how-to/comfy-sdk.md lists the same (a test compares)."""

_OF_SLUG: Mapping[str, str] = {
    "ui-format-workflow": "workflow_format_ui",
    "missing-medium": "missing_asset",
    "unknown-asset": "missing_asset",
    "upload-incomplete": "missing_asset",
    "idempotency-key-reused": "idempotency_key_reuse",
    "job-gone": "not_found",
    "batch-gone": "not_found",
    "bad-cursor": "invalid_cursor",
    "too-many-active-jobs": "queue_full",
    "too-many-queued-jobs": "queue_full",
    "too-many-streams": "too_many_streams",
    "outcome-unknown": "upstream_error",
    **dict.fromkeys(GRAPH_PROBLEMS, "invalid_workflow"),
}
"""The codes of problem types whose status alone would say something else."""

_OF_STATUS: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "invalid_request",
    410: "not_found",
    413: "payload_too_large",
    415: "invalid_request",
    422: "invalid_request",
    429: "rate_limited",
    500: "upstream_error",
    503: "upstream_unreachable",
    507: "upstream_unreachable",
}

_HINTS: Mapping[str, str] = {
    "missing-medium": "upload the file as an asset, and put its reference or its name where the node names the file",
    "request-too-large": "send files as assets",
    "request-timeout": "send it again, and files as assets",
    "bad-cursor": "use next_cursor as it was answered",
    "not-found": "see the reference of Comfy API v2 for the paths",
    "method-not-allowed": "see the reference of Comfy API v2 for the methods",
}
"""Advice that differs here, because the general one names fields and paths of /v1."""


class ComfyProblem(Problem):
    """A refusal with one of `CODES`. `slug` is the closest problem type, which the metrics count."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        slug: str = "validation-error",
        pointer: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(slug, message, pointer=pointer, headers=headers)
        self.code = code
        self.details = {} if details is None else dict(details)


def code_of(problem: Problem) -> str:
    """Return the code that stands for the problem here."""
    if isinstance(problem, ComfyProblem):
        return problem.code
    return _OF_SLUG.get(problem.type.slug) or _OF_STATUS[problem.type.status]


def rendered(problem: Problem) -> JSONResponse:
    """Convert a problem into the response of this API. `app.problems` calls it below `/api/v2`."""
    code = code_of(problem)
    error = {"code": code, "message": problem.detail, "details": _details(problem)}
    headers = {name: text for name, text in (problem.headers or {}).items() if not _is_long_wait(name, text)}
    return JSONResponse({"error": error}, _status(problem, code), headers)


def _status(problem: Problem, code: str) -> int:
    status = problem.type.status
    # JSON that cannot be parsed is 400 here too, and a 503 says that a repetition may succeed, whatever its code is.
    return status if status >= 500 or (code == "invalid_request" and status in (400, 415)) else CODES[code]


def _details(problem: Problem) -> dict[str, Any]:
    if isinstance(problem, ComfyProblem):
        return problem.details | ({} if problem.pointer is None else {"pointer": problem.pointer})
    found: dict[str, Any] = {
        "problem": problem.type.slug,
        "hint": _HINTS.get(problem.type.slug, problem.hint),
        "pointer": problem.pointer,
        "errors": problem.errors,
        "node_errors": problem.node_errors,
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_long_wait(name: str, text: str) -> bool:
    return name.lower() == "retry-after" and int(text) > LONGEST_RETRY_S
