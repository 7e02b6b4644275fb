"""Presigned uploads for forms: the browser sends a picture directly to the bucket."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.context import context_of, tenant_of
from app.api.uploads import UploadRequest, check_size, create_upload
from app.problems import Problem
from app.submission.preparation import parsed
from app.ui.pages import page_headers
from app.ui.routing import action, form


async def create(request: Request) -> Response:
    """Return where the browser is to send the file; the script of the form reads the answer."""
    fields, context = form(request), context_of(request)
    count = fields.get("size_bytes", "")
    document = {
        "size_bytes": int(count) if count.isdecimal() and len(count) < 20 else 0,
        "content_type": fields.get("content_type") or "application/octet-stream",
        "filename": fields.get("filename") or None,
    }
    try:
        wanted = parsed(UploadRequest, document)
        check_size(context, wanted)
        created = await create_upload(context, tenant_of(request), wanted)
    except Problem as problem:
        return problem.response()
    return JSONResponse(created.model_dump(mode="json"), 201, page_headers(None))


ROUTES = (action("/uploads", create, "create_upload"),)
