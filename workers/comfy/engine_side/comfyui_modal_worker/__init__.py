"""A custom node without nodes, installed into every worker's ComfyUI.

Its `prestartup_script` makes the server listen on a UNIX socket. Workers call POST /comfyui-modal/restore once after
a snapshot was restored on a GPU, and GET /comfyui-modal/declarations when they publish the engine's nodes.
"""

import asyncio
import sys
import threading
from typing import Any

import folder_paths  # type: ignore[import-not-found]  # these three are ComfyUI's own modules
import nodes  # type: ignore[import-not-found]
from aiohttp import web
from server import PromptServer  # type: ignore[import-not-found]

from .checked_files import LIMIT_S, CheckedFiles
from .inputs import checks_of_comfyui, open_inputs, unchecked_inputs

NODE_CLASS_MAPPINGS: dict[str, Any] = {}


@PromptServer.instance.routes.post("/comfyui-modal/restore")  # type: ignore[untyped-decorator]
async def restore(_: web.Request) -> web.Response:
    """Return 200 with `device` and `memory_bytes`; 500 with `error` if ComfyUI cannot use this machine."""
    pretended = sys.modules.get("comfyui_modal_pretended_gpu")
    if pretended is None:
        return web.json_response({"error": "no GPU was pretended"}, status=500)
    try:
        return web.json_response(pretended.gpu.end())
    except Exception as error:  # the worker starts a fresh engine after any error
        return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=500)


@PromptServer.instance.routes.get("/comfyui-modal/declarations")  # type: ignore[untyped-decorator]
async def declarations(_: web.Request) -> web.Response:
    """Return what object_info lacks: `{"KSampler": {"open_inputs": false, "unchecked_inputs": []}, …}`.

    The classes are called on the server's thread, as by /object_info. The trial of checks has its own thread, which is
    abandoned if a check hangs.
    """
    classes = nodes.NODE_CLASS_MAPPINGS
    check_of, compares_new_combos = checks_of_comfyui()
    with folder_paths.cache_helper:  # lists each folder of models once
        opened = open_inputs(classes)
        unchecked = unchecked_inputs(classes, check_of, compares_new_combos=compares_new_combos)
    checked = CheckedFiles(check_of, folder_paths.get_input_directory())
    trial = threading.Thread(target=checked.search, args=(classes,), daemon=True)
    trial.start()
    await asyncio.to_thread(trial.join, LIMIT_S)
    known: dict[str, dict[str, Any]] = {name: {"open_inputs": is_open} for name, is_open in opened.items()}
    for key, found in (("unchecked_inputs", unchecked), ("checked_files", dict(checked.found))):
        for name in known.keys() & found.keys():
            known[name] = {**known[name], key: found[name]}
    return web.json_response(known)
