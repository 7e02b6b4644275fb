"""Makes ComfyUI listen on the worker's UNIX socket instead of a TCP port. Runs in ComfyUI's process.

Every process of this machine and web pages can reach a TCP port. The socket is in a folder that only the worker's user
may enter.
"""

import os
import socket
import sys
from typing import Any

from aiohttp import web


def listen_on(path: str) -> None:
    """Replace `web.TCPSite`, with which ComfyUI's server creates its site. Call it before the server starts."""

    class Site(web.TCPSite):
        def __new__(cls, runner: Any, *_: Any, **__: Any) -> Any:
            # Custom nodes may serve their own applications over TCP, which are not changed.
            if _is_comfyui(runner):
                return web.SockSite(runner, bound(path))
            return super().__new__(cls)

    web.TCPSite = Site  # type: ignore[misc]


def bound(path: str) -> socket.socket:
    """Bind a socket, through its open folder if /proc exists."""
    folder, name = os.path.split(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if sys.platform != "linux":
        listening.bind(path)
        return listening
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The kernel's list of sockets, which every process can read, shows the path that was bound.
        listening.bind(f"/proc/self/fd/{opened}/{name}")
    finally:
        os.close(opened)
    return listening


def _is_comfyui(runner: Any) -> bool:
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    return server is not None and getattr(runner, "app", None) is server.instance.app
