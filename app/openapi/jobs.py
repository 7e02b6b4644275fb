"""The operations on jobs: submit, list, get, cancel, and read outputs, logs and workflow."""

from app.openapi.operation import DEFAULTS, ID, KEY, KNOWN, PAGE, SUBMISSION_PROBLEMS, WORKFLOW, Operation, Parameter
from app.wire.jobs import JobAccepted, JobList, JobRequest, JobView, OutputUrl

OPERATIONS = (
    Operation(
        "submit_job",
        "post",
        "/v1/jobs",
        "Submit a workflow",
        {
            202: ("stored: it will end in exactly one way", JobAccepted),
            200: ("an earlier request with this Idempotency-Key had made it", JobAccepted),
        },
        parameters=(KEY,),
        request=JobRequest,
        example={"workflow": WORKFLOW, "inputs": [{"node": "1", "field": "width", "value": 512}]},
        refusals=SUBMISSION_PROBLEMS,
    ),
    Operation(
        "list_jobs",
        "get",
        "/v1/jobs",
        "List jobs, newest first",
        {200: ("one page", JobList)},
        parameters=(
            Parameter(
                "status", "query", {"enum": ["queued", "running", "completed", "failed"]}, "only jobs of this status"
            ),
            *PAGE,
        ),
        refusals=("invalid-parameter", "bad-cursor"),
    ),
    Operation(
        "get_job",
        "get",
        "/v1/jobs/{job_id}",
        "Get a job, or wait for it",
        {200: ("the job", JobView), 304: ("it is still the version that you know", None)},
        parameters=(
            ID,
            Parameter(
                "wait",
                "query",
                {"type": "integer", "minimum": 1, "maximum": DEFAULTS.max_wait_s},
                "seconds to wait until the job is over, or with If-None-Match until it changes",
            ),
            KNOWN,
        ),
        refusals=("invalid-parameter", "unknown-job", "job-gone"),
    ),
    Operation(
        "cancel_job",
        "delete",
        "/v1/jobs/{job_id}",
        "Cancel a job, or remove it",
        {
            200: ("the job, which is over", JobView),
            202: ("the job, which is being stopped", JobView),
            204: ("with purge=true: the job and its files are removed", None),
        },
        parameters=(
            ID,
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
        {200: ("with redirect=false, the URL", OutputUrl), 302: ("to a fresh presigned URL", None)},
        parameters=(
            ID,
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
            ID,
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
        parameters=(ID,),
        refusals=("unknown-job", "job-gone"),
    ),
)
