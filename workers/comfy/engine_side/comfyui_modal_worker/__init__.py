"""A custom node without nodes, which every worker's ComfyUI gets. Its `prestartup_script` has the server listen on a
UNIX socket; POST /comfyui-modal/restore is asked once after a snapshot was restored on a GPU."""

import sys
from typing import Any

from aiohttp import web
from server import PromptServer  # type: ignore[import-not-found]  # ComfyUI's own module

NODE_CLASS_MAPPINGS: dict[str, Any] = {}


@PromptServer.instance.routes.post("/comfyui-modal/restore")  # type: ignore[untyped-decorator]
async def restore(_: web.Request) -> web.Response:
    """200 with `device` and `memory_bytes`; 500 with `error` where ComfyUI does not get on with what is here."""
    pretended = sys.modules.get("comfyui_modal_pretended_gpu")
    if pretended is None:
        return web.json_response({"error": "no GPU was pretended"}, status=500)
    try:
        return web.json_response(pretended.gpu.end())
    except Exception as error:  # whatever it is: the worker starts a fresh engine then
        return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=500)
