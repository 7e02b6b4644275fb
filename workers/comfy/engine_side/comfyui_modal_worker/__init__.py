"""A custom node without nodes, which every worker's ComfyUI gets. Its `prestartup_script` has the server listen on a
UNIX socket; POST /comfyui-modal/restore is asked once after a snapshot was restored on a GPU, and GET
/comfyui-modal/open-inputs when the worker publishes what the engine's nodes are."""

import sys
from typing import Any

import folder_paths  # type: ignore[import-not-found]  # these three are ComfyUI's own modules
import nodes  # type: ignore[import-not-found]
from aiohttp import web
from server import PromptServer  # type: ignore[import-not-found]

from .open_inputs import open_inputs

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


@PromptServer.instance.routes.get("/comfyui-modal/open-inputs")  # type: ignore[untyped-decorator]
async def open_inputs_of_classes(_: web.Request) -> web.Response:
    """`{"classes": {"KSampler": false, …}}`. Asked on the server's own thread, as /object_info asks the classes too."""
    with folder_paths.cache_helper:  # each folder of models is listed once
        return web.json_response({"classes": open_inputs(nodes.NODE_CLASS_MAPPINGS)})
