"""ComfyUI's real frontend in headless Chromium, served without ComfyUI.

The frontend is the PyPI package comfyui-frontend-package. It needs a server that answers some twenty requests; this
one answers them from a recorded object_info. Randomness is fixed, so that a dynamic prompt takes its first option.
"""

import importlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web

from tests.compare_editor.cases import NOW

PAGE_LASTS = 60
"""Workflows converted before a fresh page is opened, because the editor keeps what it has loaded."""
_WEB_DIRECTORY = re.compile(r"""^\s*WEB_DIRECTORY\s*=\s*["'](.+?)["']""", re.MULTILINE)
_READY = "least => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length >= least"
_STEADY = "() => { Math.random = () => 0 }"
_CONVERT = """async (workflow) => {
  await app.loadGraphData(workflow, true, false, null, {});
  await new Promise(requestAnimationFrame);  // some packs add widgets when the next picture is drawn
  return JSON.stringify((await app.graphToPrompt()).output);
}"""
_STATUS = {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "compare"}}
_SYSTEM = {"os": "linux", "comfyui_version": "0.33.0", "python_version": "3.11", "pytorch_version": "2", "argv": []}
_ANSWERS: dict[str, Any] = {
    "/users": {"storage": "server", "migrated": True},
    "/settings": {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingNodesWarning": False},
    "/queue": {"queue_running": [], "queue_pending": []},
    "/prompt": {"exec_info": {"queue_remaining": 0}},
    "/system_stats": {"system": {**_SYSTEM, "embedded_python": False, "ram_total": 1, "ram_free": 1}, "devices": []},
    **{path: [] for path in ("/embeddings", "/models", "/experiment/models")},
}
Ask = Callable[[Any], Any]


def _web_directories(custom_nodes: Path | None) -> dict[str, Path]:
    """Return the folder of each pack's JavaScript, by the pack's name."""
    found = {}
    for init in sorted(custom_nodes.glob("*/__init__.py")) if custom_nodes else ():
        match = _WEB_DIRECTORY.search(init.read_text(errors="replace"))
        if match and (init.parent / match[1]).is_dir():
            found[init.parent.name] = (init.parent / match[1]).resolve()
    return found


def _inside(folder: Path, name: str) -> Path | None:
    file = (folder / name).resolve()
    return file if file.is_relative_to(folder.resolve()) and file.is_file() else None


class _Scripts:
    """The JavaScript of packs of custom nodes, as ComfyUI serves it."""

    def __init__(self, custom_nodes: Path | None) -> None:
        self._custom_nodes = custom_nodes
        self._packs = _web_directories(custom_nodes)

    def listed(self) -> list[str]:
        return [
            f"/extensions/{name}/{script.relative_to(folder)}"
            for name, folder in self._packs.items()
            for script in sorted(folder.rglob("*.js"))
        ]

    def answer(self, path: str) -> web.StreamResponse | None:
        """Answer a request for a script, or return None."""
        if path == "/extensions":
            return web.json_response(self.listed())
        if path == "/rgthree/config.js":
            return web.Response(text="export const rgthreeConfig = {}", content_type="text/javascript")
        group, _, name = path.removeprefix("/").partition("/")
        script = None
        if group == "extensions":
            pack, _, name = name.partition("/")
            script = _inside(self._packs[pack], name) if pack in self._packs else None
        elif group == "rgthree" and self._custom_nodes is not None:
            # This pack serves what its scripts share by routes of its own.
            script = _inside(self._custom_nodes / "rgthree-comfy" / "web", name)
        return web.FileResponse(script) if script else None


def _application(static: Path, object_info: bytes, custom_nodes: Path | None) -> web.Application:
    scripts = _Scripts(custom_nodes)

    async def answer(request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api")
        if path == "/ws":
            return await _socket(request)
        if path == "/object_info":
            return web.Response(body=object_info, content_type="application/json")
        if (script := scripts.answer(path)) is not None:
            return script
        if path in _ANSWERS or path.startswith(("/userdata", "/v2/userdata")):
            return web.json_response(_ANSWERS.get(path, []))
        file = static / (path.lstrip("/") or "index.html")
        return web.FileResponse(file) if file.is_file() else web.json_response({})

    application = web.Application(client_max_size=1 << 28)
    application.router.add_route("*", "/{path:.*}", answer)
    return application


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json(_STATUS)
    async for _ in socket:
        pass
    return socket


@contextmanager
def _served(application: web.Application) -> Iterator[str]:
    """Serve on a free port in a thread and yield the address."""
    address: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        ready.set()
        await anyio.to_thread.run_sync(stop.wait)
        await runner.cleanup()

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        stop.set()
        thread.join()


@contextmanager
def frontend(static: Path, object_info: Any, chromium: str, custom_nodes: Path | None = None) -> Iterator[Ask]:
    """Yield a function that converts a document with the real editor. It raises what the editor raises.

    The JavaScript of the packs in the folder `custom_nodes` runs in the editor.
    """
    playwright = importlib.import_module("playwright.sync_api")
    classes, asked = len(object_info), 0
    with (
        _served(_application(static, json.dumps(object_info).encode(), custom_nodes)) as url,
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page: Any = None

        def ask(document: Any) -> Any:
            nonlocal asked, page
            if asked % PAGE_LASTS == 0:
                if page is not None:
                    page.close()
                page = browser.new_page()
                page.clock.set_fixed_time(NOW)
                page.goto(url)
                page.wait_for_function(_READY, arg=classes, timeout=90_000)
                # Extensions register after the node types, and those of packs take longer.
                page.wait_for_timeout(6_000 if custom_nodes else 1_500)
                page.evaluate(_STEADY)
            asked += 1
            return json.loads(page.evaluate(_CONVERT, document))

        try:
            yield ask
        finally:
            browser.close()
