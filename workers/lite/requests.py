"""ComfyUI's middleware: pages of other origins are refused, OPTIONS is always allowed."""

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return 403 for a loopback Host with another Origin, which is a foreign page in a browser on this machine."""
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
