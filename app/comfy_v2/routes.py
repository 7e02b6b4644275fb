"""Every operation of Comfy API v2.

They are not in `app.openapi`: that document describes this project's own API, and the contract of this one is Comfy's.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.auth import COMFY_V2_HEALTH
from app.comfy_v2 import assets, jobs
from app.operations import Operation


async def health(_: Request) -> Response:
    return JSONResponse({"status": "healthy"}, headers={"cache-control": "no-store"})


OPERATIONS = (
    *jobs.OPERATIONS,
    *assets.OPERATIONS,
    Operation(
        health,
        "comfy_v2_health",
        "get",
        COMFY_V2_HEALTH,
        "Whether this API answers",
        {200: ("it does", None)},
        is_open=True,
    ),
)
