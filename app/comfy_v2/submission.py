"""The body of POST /api/v2/jobs, and the labels of a job."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from app.comfy_v2.errors import ComfyProblem
from app.fields import RequestBody
from app.submission.request import ExtraData, JobRequest
from workflows.errors import pointer

MAX_LABEL_BYTES = 256
_LABEL_KEY = re.compile(r"[A-Za-z0-9_.-]{1,40}")
# Control characters, and those that reorder text: labels are shown in consoles and lists.
_UNPRINTABLE = re.compile("[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]")

_RESERVED: Mapping[str, str] = {
    "webhook_url": "reserved in Comfy API v2; to be sent events, submit the job by POST /v1/jobs, or set up a stream",
    "inputs": "reserved in Comfy API v2; set the values in the workflow, or submit the job by POST /v1/jobs",
}
"""Members that Comfy API v2 reserves, and refuses until it defines them."""


class ComfySubmission(RequestBody):
    """What POST /api/v2/jobs takes."""

    workflow: Any = Field(description="ComfyUI's API-format graph")
    extra_data: ExtraData | None = Field(None, description="goes to the engine alone; other keys are refused")
    metadata: Any = Field(None, description="your own labels: the job's metadata in /v1")

    def as_job(self, *, most_labels: int) -> JobRequest:
        """Return the same submission to /v1. Raises `ComfyProblem` for invalid labels."""
        metadata = labels(self.metadata, most=most_labels)
        # Not validated again: the workflow may have thousands of nodes, and has no type yet.
        return JobRequest(workflow=self.workflow, extra_data=self.extra_data, metadata=metadata)


def refuse_reserved(document: Any) -> None:
    for name, why in _RESERVED.items():
        if isinstance(document, dict) and name in document:
            raise ComfyProblem("invalid_request", f"/{name}: {why}", pointer=f"/{name}")


def labels(given: Any, *, most: int) -> dict[str, str]:
    """Check the labels of a new job. Raises `ComfyProblem` with the pointer of the first invalid one."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _bad_label("", "metadata is not an object of strings")
    if len(given) > most:
        raise _bad_label("", f"metadata has {len(given)} labels, at most {most} are allowed")
    for key, text in given.items():
        if not _LABEL_KEY.fullmatch(key):
            raise _bad_label(key, f"the label {key[:50]!r} is not 1 to 40 letters, digits, '_', '.' and '-'")
        if not isinstance(text, str):
            raise _bad_label(key, f"the label {key} is not a string")
        if len(text.encode()) > MAX_LABEL_BYTES:
            raise _bad_label(key, f"the label {key} has more than {MAX_LABEL_BYTES} bytes in UTF-8")
        if _UNPRINTABLE.search(text):
            raise _bad_label(key, f"the label {key} has a control character, or one that reorders text")
    return dict(given)


def _bad_label(key: str, message: str) -> ComfyProblem:
    where = pointer("metadata", key[:100]) if key else "/metadata"
    return ComfyProblem("metadata_invalid", message, pointer=where, details={"key": key[:100]} if key else {})
