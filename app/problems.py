"""Refusals as RFC 9457 problems. `PROBLEM_TYPES` is the only list of the types that this API returns.

`type` is a path of this API that explains the problem. `docs/reference/problems.md` lists the same types.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from app.outcome import outcome_of
from storage import errors as storage_errors
from storage.local_disk import is_full
from workflows.errors import WorkflowError
from workflows.report import Report, shown_hint

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
PATH = "/problems"
MOST_ERRORS = 50
"""The most fields that one problem lists; further ones are only counted."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A stable type of problem. `hint` is the general advice, which a single problem may replace."""

    slug: str
    status: int
    title: str
    hint: str

    @property
    def uri(self) -> str:
        return f"{PATH}/{self.slug}"


_TYPES = (
    ProblemType("malformed-json", 400, "The request body is not JSON", "send one JSON object in UTF-8"),
    ProblemType("unsupported-media-type", 415, "The request body has the wrong type", "send application/json"),
    ProblemType("request-timeout", 408, "The request body came too slowly", "send it again, or by POST /v1/uploads"),
    ProblemType("request-too-large", 413, "The request body is too large", "send large media by POST /v1/uploads"),
    ProblemType(
        "cross-site-request",
        403,
        "A page was asked to act by another page",
        "open the page under /ui again and repeat the step there; programs use /v1 with a key",
    ),
    ProblemType("unknown-gpu", 422, "There is no such GPU pool", "name one of the deployment's pools, or none"),
    ProblemType("text-too-long", 422, "A text is too long", "shorten it, or send it as a medium"),
    ProblemType(
        "validation-error", 422, "A field is missing or has the wrong value", "see detail, and errors for each field"
    ),
    ProblemType("missing-workflow", 422, "There is no workflow", "send ComfyUI's API-format graph as `workflow`"),
    ProblemType(
        "ui-format-workflow",
        422,
        "The workflow is in the editor's format",
        "in ComfyUI choose Workflow → Export (API) and send that",
    ),
    ProblemType(
        "no-editor-file", 404, "The job was not submitted as an editor's file", "leave out format: the graph is there"
    ),
    ProblemType("bad-editor-file", 422, "The editor's file is malformed", "save it again in ComfyUI's editor"),
    ProblemType(
        "not-convertible",
        422,
        "A node of the editor's file cannot be converted",
        "see detail; or in ComfyUI choose Workflow → Export (API) and send that",
    ),
    ProblemType("not-a-workflow", 422, "The workflow is not a graph of nodes", "send ComfyUI's API format"),
    ProblemType("bad-node", 422, "A node is malformed", "each node needs class_type and inputs"),
    ProblemType("too-many-nodes", 422, "The workflow has too many nodes", "split it into several jobs"),
    ProblemType(
        "node-not-allowed",
        422,
        "A node's class is not allowed here",
        "remove the node; the operator allows it by COMFYUI_MODAL_DENIED_NODES",
    ),
    ProblemType(
        "unsafe-file-name",
        422,
        "A loader's file name leads out of the job's files",
        "send the file in `media`, and name it as it is there",
    ),
    ProblemType(
        "undeclared-input",
        422,
        "A node is given what its class does not declare",
        "remove it; graphs of your own team may have it, with COMFYUI_MODAL_GRAPHS=own",
    ),
    ProblemType("unknown-node-class", 422, "A node's class is not installed here", "install it, or remove the node"),
    ProblemType("dangling-link", 422, "A link leads nowhere", "link to an output of a node in this workflow"),
    ProblemType("workflow-cycle", 422, "Nodes wait for each other", "remove one of the links in the ring"),
    ProblemType("no-output-node", 422, "Nothing would be saved or shown", "add an output node such as SaveImage"),
    ProblemType("missing-required-input", 422, "A node lacks a required input", "set the input, or link it"),
    ProblemType("wrong-input-type", 422, "A value has the wrong type", "send a value of the input's type"),
    ProblemType("value-out-of-range", 422, "A number is out of its range", "keep between the input's min and max"),
    ProblemType("value-not-in-list", 422, "A value is none of the choices", "send one of the input's choices"),
    ProblemType(
        "missing-model",
        422,
        "A model is not installed here",
        "see the name; `comfyui-modal models sync` brings the models that infra/models.toml names",
    ),
    ProblemType(
        "missing-medium",
        422,
        "The job does not bring an input file that the workflow needs",
        "send the file in `media` under this name",
    ),
    ProblemType("link-type-mismatch", 422, "A link joins two types", "link an output of the type that the input wants"),
    ProblemType("unknown-input-node", 422, "`inputs` names a node that the workflow lacks", "use the node's id"),
    ProblemType("unknown-input-field", 422, "`inputs` names a field that the node lacks", "use the field's name"),
    ProblemType("too-many-media", 422, "There are too many media", "send fewer, or several jobs"),
    ProblemType("medium-too-large", 400, "A medium is too large", "send it by POST /v1/uploads"),
    ProblemType(
        "bad-medium",
        422,
        "A medium is of another format, broken, or too large",
        "send an intact file of a listed format, with fewer pixels or a shorter duration",
    ),
    ProblemType(
        "media-checks-busy",
        503,
        "Too many files are being examined",
        "wait for Retry-After seconds; nothing is known to be wrong with the file",
    ),
    ProblemType("bad-base64", 422, "A medium is not base64", "encode the file's bytes as standard base64"),
    ProblemType(
        "bad-media-name",
        422,
        "A medium's name is not usable",
        "use a plain name like photo.png, or one in folders like pasted/photo.png",
    ),
    ProblemType("duplicate-media-name", 422, "Two media have one name", "give each medium a name of its own"),
    ProblemType(
        "media-source-ambiguous",
        422,
        "A medium needs exactly one source",
        "give data, url, upload_id or asset_id, and one only",
    ),
    ProblemType(
        "partner-keys-unsealed",
        422,
        "This deployment takes no partner keys",
        "set COMFYUI_MODAL_WEBHOOK_SECRET for the deployment: it seals them",
    ),
    ProblemType("unknown-upload", 422, "There is no such upload", "use the upload_id of POST /v1/uploads"),
    ProblemType(
        "unknown-asset",
        422,
        "There is no such asset",
        "use the id of an upload, or the asset_id of an output; both are removed some time after they were made",
    ),
    ProblemType(
        "upload-incomplete", 422, "The upload's bytes are not there", "PUT the file to the presigned URL first"
    ),
    ProblemType("upload-too-large", 422, "The upload is too large", "see the limit in the detail"),
    ProblemType("too-many-urls", 422, "The request has too many URLs", "send fewer, or the files by POST /v1/uploads"),
    ProblemType(
        "fetches-busy",
        503,
        "URLs of too many requests are being fetched",
        "wait for Retry-After seconds, or send the files by POST /v1/uploads",
    ),
    ProblemType(
        "fetch-refused",
        422,
        "A URL may not be fetched",
        "use a public http or https URL of a media file; under `up`, COMFYUI_MODAL_FETCH_LOOPBACK_PORTS allows ports "
        "of your own machine",
    ),
    ProblemType("fetch-failed", 422, "A URL could not be fetched", "see that it answers 200 without a login"),
    ProblemType(
        "idempotency-key-reused",
        409,
        "The Idempotency-Key stands for another request",
        "use a new key for a new request",
    ),
    ProblemType(
        "bad-idempotency-key", 422, "The Idempotency-Key is not usable", "send 1 to 255 printable ASCII characters"
    ),
    ProblemType("invalid-parameter", 422, "A query parameter has a wrong value", "see the parameter's range"),
    ProblemType(
        "unknown-parameter", 422, "There is no such query parameter", "leave it out, or see /docs for the names"
    ),
    ProblemType("bad-cursor", 422, "The cursor is not one of this list's", "use next_cursor as it was answered"),
    ProblemType(
        "insufficient-scope",
        403,
        "The API key may not do this",
        "use a key that has the scope; `comfyui-modal keys create --scopes` makes one",
    ),
    ProblemType(
        "too-many-active-jobs", 429, "The tenant has too many jobs", "wait for Retry-After seconds, or cancel some"
    ),
    ProblemType(
        "too-many-queued-jobs", 429, "Too many jobs of the tenant wait", "wait for Retry-After seconds, or cancel some"
    ),
    ProblemType(
        "too-many-webhook-targets",
        429,
        "The tenant has as many receivers as it may",
        "send events to a receiver that it already has",
    ),
    ProblemType("too-many-bytes", 429, "The tenant has brought its bytes of the day", "wait until midnight UTC"),
    ProblemType("too-many-requests", 429, "Requests come too fast", "wait for Retry-After seconds, and send fewer"),
    ProblemType("job-not-over", 409, "The job has not ended", "wait for its end, or cancel it, and retry it then"),
    ProblemType("inputs-gone", 409, "The job's inputs are gone", "submit it again with its inputs"),
    ProblemType(
        "too-many-streams",
        429,
        "Too many streams of events are open",
        "wait for Retry-After seconds; GET /v1/events follows all jobs by one stream",
    ),
    ProblemType(
        "too-many-large-requests",
        429,
        "Too many large requests at once",
        "wait for Retry-After seconds, or send files by POST /v1/uploads",
    ),
    ProblemType("unauthorized", 401, "There is no valid API key", "send Authorization: Bearer <key>"),
    ProblemType("unknown-node", 404, "There is no such node class", "see GET /v1/nodes for the names"),
    ProblemType("unknown-workflow", 404, "There is no such workflow", "see GET /v1/workflows for the names"),
    ProblemType("unknown-job", 404, "There is no such job", "check the job_id"),
    ProblemType("job-gone", 410, "The job was removed", "jobs and their files stay for a limited time after their end"),
    ProblemType(
        "webhooks-unsigned",
        422,
        "Webhooks cannot be signed",
        "set COMFYUI_MODAL_WEBHOOK_SECRET for the deployment, or send webhook_secret with the job",
    ),
    ProblemType(
        "webhook-refused",
        422,
        "Events may not be sent to this URL",
        "use a public http or https URL on its usual port, without credentials",
    ),
    ProblemType("unknown-event", 404, "There is no such event", "see the job's deliveries for the ids of its events"),
    ProblemType("no-log", 404, "There is no log", "a job has one once its engine said something; see attempt"),
    ProblemType("unknown-batch", 404, "There is no such batch", "check the batch_id"),
    ProblemType("batch-gone", 410, "The batch was removed", "batches stay for a limited time"),
    ProblemType(
        "batch-ambiguous",
        422,
        "The batch has no clear content",
        "send `workflow` and `input_sets`, or `jobs`, and not both",
    ),
    ProblemType("too-many-jobs", 422, "The batch has too many jobs", "send several batches"),
    ProblemType("unknown-output", 404, "The job has no such output", "outputs count from 0, once they are there"),
    ProblemType("not-found", 404, "There is nothing here", "see /docs for the paths"),
    ProblemType("method-not-allowed", 405, "The path knows no such method", "see /docs for the methods"),
    ProblemType(
        "storage-unavailable", 503, "The bucket does not answer", "try again; nothing that was answered 2xx is lost"
    ),
    ProblemType(
        "insufficient-storage",
        507,
        "A disk of the service is full",
        "free space on the disk that `detail` names; accepted jobs are kept, new ones are taken once there is enough",
    ),
    ProblemType(
        "outcome-unknown",
        503,
        "The bucket stopped answering while the request was being written",
        "send it again with the same Idempotency-Key, or read back whether it took effect before you repeat it",
    ),
    ProblemType("internal-error", 500, "The API failed", "try again; give the request id to the operator"),
)
PROBLEM_TYPES: Mapping[str, ProblemType] = {kind.slug: kind for kind in _TYPES}


class Problem(Exception):
    """A refusal, raised anywhere below a route. `pointer` is an RFC 6901 pointer into the request body."""

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        pointer: str | None = None,
        hint: str | None = None,
        errors: list[dict[str, str]] | None = None,
        node_errors: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.type = PROBLEM_TYPES[slug]
        self.detail = detail
        self.pointer = pointer
        self.hint = hint or self.type.hint
        self.errors = errors
        self.node_errors = node_errors
        self.headers = headers

    def relocate(self, moves: Mapping[str, str]) -> None:
        """Replace the beginnings of all pointers. `moves` maps pointers to others; the longest that fits counts."""
        if self.pointer is not None:
            moved = _relocated(self.pointer, moves)
            if self.detail.startswith(f"{self.pointer}: "):
                self.detail = moved + self.detail.removeprefix(self.pointer)
            self.pointer = moved
        if self.errors is not None:
            self.errors = [one | {"pointer": _relocated(one["pointer"], moves)} for one in self.errors]

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": self.type.uri,
            "title": self.type.title,
            "status": self.type.status,
            "detail": self.detail,
            "hint": self.hint,
        }
        if self.pointer is not None:
            body["pointer"] = self.pointer
        if self.errors is not None:
            body["errors"] = self.errors
        if self.node_errors is not None:
            body["node_errors"] = self.node_errors
        return body

    def response(self) -> Response:
        return _ProblemResponse(self)


def _relocated(pointer: str, moves: Mapping[str, str]) -> str:
    # A batch may have 100,000 moves, and a pointer has few segments.
    end = len(pointer)
    while end > 0:
        if (after := moves.get(pointer[:end])) is not None:
            return after + pointer[end:]
        end = pointer.rfind("/", 0, end)
    return pointer


_FORM = "problem_form"


def answer_problems_with(scope: Scope, form: Callable[[Problem], Response]) -> None:
    """Let every problem of this request be sent in another form than RFC 9457."""
    scope.setdefault("state", {})[_FORM] = form


class _ProblemResponse(JSONResponse):
    """A problem response that records its slug in the request's outcome."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.body(), problem.type.status, headers=problem.headers, media_type=MEDIA_TYPE)
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome_of(scope).problem = self._problem.type.slug
        # The form is looked up here, because only the request tells which API it was sent to.
        form: Callable[[Problem], Response] | None = scope["state"].get(_FORM)
        if form is None:
            await super().__call__(scope, receive, send)
        else:
            await form(self._problem)(scope, receive, send)


def of_workflow(error: WorkflowError, root: str) -> Problem:
    """Convert a workflow error. `root` is the JSON pointer of the workflow in the request."""
    return Problem(error.code, error.message, pointer=root + error.pointer, hint=error.hint or None)


def of_report(report: Report, root: str, given: Mapping[str, str]) -> Problem:
    """Convert all faults of a graph into one problem of the first fault's type, with ComfyUI's `node_errors`.

    `given` maps the pointer of a graph input to the request pointer of its value, for values set by `inputs`.
    """
    errors = [
        {
            "type": PROBLEM_TYPES[fault.code].uri,
            "pointer": given.get(fault.pointer, root + fault.pointer),
            "detail": fault.message,
            "hint": shown_hint(fault, position) or PROBLEM_TYPES[fault.code].hint,
        }
        for position, fault in enumerate(report.faults)
    ]
    first = report.faults[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(
        first.code,
        first.message + more,
        pointer=errors[0]["pointer"],
        hint=errors[0]["hint"],
        errors=errors,
        node_errors=report.node_errors,
    )


_OF_REQUEST: Mapping[type[storage_errors.StorageError], tuple[str, str]] = {
    storage_errors.BatchNotFound: ("unknown-batch", "there is no batch with this id"),
    storage_errors.JobNotFound: ("unknown-job", "there is no job with this id"),
    storage_errors.IdempotencyKeyReused: (
        "idempotency-key-reused",
        "this key came with another body within the last 24 hours",
    ),
    storage_errors.BadCursor: ("bad-cursor", "this cursor was not issued by this list"),
}


def of_os_error(error: OSError) -> Problem:
    """Log and convert a full disk of the API's temporary files. Raises any other error."""
    if not is_full(error):
        raise error
    logger.warning("the disk of the temporary files (%s) is full", tempfile.gettempdir())
    detail = "the disk of the API's temporary files is full, or a quota of it is used up"
    return Problem("insufficient-storage", detail, headers={"Retry-After": "60"})


def log_refusal(error: storage_errors.StorageError) -> None:
    """Log a refusal of the bucket, which lasts until an operator acts. The client only learns that it may try again."""
    if isinstance(error, storage_errors.StorageRefused):
        logger.error("an operator must act: %s", error)


def of_storage(error: storage_errors.StorageError, *, may_have_written: bool) -> Problem:
    """Convert a storage error, and log a refusal. Unknown ones become `internal-error`.

    `may_have_written`: the request has sent a conditional write, which may have succeeded.
    """
    log_refusal(error)
    match error:
        case storage_errors.JobGone(gone_at=gone_at):
            return Problem("job-gone", f"this job was removed at {gone_at.isoformat()}")
        case storage_errors.BatchGone(gone_at=gone_at):
            return Problem("batch-gone", f"this batch was removed at {gone_at.isoformat()}")
        case storage_errors.AssetNotFound():
            return Problem("unknown-asset", str(error))
        case storage_errors.LogNotFound():
            return Problem("no-log", str(error))
        case (
            storage_errors.BatchNotFound()
            | storage_errors.JobNotFound()
            | storage_errors.IdempotencyKeyReused()
            | storage_errors.BadCursor()
        ):
            return Problem(*_OF_REQUEST[type(error)])
        case storage_errors.DiskAlmostFull():
            return Problem("insufficient-storage", str(error), headers={"Retry-After": "60"})
        case storage_errors.StorageUnavailable() | storage_errors.StorageRefused():
            return _of_bucket(error, may_have_written=may_have_written)
        case storage_errors.RecordUnreadable():
            return Problem("internal-error", "a stored record cannot be read: it is damaged, or of a newer version")
        case _:
            return Problem("internal-error", "the API failed at its bucket")


def _of_bucket(error: storage_errors.StorageError, *, may_have_written: bool) -> Problem:
    if may_have_written:  # "unavailable" would wrongly promise that nothing happened
        slug, detail = "outcome-unknown", "the bucket failed; the request may have taken effect, or may still do so"
    elif isinstance(error, storage_errors.StorageRefused):
        slug, detail = "storage-unavailable", "the bucket refuses the API's requests"
    else:
        slug, detail = "storage-unavailable", "the bucket did not answer in time"
    return Problem(slug, detail, headers={"Retry-After": "5"})
