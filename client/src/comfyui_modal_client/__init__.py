"""The Python client of ComfyUI Modal API.

with Client("https://api.example.com", api_key) as client:
    job = client.submit(workflow, media=[client.input_file("cat.png")])
    job = client.wait(job["job_id"])
    client.download_all(job["job_id"], "outputs")

`Client` blocks, and `AsyncClient` has the same methods for asyncio. Both raise the exceptions of `ClientError`:

ClientError
├── ApiUnreachable        no usable answer of the API or of the bucket
├── ApiProblem            the API refused the request: an RFC 9457 problem
│   ├── InvalidRequest    400, 413, 415, 422
│   ├── Unauthorized      401
│   ├── Forbidden         403
│   ├── NotFound          404
│   ├── Gone              410
│   ├── Conflict          409
│   ├── TooManyRequests   429, with `retry_after`
│   └── ServerError       5xx
├── TransferFailed        the bucket refused a file
│   ├── UploadFailed
│   └── DownloadFailed    also: the bytes are not those that the job made
├── WaitTimedOut          also a TimeoutError
└── WebhookRejected       the webhook is not authentic
"""

from comfyui_modal_client._answers import (
    AcceptedJob,
    Batch,
    BatchJob,
    BatchPage,
    BatchRow,
    Cost,
    Job,
    JobError,
    JobPage,
    JobRow,
    NodeWarning,
    Output,
)
from comfyui_modal_client._async_client import AsyncClient
from comfyui_modal_client._client import Client
from comfyui_modal_client._errors import (
    ApiProblem,
    ApiUnreachable,
    ClientError,
    Conflict,
    DownloadFailed,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    ServerError,
    TooManyRequests,
    TransferFailed,
    Unauthorized,
    UploadFailed,
    WaitTimedOut,
    WebhookRejected,
)
from comfyui_modal_client._events import JobEvent
from comfyui_modal_client._files import Downloaded
from comfyui_modal_client._types import JobOptions, Json, ListOptions
from comfyui_modal_client._version import __version__
from comfyui_modal_client._webhooks import verify_webhook

__all__ = [
    "AcceptedJob",
    "ApiProblem",
    "ApiUnreachable",
    "AsyncClient",
    "Batch",
    "BatchJob",
    "BatchPage",
    "BatchRow",
    "Client",
    "ClientError",
    "Conflict",
    "Cost",
    "DownloadFailed",
    "Downloaded",
    "Forbidden",
    "Gone",
    "InvalidRequest",
    "Job",
    "JobError",
    "JobEvent",
    "JobOptions",
    "JobPage",
    "JobRow",
    "Json",
    "ListOptions",
    "NodeWarning",
    "NotFound",
    "Output",
    "ServerError",
    "TooManyRequests",
    "TransferFailed",
    "Unauthorized",
    "UploadFailed",
    "WaitTimedOut",
    "WebhookRejected",
    "__version__",
    "verify_webhook",
]
