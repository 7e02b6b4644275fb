"""The operations on batches."""

from app.openapi.operation import BATCH_ID, KEY, SUBMISSION_PROBLEMS, WORKFLOW, Operation
from app.wire.batches import BatchRequest, BatchView

OPERATIONS = (
    Operation(
        "submit_batch",
        "post",
        "/v1/batches",
        "Submit up to 1,000 jobs at once, all or none",
        {
            202: ("stored: each job will end in exactly one way", BatchView),
            200: ("an earlier request with this Idempotency-Key had made it", BatchView),
        },
        parameters=(KEY,),
        request=BatchRequest,
        example={
            "workflow": WORKFLOW,
            "input_sets": [[{"node": "1", "field": "color", "value": color}] for color in (255, 65280)],
        },
        refusals=(*SUBMISSION_PROBLEMS, "batch-ambiguous", "too-many-jobs", "batch-gone"),
    ),
    Operation(
        "get_batch",
        "get",
        "/v1/batches/{batch_id}",
        "Get a batch: how many jobs are in which status",
        {200: ("the batch", BatchView)},
        parameters=(BATCH_ID,),
        refusals=("unknown-batch", "batch-gone"),
    ),
    Operation(
        "cancel_batch",
        "delete",
        "/v1/batches/{batch_id}",
        "Cancel every job of a batch that is not over",
        {202: ("the batch; jobs that run are being stopped", BatchView)},
        parameters=(BATCH_ID,),
        refusals=("unknown-batch", "batch-gone"),
    ),
)
