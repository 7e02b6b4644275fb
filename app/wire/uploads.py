"""The request and response bodies of presigned uploads."""

from pydantic import (
    Field,
)

from app.numbers import Whole
from app.wire.base import Answer, Moment, Request

LARGEST_UPLOAD = 5 * 1024**4
"""The largest object that S3 stores; the deployment's own limit is smaller."""


class UploadRequest(Request):
    """A file to be uploaded by presigned PUT."""

    size_bytes: Whole = Field(ge=1, le=LARGEST_UPLOAD, description="exactly as many bytes as will be sent")
    content_type: str = Field(
        "application/octet-stream", pattern=r"^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+$", max_length=200
    )
    filename: str | None = Field(None, max_length=255, description="for your own records")


class UploadCreated(Answer):
    """Send `method` to `url` with exactly these headers."""

    upload_id: str
    method: str
    url: str
    headers: dict[str, str]
    expires_at: Moment
