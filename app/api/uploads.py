"""/v1/uploads: presigned uploads, which go from the client directly to the bucket."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import REPLAYED, Context, answer, body_of, context_of, idempotency_key, json_body, tenant_of
from app.fields import Moment, RequestBody, ResponseBody
from app.numbers import Whole
from app.operations import IDEMPOTENCY_PROBLEMS, KEY, Operation
from app.problems import Problem
from app.submission.byte_quota import ByteQuota
from app.submission.preparation import parsed
from storage.jobs.idempotency import Claim

MAX_BODY_BYTES = 64 * 1024


LARGEST_UPLOAD = 5 * 1024**4
"""The largest object that S3 stores; the deployment's own limit is smaller."""


_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")


def _media_type(text: str) -> str:
    # Not a pattern of the field: its refusal would show a regular expression instead of an example.
    if not _MEDIA_TYPE.fullmatch(text):
        raise ValueError("not a media type, such as image/png")
    return text


class UploadRequest(RequestBody):
    """A file to be uploaded by presigned PUT."""

    size_bytes: Whole = Field(ge=1, le=LARGEST_UPLOAD, description="exactly as many bytes as will be sent")
    content_type: Annotated[str, AfterValidator(_media_type)] = Field(
        "application/octet-stream", max_length=200, json_schema_extra={"pattern": f"^{_MEDIA_TYPE.pattern}$"}
    )
    filename: str | None = Field(None, max_length=255, description="for your own records")


class UploadCreated(ResponseBody):
    """Send `method` to `url` with exactly these headers."""

    upload_id: str
    asset_id: str = Field(description="the upload as an asset, once its bytes have arrived: the same id")
    method: str
    url: str
    headers: dict[str, str]
    expires_at: Moment


async def create(request: Request) -> Response:
    context = context_of(request)
    key = idempotency_key(request)
    with body_of(request) as body:
        wanted = parsed(UploadRequest, await json_body(request, body, limit=MAX_BODY_BYTES))
    check_size(context, wanted)
    claim = None
    if key is not None:
        claim = await context.stores.idempotency.claim(tenant_of(request), "uploads", key, body.fingerprint)
    is_replay = claim is not None and not claim.is_first
    created = await create_upload(context, tenant_of(request), wanted, claim)
    return answer(created, 200 if is_replay else 201, {REPLAYED: "true"} if is_replay else {})


def check_size(context: Context, wanted: UploadRequest) -> None:
    """Raise `Problem` for an upload that is larger than the deployment allows."""
    if wanted.size_bytes > context.config.largest_upload:
        detail = f"{wanted.size_bytes} bytes, at most {context.config.largest_upload} are allowed"
        raise Problem("upload-too-large", detail, pointer="/size_bytes")


async def create_upload(
    context: Context, tenant: str, wanted: UploadRequest, claim: Claim | None = None
) -> UploadCreated:
    """Create an upload, or the one that `claim` names. Raises `Problem` where a quota is exceeded."""
    quota = ByteQuota(context.services, tenant)
    # A replay is charged only if the first request ended before it created the upload.
    is_charged = claim is None or claim.is_first or not await context.stores.uploads.is_known(tenant, claim.id)
    if is_charged:
        context.services.check_disk()
        await quota.charge(wanted.size_bytes)
    upload, signed, is_new = await context.stores.uploads.create(
        tenant,
        size_bytes=wanted.size_bytes,
        content_type=wanted.content_type,
        filename=wanted.filename,
        upload_id=claim.id if claim else None,
    )
    if is_charged and not is_new:  # a concurrent request with the same key created it, and was charged as well
        await quota.give_back(wanted.size_bytes)
    return UploadCreated(
        upload_id=upload.upload_id,
        asset_id=upload.upload_id,
        method=signed.method,
        url=signed.url,
        headers=dict(signed.headers),
        expires_at=signed.expires_at,
    )


OPERATIONS = (
    Operation(
        create,
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
