"""/v1/uploads: presigned uploads, which go from the client directly to the bucket."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.problems import Problem
from app.routes.context import REPLAYED, answer, body_of, context_of, idempotency_key, json_body, tenant_of
from app.submission.byte_quota import ByteQuota
from app.submission.preparation import parsed
from app.wire.uploads import UploadCreated, UploadRequest

MAX_BODY_BYTES = 64 * 1024


async def create(request: Request) -> Response:
    context = context_of(request)
    key = idempotency_key(request)
    with body_of(request) as body:
        wanted = parsed(UploadRequest, await json_body(request, body, limit=MAX_BODY_BYTES))
    if wanted.size_bytes > context.config.largest_upload:
        detail = f"{wanted.size_bytes} bytes, at most {context.config.largest_upload} are allowed"
        raise Problem("upload-too-large", detail, pointer="/size_bytes")
    claim = None
    if key is not None:
        claim = await context.stores.idempotency.claim(tenant_of(request), "uploads", key, body.fingerprint)
    # A replay is charged only if the first request ended before it created the upload.
    if claim is None or claim.is_first or not await context.stores.uploads.is_known(tenant_of(request), claim.id):
        context.services.check_disk()
        await ByteQuota(context.services, context.config, tenant_of(request)).charge(wanted.size_bytes)
    upload, signed = await context.stores.uploads.create(
        tenant_of(request),
        size_bytes=wanted.size_bytes,
        content_type=wanted.content_type,
        filename=wanted.filename,
        upload_id=claim.id if claim else None,
    )
    is_replay = claim is not None and not claim.is_first
    return answer(
        UploadCreated(
            upload_id=upload.upload_id,
            method=signed.method,
            url=signed.url,
            headers=dict(signed.headers),
            expires_at=signed.expires_at,
        ),
        200 if is_replay else 201,
        {REPLAYED: "true"} if is_replay else {},
    )


ROUTES = (Route("/v1/uploads", create, methods=["POST"], name="create_upload"),)
