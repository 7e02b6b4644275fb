"""ComfyUI's real frontend in headless Chromium, served without ComfyUI.

The frontend is the PyPI package comfyui-frontend-package. It needs a server that answers some twenty requests; this
one answers them from a recorded object_info. Randomness is fixed, so that a dynamic prompt takes its first option.
"""

import importlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web

PAGE_LASTS = 60
"""Workflows converted before a fresh page is opened, because the editor keeps what it has loaded."""
_READY = "least => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length >= least"
_STEADY = "() => { Math.random = () => 0 }"
_CONVERT = """async (workflow) => {
  await app.loadGraphData(workflow, true, false, null, {});
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
    **{path: [] for path in ("/embeddings", "/models", "/experiment/models", "/extensions")},
}
Ask = Callable[[Any], Any]


def _application(static: Path, object_info: bytes) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api")
        if path == "/ws":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_json(_STATUS)
            async for _ in socket:
                pass
            return socket
        if path == "/object_info":
            return web.Response(body=object_info, content_type="application/json")
        if path in _ANSWERS or path.startswith(("/userdata", "/v2/userdata")):
            return web.json_response(_ANSWERS.get(path, []))
        file = static / (path.lstrip("/") or "index.html")
        return web.FileResponse(file) if file.is_file() else web.json_response({})

    application = web.Application(client_max_size=1 << 28)
    application.router.add_route("*", "/{path:.*}", answer)
    return application


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
def frontend(static: Path, object_info: Any, chromium: str) -> Iterator[Ask]:
    """Yield a function that converts a document with the real editor. It raises what the editor raises."""
    playwright = importlib.import_module("playwright.sync_api")
    classes, asked = len(object_info), 0
    with _served(_application(static, json.dumps(object_info).encode())) as url, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page: Any = None

        def ask(document: Any) -> Any:
            nonlocal asked, page
            if asked % PAGE_LASTS == 0:
                if page is not None:
                    page.close()
                page = browser.new_page()
                page.goto(url)
                page.wait_for_function(_READY, arg=classes, timeout=90_000)
                page.wait_for_timeout(1_500)  # extensions register after the node types
                page.evaluate(_STEADY)
            asked += 1
            return json.loads(page.evaluate(_CONVERT, document))

        try:
            yield ask
        finally:
            browser.close()
