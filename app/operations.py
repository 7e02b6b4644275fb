"""The model of an HTTP operation, from which its route and its OpenAPI entry are made; parts that operations share."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.config import ApiConfig
from app.fields import MAX_IDEMPOTENCY_KEY
from app.problems import Problem
from workflows.suggestions import suggestion

DEFAULTS = ApiConfig(api_key=None)
MAX_QUERY_BYTES = 32 * 1024
MAX_QUERY_PARAMETERS = 100
SHOWN = 50
"""Characters of a client's own name that a refusal repeats."""
WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
JOB_ID = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"

BODY_PROBLEMS = (
    "malformed-json",
    "unsupported-media-type",
    "request-timeout",
    "request-too-large",
    "too-many-large-requests",
)
"""Refusals of a request body as such."""
IDEMPOTENCY_PROBLEMS = ("idempotency-key-reused", "bad-idempotency-key")
GRAPH_PROBLEMS = (
    "not-a-workflow",
    "bad-node",
    "too-many-nodes",
    "node-not-allowed",
    "unsafe-file-name",
    "undeclared-input",
    "unknown-node-class",
    "dangling-link",
    "workflow-cycle",
    "no-output-node",
    "missing-required-input",
    "wrong-input-type",
    "value-out-of-range",
    "value-not-in-list",
    "missing-model",
    "link-type-mismatch",
)
"""Refusals of a graph for what it says, whatever files come with it."""
SUBMISSION_PROBLEMS = (
    *BODY_PROBLEMS,
    "text-too-long",
    "validation-error",
    "missing-workflow",
    "ui-format-workflow",
    "bad-editor-file",
    "not-convertible",
    *GRAPH_PROBLEMS,
    "missing-medium",
    "unknown-input-node",
    "unknown-input-field",
    "too-many-media",
    "medium-too-large",
    "bad-medium",
    "media-checks-busy",
    "bad-base64",
    "bad-media-name",
    "duplicate-media-name",
    "media-source-ambiguous",
    "partner-keys-unsealed",
    "unknown-upload",
    "unknown-asset",
    "upload-incomplete",
    "unknown-gpu",
    "webhooks-unsigned",
    "webhook-refused",
    "too-many-urls",
    "fetches-busy",
    "fetch-refused",
    "fetch-failed",
    *IDEMPOTENCY_PROBLEMS,
    "job-gone",
    "too-many-active-jobs",
    "too-many-queued-jobs",
    "too-many-webhook-targets",
    "too-many-bytes",
    "insufficient-storage",
)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    where: str
    schema: dict[str, Any]
    about: str

    @property
    def has_members(self) -> bool:
        """Whether it is an object, written `name[member]=value`."""
        return self.schema.get("type") == "object"

    @property
    def written(self) -> str:
        """Its name as a query has it."""
        return f"{self.name}[NAME]" if self.has_members else self.name

    def takes(self, name: str) -> bool:
        """Report whether a query parameter of this name is this one, or one of its members."""
        return name.startswith(f"{self.name}[") and name.endswith("]") if self.has_members else name == self.name

    def as_json(self) -> dict[str, Any]:
        required = {"required": True} if self.where == "path" else {}
        # OpenAPI's name for `name[member]=value`.
        style = {"style": "deepObject", "explode": True} if self.has_members else {}
        return {
            "name": self.name,
            "in": self.where,
            "description": self.about,
            "schema": self.schema,
            **style,
            **required,
        }


@dataclass(frozen=True, slots=True)
class Operation:
    """An HTTP operation: its handler, and its entry of the OpenAPI document.

    `answers` maps a status to its meaning and body model, None for a body that is not JSON.
    """

    handler: Callable[[Request], Awaitable[Response]]
    id: str
    method: str
    path: str
    summary: str
    answers: dict[int, tuple[str, type[BaseModel] | None]]
    parameters: Sequence[Parameter] = ()
    request: type[BaseModel] | None = None
    example: dict[str, Any] | None = None
    refusals: Sequence[str] = ()
    events: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    """The server-sent events of the response to 200, by name."""
    is_open: bool = False
    has_slashes: bool = False
    """Whether the path's last parameter may have slashes, as the names of node classes do."""

    def route(self) -> Route:
        path = f"{self.path[:-1]}:path}}" if self.has_slashes else self.path
        return Route(path, self._respond, methods=[self.method.upper()], name=self.id)

    async def _respond(self, request: Request) -> Response:
        # Probes and public documents are excepted: load balancers and caches add parameters of their own.
        if not self.is_open:
            _check_size(request.scope["query_string"])
            self._check_query(request.query_params)
        return await self.handler(request)

    def _check_query(self, query: QueryParams) -> None:
        """Refuse a parameter that the operation does not declare, or that is given twice."""
        # A misspelt filter would be ignored silently, and the list would show what the client did not ask for.
        declared = [parameter for parameter in self.parameters if parameter.where == "query"]
        seen: set[str] = set()
        for name, _ in query.multi_items():
            if not any(parameter.takes(name) for parameter in declared):
                raise _unknown_parameter(name, declared)
            if name in seen:
                raise Problem("invalid-parameter", f"{name[:SHOWN]} is given more than once; send it once")
            seen.add(name)


def _check_size(query: bytes) -> None:
    """Refuse a query that would take long to parse: a head of 64 KiB has room for 32,000 parameters."""
    if len(query) > MAX_QUERY_BYTES or query.count(b"&") >= MAX_QUERY_PARAMETERS:
        detail = f"the query may have {MAX_QUERY_BYTES} bytes and {MAX_QUERY_PARAMETERS} parameters"
        raise Problem("invalid-parameter", detail)


def _unknown_parameter(name: str, declared: Sequence[Parameter]) -> Problem:
    known = {parameter.name: parameter.written for parameter in declared}
    takes = f"it takes {', '.join(known.values())}" if known else "it takes none"
    detail = f"this operation has no query parameter {name[:SHOWN]!r}; {takes}"
    plain = name.partition("[")[0]
    hint = f"write it as {known[plain]}" if plain in known else suggestion(plain, known)
    return Problem("unknown-parameter", detail, hint=hint or None)


ID = Parameter("job_id", "path", {"type": "string", "examples": [JOB_ID]}, "the job")
BATCH_ID = Parameter("batch_id", "path", {"type": "string", "examples": [JOB_ID]}, "the batch")
CLASS_TYPE = Parameter("class_type", "path", {"type": "string", "examples": ["KSampler"]}, "the node class")
NAME = Parameter("name", "path", {"type": "string", "examples": ["still"]}, "the workflow")
KEY = Parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY},
    "the same key and body make one thing, for 24 h",
)


PREFER = Parameter(
    "Prefer",
    "header",
    {"type": "string", "examples": ["wait=30"]},
    "wait=N (RFC 7240): answer when the job has ended, or after N seconds, at most `max_wait_s`",
)
ACCEPTED_BEFORE = (
    "an earlier request with this Idempotency-Key had made it; or with Prefer: wait, the job, which has ended"
)


def wait_parameter(end: str) -> Parameter:
    """Return the parameter of a long poll. `end` says what ends it."""
    return Parameter(
        "wait",
        "query",
        {"type": "integer", "minimum": 1, "maximum": DEFAULTS.max_wait_s},
        f"seconds to wait until {end}, or with If-None-Match until it changes",
    )


KNOWN = Parameter("If-None-Match", "header", {"type": "string"}, "the ETag that you know")


def page_parameters(default: int = 50) -> tuple[Parameter, ...]:
    """Return the parameters of a list. `default` is the page size of a request that names none."""
    size = {"type": "integer", "minimum": 1, "maximum": DEFAULTS.max_page, "default": default}
    return (
        Parameter("limit", "query", size, "page size"),
        Parameter("cursor", "query", {"type": "string"}, "next_cursor of the page before"),
    )


PAGE = page_parameters()
