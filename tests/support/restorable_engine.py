"""A stand-in for a ComfyUI that is restored from a snapshot: the lite engine with the route of `engine_side/`.

Run as `python -m tests.support.restorable_engine DEVICE [ComfyUI's flags]`; DEVICE is the device after the restore.
"""

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

from workers.lite.folders import Folders
from workers.lite.nodes import node_classes
from workers.lite.server import LiteServer
from workers.supervise import SOCKET_VARIABLE


async def _serve(device: str, flags: dict[str, str]) -> None:
    folders = Folders(
        input=Path(flags["--input-directory"]),
        output=Path(flags["--output-directory"]),
        temp=Path(flags["--temp-directory"]) / "temp",
    )
    folders.make()
    server = LiteServer(dict(node_classes(faults_too=False)), folders, max_upload_bytes=1024, metadata=False)
    app = server.application()
    app.router.add_post("/comfyui-modal/restore", lambda _: _answer(device))
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.UnixSite(runner, os.environ[SOCKET_VARIABLE]).start()
    await asyncio.Event().wait()


async def _answer(device: str) -> web.Response:
    return web.json_response({"device": device, "memory_bytes": 1})


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], dict(flag.split("=", 1) for flag in sys.argv[2:] if "=" in flag)))
