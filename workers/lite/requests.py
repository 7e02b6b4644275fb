"""What ComfyUI does with every request: pages of other origins get nothing, OPTIONS is always welcome."""

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 if a loopback Host is asked from another Origin: a page elsewhere, in a browser on this machine."""
    if request.method == "OPTIONS":
        return web.Response()
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin:
        asked, asking = urlsplit(f"//{host}"), urlsplit(origin)
        if _is_loopback(asked.hostname) and asking.netloc and asked.netloc.lower() != asking.netloc.lower():
            return web.Response(status=403)
    return await handler(request)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
