"""Has ComfyUI listen on a UNIX socket that its worker chose, instead of on a TCP port. Runs in ComfyUI's process.

A TCP port of this machine can be reached by every process on it and by web pages. The socket lies in a folder that
only the worker's user may enter.
"""

import os
import socket
import sys
from typing import Any

from aiohttp import web


def listen_on(path: str) -> None:
    """Must be called before ComfyUI's server starts: it makes its site as `web.TCPSite`."""

    class Site(web.TCPSite):
        def __new__(cls, runner: Any, *_: Any, **__: Any) -> Any:
            # Custom nodes may serve applications of their own by TCP. Theirs stay where they are.
            if _is_comfyui(runner):
                return web.SockSite(runner, bound(path))
            return super().__new__(cls)

    web.TCPSite = Site  # type: ignore[misc]


def bound(path: str) -> socket.socket:
    """Bound through its open folder, where there is /proc: the kernel's list of sockets then shows no path."""
    folder, name = os.path.split(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if sys.platform != "linux":
        listening.bind(path)
        return listening
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listening.bind(f"/proc/self/fd/{opened}/{name}")
    finally:
        os.close(opened)
    return listening


def _is_comfyui(runner: Any) -> bool:
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    return server is not None and getattr(runner, "app", None) is server.instance.app
