"""`comfyui_modal.py workers.lite`: accepts ComfyUI's flags and ignores those without a meaning here.

For a worker it listens on a UNIX socket (`--unix-socket`, or the variable of `workers/supervise.py`). Without one it
listens on TCP like ComfyUI, for trials.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path

from aiohttp import web

from workers.lite.folders import Folders
from workers.lite.nodes import node_classes
from workers.lite.server import LiteServer
from workers.supervise import SOCKET_VARIABLE

DEFAULT_PORT = 8188
DEFAULT_MAX_UPLOAD_MB = 100.0


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    asyncio.run(_serve(_parse(sys.argv[1:])))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="workers.lite", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--unix-socket", default=os.environ.get(SOCKET_VARIABLE), help="a path, instead of TCP")
    parser.add_argument("--base-directory", type=Path, default=None)
    for kind in ("input", "output", "temp"):
        parser.add_argument(f"--{kind}-directory", type=Path, default=None)
    parser.add_argument("--max-upload-size", type=float, default=DEFAULT_MAX_UPLOAD_MB, help="MB")
    parser.add_argument("--disable-metadata", action="store_true")
    parser.add_argument("--fault-nodes", action="store_true", help="offer the nodes that fail on purpose")
    return parser.parse_known_args(arguments)[0]


def _folders(options: argparse.Namespace) -> Folders:
    return Folders(
        input=options.input_directory or _base(options) / "input",
        output=options.output_directory or _base(options) / "output",
        temp=(options.temp_directory or _base(options)) / "temp",
    )


def _base(options: argparse.Namespace) -> Path:
    """Return the base folder; a temporary one, which is never removed, is created only if a folder is not given."""
    if options.base_directory is None:
        options.base_directory = Path(tempfile.mkdtemp(prefix="comfyui-lite-"))
    base: Path = options.base_directory
    return base


def _bound(path: Path) -> socket.socket:
    """Bind a socket by its name alone."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The kernel's list of sockets would show a path, as `engine_side/` explains.
    with contextlib.chdir(path.parent):
        listening.bind(path.name)
    return listening


async def _serve(options: argparse.Namespace) -> None:
    folders = _folders(options)
    folders.make()
    server = LiteServer(
        dict(node_classes(faults_too=options.fault_nodes)),
        folders,
        max_upload_bytes=int(options.max_upload_size * 1024 * 1024),
        metadata=not options.disable_metadata,
    )
    runner = web.AppRunner(server.application(), shutdown_timeout=1.0)
    await runner.setup()
    site: web.BaseSite = web.TCPSite(runner, options.listen, options.port)
    if options.unix_socket is not None:
        site = web.SockSite(runner, _bound(Path(options.unix_socket)))
    await site.start()
    logging.getLogger(__name__).info("listening on %s", options.unix_socket or site.name)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
