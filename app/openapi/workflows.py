"""The operations on named workflows."""

from app.openapi.operation import KEY, NAME, SUBMISSION_PROBLEMS, Operation
from app.submission.named import NamedJobRequest
from app.views.workflows import WorkflowList, WorkflowView
from app.wire.jobs import JobAccepted

OPERATIONS = (
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
        "Get a workflow",
        {200: ("its inputs, what it needs, and its graph", WorkflowView)},
        parameters=(NAME,),
        refusals=("unknown-workflow",),
    ),
    Operation(
        "submit_named_job",
        "post",
        "/v1/workflows/{name}/jobs",
        "Run a workflow by name",
        {
            202: ("stored: it will end in exactly one way", JobAccepted),
            200: ("an earlier request with this Idempotency-Key had made it", JobAccepted),
        },
        parameters=(NAME, KEY),
        request=NamedJobRequest,
        example={"inputs": {"image": {"url": "https://example.com/cat.png"}, "prompt": "a cat in the rain"}},
        refusals=(*SUBMISSION_PROBLEMS, "unknown-workflow"),
    ),
)
