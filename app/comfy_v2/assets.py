"""/api/v2/assets: upload files once, refer to them by hash, fetch and delete them."""

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.api.context import NO_STORE, Context, answer, body_of, check_is_json, context_of, in_time, json_body, tenant_of
from app.body import Body
from app.comfy_v2.asset_view import AssetFromHash, AssetUpload, ComfyAsset, comfy_asset, digest_of
from app.comfy_v2.errors import ComfyProblem
from app.comfy_v2.multipart import (
    MAX_OVERHEAD_BYTES,
    BadMultipart,
    FileTooLarge,
    MultipartFile,
    ReceivedFile,
    boundary_of,
)
from app.numbers import MAX_DIGITS
from app.operations import Operation, Parameter
from app.problems import Problem
from app.submission.byte_quota import ByteQuota
from app.submission.input_files import checked_file
from app.submission.preparation import parsed
from storage.assets import Asset, Reference
from storage.errors import AssetInUse, AssetNotFound, FileRefused, UploadIncomplete

MAX_BODY_BYTES = 64 * 1024
_FAMILIES = ("image", "video", "audio")


async def by_hash(request: Request) -> Response:
    """Answer 200 if the tenant has these bytes, 404 otherwise, without a body."""
    try:
        digest = digest_of(request.path_params["hash"])
    except ValueError:  # no bytes have such a hash
        return Response(status_code=404)
    found = await context_of(request).stores.assets.with_hash(tenant_of(request), digest)
    return Response(status_code=404 if found is None else 200, headers=NO_STORE)


async def from_hash(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    check_is_json(request)
    with body_of(request) as body:
        wanted = parsed(AssetFromHash, await json_body(request, body, limit=MAX_BODY_BYTES))
    context.services.check_disk()
    found = await context.stores.assets.refer(tenant, wanted.as_reference())
    if found is None:
        raise ComfyProblem("blob_not_found", "you have no asset with this hash; upload the file", slug="not-found")
    asset, is_new = found
    return _answer(context, asset, created_new=is_new)


async def upload(request: Request) -> Response:
    context, tenant = context_of(request), tenant_of(request)
    context.services.check_disk()
    with body_of(request) as body:
        path = body.new_file("asset")
        file = MultipartFile(_boundary(request), path, limit=_limit(request))
        received = await _received(request, context, file, body)
        details = parsed(AssetUpload, _as_document(received.texts))
        if details.expected_hash not in (None, received.hash):
            message = f"the bytes that arrived have the hash blake3:{received.hash}"
            raise ComfyProblem("hash_mismatch", message)
        content_type = await checked_file(context.services, tenant, "file", path, "/file", data=True)
        _check_family(details.content_type, content_type)
        await ByteQuota(context.services, tenant).charge(received.size_bytes)
        wanted = Reference(received.hash, details.file_path, tuple(details.tags), details.lifetime)
        assets = context.stores.assets
        if (found := await assets.refer(tenant, wanted)) is None:
            size = received.size_bytes
            found = await assets.add(tenant, wanted, path, size_bytes=size, content_type=content_type), True
    return _answer(context, found[0], created_new=found[1])


async def show(request: Request) -> Response:
    context = context_of(request)
    return answer(comfy_asset(await _asset(request), context.stores.objects, context.config), headers=NO_STORE)


async def content(request: Request) -> Response:
    """Redirect to a fresh presigned URL, which serves ranges too."""
    context = context_of(request)
    shown = comfy_asset(await _asset(request), context.stores.objects, context.config)
    return RedirectResponse(shown.url, 302, NO_STORE)


async def delete(request: Request) -> Response:
    asset_id = request.path_params["asset_id"]
    try:
        await context_of(request).stores.assets.delete(tenant_of(request), asset_id)
    except AssetNotFound:
        raise _unknown() from None
    except AssetInUse as error:
        raise ComfyProblem("asset_in_use", str(error)) from None
    return Response(status_code=204)


async def _asset(request: Request) -> Asset:
    try:
        return await context_of(request).stores.assets.find(tenant_of(request), request.path_params["asset_id"])
    except (AssetNotFound, UploadIncomplete, FileRefused):
        raise _unknown() from None


def _unknown() -> Problem:
    return ComfyProblem("not_found", "there is no asset with this id; it may have expired", slug="not-found")


def _answer(context: Context, asset: Asset, *, created_new: bool) -> Response:
    view = comfy_asset(asset, context.stores.objects, context.config, created_new=created_new)
    return answer(view, 201 if created_new else 200, NO_STORE)


def _boundary(request: Request) -> bytes:
    try:
        return boundary_of(request.headers.get("content-type", ""))
    except BadMultipart as error:
        raise Problem("unsupported-media-type", str(error), hint="send multipart/form-data") from None


def _limit(request: Request) -> int:
    """Return the largest file. A declared body that cannot be within it is refused before it is read."""
    limit = context_of(request).config.largest_asset
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:MAX_DIGITS]) > limit + MAX_OVERHEAD_BYTES:
        raise _too_large(f"the body has more than {limit} bytes")
    return limit


async def _received(request: Request, context: Context, file: MultipartFile, body: Body) -> ReceivedFile:
    tenant = tenant_of(request)
    stream = in_time(request.stream(), context.config.body_idle_s, context.config.max_body_s)
    # Its file is on this process's disk, like the long strings of other bodies, and takes one of their places.
    chunks = context.receiving.chunks(tenant, stream, body.at_close, after=0)
    try:
        with context.unfinished.counted(tenant):
            return await file.receive(chunks)
    except TimeoutError as error:
        # The rest of the body is unread, so the connection cannot serve a further request.
        close = {"connection": "close"}
        raise Problem("request-timeout", str(error) or "the body did not come in time", headers=close) from None
    except FileTooLarge as error:
        raise _too_large(str(error)) from None
    except BadMultipart as error:
        raise ComfyProblem("invalid_request", str(error)) from None


def _too_large(message: str) -> Problem:
    detail = f"{message}; larger files go to POST /v1/uploads, and are used by their upload_id"
    return Problem("request-too-large", detail)


def _as_document(texts: dict[str, list[str]]) -> dict[str, Any]:
    """Return the text parts as a JSON body would have them."""
    document: dict[str, Any] = {}
    for name, values in texts.items():
        if name == "tags":
            document[name] = values
            continue
        if len(values) > 1:
            raise ComfyProblem("invalid_request", f"part {name[:100]!r} is given {len(values)} times; send it once")
        is_number = name == "expires_in" and values[0].isdecimal() and len(values[0]) <= MAX_DIGITS
        document[name] = int(values[0]) if is_number else values[0]
    return document


def _check_family(declared: str, found: str) -> None:
    """Refuse a picture, video or sound that is announced as another: a loader would choose the wrong decoder."""
    family = declared.partition("/")[0].strip().lower()
    if family in _FAMILIES and found.partition("/")[0] != family:
        message = f"content_type is {declared[:100]!r}, and the file begins as {found}"
        raise ComfyProblem("invalid_request", message, slug="bad-medium", pointer="/content_type")


_ID = Parameter("asset_id", "path", {"type": "string"}, "the asset")
_HASH = Parameter("hash", "path", {"type": "string"}, "blake3: and 64 hexadecimal digits")

OPERATIONS = (
    Operation(
        by_hash,
        "comfy_v2_has_asset",
        "head",
        "/api/v2/assets/by-hash/{hash}",
        "Whether you have these bytes",
        {200: ("you do", None)},
        parameters=(_HASH,),
    ),
    Operation(
        from_hash,
        "comfy_v2_refer_to_asset",
        "post",
        "/api/v2/assets/from-hash",
        "Refer to bytes that you have",
        {200: ("you had this asset", ComfyAsset), 201: ("a new asset of these bytes", ComfyAsset)},
        request=AssetFromHash,
    ),
    Operation(
        upload,
        "comfy_v2_upload_asset",
        "post",
        "/api/v2/assets",
        "Upload a file",
        {200: ("you had this asset", ComfyAsset), 201: ("the new asset", ComfyAsset)},
    ),
    Operation(
        show,
        "comfy_v2_get_asset",
        "get",
        "/api/v2/assets/{asset_id}",
        "Get an asset",
        {200: ("the asset", ComfyAsset)},
        parameters=(_ID,),
    ),
    Operation(
        content,
        "comfy_v2_get_asset_content",
        "get",
        "/api/v2/assets/{asset_id}/content",
        "Fetch an asset's bytes",
        {302: ("to a fresh presigned URL", None)},
        parameters=(_ID,),
    ),
    Operation(
        delete,
        "comfy_v2_delete_asset",
        "delete",
        "/api/v2/assets/{asset_id}",
        "Delete an asset",
        {204: ("it is gone", None)},
        parameters=(_ID,),
    ),
)
