"""Every operation of the HTTP face: its parameters, its body, its answers and its refusals.

What `app/openapi.py` writes the document from. A test compares the table with the routes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from app import wire
from app.config import ApiConfig
from app.limits import Limits
from app.submission.named import NamedJobRequest
from app.views.system import SystemView
from app.views.workflows import WorkflowList, WorkflowView

_DEFAULTS = ApiConfig(api_key=None)
_WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
_JOB_ID = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"

_IDEMPOTENCY_PROBLEMS = ("idempotency-key-reused", "bad-idempotency-key")
_SUBMISSION_PROBLEMS = (
    "malformed-json",
    "unsupported-media-type",
    "request-timeout",
    "request-too-large",
    "too-many-large-requests",
    "text-too-long",
    "validation-error",
    "missing-workflow",
    "ui-format-workflow",
    "not-a-workflow",
    "bad-node",
    "too-many-nodes",
    "node-not-allowed",
    "unsafe-file-name",
    "unknown-node-class",
    "dangling-link",
    "workflow-cycle",
    "no-output-node",
    "missing-required-input",
    "wrong-input-type",
    "value-out-of-range",
    "value-not-in-list",
    "missing-model",
    "missing-medium",
    "link-type-mismatch",
    "unknown-input-node",
    "unknown-input-field",
    "too-many-media",
    "medium-too-large",
    "bad-medium",
    "bad-base64",
    "bad-media-name",
    "duplicate-media-name",
    "media-source-ambiguous",
    "partner-keys-unsealed",
    "unknown-upload",
    "upload-incomplete",
    "unknown-gpu",
    "webhooks-unsigned",
    "fetch-refused",
    "fetch-failed",
    *_IDEMPOTENCY_PROBLEMS,
    "job-gone",
    "too-many-active-jobs",
    "too-many-queued-jobs",
    "too-many-webhook-targets",
    "too-many-bytes",
)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    where: str
    schema: dict[str, Any]
    about: str

    def as_json(self) -> dict[str, Any]:
        required = {"required": True} if self.where == "path" else {}
        return {"name": self.name, "in": self.where, "description": self.about, "schema": self.schema, **required}


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers` maps a status to what it means and to the body's model, None for an answer without a JSON body."""

    id: str
    method: str
    path: str
    summary: str
    answers: dict[int, tuple[str, type[BaseModel] | None]]
    parameters: Sequence[Parameter] = ()
    request: type[BaseModel] | None = None
    example: dict[str, Any] | None = None
    refusals: Sequence[str] = ()
    is_open: bool = False


_ID = Parameter("job_id", "path", {"type": "string", "examples": [_JOB_ID]}, "the job")
_BATCH_ID = Parameter("batch_id", "path", {"type": "string", "examples": [_JOB_ID]}, "the batch")
_NAME = Parameter("name", "path", {"type": "string", "examples": ["still"]}, "the workflow")
_KEY = Parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "maxLength": wire.MAX_IDEMPOTENCY_KEY},
    "the same key and body make one thing, for 24 h",
)
_KNOWN = Parameter("If-None-Match", "header", {"type": "string"}, "the ETag that you know")

OPERATIONS = (
    Operation(
        "submit_job",
        "post",
        "/v1/jobs",
        "Submit a workflow",
        {
            202: ("stored: it will end in exactly one way", wire.JobAccepted),
            200: ("an earlier request with this Idempotency-Key had made it", wire.JobAccepted),
        },
        parameters=(_KEY,),
        request=wire.JobRequest,
        example={"workflow": _WORKFLOW, "inputs": [{"node": "1", "field": "width", "value": 512}]},
        refusals=_SUBMISSION_PROBLEMS,
    ),
    Operation(
        "list_jobs",
        "get",
        "/v1/jobs",
        "List jobs, newest first",
        {200: ("one page", wire.JobList)},
        parameters=(
            Parameter(
                "status", "query", {"enum": ["queued", "running", "completed", "failed"]}, "only jobs of this status"
            ),
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": _DEFAULTS.max_page, "default": 50},
                "page size",
            ),
            Parameter("cursor", "query", {"type": "string"}, "next_cursor of the page before"),
        ),
        refusals=("invalid-parameter", "bad-cursor"),
    ),
    Operation(
        "get_job",
        "get",
        "/v1/jobs/{job_id}",
        "Look at a job, or wait for it",
        {200: ("the job", wire.JobView), 304: ("it is still the version that you know", None)},
        parameters=(
            _ID,
            Parameter(
                "wait",
                "query",
                {"type": "integer", "minimum": 1, "maximum": _DEFAULTS.max_wait_s},
                "seconds to wait until the job is over, or with If-None-Match until it changes",
            ),
            _KNOWN,
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone"),
    ),
    Operation(
        "cancel_job",
        "delete",
        "/v1/jobs/{job_id}",
        "Cancel a job, or remove it",
        {
            200: ("the job, which is over", wire.JobView),
            202: ("the job, which is being stopped", wire.JobView),
            204: ("with purge=true: the job and its files are removed", None),
        },
        parameters=(
            _ID,
            Parameter(
                "purge",
                "query",
                {"enum": ["true", "false"], "default": "false"},
                "remove the job and its files; one that still runs is removed when it has stopped",
            ),
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone"),
    ),
    Operation(
        "get_output",
        "get",
        "/v1/jobs/{job_id}/outputs/{number}",
        "Fetch an output",
        {200: ("with redirect=false, the URL", wire.OutputUrl), 302: ("to a fresh presigned URL", None)},
        parameters=(
            _ID,
            Parameter("number", "path", {"type": "integer", "minimum": 0}, "its place in outputs"),
            Parameter("redirect", "query", {"enum": ["true", "false"], "default": "true"}, "false answers the URL"),
        ),
        refusals=("unknown-job", "job-gone", "unknown-output"),
    ),
    Operation(
        "get_logs",
        "get",
        "/v1/jobs/{job_id}/logs",
        "What the engine said while the job ran, as text",
        {200: ("text/plain, one line a line", None)},
        parameters=(
            _ID,
            Parameter("attempt", "query", {"type": "integer", "minimum": 1}, "of which attempt; the current one else"),
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone", "no-log"),
    ),
    Operation(
        "get_workflow",
        "get",
        "/v1/jobs/{job_id}/workflow",
        "The workflow as it was submitted",
        {200: ("the API-format graph", None)},
        parameters=(_ID,),
        refusals=("unknown-job", "job-gone"),
    ),
    Operation(
        "submit_batch",
        "post",
        "/v1/batches",
        "Submit up to 1,000 jobs at once, all or none",
        {
            202: ("stored: each job will end in exactly one way", wire.BatchView),
            200: ("an earlier request with this Idempotency-Key had made it", wire.BatchView),
        },
        parameters=(_KEY,),
        request=wire.BatchRequest,
        example={
            "workflow": _WORKFLOW,
            "input_sets": [[{"node": "1", "field": "color", "value": color}] for color in (255, 65280)],
        },
        refusals=(*_SUBMISSION_PROBLEMS, "batch-ambiguous", "too-many-jobs", "batch-gone"),
    ),
    Operation(
        "get_batch",
        "get",
        "/v1/batches/{batch_id}",
        "Look at a batch: how many jobs are in which status",
        {200: ("the batch", wire.BatchView)},
        parameters=(_BATCH_ID,),
        refusals=("unknown-batch", "batch-gone"),
    ),
    Operation(
        "cancel_batch",
        "delete",
        "/v1/batches/{batch_id}",
        "Cancel every job of a batch that is not over",
        {202: ("the batch; jobs that run are being stopped", wire.BatchView)},
        parameters=(_BATCH_ID,),
        refusals=("unknown-batch", "batch-gone"),
    ),
    Operation(
        "list_deliveries",
        "get",
        "/v1/jobs/{job_id}/deliveries",
        "How the delivery of the job's events went",
        {200: ("every event that was tried, with every attempt", wire.DeliveryList)},
        parameters=(_ID,),
        refusals=("unknown-job", "job-gone"),
    ),
    Operation(
        "redeliver",
        "post",
        "/v1/jobs/{job_id}/deliveries/{event_id}/redeliver",
        "Send an event once more, with the same id",
        {202: ("it is sent again", wire.DeliveryView)},
        parameters=(_ID, Parameter("event_id", "path", {"type": "string"}, "the event")),
        refusals=("unknown-job", "job-gone", "unknown-event"),
    ),
    Operation(
        "list_dead_letters",
        "get",
        "/v1/dead-letters",
        "Events that were given up, newest first",
        {200: ("one page", wire.DeadLetterList)},
        parameters=(
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": _DEFAULTS.max_page, "default": 50},
                "page size",
            ),
            Parameter("cursor", "query", {"type": "string"}, "next_cursor of the page before"),
        ),
        refusals=("invalid-parameter", "bad-cursor"),
    ),
    Operation(
        "replay_dead_letters",
        "post",
        "/v1/dead-letters/replay",
        "Send dead letters again, with the same ids",
        {202: ("these are sent again", wire.Replayed)},
        request=wire.ReplayRequest,
        example={},
        refusals=("malformed-json", "request-timeout", "request-too-large", "validation-error"),
    ),
    Operation(
        "test_webhook",
        "post",
        "/v1/webhooks/test",
        "Send a signed test event to a receiver",
        {
            200: ("what came of it", wire.DeliveryView),
            202: ("it was not tried within the time that this waits", wire.DeliveryView),
        },
        request=wire.WebhookTestRequest,
        example={"url": "https://example.com/hooks/comfyui"},
        refusals=(
            "malformed-json",
            "request-timeout",
            "request-too-large",
            "validation-error",
            "too-many-webhook-targets",
        ),
    ),
    Operation(
        "list_endpoints",
        "get",
        "/v1/webhooks/endpoints",
        "How each receiver has been doing",
        {200: ("the receivers of the last 30 days", wire.EndpointList)},
    ),
    Operation(
        "get_event_schema",
        "get",
        "/schemas/{type}.json",
        "The JSON Schema of an event's data",
        {200: ("the schema", None)},
        parameters=(
            Parameter("type", "path", {"type": "string", "examples": ["comfyui.job.completed.v1"]}, "the event's type"),
        ),
        refusals=("not-found",),
        is_open=True,
    ),
    Operation(
        "get_webhook_keys",
        "get",
        "/.well-known/webhook-keys.json",
        "The public keys of ed25519 signatures",
        {200: ("the keys, none where only secrets are used", wire.WebhookKeys)},
        is_open=True,
    ),
    Operation(
        "create_upload",
        "post",
        "/v1/uploads",
        "Get a presigned PUT for a large input",
        {
            201: ("send the file there, then use upload_id in a job", wire.UploadCreated),
            200: ("an earlier request with this Idempotency-Key had made it", wire.UploadCreated),
        },
        parameters=(_KEY,),
        request=wire.UploadRequest,
        example={"filename": "cat.png", "content_type": "image/png", "size_bytes": 2034852},
        refusals=(
            "malformed-json",
            "request-timeout",
            "request-too-large",
            "validation-error",
            "upload-too-large",
            "too-many-bytes",
            *_IDEMPOTENCY_PROBLEMS,
        ),
    ),
    Operation(
        "list_workflows",
        "get",
        "/v1/workflows",
        "What can be run by name",
        {200: ("all of them", WorkflowList)},
    ),
    Operation(
        "get_workflow_by_name",
        "get",
        "/v1/workflows/{name}",
        "Look at a workflow",
        {200: ("its inputs, what it needs, and its graph", WorkflowView)},
        parameters=(_NAME,),
        refusals=("unknown-workflow",),
    ),
    Operation(
        "submit_named_job",
        "post",
        "/v1/workflows/{name}/jobs",
        "Run a workflow by name",
        {
            202: ("stored: it will end in exactly one way", wire.JobAccepted),
            200: ("an earlier request with this Idempotency-Key had made it", wire.JobAccepted),
        },
        parameters=(_NAME, _KEY),
        request=NamedJobRequest,
        example={"inputs": {"image": {"url": "https://example.com/cat.png"}, "prompt": "a cat in the rain"}},
        refusals=(*_SUBMISSION_PROBLEMS, "unknown-workflow"),
    ),
    Operation(
        "get_system",
        "get",
        "/v1/system",
        "What runs here: versions, GPUs, attention",
        {200: ("the API, and the last worker of each pool", SystemView)},
    ),
    Operation(
        "get_limits", "get", "/v1/limits", "What you may send, and how much", {200: ("every limit by name", Limits)}
    ),
    Operation(
        "get_health", "get", "/health", "Whether the process lives", {200: ("it lives", wire.Health)}, is_open=True
    ),
    Operation(
        "get_ready",
        "get",
        "/ready",
        "Whether the API can do its work",
        {200: ("it can", wire.Ready), 503: ("its bucket does not answer", wire.Ready)},
        is_open=True,
    ),
)
