"""A custom node pack without nodes, for the comparison: it lets prompts be checked without running, and lists model
folders.

A prompt with MARK in its extra_data passes through POST /prompt and is answered like any other, but in place of
queueing it the outputs that would run are stored. So nothing is imitated and no prompt starts.
"""

from typing import Any

import folder_paths  # type: ignore[import-not-found]  # ComfyUI's own module
from aiohttp import web
from server import PromptServer  # type: ignore[import-not-found]  # as above

MARK = "comfyui_modal_compare"
NODE_CLASS_MAPPINGS: dict[str, Any] = {}

_queue = PromptServer.instance.prompt_queue
_put = _queue.put
_outputs: dict[str, list[str]] = {}


def _put_unless_marked(item: Any) -> None:
    """Queue an item, (number, prompt id, prompt, extra_data, outputs to execute, …), unless it is marked."""
    if MARK in item[3]:
        _outputs[item[1]] = [str(output) for output in item[4]]
    else:
        _put(item)


_queue.put = _put_unless_marked


@PromptServer.instance.routes.get("/comfyui-modal/compare/outputs/{prompt_id}")  # type: ignore[untyped-decorator]
async def outputs(request: web.Request) -> web.Response:
    """Answer with the output nodes that this prompt would have run; null if it was refused."""
    return web.json_response({"outputs": _outputs.pop(request.match_info["prompt_id"], None)})


@PromptServer.instance.routes.get("/comfyui-modal/compare/model-folders")  # type: ignore[untyped-decorator]
async def model_folders(_: web.Request) -> web.Response:
    """Answer with the paths and file suffixes of models by folder name."""
    known = folder_paths.folder_names_and_paths
    return web.json_response({name: [list(about[0]), sorted(about[1])] for name, about in known.items()})
