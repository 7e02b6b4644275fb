"""/v1/limits: the limits on requests, from the configuration alone."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.limits import limits_of
from app.routes.context import answer, context_of


async def show(request: Request) -> Response:
    return answer(limits_of(context_of(request).config))


ROUTES = (Route("/v1/limits", show, methods=["GET"], name="get_limits"),)
