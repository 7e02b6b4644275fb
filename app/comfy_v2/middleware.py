"""Marks requests below `/api/v2`, so that whatever answers them does so in the form of Comfy API v2."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth import COMFY_V2
from app.comfy_v2.errors import rendered
from app.middleware import REQUEST_ID
from app.problems import answer_problems_with

COMFY_REQUEST_ID = "x-comfy-request-id"


class ComfyV2Middleware:
    """Renders problems as this API's errors, and repeats the request id in the header that its clients read.

    It runs outside of every middleware that may refuse a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(COMFY_V2):
            await self._app(scope, receive, send)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if (request_id := headers.get(REQUEST_ID)) is not None:
                    headers[COMFY_REQUEST_ID] = request_id
            await send(message)

        answer_problems_with(scope, rendered)
        await self._app(scope, receive, send_with_id)
