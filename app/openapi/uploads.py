"""The operations on uploads."""

from app.openapi.operation import IDEMPOTENCY_PROBLEMS, KEY, Operation
from app.wire.uploads import UploadCreated, UploadRequest

OPERATIONS = (
    Operation(
        "create_upload",
        "post",
        "/v1/uploads",
        "Get a presigned PUT for a large input",
        {
            201: ("send the file there, then use upload_id in a job", UploadCreated),
            200: ("an earlier request with this Idempotency-Key had made it", UploadCreated),
        },
        parameters=(KEY,),
        request=UploadRequest,
        example={"filename": "cat.png", "content_type": "image/png", "size_bytes": 2034852},
        refusals=(
            "malformed-json",
            "request-timeout",
            "request-too-large",
            "validation-error",
            "upload-too-large",
            "too-many-bytes",
            *IDEMPOTENCY_PROBLEMS,
            "insufficient-storage",
        ),
    ),
)
